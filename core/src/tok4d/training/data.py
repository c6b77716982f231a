"""The Lightning data module of one stage."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any

import pytorch_lightning as pl
from torch.utils.data import DataLoader, Dataset

from tok4d.config.schema import StageConfig
from tok4d.data.batches import Batch, FromStep, Inputs, StageBatches
from tok4d.errors import Tok4dError
from tok4d.modality import PatchSize


class _Served(Dataset[Batch | Tok4dError]):
    """Batches, or the error instead: a loader process would otherwise turn it into a traceback in one long string."""

    def __init__(self, batches: StageBatches) -> None:
        self.batches = batches

    def __getitem__(self, step: int) -> Batch | Tok4dError:
        try:
            return self.batches[step]
        except Tok4dError as error:
            return error


class _Loader(DataLoader[Batch]):
    """Raises the errors that `_Served` hands over, and names the one that says that nobody is there to hand over."""

    def __iter__(self) -> Iterator[Batch]:  # type: ignore[override]
        try:
            for item in super().__iter__():
                if isinstance(item, Tok4dError):
                    raise item
                yield item
        except (ConnectionError, EOFError, FileNotFoundError) as error:
            if not self.num_workers or "in DataLoader worker process" in str(error):  # of the data
                raise
            raise _death() from error


class StageData(pl.LightningDataModule):
    """Batches of a stage from step `start` on; which worker makes them changes nothing.

    Args:
        stage, name, seed: as for `StageBatches`.
        patch_size, inputs: of the model.
        start: first step to serve.
        next_starts: of the step before, for `StageBatches.go_on`.
        workers: data-loading processes.
    """

    def __init__(
        self,
        stage: StageConfig,
        name: str,
        seed: int,
        patch_size: PatchSize,
        start: int,
        workers: int,
        inputs: Inputs | None = None,
        next_starts: Mapping[str, Sequence[int]] | None = None,
    ) -> None:
        super().__init__()
        self.stage, self.stage_name, self.seed = stage, name, seed
        self.patch_size, self.inputs = patch_size, inputs
        self.start, self.workers = start, workers
        self.next_starts = next_starts or {}

    def train_dataloader(self) -> DataLoader[Batch]:
        """One item a step, or a part of one; it has a length, which Lightning counts by."""
        rank, world = (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)
        stage = self.stage, self.stage_name, self.seed
        batches = StageBatches(*stage, self.patch_size, rank, world, self.inputs)
        batches.go_on(self.next_starts)
        served: Any = _Served(batches)
        return _Loader(
            served,
            batch_size=None,
            sampler=FromStep(self.start * batches.parts, len(batches)),
            num_workers=self.workers,
            prefetch_factor=2 if self.workers else None,
            worker_init_fn=_in_worker,
        )


def _in_worker(_: int) -> None:
    sys.excepthook = _unless_hung_up


def _unless_hung_up(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """A training process that ends while a batch is handed over is no error of the loader process: it says nothing."""
    if not issubclass(kind, ConnectionError | EOFError):
        sys.__excepthook__(kind, error, trace)


def raise_if_worker_died(error: BaseException) -> None:
    """Say in one line what PyTorch reports when a loader process is gone.

    PyTorch raises from a signal handler, so anywhere: other libraries may have made another error of it meanwhile.

    Raises:
        Tok4dError: if that is what happened.
    """
    cause: BaseException | None = error
    while cause is not None:
        text = str(cause)
        if "DataLoader worker" in text and ("exited unexpectedly" in text or "killed by signal" in text):
            raise _death() from error
        cause = cause.__cause__ or cause.__context__


def _death() -> Tok4dError:
    return Tok4dError(
        "a data-loading process died (out of memory, or killed); the last checkpoint is intact: go on with "
        "--resume, with fewer workers if memory was short (workers=0 loads in the training process)"
    )
