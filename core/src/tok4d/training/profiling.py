"""`--profile`: what a few steps spend their time on, as a table and as a trace that browsers show."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytorch_lightning as pl
import torch
from torch.profiler import ProfilerActivity, profile

from tok4d.errors import DataError
from tok4d.training.module import TokenizerModule

WARM = 3  # steps before, in which kernels load, caches fill and the first batches are waited for
ACTIVE = 3
ROWS = 25


class Profile(pl.Callback):
    """Profiles `ACTIVE` steps of a stage after `WARM` others, in process 0; a shorter stage as far as it goes.

    The table goes to `tell`, the trace into RUN/profile/STAGE.json: open it in chrome://tracing or ui.perfetto.dev.

    Args:
        out: run folder.
        stage, start, steps: the stage, its first step here and its length.
        tell: receives the table and where the trace is.
    """

    def __init__(self, out: Path, stage: str, start: int, steps: int, tell: Callable[[str], None]) -> None:
        self.path, self.tell = out / "profile" / f"{stage}.json", tell
        self.first = start + min(WARM, max(0, steps - start - ACTIVE))
        self.last = min(self.first + ACTIVE, steps)
        self._steps = self.last - self.first
        self._profile: profile | None = None

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        due = cast(TokenizerModule, pl_module).trained == self.first
        if due and trainer.is_global_zero and self._profile is None:
            activities = [ProfilerActivity.CPU]
            if pl_module.device.type == "cuda":
                activities.append(ProfilerActivity.CUDA)
            os.environ.setdefault("KINETO_LOG_LEVEL", "5")  # else a machine without a GPU is told that it has none
            self._profile = profile(activities=activities)
            self._profile.start()

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        module = cast(TokenizerModule, pl_module)
        if self._profile is not None and module.between_steps and module.trained >= self.last:
            self._finish(pl_module.device)

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        if self._profile is not None:
            self._profile.stop()
            self._profile = None

    def _finish(self, device: torch.device) -> None:
        """Write the trace and show the table, once: the steps after this are none to profile."""
        found, self._profile, self.first = self._profile, None, -1
        assert found is not None
        found.stop()
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            found.export_chrome_trace(str(self.path))
        except (OSError, RuntimeError) as error:
            raise DataError(self.path, f"the trace cannot be written: {error}") from error
        order = f"self_{device.type}_time_total"
        self.tell(found.key_averages().table(sort_by=order, row_limit=ROWS, max_name_column_width=60))
        self.tell(f"trace of {self._steps} steps: {self.path} (chrome://tracing, ui.perfetto.dev)")
