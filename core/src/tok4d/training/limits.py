"""Runs that stop at the end of a step, with a checkpoint, so that they can go on later: `--max-time` and signals."""

from __future__ import annotations

import os
import re
import signal
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import Any, cast

import pytorch_lightning as pl

from tok4d.errors import Tok4dError
from tok4d.training.module import TokenizerModule

_CLOCK = re.compile(r"(?:(\d+)-)?(\d+):([0-5]?\d):([0-5]?\d)")
_UNITS = re.compile(r"(?:(\d+(?:\.\d+)?)d)?(?:(\d+(?:\.\d+)?)h)?(?:(\d+(?:\.\d+)?)m)?(?:(\d+(?:\.\d+)?)s)?")
_SECONDS = (86_400, 3600, 60, 1)


def parse_duration(text: str) -> float:
    """Seconds of `00:30:00`, `1-12:00:00` (days first, as SLURM writes it), `90m`, `1h30m`, `3600s` or `3600`.

    Raises:
        Tok4dError: for anything else, or a time of zero.
    """
    given = text.strip().lower()
    found = _CLOCK.fullmatch(given) or _UNITS.fullmatch(f"{given}s" if given.isdigit() else given)
    seconds = sum(float(part or 0) * unit for part, unit in zip(found.groups(), _SECONDS, strict=True)) if found else 0
    if not seconds > 0:
        raise Tok4dError(f"a time is written 00:30:00, 90m, 1h30m or 3600s, got {text!r}")
    return seconds


class StopAfter(pl.Callback):
    """Ends training at the end of the first step that is over when the time is, on all processes at once.

    It stands before the callback that saves, which writes a checkpoint when training is about to stop.

    Args:
        seconds: from `begun` on; None: never.
        begun: reading of the clock when the run began; a run has several stages.
        clock: seconds; replaced by tests.
    """

    def __init__(self, seconds: float | None, begun: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.seconds, self.begun, self.clock = seconds, begun, clock

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        if self.seconds is None or not cast(TokenizerModule, pl_module).between_steps:
            return
        over = self.clock() - self.begun >= self.seconds
        if trainer.strategy.reduce_boolean_decision(over, all=False):
            trainer.should_stop = True


class StopOnSignal(pl.Callback):
    """Ends training at the end of the step in which SIGTERM comes, on all processes at once; under SLURM SIGUSR1 too.

    Schedulers send them before they take a machine away (`scancel`, `sbatch --signal=USR1@120`). A second signal does
    what it does to any program, so that a process which hangs can be ended. Stands before the callback that saves.

    Attributes:
        stopped: whether a signal came to some process.
    """

    def __init__(self) -> None:
        self.stopped = self._came = False
        self._before: dict[int, Any] = {}

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if threading.current_thread() is not threading.main_thread():
            return  # only there may handlers be set
        for number in (signal.SIGTERM, *([signal.SIGUSR1] if "SLURM_JOB_ID" in os.environ else [])):
            self._before[number] = signal.signal(number, self._note)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._came = True
        signal.signal(number, signal.SIG_DFL)

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        if not cast(TokenizerModule, pl_module).between_steps:
            return
        if trainer.strategy.reduce_boolean_decision(self._came, all=False):
            self.stopped = trainer.should_stop = True

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}
