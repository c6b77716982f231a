"""`tok4d train`: run a curriculum, or go on with one."""

from __future__ import annotations

import logging
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from tok4d.cli.console import emit, note, table

if TYPE_CHECKING:
    import pytorch_lightning as pl

    from tok4d.training.run import Result


def train(
    curriculum: str = typer.Argument(..., help="Name of a curriculum, or a YAML file."),
    overrides: list[str] = typer.Argument(None, metavar="[KEY=VALUE]...", help="e.g. stages.images.steps=100"),
    out: Path = typer.Option(..., "--out", "-o", help="Run folder."),
    resume: bool = typer.Option(False, "--resume", help="Continue the run in the folder, if there is one."),
    as_json: bool = typer.Option(False, "--json", help="Give JSON alone on stdout."),
) -> None:
    """Train a tokenizer. RUN/checkpoints/last is always a model folder; Ctrl-C leaves a run that --resume continues."""
    from tok4d.config.loader import load_curriculum
    from tok4d.training.run import train as run

    logging.basicConfig(stream=sys.stderr, format="%(message)s", level=logging.WARNING)
    config = load_curriculum(curriculum, overrides or [])

    def callbacks(stage: str, start: int, steps: int) -> list[pl.Callback]:
        return [] if as_json else [progress(stage, start, steps)]

    result = run(config, out, resume=resume, callbacks=callbacks)
    emit(_summary(result), as_json, lambda: _render(result))


def progress(stage: str, start: int, steps: int) -> pl.Callback:
    """A line on stderr every few seconds: step, loss, speed, time left."""
    import pytorch_lightning as pl

    class Lines(pl.Callback):
        def __init__(self) -> None:
            self.begun = self.told = time.monotonic()
            self.first = start

        def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
            done: int = pl_module.trained  # type: ignore[assignment]
            now = time.monotonic()
            if now - self.told < 5 and done < steps:
                return
            self.told = now
            logged = trainer.callback_metrics
            loss = next((float(value) for name, value in logged.items() if name.endswith("/loss")), float("nan"))
            rate = (done - self.first) / max(1e-9, now - self.begun)
            left = (steps - done) / rate if rate else 0.0
            speed = float(logged.get("tokens_per_second", 0.0))
            note(f"{stage}: step {done}/{steps}  loss {loss:.4f}  {speed:,.0f} tokens/s  {left:.0f} s left")

    return Lines()


def _summary(result: Result) -> dict[str, Any]:
    return {
        "model": str(result.folder / "checkpoints" / "last"),
        "digest": result.model.digest,
        "validation": result.validation,
        "tokens_per_second": result.tokens_per_second,
        "waiting_share": result.waiting_share,
        "bad_files": result.bad_files,
    }


def _render(result: Result) -> None:
    if result.validation:
        columns = ["step", *[key for key in result.validation[-1] if key not in ("step", "stage")]]
        table(columns, [[row.get(column) for column in columns] for row in result.validation])
    typer.echo(f"model: {result.folder / 'checkpoints' / 'last'}")
