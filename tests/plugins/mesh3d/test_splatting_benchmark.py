"""The splatting benchmark measures what it says, and writes what it promises. No times are asserted."""

from __future__ import annotations

import json

import pytest

from tok4d_bench import splatting
from tok4d_bench.splatting import Case, main


@pytest.mark.parametrize(
    ("name", "bars"),
    [
        ("8000x256", {"forward": 0.2, "backward": 0.3}),
        ("8000x512", {"forward": 0.4, "backward": 0.6}),
        ("14000x256", {"forward": 0.4, "backward": 0.6}),
        ("14001x256", None),
        ("8000x256opaque", None),
    ],
)
def test_bars(name, bars):
    assert Case.parse(name).bars == bars
    assert Case.parse(name).name == name


def test_results(tmp_path, capsys):
    out = tmp_path / "new" / "splatting.json"
    main(["--cases", "40x48,30x64opaque", "--repeats", "2", "-o", str(out)])
    report = json.loads(out.read_text())
    first, second = report["cases"]
    assert (first["gaussians"], second["gaussians"]) == (1280, 960)
    for side in ("forward", "backward"):
        assert len(first[side]["cpu_seconds"]) == 2
        assert first[side]["median_cpu_seconds"] > 0
    assert first["peak_bytes"] is None or 1e8 < first["peak_bytes"] < 2e9
    assert report["reference"]["largest_difference"] < 0.01
    assert first["within"] is True
    assert second["within"] is None
    text = out.with_suffix(".md").read_text()
    assert "| 1280 | 48 |" in text
    assert "| 960 opaque | 64 |" in text
    assert text in capsys.readouterr().out


def test_the_asset_is_in_view():
    case = Case.parse("2000x64")
    _, alpha = case.draw(case.gaussians)
    assert alpha[0, 0, 32, 32] > 0.2
    assert alpha[0, 0, 0].max() == 0, "and a border is around it"


def test_a_missed_bar_is_told():
    row = {"case": "8000x256", "gaussians": 256000, "pixels": 256, "bars": {"forward": 0.2, "backward": 0.3}}
    row |= {side: {"median_cpu_seconds": 0.25, "median_seconds": 0.2} for side in splatting.SIDES}
    report = {
        "command": "x",
        "repeats": 1,
        "machine": {"threads": 2, "cpu_capability": "AVX2", "torch": "2", "omp_wait_policy": "PASSIVE"},
        "reference": {"case": "8000x256", "cpu_seconds": 1.0, "mean_difference": 0.0, "largest_difference": 0.0},
        "cases": [{**row, "within": False, "peak_bytes": 3 * 10**9, "memory_bar": splatting.MEMORY_BAR}],
    }
    assert "| 0.250 | 0.2 | 0.250 | 0.3 | NO | 0.200 | 0.200 | 3000 (OVER) |" in splatting.markdown(report)
