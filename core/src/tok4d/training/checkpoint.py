"""Checkpoints: a model folder that anyone can load, with the training state beside it. Atomic, no pickle.

RUN/checkpoints/<stage>-<step>/model.safetensors, config.yaml   the averaged weights: `Tokenizer.from_pretrained`
                               training/weights.safetensors     the weights being trained
                               training/optimizer.safetensors   AdamW moments by parameter name
                               training/state.json              step, stage, threads, versions
RUN/checkpoints/last           link to the newest complete one

A sharded run has `training/{weights,averages,optimizer}-00000-of-00002.safetensors` and `training/shards.json` instead
(see `shards`), and model.safetensors only at the end of a stage or after `consolidate`.
"""

from __future__ import annotations

import json
import os
import shutil
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from tok4d.config.loader import from_mapping, read_yaml
from tok4d.config.schema import TokenizerConfig
from tok4d.errors import DataError
from tok4d.model.tokenizer import Tokenizer
from tok4d.training import parallel
from tok4d.training.agreement import Agreement
from tok4d.training.optim import AveragedWeights
from tok4d.training.shards import SHARDS, Snapshot, TrainingState, gather_moments, read_shards, snapshot
from tok4d.weights import folder

__all__ = ["Checkpoint", "TrainingState", "Writer", "consolidate", "load", "moments", "restore_moments", "save"]

KEEP = 2


def save(
    root: Path,
    model: Tokenizer,
    ema: AveragedWeights,
    optimizer: torch.optim.Optimizer,
    state: TrainingState,
) -> Path:
    """Write a checkpoint, point `last` at it, and drop all but the newest two. Every process calls it.

    Of a sharded model every process writes its own shards; of any other, process 0 writes everything.

    Raises:
        DataError: when it cannot be written (a full disk, say); what was there before stays intact.
    """
    writer = Writer(root)
    final = writer.save(model, ema, optimizer, state)
    writer.finish()
    return final


class Writer:
    """Writes checkpoints of a run, while training goes on if asked to.

    Args:
        root: RUN/checkpoints, which all processes share.
        asynchronous: copy everything and write it in a thread; the next `save` waits for it.
    """

    def __init__(self, root: Path, *, asynchronous: bool = False) -> None:
        self.root, self.asynchronous = root, asynchronous
        self._agree = Agreement()
        self._thread: threading.Thread | None = None
        self._error: Exception | None = None

    def save(
        self,
        model: Tokenizer,
        ema: AveragedWeights,
        optimizer: torch.optim.Optimizer,
        state: TrainingState,
        *,
        complete: bool = True,
    ) -> Path:
        """As `checkpoint.save`.

        Args:
            complete: whether to write the averaged model as one file too where the model is sharded; otherwise
                `consolidate` does that later.

        Raises:
            DataError: when this checkpoint, or asynchronously the one before, could not be written.
        """
        self.finish()
        found = snapshot(model, ema, optimizer, state, complete)
        if not self.asynchronous:
            self._write(found)
            self._raise()
        else:
            self._thread = threading.Thread(target=self._write, args=(found.copied(),))
            self._thread.start()
        return self.root / found.name

    def finish(self) -> None:
        """Wait for what is being written.

        Raises:
            DataError: when it could not be written; anything else that went wrong there as it is.
        """
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        self._raise()

    def _raise(self) -> None:
        error, self._error = self._error, None
        if error is not None:
            raise error

    def _write(self, found: Snapshot) -> None:
        final = self.root / found.name
        partial, link = self.root / f".{final.name}.part", self.root / ".last.part"
        first = parallel.rank() == 0

        def prepare() -> None:
            shutil.rmtree(partial, ignore_errors=True)
            (partial / "training").mkdir(parents=True)

        def put_in_place() -> None:
            if found.shards and found.complete:
                _write_model(partial)
            shutil.rmtree(final, ignore_errors=True)
            os.replace(partial, final)
            point_to(final)

        try:
            self._together(prepare if first else None)
            self._together(lambda: found.write(partial))
            self._together(put_in_place if first else None)
        except Exception as error:  # of a thread: nobody else would hear of it
            if first:
                shutil.rmtree(partial, ignore_errors=True)
                link.unlink(missing_ok=True)
            self._error = error
            if isinstance(error, (OSError, DataError)):
                reason = getattr(error, "strerror", None) or error
                self._error = DataError(final, f"checkpoint cannot be written: {reason}; the last one is intact")
            return
        if first:
            _prune(self.root, final)

    def _together(self, work: Callable[[], None] | None) -> None:
        """Do something; goes on when all processes have done their part, and fails on all when it did on one.

        Whatever goes wrong, the others are told: they count on an answer for every part.
        """
        error: Exception | None = None
        try:
            if work is not None:
                work()
        except Exception as failed:
            error = failed
        others = self._agree.failures(error is not None)
        if error is not None:
            raise error
        if others:
            raise OSError(f"{others} other processes could not write their part")


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
    return gather_moments(model, optimizer)


def restore_moments(model: Tokenizer, optimizer: torch.optim.Optimizer, saved: Mapping[str, Tensor]) -> None:
    """Put AdamW's state back, in shards where the model is; parameters that are not trained are left out."""
    parameters = dict(model.named_parameters())
    trained = {parameter for group in optimizer.param_groups for parameter in group["params"]}
    for name, value in saved.items():
        parameter, _, key = name.rpartition("/")
        if parameters.get(parameter) in trained:
            optimizer.state[parameters[parameter]][key] = parallel.like(value, parameters[parameter])


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint read back."""

    model: Tokenizer
    ema: AveragedWeights
    state: TrainingState
    moments: dict[str, Tensor]


def point_to(folder: Path) -> None:
    """Make `last` beside a checkpoint a link to it, at once."""
    link = folder.parent / ".last.part"
    link.unlink(missing_ok=True)
    link.symlink_to(folder.name, target_is_directory=True)
    os.replace(link, folder.parent / "last")


def newest(root: Path) -> Path | None:
    """The checkpoint to go on from: `last`; where a copy has lost that link, the one that was trained longest."""
    if (root / "last").exists():
        return (root / "last").resolve()
    states = {path.parents[1]: path for path in root.glob("[!.]*/training/state.json")}
    totals = {folder: int(json.loads(path.read_text())["total"]) for folder, path in states.items()}
    return max(totals, key=lambda folder: totals[folder], default=None)


def load(path: Path) -> Checkpoint:
    """Read a checkpoint folder, whole or in shards.

    Raises:
        DataError: when a part of it is missing or broken.
    """
    training = path / "training"
    if (training / SHARDS).exists():
        config = from_mapping(TokenizerConfig, read_yaml(path / folder.CONFIG), str(path / folder.CONFIG))
        averaged = Tokenizer(config)
        folder.assign(averaged, read_shards(path, "averages"), path)
        weights, saved = read_shards(path, "weights"), read_shards(path, "optimizer")
    else:
        averaged = Tokenizer.from_pretrained(path)
        weights = folder.read_tensors(training / "weights.safetensors")
        saved = folder.read_tensors(training / "optimizer.safetensors")
    try:
        state = TrainingState(**json.loads((training / "state.json").read_text()))
    except (OSError, ValueError, TypeError) as error:
        raise DataError(training / "state.json", f"no usable training state: {error}") from error
    ema = AveragedWeights(averaged, decay=0.0)
    buffers = {name: value for name, value in averaged.state_dict().items() if name not in ema.values}
    model = Tokenizer(averaged.config)
    folder.assign(model, {**weights, **buffers}, path)
    return Checkpoint(model.train(), ema, state, saved)


def consolidate(path: str | Path) -> Path:
    """Give a sharded checkpoint the averaged model in one file, so that `Tokenizer.from_pretrained` loads it.

    Works in a single process; nothing to do where it is there already.

    Raises:
        DataError: when a shard is missing or broken, or the file cannot be written.
    """
    target = Path(path) / folder.WEIGHTS
    if not target.exists():
        try:
            _write_model(Path(path))
        except OSError as error:
            raise DataError(target, f"cannot be written: {error.strerror or error}") from error
    return Path(path)


def _write_model(path: Path) -> None:
    folder.write_tensors(path / folder.WEIGHTS, read_shards(path, "averages"), {"format": "tok4d-model"})
