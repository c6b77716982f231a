"""Checkpoints: a model folder that anyone can load, with the training state beside it. Atomic, no pickle.

RUN/checkpoints/<stage>-<step>/model.safetensors, config.yaml   the averaged weights: `Tokenizer.from_pretrained`
                               training/weights.safetensors     the weights being trained
                               training/optimizer.safetensors   AdamW moments by parameter name
                               training/state.json              step, stage, threads, versions
RUN/checkpoints/last           link to the newest complete one
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

from tok4d.errors import DataError
from tok4d.model.tokenizer import Tokenizer
from tok4d.training.optim import AveragedWeights
from tok4d.weights import folder

KEEP = 2


@dataclass(frozen=True)
class TrainingState:
    """Where a run stands. All randomness is keyed by these numbers, so there is no generator state to keep."""

    stage: str
    step: int
    total: int
    seed: int
    threads: int
    torch: str
    bad_files: int = 0


def save(
    root: Path,
    model: Tokenizer,
    ema: AveragedWeights,
    optimizer: torch.optim.Optimizer,
    state: TrainingState,
) -> Path:
    """Write a checkpoint, point `last` at it, and drop all but the newest two.

    Raises:
        DataError: when it cannot be written (a full disk, say); what was there before stays intact.
    """
    final = root / f"{state.stage}-{state.step:08d}"
    partial, link = root / f".{final.name}.part", root / ".last.part"
    try:
        shutil.rmtree(partial, ignore_errors=True)
        (partial / "training").mkdir(parents=True)
        weights = {name: parameter.detach() for name, parameter in model.named_parameters()}
        folder.write(partial, model.config, {**model.state_dict(), **ema.values})
        folder.write_tensors(partial / "training" / "weights.safetensors", weights)
        folder.write_tensors(partial / "training" / "optimizer.safetensors", moments(model, optimizer))
        folder.write_text(partial / "training" / "state.json", json.dumps(asdict(state), indent=1))
        shutil.rmtree(final, ignore_errors=True)
        os.replace(partial, final)
        link.unlink(missing_ok=True)
        link.symlink_to(final.name, target_is_directory=True)
        os.replace(link, root / "last")
    except OSError as error:
        shutil.rmtree(partial, ignore_errors=True)
        link.unlink(missing_ok=True)
        raise DataError(
            final, f"checkpoint cannot be written: {error.strerror or error}; the last one is intact"
        ) from error
    _prune(root, final)
    return final


def _prune(root: Path, newest: Path) -> None:
    """Drop all but the newest complete checkpoints, and what interrupted writes left behind."""
    totals: dict[Path, int] = {}
    for path in root.iterdir():
        if path.is_symlink() or not path.is_dir():
            continue
        if path.name.startswith(".") and path.name.endswith(".part"):
            shutil.rmtree(path, ignore_errors=True)
            continue
        try:
            totals[path] = int(json.loads((path / "training" / "state.json").read_text())["total"])
        except (OSError, ValueError, TypeError, KeyError):
            continue  # not ours, or damaged: not ours to delete
    for path in sorted(totals, key=lambda path: totals[path])[:-KEEP]:
        if path != newest:
            shutil.rmtree(path, ignore_errors=True)


def moments(model: Tokenizer, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """AdamW's state by `parameter/key`, for a checkpoint or the next stage."""
    names: dict[Tensor, str] = {parameter: name for name, parameter in model.named_parameters()}
    return {
        f"{names[parameter]}/{key}": value
        for parameter, values in optimizer.state.items()
        for key, value in values.items()
    }


def restore_moments(model: Tokenizer, optimizer: torch.optim.Optimizer, saved: Mapping[str, Tensor]) -> None:
    """Put AdamW's state back; parameters that the optimizer does not train are left out."""
    parameters = dict(model.named_parameters())
    trained = {parameter for group in optimizer.param_groups for parameter in group["params"]}
    for name, value in saved.items():
        parameter, _, key = name.rpartition("/")
        if parameters.get(parameter) in trained:
            optimizer.state[parameters[parameter]][key] = value.to(parameters[parameter].device, copy=True)


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint read back."""

    model: Tokenizer
    ema: AveragedWeights
    state: TrainingState
    moments: dict[str, Tensor]


def load(path: Path) -> Checkpoint:
    """Read a checkpoint folder.

    Raises:
        DataError: when a part of it is missing or broken.
    """
    averaged = Tokenizer.from_pretrained(path)
    training = path / "training"
    try:
        state = TrainingState(**json.loads((training / "state.json").read_text()))
    except (OSError, ValueError, TypeError) as error:
        raise DataError(training / "state.json", f"no usable training state: {error}") from error
    ema = AveragedWeights(averaged, decay=0.0)
    buffers = {name: value for name, value in averaged.state_dict().items() if name not in ema.values}
    model = Tokenizer(averaged.config)
    folder.assign(model, {**folder.read_tensors(training / "weights.safetensors"), **buffers}, path)
    return Checkpoint(model.train(), ema, state, folder.read_tensors(training / "optimizer.safetensors"))
