"""How fast a stage trains, and what becomes of the time: tokens and samples a second, waiting, shares of the tasks."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, cast

import pytorch_lightning as pl

from tok4d.data.batches import Batch
from tok4d.training.flops import TRAINING, forward_flops, measured_peak
from tok4d.training.module import TokenizerModule


@dataclass
class Sums:
    """Sums over the batches of a stage, of this process.

    Attributes:
        waiting, working: seconds until a batch was there, and from then until its step was over.
        flops: operations of the model's matrix products and attention, forward and backward.
        tokens, samples, batches: by task.
        peak: operations a second of a large matrix product; 0: not measured.
        world: processes of the run. Rates are this one's times that; `peak_share` is its own.
    """

    waiting: float = 0.0
    working: float = 0.0
    flops: float = 0.0
    tokens: Counter[str] = field(default_factory=Counter)
    samples: Counter[str] = field(default_factory=Counter)
    batches: Counter[str] = field(default_factory=Counter)
    peak: float = 0.0
    world: int = 1

    def add(self, batch: Batch, flops: float) -> None:
        """Count one batch."""
        self.tokens[batch.task] += batch.tokens.num_tokens
        self.samples[batch.task] += len(batch.tokens)
        self.batches[batch.task] += 1
        self.flops += flops

    @property
    def seconds(self) -> float:
        """All the time that was measured."""
        return self.waiting + self.working

    def figures(self) -> dict[str, float]:
        """What goes into the log; rates count waiting in."""
        seconds = max(1e-9, self.seconds)
        found = {
            "tokens_per_second": self.world * self.tokens.total() / seconds,
            "samples_per_second": self.world * self.samples.total() / seconds,
            "waiting_share": self.waiting / seconds,
            "flops_per_second": self.world * self.flops / seconds,
        }
        if self.peak:
            found["peak_share"] = self.flops / seconds / self.peak
        return found

    def summary(self) -> dict[str, Any]:
        """The figures at the end, and every task's share of the tokens, samples and batches."""
        return {
            **self.figures(),
            "seconds": self.seconds,
            "flops_per_token": self.flops / max(1, self.tokens.total()),
            "product_flops_per_second": self.peak,
            "tasks": {
                task: {
                    "tokens": self.tokens[task],
                    "samples": self.samples[task],
                    "batches": count,
                    "token_share": self.tokens[task] / max(1, self.tokens.total()),
                    "batch_share": count / self.batches.total(),
                }
                for task, count in sorted(self.batches.items())
            },
        }


class Throughput(pl.Callback):
    """Measures a stage from its first batch to its last, and logs it.

    Seconds between the end of a step's callbacks and the next batch are waiting; validation and checkpoints, which
    come after this callback in a step, are not counted at all.

    Args:
        precision: of the run, for the peak that its speed is compared with.
        clock: seconds; replaced by tests.
    """

    def __init__(self, precision: str, clock: Callable[[], float] = time.perf_counter) -> None:
        self.precision, self.clock = precision, clock
        self.sums = Sums()
        self._mark = 0.0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.is_global_zero:
            self.sums.peak = measured_peak(pl_module.device, self.precision)
        self.sums.world = trainer.world_size
        self.go_on()

    def go_on(self) -> None:
        """Measure from now on: what was done since the last batch is left out."""
        self._mark = self.clock()

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Batch, _: int) -> None:
        now = self.clock()
        self.sums.waiting += now - self._mark
        self._mark = now

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Batch, _: int
    ) -> None:
        now = self.clock()
        self.sums.working += now - self._mark
        self._mark = now
        module = cast(TokenizerModule, pl_module)
        asked = module.objectives[batch.task]
        flops = TRAINING * forward_flops(module.tokenizer.config, batch.tokens, pool=asked.pools, decode=asked.restores)
        self.sums.add(batch, flops)
        pl_module.log_dict(self.sums.figures())


class GoOn(pl.Callback):
    """Stands behind the callbacks of a step that take their time, such as validation, so that it is no waiting."""

    def __init__(self, throughput: Throughput) -> None:
        self.throughput = throughput

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        self.throughput.go_on()
