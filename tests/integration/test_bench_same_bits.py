"""Same bits from a real model and real networks, however the work is cut up: batch sizes, order of work, processes.

The model is a tiny one of codes, saved and loaded; the networks are AlexNet (LPIPS) and EfficientNet-Lite0 (Fréchet
distance) with random weights, stored as fetched ones are. Pictures have three sizes; the last group is not full.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from tok4d.testing import tiny_tokenizer
from tok4d_bench import runner
from tok4d_bench.contracts import Suite, TaskSpec
from tok4d_bench.runner import Work, run_suite
from tok4d_bench.subjects import load_subject

KEPT = ("results", "protocols", "skipped", "bad", "values")
SIZES = ((64, 64), (48, 80), (56, 40))  # height, width: the last one is no whole number of patches
COUNT, INNER = 25, 3  # nine groups, two blocks of groups: two processes both work
MEASURES: list[Any] = [
    "psnr",
    "psnr_pooled",
    "ssim",
    {"lpips": {"net": "alex"}},
    {"frechet": {"network": "effnet-lite0", "pca": 2}},
    {"codebook": {"tokens": 200}},
    "rate",
]


@pytest.fixture
def home(tmp_path: Path, networks: Path) -> Path:
    """Pictures, a model and a suite; networks are in the cache."""
    (tmp_path / "pictures").mkdir()
    for number in range(COUNT):
        random = np.random.default_rng(number)
        height, width = SIZES[number % 3]
        small = random.integers(0, 256, (height // 8, width // 8, 3), dtype=np.uint8)
        Image.fromarray(small).resize((width, height)).save(tmp_path / f"pictures/{number:02d}.png")
    model = tiny_tokenizer(latent=6, quantizer={"groups": 2, "levels": [4, 4, 4]})
    with torch.no_grad():
        for name, weight in model.named_parameters():  # as it begins, it gives every picture the same code
            weight *= 10 if weight.ndim == 2 and "pos_embedder" not in name else 1
    model.save_pretrained(tmp_path / "tiny")
    return tmp_path


def suite(home: Path, inner_batch: int = INNER, measures: Sequence[Any] = MEASURES) -> Suite:
    """Reconstruction of the pictures, and a probe of generated ones that have labels."""
    pictures = {"source": "image/folder", "options": {"path": str(home / "pictures")}}
    shapes = {"source": "image/shapes", "options": {"count": 40, "side": 32}}
    one = TaskSpec("reconstruction", pictures, {}, list(measures), inner_batch)
    two = TaskSpec("probe", shapes, {}, [{"linear_probe": {"where": "latents"}}], inner_batch)
    return Suite("made", 1, "", {"one": one, "two": two})


def run(home: Path, name: str, made: Suite | None = None, **work: Any) -> dict[str, Any]:
    """A run in this process; features of the originals are computed anew."""
    shutil.rmtree(home / "cache" / "bench", ignore_errors=True)
    run_suite(made or suite(home), load_subject(str(home / "tiny")), Work(home / name, **work))
    return read(home / name)


def read(out: Path) -> dict[str, Any]:
    (path,) = out.glob("*/*/results.json")
    found = json.loads(path.read_text())
    return {key: found[key] for key in KEPT}


def tables(out: Path) -> list[bytes]:
    return [path.read_bytes() for path in sorted(out.glob("*/*/*/samples.parquet"))]


def in_two_processes(home: Path, out: Path) -> dict[str, Any]:
    """As `--processes 2` starts them: rank 1 in the background, rank 0 reads everybody's columns."""
    import yaml

    shutil.rmtree(home / "cache" / "bench", ignore_errors=True)
    tasks = {name: {**vars(spec)} for name, spec in suite(home).tasks.items()}
    (home / "made.yaml").write_text(yaml.safe_dump({"tasks": tasks}, sort_keys=False))
    command = [sys.executable, "-m", "tok4d.cli.main", "bench", "run", home / "made.yaml", "-m", home / "tiny"]
    done = subprocess.run(
        [*map(str, command), "-o", str(out), "--processes", "2", "--batch-size", "7"],
        env={**os.environ, "TOK4D_CACHE": str(home / "cache")},
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return read(out)


def test_a_model_and_its_networks_give_the_same_bits_however_the_work_is_cut_up(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = run(home, "a", batch_size=1, workers=0)
    figures = {record["metric"]: record for record in first["results"]}
    wanted = {"lpips_alex", "FD-EffNetLite0", "FD-EffNetLite0-pca-2/mean"}
    assert wanted <= set(figures)
    assert all(figures[name]["value"] not in (None, 0) and figures[name]["n"] for name in wanted)
    assert figures["codebook/entropy"]["value"] > 1
    assert figures["probe/latents"]["value"] is not None
    assert (first["bad"], first["skipped"]) == ([], [])
    assert run(home, "b", batch_size=7, workers=1) == first
    assert run(home, "c", batch_size=64, workers=3) == first

    real = runner.read_groups
    monkeypatch.setattr(
        runner, "read_groups", lambda data, numbers, *rest, **more: real(data, _mixed(numbers), *rest, **more)
    )
    assert run(home, "d") == first
    monkeypatch.undo()
    monkeypatch.setenv("TOK4D_CACHE", str(home / "cache"))

    assert in_two_processes(home, home / "e") == first
    one = next(path.parent for path in (home / "e").rglob("columns/psnr-*/*.npz"))
    assert len(list(one.glob("*.npz"))) > 1, "both processes had work"
    assert tables(home / "a") == tables(home / "b") == tables(home / "c") == tables(home / "d") == tables(home / "e")


def _mixed(numbers: Any) -> list[int]:
    """Another order of work: from the last group to the first, odd ones before even ones."""
    backwards = list(numbers)[::-1]
    return [n for n in backwards if n % 2] + [n for n in backwards if not n % 2]


def test_another_inner_batch_is_another_protocol_with_figures_that_agree(home: Path) -> None:
    few = ["psnr", "ssim", {"lpips": {"net": "alex"}}]
    three, four = (run(home, str(size), suite(home, size, few)) for size in (3, 4))
    for a, b in zip(three["results"], four["results"], strict=True):
        assert a["metric"] == b["metric"]
        assert a["fingerprint"] != b["fingerprint"]
        if "probe" not in a["metric"]:
            assert a["value"] == pytest.approx(b["value"], rel=1e-3)
