"""The check of the Gaussian decoder on one model, on a made catalogue: it runs, improves, and writes its figures."""

from __future__ import annotations

import json

import pytest
from made_meshes import box_obj, catalogue

from tok4d.errors import Tok4dError
from tok4d_bench.gaussian_overfit import main


@pytest.fixture
def path(tmp_path) -> str:
    box = box_obj(tmp_path / "box")
    members = {name: box.with_name(name).read_bytes() for name in ("box.obj", "box.mtl")}
    (tmp_path / "made").mkdir()
    catalogue(tmp_path / "made" / "made.sh3f", "id#1=box\nname#1=Box\nmodel#1=/box.obj\n", members)
    return str(tmp_path / "made")


def test_it_learns_and_reports(path, tmp_path, capsys):
    out = tmp_path / "results" / "overfit.json"
    arguments = ["--path", path, "--model", "box", "--resolution", "6", "--size", "32", "--lr", "5e-3"]
    main([*arguments, "--steps", "50", "--every", "50", "-o", str(out)])
    report = json.loads(out.read_text())
    first, last = report["rows"]
    assert (first["step"], last["step"]) == (0, 50)
    assert last["view_psnr"] > first["view_psnr"] + 1
    assert report["within"] == (last["view_psnr"] >= 30)
    assert "--resolution 6" in report["command"]
    assert "view_psnr_foreground" in capsys.readouterr().out


def test_an_unknown_model_is_named(path):
    with pytest.raises(Tok4dError, match="no model 'chair'"):
        main(["--path", path, "--model", "chair"])
