"""What a comparison is made of: columns (runs, means over seeds, published methods), rows (figures), differences."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from tok4d_bench.anchors import Published
from tok4d_bench.compare.runs import Run


@dataclass(frozen=True)
class Cell:
    """One figure of one column.

    Attributes:
        value: None: not computed or not reported, `note` says why where it is known.
        spread: standard error; in columns of several seeds the standard deviation over them; None: none.
        n: samples; 0: not stated.
        protocol: flat; None: published, not known.
        runs: how many runs it is the mean of.
    """

    value: float | None
    spread: float | None = None
    n: int = 0
    note: str = ""
    protocol: dict[str, Any] | None = None
    runs: int = 1
    best: bool = False
    differs: bool = False


@dataclass(frozen=True)
class Column:
    """One subject.

    Attributes:
        label: unique.
        kind: `run`, `seeds` or `published`.
        runs: what it shows; empty for published methods.
        published: the table it is from.
    """

    label: str
    kind: str
    runs: tuple[Run, ...] = ()
    published: Published | None = None

    @property
    def null(self) -> bool:
        return bool(self.runs) and all(run.null for run in self.runs)


@dataclass(frozen=True)
class Row:
    """One metric of one task, a cell a column (None: the column has no such figure)."""

    suite: str
    task: str
    metric: str
    unit: str
    higher_is_better: bool | None
    reproducible: bool
    cells: tuple[Cell | None, ...]

    @property
    def n(self) -> str:
        """Samples of the runs: one number, or the least and the most."""
        counts = sorted({cell.n for cell in self.cells if cell is not None and cell.n})
        return "" if not counts else str(counts[0]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"

    @property
    def measured(self) -> bool:
        """Whether any column has a figure."""
        return any(cell is not None and cell.value is not None for cell in self.cells)


@dataclass
class Difference:
    """A line of the protocol in which columns differ.

    Attributes:
        key: of the flat protocol.
        values: as text, with the columns that have it.
        where: `task metric` of every figure that this holds for.
    """

    key: str
    values: tuple[tuple[str, tuple[str, ...]], ...]
    where: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Source:
    """A published table in use.

    Attributes:
        unknown: lines of our protocol that it does not state in a form that could be compared.
        where: tasks.
    """

    table: Published
    unknown: tuple[str, ...]
    where: tuple[str, ...]


@dataclass
class Comparison:
    """The whole.

    Attributes:
        remarks: what a reader must know besides: equal names of different models, versions, missing figures.
        facts: what each run was made by, `{column: {what: value}}`.
        skipped: `{column, task, what, why, fix}`.
        bad: `{column, task, key, reason}`.
    """

    columns: list[Column]
    rows: list[Row]
    differences: list[Difference]
    sources: list[Source]
    remarks: list[str]
    facts: dict[str, dict[str, str]]
    skipped: list[dict[str, str]]
    bad: list[dict[str, str]]

    @property
    def suites(self) -> list[str]:
        """Names of the suites, with their versions."""
        runs = [run for column in self.columns for run in column.runs]
        return list(dict.fromkeys(f"{run.suite} (version {run.content['version']})" for run in runs))

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "suites": self.suites,
            "columns": [self._column(column) for column in self.columns],
            "rows": [self._row(row) for row in self.rows],
            "differences": [vars(one) for one in self.differences],
            "published": [self._source(one) for one in self.sources],
            "remarks": self.remarks,
            "skipped": self.skipped,
            "bad": self.bad,
        }

    def _column(self, column: Column) -> dict[str, Any]:
        digests = list(dict.fromkeys(run.digest for run in column.runs))
        return {"label": column.label, "kind": column.kind, "digests": digests, **self.facts.get(column.label, {})}

    def _row(self, row: Row) -> dict[str, Any]:
        own = {key: value for key, value in vars(row).items() if key != "cells"}
        cells = {
            column.label: {key: value for key, value in vars(cell).items() if key != "protocol"}
            for column, cell in zip(self.columns, row.cells, strict=True)
            if cell is not None
        }
        return {**own, "cells": cells}

    def _source(self, source: Source) -> dict[str, Any]:
        own = {name: getattr(source.table, name) for name in ("name", "caption", "source", "protocol")}
        return {**own, "not stated": source.unknown, "where": source.where}
