"""`tok4d bench compare`: runs and published figures side by side."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from tok4d.cli.console import emit, note, table
from tok4d.errors import DataError
from tok4d_bench.cli.options import JSON

if TYPE_CHECKING:
    from tok4d_bench.compare.model import Cell, Comparison

RUNS = typer.Argument(help="Results of `tok4d bench run`: OUT, OUT/SUITE, OUT/SUITE/SUBJECT or a results.json.")
ANCHORS = typer.Option(
    "", "--anchors", metavar="NAME", help="Published tables or methods, comma-separated, or all: columns beside."
)
SEEDS = typer.Option(False, "--seeds", help="Runs of one subject with several seeds become their mean and deviation.")
SUITE_FILES = typer.Option(
    [], "--suite", metavar="FILE", help="A suite file, where its name is not enough to find it; several are allowed."
)
FORMATS = (".md", ".html")


def compare(
    runs: list[Path] = RUNS,
    anchors: str = ANCHORS,
    out: Path = typer.Option(None, "-o", "--out", help="Write it to a file: .md or .html."),
    seeds: bool = SEEDS,
    suites: list[str] = SUITE_FILES,
    as_json: bool = JSON,
) -> None:
    """Compare runs: one column a subject, the best marked, and every difference of protocol listed.

    Published figures come with their protocol as published; what it does not state is named as unknown.
    """
    from tok4d.errors import ConfigError
    from tok4d_bench.anchors import parse_anchors
    from tok4d_bench.compare.build import compare as make
    from tok4d_bench.compare.runs import find_runs

    if out is not None and out.suffix.lower() not in FORMATS:
        raise ConfigError(f"-o {out}: must end in {' or '.join(FORMATS)}")
    broken: list[DataError] = []
    comparison = make(find_runs(runs, broken), parse_anchors(anchors), seeds, suites)
    if out is not None:
        _write(comparison, out)
        note(f"wrote {out}")
    emit(comparison.as_dict(), as_json, lambda: _render(comparison))
    name_broken(broken)


def name_broken(broken: Sequence[DataError]) -> None:
    """Results files that could not be used: named, and exit code 1."""
    for error in broken:
        note(f"left out: {error}")
    if broken:
        raise typer.Exit(1)


def _write(comparison: Comparison, out: Path) -> None:
    from tok4d.weights.folder import write_text
    from tok4d_bench.compare.markdown import markdown
    from tok4d_bench.report.page import comparison_page

    make = markdown if out.suffix.lower() == ".md" else comparison_page
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        write_text(out, make(comparison))
    except OSError as error:
        raise DataError(out, f"cannot be written ({error.strerror or error})") from error


def _render(comparison: Comparison) -> None:
    from tok4d_bench.compare.markdown import direction, spread_word

    typer.echo(", ".join(comparison.suites))
    several = len(comparison.suites) > 1
    rows = []
    for row in comparison.rows:
        if row.measured:
            place = (row.suite, row.task) if several else (row.task,)
            rows.append((*place, f"{row.metric}{direction(row)}", row.unit, row.n, *map(_marked, row.cells)))
    keys = (*(("suite",) if several else ()), "task", "metric", "unit", "n")
    table((*keys, *(column.label for column in comparison.columns)), rows, keys=len(keys))
    typer.echo(f"* best of one protocol, ≠ another protocol, † published; {spread_word(comparison)}")
    for one in comparison.differences:
        values = "; ".join(f"{value} ({', '.join(labels)})" for value, labels in one.values)
        typer.echo(f"protocol differs: {one.key}: {values} [{', '.join(one.where)}]")
    for source in comparison.sources:
        said = f'"{source.table.protocol}"' if source.table.protocol else "states no protocol"
        typer.echo(f"{source.table.name} ({source.table.source}): {said}; the rest of its protocol is unknown")
    for text in comparison.remarks:
        note(text)


def _marked(cell: Cell | None) -> str:
    from tok4d_bench.compare.markdown import figure

    if cell is None or cell.value is None:
        return figure(cell)
    return f"{figure(cell)}{' *' if cell.best else ''}{' ≠' if cell.differs and cell.protocol else ''}"
