"""Every difference of protocol between the columns of a row, line by line; equal ones of several rows told once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tok4d_bench.compare.model import Column, Difference, Row

ABSENT = "not in its protocol"
SAMPLES = "samples that count"
_SHORT = 12  # characters of a digest that tables show


def differences(columns: Sequence[Column], rows: Sequence[Row], ignored: Sequence[str] = ()) -> list[Difference]:
    """What differs between runs. Published figures state no protocol line by line: see `unstated`.

    Args:
        ignored: keys that are no difference, such as the seed where columns are means over seeds.
    """
    found: dict[tuple[str, tuple[tuple[str, tuple[str, ...]], ...]], Difference] = {}
    for row in rows:
        known = {
            column.label: (cell.protocol, cell.n if cell.value is not None else None)
            for column, cell in zip(columns, row.cells, strict=True)
            if cell is not None and cell.protocol is not None
        }
        protocols = {label: protocol for label, (protocol, _) in known.items()}
        lines = dict.fromkeys(key for protocol in protocols.values() for key in protocol if key not in ignored)
        told = [(key, _by_value(protocols, key)) for key in lines]
        counts: dict[str, list[str]] = {}
        for label, (_, n) in known.items():
            if n is not None:
                counts.setdefault(str(n), []).append(label)
        told.append((SAMPLES, _frozen(counts)))
        for key, values in told:
            if len(values) > 1:
                where = " ".join(filter(None, (row.task, row.metric)))
                found.setdefault((key, values), Difference(key, values)).where.append(where)
    return sorted(found.values(), key=lambda one: (-len(one.where), one.key))


def unstated(rows: Sequence[Row]) -> tuple[str, ...]:
    """Lines of the runs' protocols beside published figures: what those do not state so that it could be compared."""
    cells = [cell for row in rows for cell in row.cells if cell is not None and cell.protocol is not None]
    return tuple(sorted({key for cell in cells for key in cell.protocol or {}}))


def shown(key: str, value: str) -> str:
    """A value of a protocol as tables show it: digests by their first characters."""
    return f"{value[:_SHORT]}..." if key.endswith("digest") and len(value) > _SHORT else value


def _by_value(protocols: Mapping[str, Mapping[str, Any] | None], key: str) -> tuple[tuple[str, tuple[str, ...]], ...]:
    values: dict[str, list[str]] = {}
    for label, protocol in protocols.items():
        value = str(protocol[key]) if protocol and key in protocol else ABSENT
        values.setdefault(value, []).append(label)
    return _frozen({shown(key, value): labels for value, labels in values.items()})


def _frozen(values: Mapping[str, Sequence[str]]) -> tuple[tuple[str, tuple[str, ...]], ...]:
    return tuple((value, tuple(labels)) for value, labels in values.items())
