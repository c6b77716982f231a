"""Training on a folder of clips, some of them bad, as a user runs it: they are replaced and counted."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tok4d.cli.main import app
from tok4d_video.moving import MovingClip
from tok4d_video.writing import write_clip

CURRICULUM = """
seed: 0
model: {preset: tiny, overrides: {encoder: {blocks: 1}, decoder: {blocks: 1}}}
init: none
workers: 1
order: [clips]
stages:
  clips:
    steps: 4
    tasks:
      folder: {source: video/folder, batch: 2, options: {path: clips, frames: 6, size: 32, flips: [horizontal]}}
      listed: {source: video/manifest, batch: 2, options: {path: clips/list.csv, frames: 5, size: 32}}
    validation:
      drawn: {source: video/moving, batch: 2, options: {count: 4, side: 32, frames: 6}}
    optimizer: {lr: 1.0e-3, min_lr: 1.0e-4, warmup: 2, ends_scale: 0.01, ema: 0.9}
"""


def test_training_on_clips_with_bad_ones_among_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "clips"
    folder.mkdir()
    for number in range(3):
        clip = MovingClip(0, number, 12, 48)
        write_clip(next(clip.stream(12, range(12))), folder / f"c{number}.mp4", clip.fps)
    whole = (folder / "c0.mp4").read_bytes()
    (folder / "cut.mp4").write_bytes(whole[: len(whole) // 2])
    (folder / "text.mp4").write_text("no clip")
    (folder / "list.csv").write_text("path,start,end\nc0.mp4,0.1,0.4\nc1.mp4,,\ncut.mp4,,\n")
    (tmp_path / "mine.yaml").write_text(CURRICULUM)
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, ["train", "mine.yaml", "-o", "run", "--json"])
    assert done.exit_code == 0, done.output
    result = json.loads(done.stdout)
    assert result["bad_files"] >= 2
    assert result["validation"][-1]["video/psnr"] > 5
