"""Stages that change the model, killed in every one at steps drawn at random: the same losses, the same bits."""

from __future__ import annotations

import json
import random
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))

from fork_server import Server
from safetensors.torch import load_file
from self_signals import At

from tok4d import Tokenizer

CURRICULUM = Path(__file__).parent / "four_stages.yaml"
STEPS = {"images": 6, "clips": 6, "assets": 4, "codes": 6}
# The same from a linear start, whose growth is fitted to data: scores, a basis for clips, and codes of unequal levels,
# for which channels change places.
STACK = "{width: 40, blocks: 3, heads: 1, mlp: 32}"
LINEAR = (
    "init=linear",
    "init_samples=32",
    "order=[images, clips, codes]",
    f"model.overrides.encoder={STACK}",
    f"model.overrides.decoder={STACK}",
    "stages.clips.grow=clips",
    "stages.clips.optimizer.ends_scale=0.01",
    "stages.codes.quantizer={groups: 2, levels: [8, 3, 3, 2, 2, 2]}",
)
CASES = {"four stages": (), "linear": LINEAR}
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
def whole_of(server: Server, cache: str, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Runs that nobody interrupted, by case, made when they are first asked for."""
    made: dict[str, Path] = {}

    def make(case: str) -> Path:
        if case not in made:
            out = tmp_path_factory.mktemp("whole") / "run"
            code, said = server.start("train", CURRICULUM, "-o", out, *CASES[case], TOK4D_CACHE=cache).wait()
            assert code == 0, said
            made[case] = out
        return made[case]

    return make


@pytest.fixture(scope="module")
def whole(whole_of: Callable[[str], Path]) -> Path:
    return whole_of("four stages")


def rows(out: Path) -> list[dict[str, object]]:
    path = out / "losses.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def last(out: Path) -> str:
    """Name of the newest complete checkpoint."""
    return (out / "checkpoints" / "last").resolve().name


@pytest.mark.parametrize(("case", "workers"), [("four stages", 0), ("four stages", 2), ("linear", 1)])
def test_killed_in_every_stage(server, cache, whole_of, tmp_path, case, workers):
    whole = whole_of(case)
    out, drawn = tmp_path / "run", random.Random(workers)
    command = ("train", CURRICULUM, "-o", out, *CASES[case], f"workers={workers}", "--resume")
    before = 0
    for steps in stages_of(whole).values():
        target = before + drawn.randint(1, steps - 1)
        run = server.start(*command, at=At(signal.SIGKILL, step=target), TOK4D_CACHE=cache)
        assert run.wait()[0] == -signal.SIGKILL
        before += steps
    assert last(out).split("-")[0] in list(STEPS)[1:], "the last kill was in the last stage"
    code, said = server.start(*command, TOK4D_CACHE=cache).wait()
    assert code == 0, said
    assert (out / "losses.jsonl").read_bytes() == (whole / "losses.jsonl").read_bytes()
    assert (out / "results.json").read_bytes() == (whole / "results.json").read_bytes()
    for name in BITS:
        assert (out / "checkpoints/last" / name).read_bytes() == (whole / "checkpoints/last" / name).read_bytes()


def stages_of(out: Path) -> dict[str, int]:
    """Stages of a run with their steps, in order."""
    return {name: STEPS[name] for name in dict.fromkeys(str(row["stage"]) for row in rows(out))}


def test_a_linear_start_has_grown(whole_of):
    out = whole_of("linear")
    assert list(stages_of(out)) == ["images", "clips", "codes"]
    model = Tokenizer.from_pretrained(out / "checkpoints" / "last")
    assert model.config.latent == 12
    assert model.quantizer is not None
    assert model.quantizer.vocabulary == (576, 576)
    counts = json.loads((out / "codes.json").read_text())["image"]["histograms"]
    assert [len(levels) for levels in counts] == 2 * [8, 3, 3, 2, 2, 2]


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
