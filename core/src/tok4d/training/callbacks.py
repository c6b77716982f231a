"""Callbacks: checkpoints, throughput and bad files, validation with pictures. Each does one thing."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytorch_lightning as pl
import torch
from pytorch_lightning.loggers import TensorBoardLogger

from tok4d.config.schema import Curriculum
from tok4d.data.batches import Batch, validation_batches
from tok4d.errors import Tok4dError
from tok4d.model.tokenizer import Tokenizer
from tok4d.plugins.registry import modality
from tok4d.training import checkpoint, parallel
from tok4d.training.alignment import Alignment
from tok4d.training.evaluate import Scores, evaluate, reconstructor
from tok4d.training.merging import merged_scores
from tok4d.training.module import TokenizerModule, unpatchify

log = logging.getLogger(__name__)
PICTURES = 4


@contextmanager
def averaged(module: TokenizerModule) -> Iterator[Tokenizer]:
    """The model with its averaged weights, in evaluation mode; of a sharded model all of it on every process."""
    model = module.tokenizer
    module.ema.swap(model)
    model.eval()
    try:
        with parallel.gathered_model(module.stage_loss):
            yield model
    finally:
        model.train()
        module.ema.swap(model)


def step_ended(module: TokenizerModule, every: int) -> bool:
    """Whether a step just ended that is due: every so many, if at all, and the stage's last."""
    due = every and module.trained % every == 0
    return module.between_steps and bool(due or module.trained == module.stage.steps)


class SaveCheckpoints(pl.Callback):
    """Every `every` steps and at the end of the stage. Files that were skipped so far are part of the state."""

    def __init__(self, root: Path, stage: str, seed: int, every: int, meter: Meter, asynchronous: bool = False) -> None:
        self.root, self.stage, self.seed, self.every, self.meter = root, stage, seed, every, meter
        self.asynchronous = asynchronous
        self._writer: checkpoint.Writer | None = None

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._writer = checkpoint.Writer(self.root, asynchronous=self.asynchronous)

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        module = cast(TokenizerModule, pl_module)
        if step_ended(module, self.every) and self._writer is not None:
            optimizer = cast(torch.optim.Optimizer, module.optimizers(use_pl_optimizer=False))
            complete = module.trained == module.stage.steps
            self._writer.save(module.tokenizer, module.ema, optimizer, self.state(module), complete=complete)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self._writer is not None:
            self._writer.finish()

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
            skipped=module.skipped,
            processes=parallel.world(),
            next_starts=dict(module.next_starts),
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
            log.warning("skipped %s", reason)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Batch, _: int
    ) -> None:
        now = time.perf_counter()
        self.working += now - self._mark
        self._mark = now
        self.tokens += batch.tokens.num_tokens
        pl_module.log_dict({"tokens_per_second": self.rate, "waiting_share": self.waiting_share})
        module = cast(TokenizerModule, pl_module)
        if module.between_steps:
            self._count(module.report.bad_files)

    def _count(self, bad: int) -> None:
        """Bad files of a step on all processes, which so decide alike."""
        self.bad += bad
        if self.bad > self.max_bad:
            raise Tok4dError(f"{self.bad} files could not be used, more than max_bad = {self.max_bad}; stopped")

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
        self._alignment: Alignment | None = None
        self.every = curriculum.validate_every
        self.report = report

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        module = cast(TokenizerModule, pl_module)
        if self.tasks and step_ended(module, self.every):
            with averaged(module):
                self._run(module)

    def _text_side(self, model: Tokenizer) -> Alignment | None:
        """For models that are aligned with a text tower."""
        if self._alignment is None and model.config.text is not None:
            self._alignment = Alignment(model.config.text, model.embedding_width, self.tasks)
        return self._alignment

    def _run(self, module: TokenizerModule) -> None:
        model = module.tokenizer
        share = (parallel.rank(), parallel.world())
        found = validation_batches(self.tasks, model.patch_size, *share, inputs=model.config.inputs)
        batches = [batch.to(module.device) for batch in found]
        scores = merged_scores(parallel.gathered(evaluate(model, batches, self._text_side(model))))
        if parallel.rank():
            return
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
