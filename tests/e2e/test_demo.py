"""`tok4d demo` as a user runs it: trains, writes token files, pictures and a page that holds together."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tok4d.config.loader import load_curriculum
from tok4d.plugins.registry import modality

TOK4D = str(Path(sys.executable).parent / "tok4d")


def run(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([TOK4D, *arguments], cwd=cwd, capture_output=True, text=True)


def check_report(out: Path) -> dict[str, Any]:
    """Every picture that the page shows is there, of the original's size; the numbers are those of results.json."""
    page = (out / "index.html").read_text()
    rows = json.loads((out / "results.json").read_text())["rows"]
    assert rows
    shown = {file for row in rows for kind in ("pictures", "shown") for file in row[kind].values()}
    assert set(re.findall(r'src="([^"]+)"', page)) == shown
    assert all((out / file).stat().st_size for file in shown)
    assert "http" not in re.sub(r"<footer>.*", "", page), "the page must work without a network"
    for row in rows:
        assert row["key"] in page
        if row["modality"] == "image":
            for file in row["pictures"].values():
                assert Image.open(out / file).size == tuple(row["shape"][:0:-1])
        if row["modality"] == "video":
            for file in row["shown"].values():
                assert list(modality("video").read(out / file).data["video"].shape) == row["shape"]
        (token_file,) = (out / "tokens").glob(f"{rows.index(row):02d}-*.tok.safetensors")
        assert token_file.stat().st_size == row["file_bytes"]
    summary: dict[str, Any] = json.loads((out / "results.json").read_text())["summary"]
    return summary


def test_demo_on_generated_pictures(tmp_path: Path) -> None:
    done = run("demo", "--curriculum", "smoke", "-o", "out", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    assert json.loads(done.stdout)["summary"] == check_report(tmp_path / "out")
    again = run("demo", "--curriculum", "smoke", "-o", "out", cwd=tmp_path)
    assert again.returncode == 0, "run again, it finds the finished run and reports"
    assert "gain" in again.stdout
    assert "index.html" in again.stdout


def test_a_curriculum_without_held_out_samples_is_refused_before_training(tmp_path: Path) -> None:
    (tmp_path / "empty.yaml").write_text(
        "order: [a]\nstages: {a: {tasks: {image: {source: image/shapes}}, steps: 1}}\n"
    )
    done = run("demo", "--curriculum", "empty.yaml", "-o", "out", cwd=tmp_path)
    assert done.returncode == 1
    assert "stages.a.validation is empty" in done.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_demo_on_photographs(tmp_path: Path) -> None:
    """The real recipe and the real curriculum, cut to two steps: the model still stands at its PCA."""
    done = run(
        "demo", "stages.images.steps=2", "stages.clips.steps=2", "stages.assets.steps=2", "-o", "out", cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr[-2000:]
    summary = check_report(tmp_path / "out")
    image = summary["modalities"]["image"]
    assert abs(image["median gain over PCA (dB)"]) < 0.05
    assert image["pca psnr"] > 25


def test_demo_trains_long_enough_to_mean_something() -> None:
    curriculum = load_curriculum("demo")
    assert curriculum.init == "linear"
    assert all(curriculum.stages[name].steps >= 50 for name in curriculum.order)
