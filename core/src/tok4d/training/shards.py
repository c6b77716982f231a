"""What a checkpoint holds, process by process, and how shards make whole tensors again. Safetensors and JSON only.

`torch.distributed.checkpoint` keeps its index as a pickle, which nobody should open who got a folder from elsewhere.
A shard here is some rows of a tensor, and shards in order are all of them.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import torch
import yaml
from torch import Tensor

from tok4d.config.loader import to_mapping
from tok4d.config.schema import TokenizerConfig
from tok4d.errors import DataError
from tok4d.model.tokenizer import Tokenizer
from tok4d.training import parallel
from tok4d.training.optim import AveragedWeights
from tok4d.weights import folder

SHARDS = "shards.json"
Files = dict[str, dict[str, Tensor]]


@dataclass(frozen=True)
class TrainingState:
    """Where a run stands. All randomness is keyed by these numbers, so there is no generator state to keep.

    Attributes:
        stage, step: the stage and the steps of it that are trained.
        total: steps of all stages.
        seed, threads, torch, processes: what the exact bits depend on.
        bad_files, skipped: files that were replaced (in `bad`, digests of what was said of them) and steps skipped so
            far.
        next_starts: for `StageBatches.go_on`.
    """

    stage: str
    step: int
    total: int
    seed: int
    threads: int
    torch: str
    bad_files: int = 0
    skipped: int = 0
    bad: list[str] = field(default_factory=list)
    processes: int = 1
    next_starts: dict[str, list[int]] = field(default_factory=dict)


@dataclass(frozen=True)
class Snapshot:
    """What this process has to write of a checkpoint.

    Attributes:
        config: of the model.
        state: of the run.
        files: tensors by file.
        shards: shape of every tensor that is split, by kind of file; empty: nothing is.
        complete: whether the averaged model is wanted in one file.
    """

    config: TokenizerConfig
    state: TrainingState
    files: Files
    shards: dict[str, dict[str, list[int]]] = field(default_factory=dict)
    complete: bool = True

    @property
    def name(self) -> str:
        """Of the checkpoint's folder."""
        return f"{self.state.stage}-{self.state.step:08d}"

    def copied(self) -> Snapshot:
        """The same with copies in memory, which training does not change."""
        files = {
            file: {name: t.detach().cpu().clone() for name, t in part.items()} for file, part in self.files.items()
        }
        return replace(self, files=files)

    def write(self, path: Path) -> None:
        """Write this process's files into the checkpoint's folder; process 0 also what is common to all.

        Raises:
            OSError: when something cannot be written.
        """
        if self.files and not self.shards:
            folder.write(path, self.config, self.files["model"])
        for file, tensors in self.files.items():
            if file != "model":
                folder.write_tensors(path / "training" / f"{file}.safetensors", tensors)
        if parallel.rank():
            return
        if self.shards:
            folder.write_text(path / folder.CONFIG, yaml.safe_dump(to_mapping(self.config), sort_keys=False))
            index = {"count": parallel.world(), "shapes": self.shards}
            folder.write_text(path / "training" / SHARDS, json.dumps(index, indent=1))
        folder.write_text(path / "training" / "state.json", json.dumps(asdict(self.state), indent=1))


def snapshot(
    model: Tokenizer,
    ema: AveragedWeights,
    optimizer: torch.optim.Optimizer,
    state: TrainingState,
    complete: bool = True,
) -> Snapshot:
    """What this process writes: its shards, or everything if nothing is sharded and it is process 0."""
    names = dict(model.named_parameters())
    if not parallel.is_sharded(model):
        if parallel.rank():
            return Snapshot(model.config, state, {})
        weights: dict[str, Tensor] = {name: parameter.detach() for name, parameter in names.items()}
        files = {"model": {**model.state_dict(), **ema.values}, "weights": weights}
        return Snapshot(model.config, state, {**files, "optimizer": gather_moments(model, optimizer)})
    buffers = {name: value for name, value in model.state_dict().items() if name not in names}
    kinds: dict[str, Mapping[str, Tensor]] = {
        "weights": {name: parameter.detach() for name, parameter in names.items()},
        "averages": {**buffers, **ema.values},
        "optimizer": gather_moments(model, optimizer),
    }
    mine = f"{parallel.rank():05d}-of-{parallel.world():05d}"
    files = {f"{kind}-{mine}": _mine(tensors) for kind, tensors in kinds.items()}
    shapes = {kind: _split_shapes(tensors) for kind, tensors in kinds.items()}
    return Snapshot(model.config, state, files, shapes, complete)


def gather_moments(model: Tokenizer, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """AdamW's state by `parameter/key`."""
    names: dict[Tensor, str] = {parameter: name for name, parameter in model.named_parameters()}
    return {
        f"{names[parameter]}/{key}": value
        for parameter, values in optimizer.state.items()
        for key, value in values.items()
    }


def _mine(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """This process's rows; of what is not split, process 0 has all and the others nothing."""
    return {name: parallel.local(t) for name, t in tensors.items() if parallel.splits(t) or not parallel.rank()}


def _split_shapes(tensors: Mapping[str, Tensor]) -> dict[str, list[int]]:
    return {name: list(tensor.shape) for name, tensor in tensors.items() if parallel.splits(tensor)}


def read_shards(path: Path, kind: str) -> dict[str, Tensor]:
    """Whole tensors of one kind (`weights`, `averages`, `optimizer`) of a sharded checkpoint.

    Raises:
        DataError: when a shard is missing or broken, or rows are missing.
    """
    index = path / "training" / SHARDS
    try:
        found = json.loads(index.read_text())
        count, shapes = int(found["count"]), dict(found["shapes"][kind])
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise DataError(index, f"no usable index of shards: {error}") from error
    if not 0 < count < 100_000:
        raise DataError(index, f"no usable index of shards: {count} of them")
    files = [path / "training" / f"{kind}-{number:05d}-of-{count:05d}.safetensors" for number in range(count)]
    parts = [folder.read_tensors(file) for file in files]
    whole = {name: tensor for name, tensor in parts[0].items() if name not in shapes}
    for name, shape in shapes.items():
        whole[name] = _joined(index, name, [part[name] for part in parts if name in part], shape)
    return whole


def _joined(index: Path, name: str, rows: Iterable[Tensor], shape: list[int]) -> Tensor:
    """Rows of all shards, which must make the shape that is recorded."""
    rows = [part for part in rows if part.numel()]
    fits = rows and all(list(part.shape[1:]) == shape[1:] for part in rows)
    if not fits or sum(len(part) for part in rows) != shape[0]:
        raise DataError(index, f"the shards of {name} do not make its shape {tuple(shape)}")
    return torch.cat(rows)
