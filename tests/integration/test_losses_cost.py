"""The benchmark of the objective's cost compares what it says, and writes what it promises. No times are asserted."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "unit"))

from loss_inputs import SmallTrunk, use_trunk

from tok4d_bench.objective_cost import BARRED, LIMIT, main, objectives


def test_a_report_of_small_pictures(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    trunk = use_trunk(monkeypatch, SmallTrunk())
    main(["--pictures", "2x12", "--size", "8", "--repeats", "2", "-o", str(tmp_path / "cost.json")])
    report = json.loads((tmp_path / "cost.json").read_text())
    names = [row["objective"] for row in report["rows"]]
    assert names == list(objectives(8))
    assert all(len(row["cpu_seconds"]) == 2 for row in report["rows"])
    assert report["within"] == (report["ratio"] <= LIMIT)
    assert report["command"].startswith("python -m tok4d_bench.objective_cost --pictures 2x12")
    text = (tmp_path / "cost.md").read_text()
    assert all(f"| {name} |" in text for name in names)
    # A warm-up and two rounds: two forward passes of the trunk an objective that has one, six where nothing is shared.
    # (With one trunk for all networks, a teacher of another name shares it here.)
    assert len(trunk.calls) == 3 * (2 * 6 + 6)
    assert set(objectives(8)[BARRED][0]) == {"l1", "lpips", "gram", "teacher"}
