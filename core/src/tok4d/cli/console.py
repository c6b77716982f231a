"""What all commands share on the terminal: results on stdout (as text or as JSON alone), everything else on stderr."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import typer

FOLDED = 24  # a narrower column of paths can't be read


def emit(data: Any, as_json: bool, render: Callable[[], None]) -> None:
    """Give the result: `data` as JSON alone on stdout, or `render()` for people. NaN and infinity become null."""
    if as_json:
        typer.echo(json.dumps(finite(data), indent=2, default=str))
    else:
        render()


def finite(value: Any) -> Any:
    """Plain data with None for NaN and infinity, which JSON has not."""
    if isinstance(value, dict):
        return {str(key): finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def note(text: str) -> None:
    """A line for people that is not a result: on stderr."""
    typer.echo(text, err=True)


@contextmanager
def progress(total: int | None, description: str, as_json: bool = False) -> Iterator[Callable[[float], None]]:
    """A progress bar on stderr; yields `advance(steps)`. Silent with --json or when stderr is no terminal."""
    if as_json or not sys.stderr.isatty():
        yield lambda steps: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(description, total=total)
        yield lambda steps: bar.advance(task, steps)


@contextmanager
def share(advance: Callable[[float], None]) -> Iterator[Callable[[float], None]]:
    """One step of a progress bar in parts of one; what is missing at the end is made up."""
    done = 0.0

    def part(amount: float) -> None:
        nonlocal done
        amount = min(amount, 1 - done)
        done += amount
        advance(amount)

    try:
        yield part
    finally:
        advance(1 - done)


def table(columns: Sequence[str], rows: Sequence[Sequence[Any]], fold: Sequence[str] = ()) -> None:
    """Print a table on stdout, numbers to the right; no cell is ever cut.

    Args:
        fold: columns of text that may wrap over several lines, down to `FOLDED` characters.
    """
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    out = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for index, column in enumerate(columns):
        numbers = any(isinstance(row[index], (int, float)) for row in rows)
        out.add_column(column, justify="right" if numbers else "left", no_wrap=column not in fold, overflow="fold")
    for row in rows:
        out.add_row(*(Text(cell(value)) for value in row))
    # A line that the terminal breaks is better than a number that lost its digits.
    folded = [
        max(len(cell(value)) for value in [column, *(row[i] for row in rows)])
        for i, column in enumerate(columns)
        if column in fold
    ]
    needed = Console(width=10_000).measure(out).maximum - sum(max(0, longest - FOLDED) for longest in folded)
    Console(highlight=False, width=max(Console().width, needed)).print(out)


def pairs(rows: Sequence[tuple[str, str]]) -> None:
    """Print names and values on stdout, one pair a line."""
    width = max((len(name) for name, _ in rows), default=0)
    for name, value in rows:
        typer.echo(f"{name:<{width}}  {value}")


def cell(value: Any) -> str:
    """A value as a table shows it: figures of a metric with two or four decimals, a dash for nothing."""
    if value is None:
        return "-"
    if not isinstance(value, float):
        return str(value)
    if abs(value) >= 10:
        return f"{value:.2f}"
    return f"{value:.4f}" if value == 0 or abs(value) >= 1e-3 else f"{value:.2e}"
