"""Reconstructions beside their originals, of every validation task, for whoever logs pictures."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL.Image import Image
from pytorch_lightning.loggers import TensorBoardLogger, WandbLogger

from tok4d.data.batches import Batch
from tok4d.model.tokenizer import Tokenizer
from tok4d.plugins.registry import modality
from tok4d.training.evaluate import reconstructor
from tok4d.training.stage_loss import targets, unpatchify

PICTURES = 4  # samples of every validation task

Picture = tuple[str, NDArray[np.uint8]]


class Chosen:
    """The first samples of every task that passes by.

    Args:
        count: how many of a task.
    """

    def __init__(self, count: int = PICTURES) -> None:
        self.count = count
        self.samples: dict[str, list[Batch]] = {}

    def watch(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        """The same batches, one after the other; what is chosen is kept, and nothing else."""
        for batch in batches:
            kept = self.samples.setdefault(batch.task, [])
            if len(kept) < self.count:
                kept += batch.unpack()[: self.count - len(kept)]
            yield batch


@torch.no_grad()
def pictures(model: Tokenizer, chosen: Chosen) -> Iterator[Picture]:
    """Name and pixels `[H, W, 3]` of every preview of the chosen samples: the original left, its reconstruction right.

    A modality without previews has none.
    """
    reconstruct = reconstructor(model)
    for task, samples in chosen.samples.items():
        for one in samples:
            host = modality(one.modality)
            target, got = targets(one)[0], unpatchify(model, one, reconstruct(one))[0]
            for number, (left, right) in enumerate(zip(host.preview(target), host.preview(got), strict=False)):
                yield f"{task}/{Path(one.keys[0]).stem}/{number}", _beside(left, right)


def _beside(left: Image, right: Image) -> NDArray[np.uint8]:
    """Two pictures in one; where sizes differ (renders of an asset), the first comes to the second's height."""
    if left.height != right.height:
        left = left.resize((max(1, round(left.width * right.height / left.height)), right.height))
    return np.concatenate([np.asarray(left.convert("RGB")), np.asarray(right.convert("RGB"))], axis=1)


def show(loggers: Iterable[object], found: Iterable[Picture], step: int) -> None:
    """Give pictures to every logger that takes some."""
    takers = [one for one in loggers if isinstance(one, (TensorBoardLogger, WandbLogger))]
    for name, pixels in found if takers else ():
        for taker in takers:
            _give(taker, name, pixels, step)


def _give(taker: Any, name: str, pixels: NDArray[np.uint8], step: int) -> None:
    if isinstance(taker, TensorBoardLogger):
        taker.experiment.add_image(name, pixels, step, dataformats="HWC")
    else:
        taker.log_image(name, [pixels], caption=["original | reconstruction"])
