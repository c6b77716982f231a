"""Published figures, each table with its protocol as far as its source states it.

Numbers are copied, never measured here; they are shown beside runs in columns of their own, and whatever a table does
not say of its protocol is listed as not stated.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from tok4d.errors import ConfigError, unknown_name

FILE = Path(__file__).with_name("anchors.json")
ALL = "all"
_METHODS = ("method", "tokenizer", "tok", "model")  # columns that name a row, the first one that is there


@dataclass(frozen=True)
class Published:
    """One published table.

    Attributes:
        name: such as `table4_image_recon`.
        caption: what it shows.
        source: where it stands: a paper, or a project's own page.
        protocol: in the source's words; empty: it states none.
        columns: names of the figures and of what describes a row.
        rows: by column; None: not reported.
    """

    name: str
    caption: str
    source: str
    protocol: str
    columns: tuple[str, ...]
    rows: tuple[dict[str, Any], ...]

    def method(self, row: Mapping[str, Any]) -> str:
        """What a row is of, with what tells it from rows of the same method."""
        known = [str(row[name]) for name in _METHODS if row.get(name) is not None]
        name = known[0] if known else self.name
        same = [other for other in self.rows if _first(other) == _first(row)]
        if len(same) == 1:
            return name
        told: list[str] = []
        for column in self.columns:
            if column not in _METHODS and len({str(other.get(column)) for other in same}) > 1:
                told.append(column)
                same = [other for other in same if other.get(column) == row.get(column)]
            if len(same) == 1:
                break
        named = [f"{c} {row[c]:g}" if isinstance(row[c], (int, float)) else str(row[c]) for c in told if row[c]]
        return f"{name} ({', '.join(named)})" if named else name


@dataclass(frozen=True)
class AnchorColumn:
    """The figures of one published method for one task.

    Attributes:
        values: by metric of the task, only those that are reported.
    """

    table: Published
    method: str
    values: dict[str, float]


@cache
def tables() -> dict[str, Published]:
    """All tables by name."""
    content = json.loads(FILE.read_text(encoding="utf-8"))
    paper = content["_meta"]["paper"]
    found = {
        name: Published(
            name, t["caption"], paper, t.get("protocol") or "", tuple(t["columns"]), tuple(map(dict, t["rows"]))
        )
        for name, t in content["tables"].items()
    }
    for name, t in content["third_party"].items():
        rows = tuple(dict(zip(t["columns"], row, strict=True)) for row in t["rows"])
        found[name] = Published(name, t["source"], t["source"], "", tuple(t["columns"]), rows)
    return found


def table(name: str) -> Published:
    """A table by name.

    Raises:
        ConfigError: for an unknown one, with the nearest.
    """
    if name not in tables():
        raise ConfigError(unknown_name("table of published figures", name, tables()))
    return tables()[name]


def parse_anchors(text: str) -> list[str]:
    """Comma-separated names of tables or methods; `all`: every one that a task of the suite refers to.

    Raises:
        ConfigError: for a name that is neither, with the nearest.
    """
    known = {ALL, *tables(), *(t.method(row) for t in tables().values() for row in t.rows)}
    if text.strip() in known:  # some methods have a comma in their name
        return [text.strip()]
    names = [name.strip() for name in text.split(",") if name.strip()]
    for name in names:
        if name not in known:
            raise ConfigError(unknown_name("published table or method", name, known))
    return names


def anchor_columns(reference: Mapping[str, Any], names: Sequence[str]) -> list[AnchorColumn]:
    """What is published for a task.

    Args:
        reference: `anchors` of the task, `{table: ..., columns: {metric: column}}`; empty: nothing is.
        names: of `parse_anchors`; methods and tables that are not asked for are left out.

    Raises:
        ConfigError: for a table or a column that there is not.
    """
    if not reference:
        return []
    for key in ("table", "columns"):
        if key not in reference:
            raise ConfigError(f"anchors of a task must have table and columns, got {dict(reference)}")
    source, wanted = table(str(reference["table"])), dict(reference["columns"])
    for column in wanted.values():
        if column not in source.columns:
            raise ConfigError(f"{source.name}: {unknown_name('column', str(column), source.columns)}")
    found = []
    for row in source.rows:
        method = source.method(row)
        values = {metric: float(row[c]) for metric, c in wanted.items() if row.get(c) is not None}
        if values and (ALL in names or source.name in names or method in names):
            found.append(AnchorColumn(source, method, values))
    return found


def _first(row: Mapping[str, Any]) -> Any:
    return next((row[name] for name in _METHODS if row.get(name) is not None), None)
