"""Callbacks: checkpoints, bad files, validation with pictures. Each does one thing."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import pytorch_lightning as pl
import torch

from tok4d.config.schema import Curriculum
from tok4d.data.batches import validation_batches
from tok4d.errors import Tok4dError
from tok4d.model.tokenizer import Tokenizer
from tok4d.training import checkpoint, parallel
from tok4d.training.alignment import Alignment
from tok4d.training.evaluate import Scores, evaluate
from tok4d.training.merging import merged_scores
from tok4d.training.module import TokenizerModule
from tok4d.training.pictures import Chosen, pictures, show

log = logging.getLogger(__name__)


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
    """Every `every` steps, at the end of the stage, and before training stops early.

    Files that were skipped so far are part of the state.
    """

    def __init__(
        self, root: Path, stage: str, seed: int, every: int, bad_files: CountBadFiles, asynchronous: bool = False
    ) -> None:
        self.root, self.stage, self.seed, self.every = root, stage, seed, every
        self.bad_files, self.asynchronous = bad_files, asynchronous
        self._writer: checkpoint.Writer | None = None

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._writer = checkpoint.Writer(self.root, asynchronous=self.asynchronous)

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        module = cast(TokenizerModule, pl_module)
        stopping = module.between_steps and trainer.should_stop
        if (stopping or step_ended(module, self.every)) and self._writer is not None:
            optimizer = cast(torch.optim.Optimizer, module.optimizers(use_pl_optimizer=False))
            complete = stopping or module.trained == module.stage.steps
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
            bad_files=self.bad_files.bad,
            bad=sorted(self.bad_files.known),
            skipped=module.skipped,
            processes=parallel.world(),
            next_starts=dict(module.next_starts),
        )


class CountBadFiles(pl.Callback):
    """Names files that could not be used, each once, and counts them; their number has a limit.

    Args:
        max_bad: how many there may be.
        known: digests of those of an earlier part of the run.
    """

    def __init__(self, max_bad: int, known: Iterable[str] = ()) -> None:
        self.max_bad, self.known = max_bad, set(known)

    @property
    def bad(self) -> int:
        """How many there were so far, over all processes."""
        return len(self.known)

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        module = cast(TokenizerModule, pl_module)
        if module.between_steps:
            self._count(module.report.bad)

    def _count(self, reasons: Iterable[str]) -> None:
        """Those of a step on all processes, which so decide alike. A file is met again in every epoch."""
        for reason in reasons:
            digest = hashlib.sha256(reason.encode()).hexdigest()[:16]
            if digest not in self.known and parallel.rank() == 0:
                log.warning("skipped %s", reason)
            self.known.add(digest)
        if self.bad > self.max_bad:
            raise Tok4dError(f"{self.bad} files could not be used, more than max_bad = {self.max_bad}; stopped")


class Validate(pl.Callback):
    """Metrics of the averaged weights on held-out samples, with pictures of the first few of every task."""

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
        model, chosen = module.tokenizer, Chosen()
        share = (parallel.rank(), parallel.world())
        found = validation_batches(self.tasks, model.patch_size, *share, inputs=model.config.inputs)
        batches = chosen.watch(batch.to(module.device) for batch in found)
        scores = merged_scores(parallel.gathered(evaluate(model, batches, self._text_side(model))))
        if parallel.rank():
            return
        self.report(module.total_trained, scores)
        for logger in module.loggers:
            named = {f"validation/{metric}": value for metric, value in scores.means().items()}
            logger.log_metrics(named, module.total_trained)
        show(module.loggers, pictures(model, chosen), module.total_trained)
