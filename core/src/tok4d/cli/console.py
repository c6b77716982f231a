"""What all commands share on the terminal: results on stdout (as text or as JSON alone), everything else on stderr."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import typer

FOLDED = 24  # characters; a narrower column of paths can't be read
GAP = 3  # characters between the columns of a table


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


def table(columns: Sequence[str], rows: Sequence[Sequence[Any]], fold: Sequence[str] = (), keys: int = 1) -> None:
    """Print a table on stdout, numbers to the right; no cell is ever cut.

    A table that is wider than the terminal comes in parts below each other.

    Args:
        fold: columns of text that may wrap over several lines, beside others down to `FOLDED` characters.
        keys: how many columns say what a row is: the first ones, which every part has.
    """
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    room = Console().width
    parts = _parts([_least(i, columns, rows, fold) for i in range(len(columns))], keys, room)
    for number, (part, width) in enumerate(parts):
        out = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
        for index in part:
            numbers = any(isinstance(row[index], (int, float)) for row in rows)
            name = columns[index]
            out.add_column(name, justify="right" if numbers else "left", no_wrap=name not in fold, overflow="fold")
        for row in rows:
            out.add_row(*(Text(cell(row[index])) for index in part))
        if number:
            typer.echo()
        Console(highlight=False, width=max(room, width)).print(out)


def _least(index: int, columns: Sequence[str], rows: Sequence[Sequence[Any]], fold: Sequence[str]) -> int:
    """Characters below which a column can't be read. What folds gives way to what doesn't, but not to nothing."""
    longest = max(len(cell(value)) for value in [columns[index], *(row[index] for row in rows)])
    if columns[index] not in fold:
        return longest
    return min(longest, FOLDED) if set(columns) - set(fold) else 1


def _parts(widths: Sequence[int], keys: int, limit: int) -> list[tuple[list[int], int]]:
    """Which columns stand beside each other, and how wide they are together."""
    head = list(range(keys)), sum(widths[:keys]) + GAP * (keys - 1)
    parts = [head]
    for index, width in enumerate(widths[keys:], keys):
        chosen, used = parts[-1]
        if len(chosen) > keys and used + GAP + width > limit:
            parts.append(([*head[0], index], head[1] + GAP + width))
        else:
            parts[-1] = ([*chosen, index], used + GAP + width)
    return parts


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
