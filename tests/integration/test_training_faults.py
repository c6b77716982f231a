"""Steps that are not finite, skipped in a real run; recomputed and compiled blocks."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tok4d.config.loader import load_curriculum
from tok4d.errors import Tok4dError
from tok4d.training.run import Result, train
from tok4d.training.stage_loss import StageLoss

STACK = "{width: 32, blocks: 2, heads: 1, mlp: 32}"
SMALL = [
    "init=none",
    "order=[images]",
    f"model.overrides={{encoder: {STACK}, decoder: {STACK}, patch_size: [1, 8, 8]}}",
    "stages.images.tasks.image.options={split: train, count: 64, side: 32}",
    "stages.images.validation.image={source: image/shapes, batch: 4, options: {split: val, count: 20, side: 32}}",
]
real = StageLoss.forward


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def run(out: Path, *more: str, resume: bool = False) -> Result:
    return train(load_curriculum("smoke", [*SMALL, *more]), out, resume=resume)


def rows(out: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in (out / "losses.jsonl").read_text().splitlines()]


def weights(out: Path) -> dict[str, torch.Tensor]:
    return load_file(out / "checkpoints/last/training/weights.safetensors")


@pytest.fixture
def bad_step(monkeypatch):
    """A loss that is no number in step 5 (counted from 0)."""

    def forward(self, batch):
        total, terms = real(self, batch)
        return (total * float("nan") if batch.step == 5 else total), terms

    monkeypatch.setattr(StageLoss, "forward", forward)


def test_a_step_that_is_no_number_stops_the_run_and_names_its_samples(bad_step, tmp_path):
    with pytest.raises(Tok4dError, match=r"loss is nan at step 5 of task 'image' \(.*samples: shapes/0/"):
        run(tmp_path / "run")
    assert (tmp_path / "run/checkpoints/last").resolve().name == "images-00000004"
    assert len(rows(tmp_path / "run")) == 5


def test_it_is_skipped_where_that_is_wanted_also_after_resuming(bad_step, tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        found = run(tmp_path / "run", "on_nan=skip", "max_nan=1")
    assert found.skipped == 1
    assert "step skipped (1 so far): loss is nan at step 5 of task 'image'" in caplog.text
    recorded = rows(tmp_path / "run")
    assert [row["step"] for row in recorded if row.get("skipped")] == [6]
    assert len(recorded) == 8
    assert all(bool(value.isfinite().all()) for value in weights(tmp_path / "run").values())
    with pytest.raises(Tok4dError, match="1 steps were not finite, more than max_nan = 0"):
        run(tmp_path / "other", "on_nan=skip", "max_nan=0")
    again = run(tmp_path / "other", "on_nan=skip", "max_nan=1", resume=True)
    assert again.skipped == 1
    for name, value in weights(tmp_path / "run").items():
        assert torch.equal(weights(tmp_path / "other")[name], value)


def test_a_skipped_step_moves_nothing(tmp_path, monkeypatch):
    """All steps bad but the first two: the weights are those of two steps."""

    def forward(self, batch):
        total, terms = real(self, batch)
        return (total * float("nan") if batch.step > 1 else total), terms

    monkeypatch.setattr(StageLoss, "forward", forward)
    run(tmp_path / "bad", "on_nan=skip", "checkpoint_every=1", "stages.images.steps=3")
    before, after = (
        load_file(tmp_path / f"bad/checkpoints/images-0000000{step}/training/weights.safetensors") for step in (2, 3)
    )
    assert all(torch.equal(before[name], after[name]) for name in after)


def test_recomputed_blocks_give_the_same_bits(tmp_path):
    run(tmp_path / "kept")
    run(tmp_path / "again", "checkpoint_activations=true")
    for name, value in weights(tmp_path / "kept").items():
        assert torch.equal(weights(tmp_path / "again")[name], value), name


def test_compiled_blocks_give_the_same_numbers(tmp_path, monkeypatch):
    """Without code generation, which takes a minute: the graphs that would be compiled run as they were traced."""
    calls = []
    compiled = torch.compile

    def traced(model, **options):
        calls.append(options)
        return compiled(model, backend="aot_eager", **options)

    monkeypatch.setattr(torch, "compile", traced)
    run(tmp_path / "plain", "stages.images.steps=3")
    run(tmp_path / "compiled", "compile=true", "stages.images.steps=3")
    assert len(calls) == 5, "three blocks of the encoder, two of the decoder"
    for name, value in weights(tmp_path / "plain").items():
        assert torch.allclose(weights(tmp_path / "compiled")[name], value, rtol=1e-3, atol=1e-5), name
