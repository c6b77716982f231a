"""Assets given as pictures with cameras: the same voxels as from the mesh itself; hostile files are refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from made_assets import HOST, SMALL, box_sample
from PIL import Image
from typer.testing import CliRunner

from tok4d.cli.main import app
from tok4d.errors import DataError
from tok4d.modality import Sample
from tok4d_mesh3d.cameras import write_transforms
from tok4d_mesh3d.samples import cameras_of


def write_viewset(sample: Sample, folder: Path, unit: str = "scale") -> Path:
    """A sample's pictures as RGBA PNG (colours not multiplied by alpha), 16-bit depth and transforms.json."""
    folder.mkdir()
    names = [f"view_{i:03d}.png" for i in range(len(sample.data["views"]))]
    write_transforms(cameras_of(sample), names, folder / "transforms.json")
    content = json.loads((folder / "transforms.json").read_text())
    low, high = (0.0, 65535e-4) if unit == "scale" else (1.0, 3.0)
    if unit == "scale":
        content["integer_depth_scale"] = 1e-4
    else:
        content["depth"] = {"min": low, "max": high}
    for i, name in enumerate(names):
        alpha, depth = sample.data["masks"][i], sample.data["depth"][i]
        straight = ((sample.data["views"][i] + 1) / 2 / alpha.clamp(min=1e-3)).clamp(0, 1)
        rgba = (torch.cat([straight, alpha]) * 255).round().to(torch.uint8).permute(1, 2, 0).contiguous().numpy()
        Image.fromarray(rgba, "RGBA").save(folder / name)
        raw = ((depth - low) / (high - low) * 65535).round()
        raw = torch.where(depth > 0, raw, 0.0 if unit == "scale" else 65535.0)
        Image.fromarray(raw.numpy().astype(np.uint16)).save(folder / f"view_{i:03d}_depth.png")
    (folder / "transforms.json").write_text(json.dumps(content))
    return folder / "transforms.json"


@pytest.mark.parametrize("unit", ["scale", "range"])
def test_pictures_give_the_voxels_of_the_mesh(tmp_path, unit):
    mesh = box_sample(tmp_path / "box", views=16)
    read = HOST.read(write_viewset(mesh, tmp_path / "set", unit), views=16, size=64)
    ours, theirs = ({tuple(row) for row in one.data["coords"].tolist()} for one in (read, mesh))
    assert len(ours & theirs) / len(ours | theirs) > 0.95  # pixels less than half covered have no depth
    assert read.meta["format"] == "transforms.json"
    both = sorted(ours & theirs)
    rows = [[sorted(side).index(place) for place in both] for side in (ours, theirs)]
    apart = (read.data["voxels"][rows[0]] - mesh.data["voxels"][rows[1]]).abs()
    assert float(apart.mean()) < 0.01
    assert float((read.data["views"] - mesh.data["views"]).abs().max()) < 0.05


def test_frames_are_chosen_and_resized(tmp_path):
    path = write_viewset(box_sample(tmp_path / "box", views=16), tmp_path / "set")
    read = HOST.read(path, views=4, size=32)
    assert read.data["views"].shape == (4, 3, 32, 32)
    assert read.meta["frames"] == 16
    assert float(read.data["depth"].max()) < 3.0


def change(path: Path, **changes: object) -> None:
    content = json.loads(path.read_text())
    for key, value in changes.items():
        if key in ("integer_depth_scale", "depth"):
            content[key] = value
        else:
            content["frames"][0][key] = value
    path.write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"file_path": "../secret.png"}, "is not there"),
        ({"file_path": "/etc/passwd"}, "is not there"),
        ({"file_path": "http://x.org/a.png"}, "is not there"),
        ({"file_path": "transforms.json"}, "is no picture"),
        ({"depth_file_path": "view_001.png"}, "must be a grey picture"),
        ({"depth_path": "gone.png"}, "'gone.png' is not there"),
        ({"integer_depth_scale": None}, "depth has no unit"),
        ({"integer_depth_scale": "x"}, "unit of depth is damaged"),
        ({"depth": {"min": 1}}, "unit of depth is damaged"),
    ],
)
def test_bad_sets(tmp_path, changes, message):
    path = write_viewset(box_sample(tmp_path / "box"), tmp_path / "set")
    (tmp_path / "secret.png").write_bytes((tmp_path / "set" / "view_001.png").read_bytes())
    change(path, **changes)
    with pytest.raises(DataError, match=message):
        HOST.read(path, **SMALL)


def test_sizes_must_agree(tmp_path):
    path = write_viewset(box_sample(tmp_path / "box"), tmp_path / "set")
    Image.new("RGBA", (32, 32)).save(tmp_path / "set" / "view_000.png")
    with pytest.raises(DataError, match="square and of one size"):
        HOST.read(path, **SMALL)
    (tmp_path / "set" / "view_000.png").write_bytes(b"\x89PNG")
    with pytest.raises(DataError, match="is no picture"):
        HOST.read(path, **SMALL)


def test_other_json_files(tmp_path):
    for number, text in enumerate(("", "[]", "{}", '{"frames": []}', '{"frames": [{}]}')):
        path = tmp_path / f"{number}.json"
        path.write_text(text)
        with pytest.raises(DataError, match=str(path)):
            HOST.read(path)


def test_command_line(tmp_path):
    path = write_viewset(box_sample(tmp_path / "box"), tmp_path / "set")
    done = CliRunner().invoke(app, ["info", str(path), "--modality", "mesh3d", "--json"])
    assert done.exit_code == 0
    assert json.loads(done.stdout)["meta_format"] == "transforms.json"
