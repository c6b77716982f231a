"""The recipes of clips, and how source archives are asked for."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tok4d.data import clients
from tok4d.data.recipes import Package, list_recipes, load_recipe


def test_clips() -> None:
    clips = load_recipe("clips")
    assert clips in list_recipes()
    assert {item.file: item.side for item in clips.items} == {
        "bigbuckbunny.mp4": "bigbuckbunny.mp4",
        "bikes.mp4": "bikes.mp4",
        "carphone_pristine.mp4": "carphone",
        "carphone_distorted.mp4": "carphone",
    }
    assert {item.file for item in clips.items if item.natural} == {"bikes.mp4", "carphone_pristine.mp4"}


def test_clips_long_counts_one_scene_once() -> None:
    clips = load_recipe("clips-long")
    assert len(clips.items) == 20
    assert {item.side for item in clips.items} == {"video.mp4", "demo"}
    assert [item.file for item in clips.items if item.natural] == ["demo.mp4"]
    assert all(item.reason and item.kind and item.licence for item in clips.items)


def test_source_archives_are_verified_before_pip_runs_their_build(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[list[str], str]] = []

    def run(command: list[str], cwd: Path, **_: object) -> subprocess.CompletedProcess[str]:
        seen.append((command, Path(command[command.index("-r") + 1]).read_text()))
        (cwd / "toy-1.0.tar.gz").touch()
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(clients.subprocess, "run", run)
    package = Package("pypi", "toy", "1.0", "toy-1.0.tar.gz", "a" * 64, ("*",))
    assert clients.download(package, tmp_path) == tmp_path / "toy-1.0.tar.gz"
    ((command, asked),) = seen
    assert {"--require-hashes", "--no-deps", "--no-binary=:all:"} <= set(command)
    assert asked == f"toy==1.0 --hash=sha256:{'a' * 64}\n"
