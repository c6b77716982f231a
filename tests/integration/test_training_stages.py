"""Four stages, killed in every one of them at steps drawn at random: the same losses and the same bits."""

from __future__ import annotations

import json
import random
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))

from fork_server import Server
from safetensors.torch import load_file

from tok4d import Tokenizer

CURRICULUM = Path(__file__).parent / "four_stages.yaml"
STEPS = {"images": 6, "clips": 6, "assets": 4, "codes": 6}
BITS = ("model.safetensors", "training/weights.safetensors", "training/optimizer.safetensors")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    made = Server(tmp_path_factory.mktemp("logs"))
    yield made
    made.close()


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Prepared assets, shared by all runs here."""
    return str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="module")
def whole(server: Server, cache: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nobody interrupted."""
    out = tmp_path_factory.mktemp("whole") / "run"
    code, said = server.start("train", CURRICULUM, "-o", out, TOK4D_CACHE=cache).wait()
    assert code == 0, said
    return out


def rows(out: Path) -> list[dict[str, object]]:
    path = out / "losses.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def last(out: Path) -> str:
    """Name of the newest complete checkpoint."""
    return (out / "checkpoints" / "last").resolve().name


@pytest.mark.parametrize("workers", [0, 2])
def test_killed_in_every_stage(server, cache, whole, tmp_path, workers):
    out, drawn = tmp_path / "run", random.Random(workers)
    command = ("train", CURRICULUM, "-o", out, f"workers={workers}", "--resume")
    before = 0
    for steps in STEPS.values():
        target = before + drawn.randint(1, steps - 1)
        run = server.start(*command, TOK4D_CACHE=cache)
        run.signal_when(signal.SIGKILL, lambda least=target: len(rows_of(out)) >= least, timeout=120)
        assert run.wait()[0] == -signal.SIGKILL
        before += steps
    assert last(out).split("-")[0] in ("assets", "codes"), "the last kill was in the last stage"
    code, said = server.start(*command, TOK4D_CACHE=cache).wait()
    assert code == 0, said
    assert (out / "losses.jsonl").read_bytes() == (whole / "losses.jsonl").read_bytes()
    assert (out / "results.json").read_bytes() == (whole / "results.json").read_bytes()
    for name in BITS:
        assert (out / "checkpoints/last" / name).read_bytes() == (whole / "checkpoints/last" / name).read_bytes()


def rows_of(out: Path) -> list[str]:
    """Complete lines, while they are being written."""
    path = out / "losses.jsonl"
    return path.read_text().split("\n")[:-1] if path.exists() else []


def test_the_record_of_a_run(whole):
    found = rows(whole)
    assert [row["step"] for row in found] == list(range(1, sum(STEPS.values()) + 1))
    stages = [row["stage"] for row in found]
    assert stages == [stage for stage, steps in STEPS.items() for _ in range(steps)]
    for row in found:
        losses = {name.split("/")[0] for name in row if name.endswith("/loss")}
        assert ("words" in losses) == (row["stage"] != "images"), "a rider is in every step"
        assert len(losses - {"words"}) == 1
        assert row["norm"] > 0


def test_the_model_has_grown(whole):
    model = Tokenizer.from_pretrained(whole / "checkpoints" / "last")
    assert model.config.latent == 12
    assert model.quantizer is not None
    assert model.quantizer.vocabulary == (4096, 4096)
    weights = load_file(whole / "checkpoints/last/training/weights.safetensors")
    moments = load_file(whole / "checkpoints/last/training/optimizer.safetensors")
    assert moments["proj.weight/exp_avg"].shape == weights["proj.weight"].shape == (24, 32)
    assert float(moments["decoder.input_layer.weight/step"]) == sum(STEPS.values())
    assert float(moments["text_head.log_scale/step"]) == 16, "reached by the rider alone, from the second stage on"
    assert not torch.equal(weights["proj.weight"], model.proj.weight)
    codes = json.loads((whole / "codes.json").read_text())
    assert [len(codes["image"][name]) for name in ("usage", "entropy", "perplexity")] == [2, 2, 2]
    assert [sum(counts) for counts in codes["image"]["histograms"]] == [codes["image"]["tokens"]] * 12
