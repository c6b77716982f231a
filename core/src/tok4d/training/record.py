"""RUN/losses.jsonl: one line a step, exactly as trained, so that two runs can be compared step by step."""

from __future__ import annotations

import json
from pathlib import Path
from typing import IO, Any, cast

import pytorch_lightning as pl

from tok4d.training.module import TokenizerModule
from tok4d.weights.folder import write_text

NAME = "losses.jsonl"


class RecordLosses(pl.Callback):
    """Appends `{"step", "stage", "norm", "task/loss", "task/term", ...}` after every step; process 0 only.

    Args:
        out: run folder.
        stage: name of the stage.
    """

    def __init__(self, out: Path, stage: str) -> None:
        self.path, self.stage = out / NAME, stage
        self._file: IO[str] | None = None

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.is_global_zero:
            self._file = self.path.open("a", encoding="utf-8", buffering=1)  # by the line: a killed run loses none

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        module = cast(TokenizerModule, pl_module)
        if self._file is not None and module.between_steps:
            report = module.report
            row: dict[str, Any] = {"step": module.total_trained, "stage": self.stage, "norm": report.norm}
            if report.skipped:
                row["skipped"] = True
            self._file.write(json.dumps(row | report.losses) + "\n")

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None


def cut_losses(out: Path, total: int) -> None:
    """Drop the lines after step `total`: a resumed run trains those steps again. So do half lines."""
    path = out / NAME
    if path.is_file():
        kept = [line for line in path.read_text(encoding="utf-8").splitlines(keepends=True) if _within(line, total)]
        write_text(path, "".join(kept))


def _within(line: str, total: int) -> bool:
    try:
        return bool(json.loads(line)["step"] <= total)
    except (ValueError, KeyError, TypeError):
        return False
