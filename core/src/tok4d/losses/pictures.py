"""Samples of any modality as pairs of pictures, and the base of the terms that compare such pairs.

B = samples, n = pictures of one size in a batch, H, W = height and width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tok4d.errors import ConfigError
from tok4d.losses.objective import Term, no_difference
from tok4d.losses.shared import shared
from tok4d.modality import Sample
from tok4d.model.bottleneck import Encoded
from tok4d.nn.precision import at_least_float32
from tok4d.plugins.registry import modality


class PictureTerm(Term):
    """A term on the pictures of a sample (`Modality.pictures`): the mean over them.

    Args:
        distance: gives `[n]` for pictures got and wanted, `[n, 3, H, W]` each in [-1, 1].
        size: pictures are interpolated to size x size before they are compared; None: compared as they are.
        frames: at most this many pictures of a sample, evenly spaced among them; None: all.
        optional: samples without pictures cost nothing, instead of being refused.

    Raises:
        ConfigError: for a size or number of frames that is no positive whole number.
    """

    name: ClassVar[str]  # as it is registered

    def __init__(
        self, distance: nn.Module, size: int | None = None, frames: int | None = None, optional: bool = False
    ) -> None:
        super().__init__()
        check_count(f"losses.{self.name}.size", size)
        check_count(f"losses.{self.name}.frames", frames)
        self.distance = distance
        self.size, self.frames, self.optional = size, frames, optional

    def forward(self, target: Sequence[Sample], reconstruction: Sequence[Sample], encoded: Encoded) -> Tensor:
        groups = self._groups(target, reconstruction)
        total_B = no_difference(reconstruction).repeat(len(target))
        for group in groups:
            wanted, got = group.pictures
            values = self.distance(got, wanted)
            total_B = total_B.to(values.dtype).index_add(0, group.owner, values * group.share.to(values))
        return total_B

    def _groups(self, target: Sequence[Sample], reconstruction: Sequence[Sample]) -> list[Group]:
        """Pictures wanted and got; terms with the same options share them."""
        both, frames, size = (target, reconstruction), self.frames, self.size
        found = shared("pictures", both, (frames,), lambda: [_pair(*pair, frames) for pair in zip(*both, strict=True)])
        if not self.optional:
            refuse_missing(self.name, target, found)
        return shared("pairs", both, (frames, size), lambda: grouped(found, size))


@dataclass(frozen=True)
class Group:
    """Pictures of one size, of one or more samples.

    Attributes:
        pictures: `[n, 3, H, W]` each, in [-1, 1], float32 at least.
        owner: which sample of the batch each belongs to, int64 `[n]`.
        share: 1 / number of pictures of that sample, `[n]`.
    """

    pictures: tuple[Tensor, ...]
    owner: Tensor
    share: Tensor


def pictures_of(sample: Sample, frames: int | None = None) -> Tensor | None:
    """The sample as pictures `[N, 3, H, W]`, float32 at least; None for a modality that has none.

    Args:
        frames: at most this many, evenly spaced among them.
    """
    pictures = modality(sample.modality).pictures(sample)
    if pictures is None:
        return None
    if frames is not None and frames < len(pictures):
        pictures = pictures[[int((i + 0.5) * len(pictures) / frames) for i in range(frames)]]
    return at_least_float32(pictures)


def _pair(target: Sample, reconstruction: Sample, frames: int | None) -> tuple[Tensor, Tensor] | None:
    """Pictures wanted, without gradients, and got; None where there are none."""
    with torch.no_grad():
        wanted = pictures_of(target, frames)
    got = pictures_of(reconstruction, frames)
    if wanted is None or got is None:
        return None
    if wanted.shape != got.shape:
        raise ConfigError(
            f"sample {target.key!r}: its pictures are {list(wanted.shape)}, those of the reconstruction "
            f"{list(got.shape)}; a loss of pictures compares equal shapes"
        )
    return wanted.detach(), got


def refuse_missing(name: str, samples: Sequence[Sample], found: Sequence[object]) -> None:
    """Raise ConfigError where something is None: the first such sample has no pictures."""
    for sample, pictures in zip(samples, found, strict=True):
        if pictures is None:
            raise ConfigError(
                f"the loss {name!r} needs pictures, and modality {sample.modality!r} has none (sample "
                f"{sample.key!r}); take it out of this task's losses, or give it `optional: true`"
            )


def grouped(found: Sequence[tuple[Tensor, ...] | None], size: int | None) -> list[Group]:
    """Pictures of samples, those of one size together; all of them where they are interpolated to `size`."""
    members: dict[tuple[int, ...], list[tuple[int, tuple[Tensor, ...]]]] = {}
    for index, pictures in enumerate(found):
        if pictures is not None and len(pictures[0]):
            members.setdefault(tuple(pictures[0].shape[2:]), []).append((index, pictures))
    groups = [_group(some, size) for some in members.values()]
    if size is None or len(groups) < 2:
        return groups
    pictures = tuple(torch.cat(parts) for parts in zip(*(group.pictures for group in groups), strict=True))
    owner, share = (torch.cat([getattr(group, name) for group in groups]) for name in ("owner", "share"))
    return [Group(pictures, owner, share)]


def _group(members: list[tuple[int, tuple[Tensor, ...]]], size: int | None) -> Group:
    together = zip(*(pictures for _, pictures in members), strict=True)
    pictures = tuple(resized(torch.cat(parts), size) for parts in together)
    device = pictures[0].device
    counts = torch.tensor([len(pictures[0]) for _, pictures in members], device=device)
    owner = torch.tensor([index for index, _ in members], device=device)
    return Group(pictures, owner.repeat_interleave(counts), (1 / counts).repeat_interleave(counts))


def check_count(what: str, value: object) -> None:
    """Raise ConfigError unless None or a whole number of at least 1."""
    if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
        raise ConfigError(f"{what} must be a whole number of at least 1, or null; got {value!r}")


def resized(pictures: Tensor, size: int | None) -> Tensor:
    """Pictures `[n, 3, H, W]` interpolated to size x size, bilinear; antialiased where that shrinks them.

    Without antialiasing, a picture four times as large would be compared at one pixel in sixteen.
    """
    if size is None or tuple(pictures.shape[2:]) == (size, size):
        return pictures
    with torch.autocast(pictures.device.type, enabled=False):
        return F.interpolate(
            at_least_float32(pictures), (size, size), mode="bilinear", align_corners=False, antialias=True
        )


def check_pair(x: Tensor, y: Tensor, name: str) -> None:
    """Refuse what is no pair of picture batches.

    Raises:
        ConfigError: for shapes that differ or are not `[N, 3, H, W]`, and integers.
    """
    fine = x.shape == y.shape and x.ndim == 4 and x.shape[1] == 3
    if not fine or not (x.is_floating_point() and y.is_floating_point()):
        raise ConfigError(
            f"{name} compares two float [N, 3, H, W] in [-1, 1], got {list(x.shape)} {x.dtype} and "
            f"{list(y.shape)} {y.dtype}"
        )
