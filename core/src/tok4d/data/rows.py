"""Rows of a manifest: files with captions, labels and, where they have time, spans of it.

Columns (others are ignored):

* `path`: the file, relative to the manifest's folder. The only one that must be there.
* `caption`: text.
* `label`: a number, or the name of a class; names are numbered in alphabetical order.
* `start`, `end`: seconds from the first frame; frames shown in [start, end) belong to the sample. Either may be empty.
* `group`: rows of one group stay on one side of a split; empty: the file is its own group.
"""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tok4d.errors import DataError, Tok4dError, unknown_name

COLUMNS = ("path", "caption", "label", "start", "end", "group")
SUFFIXES = (".csv", ".tsv", ".jsonl", ".parquet")
_SHOWN = 3  # examples in an error

Cells = tuple[int, Mapping[str, Any]]  # number of the row, as people count, and its values by column


class Row(NamedTuple):
    """One sample. `number` is its line in the manifest (of Parquet: its row), `class_name` its label as text."""

    number: int
    path: str
    caption: str | None
    label: int | None
    start: float | None
    end: float | None
    group: str | None
    class_name: str = ""

    @property
    def side(self) -> str:
        """Name of the group that a split keeps together."""
        return self.group or str(Path(self.path))

    @property
    def where(self) -> str:
        """For errors."""
        return f"line {self.number}"

    @property
    def spelt(self) -> str:
        """The time span in seconds."""
        return f"{self.start or 0:g}-{'' if self.end is None else f'{self.end:g}'}s"


def read_rows(manifest: Path) -> list[Row]:
    """All rows of a manifest.

    Raises:
        DataError: when it cannot be read, lacks the column `path`, has a value that cannot be used, or names the same
            span of a file twice.
        Tok4dError: when pyarrow is missing for a Parquet file.
    """
    reader = _READERS.get(manifest.suffix.lower())
    if reader is None:
        raise DataError(manifest, unknown_name("kind of manifest", manifest.suffix, SUFFIXES))
    if not manifest.is_file():
        raise DataError(manifest, "is a folder, not a manifest" if manifest.is_dir() else "no such file")
    try:
        found = list(reader(manifest))
    except (OSError, ValueError, csv.Error, RecursionError) as error:  # also JSON's, UTF-8's and most of pyarrow's
        if isinstance(error, Tok4dError):
            raise
        raise DataError(manifest, f"cannot be read ({' '.join(str(error).split())})") from None
    if not found:
        raise DataError(manifest, "has no rows")
    numbers = _class_numbers(cells.get("label") for _, cells in found)
    rows = [_row(manifest, number, cells, numbers) for number, cells in found]
    _refuse_duplicates(manifest, rows)
    return rows


def _row(manifest: Path, number: int, cells: Mapping[str, Any], classes: Mapping[str, int]) -> Row:
    try:
        path = _text(cells, "path")
        if path is None or "\0" in path:
            raise ValueError(f"path must name a file, got {cells.get('path')!r}")
        start, end = _seconds(cells, "start"), _seconds(cells, "end")
        if end is not None and end <= (start or 0.0):
            raise ValueError(f"end must come after start, got {start or 0:g} to {end:g} s")
        label = cells.get("label")
        known = classes.get(str(label)) if label is not None else None
        name = "" if known is None else str(label)
        return Row(number, path, _text(cells, "caption"), known, start, end, _text(cells, "group"), name)
    except ValueError as error:
        raise DataError(manifest, f"line {number}: {error}") from None


def _text(cells: Mapping[str, Any], column: str) -> str | None:
    value = cells.get(column)
    if isinstance(value, (int, float)) and column == "group":
        return str(value)
    if value is not None and not isinstance(value, str):
        raise ValueError(f"{column} must be text, got {value!r}")
    return value


def _seconds(cells: Mapping[str, Any], column: str) -> float | None:
    value = cells.get(column)
    if value is None:
        return None
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not 0 <= number < math.inf or isinstance(value, bool):
        raise ValueError(f"{column} must be a number of seconds from 0 on, got {value!r}")
    return number


def class_names(rows: Sequence[Row]) -> tuple[str, ...]:
    """Name of every class by number; none where the labels are numbers themselves."""
    names = {row.label: row.class_name for row in rows if row.label is not None}
    if all(str(number) == name for number, name in names.items()):
        return ()
    return tuple(names[number] for number in sorted(names))


def _class_numbers(labels: Iterable[Any]) -> dict[str, int]:
    """Number of every label: its own where all are whole numbers, else its place in alphabetical order."""
    names = sorted({str(label) for label in labels if label is not None})
    try:
        return {name: int(name) for name in names}
    except ValueError:
        return {name: place for place, name in enumerate(names)}


def _refuse_duplicates(manifest: Path, rows: list[Row]) -> None:
    first: dict[tuple[str, float, float | None], int] = {}
    twice = []
    for row in rows:
        other = first.setdefault((str(Path(row.path)), row.start or 0.0, row.end), row.number)
        if other != row.number:
            twice.append(f"{row.path} (lines {other} and {row.number})")
    if twice:
        more = f" and {len(twice) - _SHOWN} more" if len(twice) > _SHOWN else ""
        raise DataError(manifest, f"names the same file twice: {', '.join(twice[:_SHOWN])}{more}")


def _read_csv(manifest: Path) -> Iterator[Cells]:
    with manifest.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.reader(file, delimiter="\t" if manifest.suffix.lower() == ".tsv" else ",", strict=True)
        header = [name.strip() for name in next(reader, [])]
        _check_columns(manifest, header)
        for values in reader:
            if not values:
                continue
            if len(values) != len(header):
                raise DataError(manifest, f"line {reader.line_num}: has {len(values)} values for {len(header)} columns")
            yield reader.line_num, {k: v.strip() or None for k, v in zip(header, values, strict=True) if k in COLUMNS}


def _read_jsonl(manifest: Path) -> Iterator[Cells]:
    with manifest.open(encoding="utf-8-sig") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                cells = json.loads(line)
            except ValueError as error:
                raise DataError(manifest, f"line {number}: is no JSON ({error})") from None
            if not isinstance(cells, dict):
                raise DataError(manifest, f"line {number}: must hold an object, got {type(cells).__name__}")
            if "path" not in cells:
                _check_columns(manifest, list(cells), f"line {number}: ")
            yield number, {key: None if cells[key] == "" else cells[key] for key in COLUMNS if key in cells}


def _read_parquet(manifest: Path) -> Iterator[Cells]:
    try:
        from pyarrow import ArrowException, parquet
    except ImportError as error:
        raise Tok4dError(f"Parquet manifests need pyarrow ({error}); install it with pip install pyarrow") from None
    try:
        names = parquet.read_schema(manifest).names
        _check_columns(manifest, names)
        table = parquet.read_table(manifest, columns=[name for name in COLUMNS if name in names])
    except ArrowException as error:
        raise DataError(manifest, f"is no readable Parquet file ({' '.join(str(error).split())})") from None
    for number, cells in enumerate(table.to_pylist(), 1):
        yield number, {key: None if value == "" or value != value else value for key, value in cells.items()}


def _check_columns(manifest: Path, names: list[str], where: str = "") -> None:
    """Refuse a header without `path`, or with a column twice."""
    if twice := sorted({name for name in names if name in COLUMNS and names.count(name) > 1}):
        raise DataError(manifest, f"{where}has the columns {', '.join(twice)} twice")
    if "path" not in names:
        raise DataError(manifest, f"{where}has no column 'path'; it has {', '.join(names) or 'none'}")


_READERS = {".csv": _read_csv, ".tsv": _read_csv, ".jsonl": _read_jsonl, ".parquet": _read_parquet}
