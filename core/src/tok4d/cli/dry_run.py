"""`tok4d train --dry-run`: what a curriculum would cost here, and whether it runs at all."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

import typer

from tok4d.cli.console import emit, note, table

if TYPE_CHECKING:
    from tok4d.config.schema import Curriculum
    from tok4d.training.estimate import Rehearsal, StageCost

COLUMNS = ("stage", "task", "share", "samples", "tokens", "loss", "s/batch", "s loading", "peak memory")


def dry_run(curriculum: Curriculum, as_json: bool) -> None:
    """Run it and show it; exit code 1 when something is missing here, memory among it."""
    from tok4d.training.rehearsal import rehearse

    found = rehearse(curriculum, (lambda text: None) if as_json else note)
    emit(found.mapping(), as_json, lambda: _render(found))
    for problem in found.problems:
        note(f"error: {problem}")
    if found.problems:
        raise typer.Exit(1)


def _render(found: Rehearsal) -> None:
    rows = [row for stage in found.stages for row in _rows(stage)]
    if rows:
        table(COLUMNS, rows, keys=2)
        typer.echo()
    columns = ("stage", "steps", "parameters", "tokens/step", "s/step", "time", "estimated memory")
    table(columns, [_stage(stage) for stage in found.stages])
    if found.seconds is not None:
        waiting = f"{_spelt(found.waiting)} of it waiting for data, which caches may shorten"
        typer.echo(f"all stages: {_spelt(found.seconds)}, {waiting}; without validation and checkpoints")


def _rows(stage: StageCost) -> list[list[Any]]:
    return [
        [
            stage.stage,
            task.task,
            f"{task.share:.1%}",
            task.samples,
            f"{task.tokens:,}",
            task.losses.get("loss"),
            task.seconds,
            task.loading,
            _bytes(task.memory),
        ]
        for task in stage.tasks
    ]


def _stage(stage: StageCost) -> list[Any]:
    return [
        stage.stage,
        f"{stage.steps:,}",
        f"{stage.parameters / 1e6:,.1f}M",
        f"{stage.tokens:,.0f}" if stage.tasks else None,
        stage.step_seconds,
        None if stage.seconds is None else _spelt(stage.seconds),
        _bytes((stage.held or stage.need).total),
    ]


def _bytes(count: int | None) -> str | None:
    from tok4d.training.memory import gigabytes

    return None if count is None else gigabytes(count)


def _spelt(seconds: float) -> str:
    """Hours, minutes and seconds, with days where there are some."""
    return str(timedelta(seconds=round(seconds)))
