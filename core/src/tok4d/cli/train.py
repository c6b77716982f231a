"""`tok4d train`: run a curriculum, go on with one, or try one batch of everything."""

from __future__ import annotations

import logging
import shlex
import signal
import sys
import time
from math import nan
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import typer

from tok4d.cli.console import emit, note, table

if TYPE_CHECKING:
    import pytorch_lightning as pl

    from tok4d.config.schema import Curriculum
    from tok4d.training.module import TokenizerModule
    from tok4d.training.run import Result


def train(
    curriculum: str = typer.Argument(..., help="Name of a curriculum, or a YAML file."),
    overrides: list[str] = typer.Argument(None, metavar="[KEY=VALUE]...", help="e.g. stages.images.steps=100"),
    out: Path | None = typer.Option(None, "--out", "-o", help="Run folder."),
    resume: bool = typer.Option(False, "--resume", help="Continue the run in the folder, if there is one."),
    dry_run: bool = typer.Option(
        False, "--dry-run", help="One batch of every task of every stage, and what all would cost; writes nothing."
    ),
    profile: bool = typer.Option(False, "--profile", help="Profile a few steps of every stage into RUN/profile."),
    max_time: str | None = typer.Option(
        None, "--max-time", metavar="TIME", help="Stop with a checkpoint after 00:30:00, 90m or 3600s."
    ),
    as_json: bool = typer.Option(False, "--json", help="Give JSON alone on stdout."),
) -> None:
    """Train a tokenizer. RUN/checkpoints/last is always a model folder; Ctrl-C leaves a run that --resume continues."""
    from tok4d.config.loader import load_curriculum

    begun = time.monotonic()
    logging.basicConfig(stream=sys.stderr, format="%(message)s", level=logging.WARNING)
    if dry_run:
        _refuse_with_dry_run(out, resume, profile, max_time)
        from tok4d.cli.dry_run import dry_run as rehearse

        rehearse(load_curriculum(curriculum, overrides or []), as_json)
        return
    if out is None:
        raise typer.BadParameter("give the run folder: --out RUN (only --dry-run needs none)")
    seconds = None if max_time is None else _seconds(max_time)
    config = load_curriculum(curriculum, overrides or [])
    result = _run(config, out, resume, profile, seconds, begun, as_json)
    from tok4d.training.parallel import is_first

    if is_first():  # of several processes one speaks
        emit(_summary(result), as_json, lambda: _render(result))
    if result.stopped is None:
        return
    if is_first():
        again = shlex.join(["tok4d", "train", curriculum, *(overrides or []), "-o", str(out), "--resume"])
        why = "by a signal" if result.stopped["signal"] else f"after {max_time}"
        note("stopped {} in stage {stage}, step {step}; go on: {}".format(why, again, **result.stopped))
    if result.stopped["signal"]:
        raise typer.Exit(128 + signal.SIGTERM)


def _refuse_with_dry_run(out: Path | None, resume: bool, profile: bool, max_time: str | None) -> None:
    given = {"--out": out is not None, "--resume": resume, "--profile": profile, "--max-time": max_time is not None}
    if there := [name for name, is_there in given.items() if is_there]:
        raise typer.BadParameter(f"--dry-run trains and writes nothing; it does not go with {', '.join(there)}")


def _seconds(text: str) -> float:
    from tok4d.errors import Tok4dError
    from tok4d.training.limits import parse_duration

    try:
        return parse_duration(text)
    except Tok4dError as error:
        raise typer.BadParameter(f"--max-time: {error}") from error


def _run(
    config: Curriculum, out: Path, resume: bool, profile: bool, seconds: float | None, begun: float, as_json: bool
) -> Result:
    from tok4d.training.limits import StopAfter
    from tok4d.training.profiling import Profile
    from tok4d.training.run import train as run

    def callbacks(stage: str, start: int, steps: int) -> list[pl.Callback]:
        found: list[pl.Callback] = [] if as_json else [progress(stage, start, steps)]
        if profile:
            found.append(Profile(out, stage, start, steps, note))
        if seconds is not None:
            found.append(StopAfter(seconds, begun))
        return found

    return run(config, out, resume=resume, callbacks=callbacks)


def progress(stage: str, start: int, steps: int) -> pl.Callback:
    """A line on stderr every few seconds: step, loss, speed, time left."""
    import pytorch_lightning as pl

    class Lines(pl.Callback):
        def __init__(self) -> None:
            self.begun = self.told = time.monotonic()
            self.first = start

        def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
            module = cast("TokenizerModule", pl_module)
            done = module.trained
            now = time.monotonic()
            if not (trainer.is_global_zero and module.between_steps) or (now - self.told < 5 and done < steps):
                return
            self.told = now
            logged = trainer.callback_metrics
            losses = module.report.losses.items()
            task, loss = next(((key, value) for key, value in losses if key.endswith("/loss")), ("", nan))
            rate = (done - self.first) / max(1e-9, now - self.begun)
            left = (steps - done) / rate if rate else 0.0
            speed = float(logged.get("tokens_per_second", 0.0))
            note(f"{stage}: step {done}/{steps}  {task} {loss:.4f}  {speed:,.0f} tokens/s  {left:.0f} s left")

    return Lines()


def _summary(result: Result) -> dict[str, Any]:
    return {
        "model": str(result.folder / "checkpoints" / "last"),
        "digest": result.model.digest,
        "validation": result.validation,
        "tokens_per_second": result.tokens_per_second,
        "waiting_share": result.waiting_share,
        "bad_files": result.bad_files,
        "skipped": result.skipped,
        "throughput": result.throughput,
        "stopped": result.stopped,
    }


def _render(result: Result) -> None:
    if result.validation:
        shown = [
            key
            for key in result.validation[-1]
            if key not in ("step", "stage") and (key.count("/") == 1 or key.endswith("codes/usage"))
        ]
        columns = ["stage", "step", *shown]
        table(columns, [[row.get(column) for column in columns] for row in result.validation], keys=2)
    if result.throughput:
        typer.echo()
        table(SPEED, [_speed(stage, found) for stage, found in result.throughput.items()])
        typer.echo()
        shares = [(stage, *task) for stage, found in result.throughput.items() for task in _shares(found)]
        table(("stage", "task", "batches", "tokens"), shares, keys=2)
    typer.echo(f"model: {result.folder / 'checkpoints' / 'last'}")


SPEED = ("stage", "tokens/s", "samples/s", "waiting", "GFLOP/s", "of peak")


def _speed(stage: str, found: dict[str, Any]) -> list[Any]:
    return [
        stage,
        f"{found['tokens_per_second']:,.0f}",
        round(found["samples_per_second"], 2),
        f"{found['waiting_share']:.1%}",
        f"{found['flops_per_second'] / 1e9:,.1f}",
        f"{found['peak_share']:.1%}" if "peak_share" in found else None,
    ]


def _shares(found: dict[str, Any]) -> list[tuple[str, str, str]]:
    """Of every task, its share of batches and of tokens."""
    return [(name, f"{one['batch_share']:.1%}", f"{one['token_share']:.1%}") for name, one in found["tasks"].items()]
