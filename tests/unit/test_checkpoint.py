"""Checkpoints: bit-exact round trips, and writes that are complete or did not happen."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from tok4d import Tokenizer
from tok4d.config.schema import OptimizerConfig
from tok4d.errors import DataError
from tok4d.testing.models import tiny_tokenizer
from tok4d.training import checkpoint
from tok4d.training.checkpoint import TrainingState
from tok4d.training.optim import AveragedWeights, make_adamw
from tok4d.training.shards import Snapshot
from tok4d.weights import folder


class Run:
    """A model in training: weights, averages and moments that all differ."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.model = tiny_tokenizer((1, 2, 2))
        self.ema = AveragedWeights(self.model, 0.9)
        self.optimizer = make_adamw(self.model, OptimizerConfig(lr=0.1))
        self.rng = torch.Generator().manual_seed(0)
        self.steps = 0

    def train(self, steps: int = 1) -> Run:
        for _ in range(steps):
            for name, parameter in self.model.named_parameters():
                if not name.startswith("encoder.head"):  # what no loss reaches has no moments
                    parameter.grad = torch.randn(parameter.shape, generator=self.rng)
            self.optimizer.step()
            self.steps += 1
            self.ema.update(self.model, self.steps)
        self.model.latent_mean.fill_(self.steps)
        return self

    @property
    def state(self) -> TrainingState:
        return TrainingState("images", self.steps, self.steps, 0, 1, torch.__version__, bad_files=2)

    def save(self) -> Path:
        return checkpoint.save(self.root, self.model, self.ema, self.optimizer, self.state)


@pytest.fixture
def run(tmp_path) -> Run:
    return Run(tmp_path / "checkpoints").train(3)


def names(root: Path) -> list[str]:
    return sorted(path.name for path in root.iterdir())


def test_everything_comes_back_bit_for_bit(run):
    found = checkpoint.load(run.save())
    weights = dict(run.model.named_parameters())
    assert found.state == run.state
    assert all(torch.equal(p, weights[name]) for name, p in found.model.named_parameters())
    assert all(torch.equal(value, run.ema.values[name]) for name, value in found.ema.values.items())
    assert torch.equal(found.model.latent_mean, run.model.latent_mean)
    optimizer = make_adamw(found.model, OptimizerConfig(lr=0.1))
    checkpoint.restore_moments(found.model, optimizer, found.moments)
    before, after = (checkpoint.moments(m, o) for m, o in ((run.model, run.optimizer), (found.model, optimizer)))
    assert set(before) == set(after)
    assert not any(name.startswith("encoder.head") for name in before)
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert float(after["proj.weight/step"]) == 3


def test_training_goes_on_as_if_nothing_had_happened(run):
    found = checkpoint.load(run.save())
    other = Run(run.root)
    other.model, other.ema, other.steps, other.rng = found.model, found.ema, 3, run.rng.clone_state()
    other.ema.decay = run.ema.decay
    other.optimizer = make_adamw(other.model, OptimizerConfig(lr=0.1))
    checkpoint.restore_moments(other.model, other.optimizer, found.moments)
    run.train(2)
    other.train(2)
    weights = dict(run.model.named_parameters())
    assert all(torch.equal(p, weights[name]) for name, p in other.model.named_parameters())
    assert all(torch.equal(value, run.ema.values[name]) for name, value in other.ema.values.items())


def test_last_is_a_model_folder_with_the_averages(run):
    run.save()
    model = Tokenizer.from_pretrained(run.root / "last")
    assert torch.equal(model.proj.weight, run.ema.values["proj.weight"])
    assert not torch.equal(model.proj.weight, run.model.proj.weight)


def test_the_newest_two_are_kept(run):
    for _ in range(4):
        run.train().save()
    assert names(run.root) == ["images-00000006", "images-00000007", "last"]
    assert (run.root / "last").resolve().name == "images-00000007"


def test_a_step_saved_twice_replaces_itself(run):
    run.save()
    run.model.latent_mean.fill_(99)
    run.save()
    assert names(run.root) == ["images-00000003", "last"]
    assert float(checkpoint.load(run.root / "last").model.latent_mean[0]) == 99


@pytest.mark.parametrize("call", range(7))
def test_a_full_disk_leaves_the_last_one_intact(run, monkeypatch, call):
    """Five files, the folder, the link: whichever of the seven cannot be put in place."""
    run.save()
    before = {path: path.read_bytes() for path in (run.root / "last").resolve().rglob("*") if path.is_file()}
    run.train()
    calls, real = [0], folder.os.replace

    def full(*args: object) -> None:
        calls[0] += 1
        if calls[0] == call + 1:
            raise OSError(28, "No space left on device")
        real(*args)

    monkeypatch.setattr(folder.os, "replace", full)
    with pytest.raises(DataError, match="No space left on device; the last one is intact"):
        run.save()
    monkeypatch.undo()
    assert (run.root / "last").resolve().name == "images-00000003"
    assert {path: path.read_bytes() for path in before} == before
    assert not list(run.root.rglob(".*.part"))
    run.save()
    assert names(run.root) == ["images-00000003", "images-00000004", "last"]
    assert checkpoint.load(run.root / "last").state.step == 4


def test_a_full_disk_is_told_of_when_writing_goes_on_beside_training(run, monkeypatch):
    """The thread's error comes up at the next save, or at the end; what is written is what was saved, not later."""
    writer = checkpoint.Writer(run.root, asynchronous=True)
    writer.save(run.model, run.ema, run.optimizer, run.state)
    before = run.model.proj.weight.detach().clone()
    run.train()
    writer.finish()
    saved = checkpoint.load(run.root / "last")
    assert saved.state.step == 3
    assert torch.equal(saved.model.proj.weight, before)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(folder.os, "replace", full)
    writer.save(run.model, run.ema, run.optimizer, run.state)
    with pytest.raises(DataError, match="No space left on device; the last one is intact"):
        writer.finish()
    monkeypatch.undo()
    assert checkpoint.load(run.root / "last").state.step == 3
    writer.save(run.model, run.ema, run.optimizer, run.state)
    writer.finish()
    assert checkpoint.load(run.root / "last").state.step == 4


def test_what_a_killed_write_left_behind_is_swept_up(run):
    (run.root / ".images-00000002.part" / "training").mkdir(parents=True)
    (run.root / ".images-00000002.part" / "model.safetensors").write_bytes(b"half")
    (run.root / "notes").mkdir()
    (run.root / "damaged" / "training").mkdir(parents=True)
    (run.root / "damaged" / "training" / "state.json").write_text("{")
    run.save()
    assert names(run.root) == ["damaged", "images-00000003", "last", "notes"]


def test_moments_of_frozen_parameters_are_left_out(run):
    found = checkpoint.load(run.save())
    found.model.freeze(["decoder."])
    optimizer = make_adamw(found.model, OptimizerConfig())
    checkpoint.restore_moments(found.model, optimizer, found.moments)
    assert not any(name.startswith("decoder") for name in checkpoint.moments(found.model, optimizer))


@pytest.mark.parametrize(
    ("file", "text", "error"),
    [
        ("training/state.json", "{", "no usable training state"),
        ("training/state.json", "[]", "no usable training state"),
        ("training/state.json", json.dumps({"stage": "images"}), "no usable training state"),
        ("training/state.json", None, "no usable training state"),
        ("training/weights.safetensors", "", "not a complete safetensors file"),
        ("training/optimizer.safetensors", None, "no such file"),
        ("model.safetensors", None, "no such file"),
    ],
)
def test_a_damaged_checkpoint_is_named(run, file, text, error):
    path = run.save()
    (path / file).unlink()
    if text is not None:
        (path / file).write_text(text)
    with pytest.raises(DataError, match=error) as caught:
        checkpoint.load(path)
    assert file.rsplit("/", 1)[-1] in str(caught.value)


def test_weights_of_another_model_are_refused(run, tmp_path):
    path = run.save()
    other = tiny_tokenizer((1, 2, 2), latent=16)
    weights = {name: p.detach() for name, p in other.named_parameters()}
    folder.write_tensors(path / "training" / "weights.safetensors", weights)
    with pytest.raises(DataError, match=r"the weights do not fit the config: has proj\.weight"):
        checkpoint.load(path)


@pytest.mark.parametrize("asynchronous", [False, True])
@pytest.mark.parametrize(
    ("error", "kind", "said"),
    [
        (DataError("weights", "no such file"), DataError, "checkpoint cannot be written: weights: no such file"),
        (RuntimeError("a connection is closed"), RuntimeError, "a connection is closed"),
    ],
)
def test_whatever_goes_wrong_while_writing_is_heard_of(run, monkeypatch, asynchronous, error, kind, said):
    first = run.save()

    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(Snapshot, "write", fail)
    writer = checkpoint.Writer(run.root, asynchronous=asynchronous)
    run.train()

    def write() -> None:
        writer.save(run.model, run.ema, run.optimizer, run.state)
        writer.finish()

    with pytest.raises(kind, match=said):
        write()
    writer.finish()  # told once
    assert names(run.root) == [first.name, "last"]
