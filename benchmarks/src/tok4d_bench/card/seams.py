"""Error at the seams of temporal tiles, with the keys of the tile before in sight and without them.

F = frames. A seam lies before frame k * tile, where tile = steps of a tile * frames of a patch. What is compared is the
first frame after a seam with the frames inside of tiles, and the change over a seam with changes inside.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from tok4d.metrics import decibels
from tok4d.modality import Sample
from tok4d.plugins.registry import modality
from tok4d_bench.subjects.tok4d_model import Tok4dSubject


class SeamSums:
    """Squared errors at seams and elsewhere, summed over clips in float64."""

    def __init__(self, tile: int) -> None:
        self.tile = tile
        self.squares = {"frame_at_seam": 0.0, "frame_inside": 0.0, "change_at_seam": 0.0, "change_inside": 0.0}
        self.values = dict.fromkeys(self.squares, 0)
        self.clips = 0

    def add(self, restored: Tensor, original: Tensor) -> None:
        """One clip `[F, ...]`, values in [-1, 1]; the first tile has no seam and counts as inside but for frame 0."""
        if len(original) <= self.tile:
            return
        self.clips += 1
        error = (restored.clamp(-1, 1).double() - original.clamp(-1, 1).double()).flatten(1)
        frames = error.square().sum(1)
        changes = (error[1:] - error[:-1]).square().sum(1)
        number = torch.arange(len(error))
        seam = (number % self.tile == 0) & (number > 0)
        inside = number % self.tile != 0
        width = error.shape[1]
        for name, values, mask in (
            ("frame_at_seam", frames, seam),
            ("frame_inside", frames, inside),
            ("change_at_seam", changes, seam[1:]),
            ("change_inside", changes, inside[1:]),
        ):
            self.squares[name] += float(values[mask].sum())
            self.values[name] += int(mask.sum()) * width

    def as_dict(self) -> dict[str, Any]:
        """PSNR in dB of each kind (peak 2), and how many times as large errors at seams are."""
        mse = {name: self.squares[name] / max(1, self.values[name]) for name in self.squares}
        found: dict[str, Any] = {name: decibels(value) for name, value in mse.items()}
        for kind in ("frame", "change"):
            inside = mse[f"{kind}_inside"]
            found[f"{kind}_ratio"] = mse[f"{kind}_at_seam"] / inside if inside else None
        return found


class Seams:
    """Both ways for the clips of a data set: with the model's own cached steps, and with none.

    A model that sees nothing of the tile before anyway has one way only.
    """

    def __init__(self, subject: Tok4dSubject) -> None:
        config = subject.model.config
        self.subject = subject
        own = config.cached_steps if subject.cached_steps is None else subject.cached_steps
        self.tile = config.tile_steps * subject.model.patch_size[0]
        self.ways = {steps: SeamSums(self.tile) for steps in sorted({own, 0}, reverse=True)}

    def add(self, samples: Sequence[Sample]) -> None:
        """Clips of more than one tile; others have no seam."""
        long = [s for s in samples if self._moves(s) and len(s.data[modality(s.modality).field]) > self.tile]
        if not long:
            return
        kept = self.subject.cached_steps
        try:
            for steps, sums in self.ways.items():
                self.subject.cached_steps = steps
                for sample, one in zip(long, self.subject.reconstruct(long), strict=True):
                    field = modality(sample.modality).field
                    sums.add(one.sample.data[field], sample.data[field])
        finally:
            self.subject.cached_steps = kept

    @staticmethod
    def _moves(sample: Sample) -> bool:
        return modality(sample.modality).streams  # then time is the first axis

    def as_dict(self) -> dict[str, Any] | None:
        """For JSON; None where no clip has a seam."""
        if not any(sums.clips for sums in self.ways.values()):
            return None
        clips = max(sums.clips for sums in self.ways.values())
        ways = {str(steps): sums.as_dict() for steps, sums in self.ways.items()}
        return {"clips": clips, "tile_frames": self.tile, "by_cached_steps": ways}
