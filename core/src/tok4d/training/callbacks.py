"""Callbacks: checkpoints, throughput and bad files, validation with pictures. Each does one thing."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytorch_lightning as pl
import torch
from pytorch_lightning.loggers import TensorBoardLogger

from tok4d.config.schema import Curriculum
from tok4d.data.batches import Batch, validation_batches
from tok4d.errors import Tok4dError
from tok4d.plugins.registry import modality
from tok4d.training import checkpoint
from tok4d.training.evaluate import Scores, reconstructor, score
from tok4d.training.module import TokenizerModule, unpatchify

log = logging.getLogger(__name__)
PICTURES = 4


class SaveCheckpoints(pl.Callback):
    """Every `every` steps and at the end of the stage. Files that were skipped so far are part of the state."""

    def __init__(self, root: Path, stage: str, seed: int, every: int, meter: Meter) -> None:
        self.root, self.stage, self.seed, self.every, self.meter = root, stage, seed, every, meter

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        module = cast(TokenizerModule, pl_module)
        if trainer.is_global_zero and (module.trained % self.every == 0 or module.trained == module.stage.steps):
            optimizer = cast(torch.optim.Optimizer, module.optimizers(use_pl_optimizer=False))
            checkpoint.save(self.root, module.tokenizer, module.ema, optimizer, self.state(module))

    def state(self, module: TokenizerModule) -> checkpoint.TrainingState:
        """The run's state after the step just trained."""
        return checkpoint.TrainingState(
            stage=self.stage,
            step=module.trained,
            total=module.total_trained,
            seed=self.seed,
            threads=torch.get_num_threads(),
            torch=torch.__version__,
            bad_files=self.meter.bad,
        )


class Meter(pl.Callback):
    """Tokens per second, the share of time waiting for data, and the count of bad files, which has a limit."""

    def __init__(self, max_bad: int, bad: int = 0) -> None:
        self.max_bad, self.bad = max_bad, bad
        self.tokens = 0
        self.waiting = self.working = 0.0
        self._mark = time.perf_counter()

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._mark = time.perf_counter()

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Batch, _: int) -> None:
        now = time.perf_counter()
        self.waiting += now - self._mark
        self._mark = now
        for reason in batch.bad:
            self.bad += 1
            log.warning("skipped %s", reason)
        if self.bad > self.max_bad:
            raise Tok4dError(f"{self.bad} files could not be used, more than max_bad = {self.max_bad}; stopped")

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Batch, _: int
    ) -> None:
        now = time.perf_counter()
        self.working += now - self._mark
        self._mark = now
        self.tokens += batch.tokens.num_tokens
        pl_module.log_dict({"tokens_per_second": self.rate, "waiting_share": self.waiting_share})

    @property
    def rate(self) -> float:
        """Tokens per second since the start, loading included."""
        return self.tokens / max(1e-9, self.working + self.waiting)

    @property
    def waiting_share(self) -> float:
        """Share of the time spent waiting for data."""
        return self.waiting / max(1e-9, self.working + self.waiting)


class Validate(pl.Callback):
    """Metrics of the averaged weights on held-out samples, with pictures of the first few for TensorBoard."""

    def __init__(self, curriculum: Curriculum, stage: str, report: Callable[[int, Scores], None]) -> None:
        self.tasks = curriculum.stages[stage].validation
        self.every = curriculum.validate_every
        self.report = report

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        module = cast(TokenizerModule, pl_module)
        due = self.every and module.trained % self.every == 0
        if self.tasks and trainer.is_global_zero and (due or module.trained == module.stage.steps):
            module.ema.swap(module.tokenizer)
            module.tokenizer.eval()
            try:
                self._run(module)
            finally:
                module.tokenizer.train()
                module.ema.swap(module.tokenizer)

    def _run(self, module: TokenizerModule) -> None:
        model = module.tokenizer
        found = validation_batches(self.tasks, model.patch_size, inputs=model.config.inputs)
        batches = [batch.to(module.device) for batch in found]
        scores = score(batches, reconstructor(model), model)
        self.report(module.total_trained, scores)
        board = next((one for one in module.loggers if isinstance(one, TensorBoardLogger)), None)
        if board is None:
            return
        for metric, value in scores.means().items():
            board.experiment.add_scalar(f"validation/{metric}", value, module.total_trained)
        for batch in batches[:PICTURES]:
            _show(board, module, batch)


@torch.no_grad()
def _show(board: TensorBoardLogger, module: TokenizerModule, batch: Batch) -> None:
    """Original and reconstruction of the batch's first sample, side by side."""
    host = modality(batch.modality)
    one = batch.unpack()[0]
    target = host.unpatchify(one.tokens)[0]
    got = unpatchify(module.tokenizer, one, reconstructor(module.tokenizer)(one))[0]
    for number, (left, right) in enumerate(zip(host.preview(target), host.preview(got), strict=False)):
        both = np.concatenate([np.asarray(left.convert("RGB")), np.asarray(right.convert("RGB"))], axis=1)
        name = f"{batch.task}/{Path(batch.keys[0]).stem}/{number}"
        board.experiment.add_image(name, both, module.total_trained, dataformats="HWC")
