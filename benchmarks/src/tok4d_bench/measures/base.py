"""What measures share: figures from columns, pictures of samples, networks that may be missing.

n = samples of a group, N = pictures of a sample, H, W = height and width, D = features.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from tok4d.errors import ConfigError, DataError
from tok4d.modality import Sample
from tok4d.networks import Network, available, load_network
from tok4d.plugins.registry import modality
from tok4d_bench.contracts import BenchData, ChunkReader, Columns, Measure, Requirement, Restored, Subject, Value
from tok4d_bench.statistics.blocks import column
from tok4d_bench.statistics.bootstrap import REPLICATES, SEED, mean, mean_error

AT_ONCE = 16  # pictures of one size that a network sees together
MAX_VALUES = AT_ONCE * 3 * 256 * 256  # of them: sixteen frames of 720p took 19 GB
RANGE = "[-1, 1], clamped"
BOOTSTRAP = f"bootstrap {REPLICATES}, seed {SEED}"


class PairMean(Measure):
    """Mean over samples of a score of one original and its reconstruction; the score is the column of its name.

    A subclass sets `name`, `unit` and `higher_is_better`, and implements `scores` and `facts`.
    """

    kind: ClassVar[str] = "pair"
    name: str
    unit: str = ""
    higher_is_better: bool | None = True

    @abstractmethod
    def scores(self, originals: Sequence[Sample], restored: Sequence[Sample]) -> list[float]:
        """One score a sample, NaN where the measure does not apply to it."""

    @abstractmethod
    def facts(self) -> dict[str, Any]:
        """The protocol beside range and error."""

    def protocol(self) -> dict[str, Any]:
        return {"range": RANGE, "mean": "over samples, float64", "error": BOOTSTRAP, **self.facts()}

    def columns(self, originals: Sequence[Sample], results: Sequence[Restored]) -> Columns:
        with torch.inference_mode():
            found = self.scores(originals, [one.sample for one in results])
        return {self.name: np.array(found, dtype=np.float64)}

    def finish(self, chunks: ChunkReader, data: BenchData, subject: Subject) -> list[Value]:
        values = column(chunks(self.name), self.name)
        return [mean_value(self.name, values, unit=self.unit, higher_is_better=self.higher_is_better)]


def mean_value(
    name: str, values: np.ndarray, *, scale: float = 1.0, unit: str = "", higher_is_better: bool | None = True
) -> Value:
    """Mean and bootstrap error of a column, both times `scale`; NaN stands for samples that do not count."""
    counted = values[~np.isnan(values)].astype(np.float64)
    left_out = len(values) - len(counted)
    note = f"{left_out} of {len(values)} samples do not apply" if left_out else ""
    if not len(counted):
        return nothing(name, note or "no samples", unit=unit, higher_is_better=higher_is_better)
    error = mean_error(counted)
    return Value(
        name,
        scale * mean(counted),
        len(counted),
        None if error is None else scale * error,
        higher_is_better,
        unit,
        note,
    )


def nothing(name: str, why: str, *, n: int = 0, unit: str = "", higher_is_better: bool | None = True) -> Value:
    """A figure that could not be computed, and why."""
    return Value(name, None, n, None, higher_is_better, unit, why)


def pictures(sample: Sample) -> Tensor:
    """The sample's pictures `[N, 3, H, W]` float32, clamped to [-1, 1], without gradient.

    Raises:
        DataError: for a sample without pictures, or with values that are not finite.
    """
    found = modality(sample.modality).pictures(sample)
    if found is None or not found.numel():
        raise DataError(
            sample.key or "sample",
            f"modality {sample.modality!r} has no pictures to compare; take one of its own metrics, such as "
            f"`modality: {{metric: {sample.modality}/psnr}}`",
        )
    if bad := int((~torch.isfinite(found)).sum()):
        raise DataError(sample.key or "sample", f"{bad} of {found.numel()} values are not finite")
    return found.detach().float().clamp(-1, 1)


def picture_pairs(originals: Sequence[Sample], restored: Sequence[Sample]) -> list[tuple[Tensor, Tensor]]:
    """Pictures of every pair `[N, 3, H, W]` each.

    Raises:
        DataError: for pictures that are missing or differ in shape.
    """
    pairs = []
    for wanted, got in zip(originals, restored, strict=True):
        a, b = pictures(wanted), pictures(got)
        if a.shape != b.shape:
            raise DataError(wanted.key or "sample", f"pictures {list(a.shape)} were reconstructed as {list(b.shape)}")
        pairs.append((a, b))
    return pairs


def by_size(
    rows: Sequence[tuple[Tensor, ...]], call: Callable[..., Tensor], device: str = "cpu", at_once: int = AT_ONCE
) -> list[Tensor]:
    """A network's answers for every item's tensors `[N, ...]`, in order, on the CPU: those of one shape go together.

    Which go together depends on the group alone, so the answers' last bits do too.

    Args:
        rows: of every item, the arguments of `call`, equal in their first axis.
        call: gives one row for each row of its arguments.
        device: where they are taken for it.
        at_once: rows of one call at most; fewer where they are large, so that clips of many frames need no more memory.
    """
    sizes: dict[tuple[torch.Size, ...], list[int]] = {}
    for index, row in enumerate(rows):
        sizes.setdefault(tuple(part.shape[1:] for part in row), []).append(index)
    found: dict[int, Tensor] = {}
    for members in sizes.values():
        joined = [torch.cat(parts).to(device) for parts in zip(*(rows[i] for i in members), strict=True)]
        few = min(at_once, max(1, MAX_VALUES // max(1, joined[0][0].numel())))
        answers = torch.cat([call(*parts) for parts in zip(*(part.split(few) for part in joined), strict=True)]).cpu()
        lengths = [len(rows[i][0]) for i in members]
        found |= dict(zip(members, answers.split(lengths), strict=True))
    return [found[index] for index in range(len(rows))]


def network_requirement(name: str, source: str = "") -> Requirement:
    """Whether a pretrained network is on this machine."""
    from pathlib import Path

    what = f"network {name}"
    if source:
        missing = "" if Path(source).expanduser().exists() else f"{source}: no such file"
        return Requirement(what, missing, "give the path of its weights")
    state = available(name)
    return Requirement(what, "" if state.present else f"not on this machine (looked at {state.where})", state.how)


def pretrained(name: str, source: str, kind: type[Network], device: str = "cpu") -> Any:
    """A pretrained network of one kind, on a device.

    Raises:
        ConfigError: for an unknown network, or one of another kind.
    """
    network = load_network(name, source, device)
    if not isinstance(network, kind):
        raise ConfigError(f"network {name!r} is a {type(network).__name__}, this measure needs a {kind.__name__}")
    return network


def one_of(what: str, value: str, known: Sequence[str]) -> str:
    """The value, if it is known.

    Raises:
        ConfigError: otherwise, with the nearest.
    """
    from tok4d.errors import unknown_name

    if value not in known:
        raise ConfigError(unknown_name(what, value, known))
    return value
