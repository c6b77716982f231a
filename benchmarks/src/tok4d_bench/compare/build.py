"""From runs to a comparison: columns, rows, what is best, what differs."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from tok4d_bench.anchors import AnchorColumn, Published, anchor_columns
from tok4d_bench.compare.differences import differences, unstated
from tok4d_bench.compare.model import Cell, Column, Comparison, Row, Source
from tok4d_bench.compare.remarks import bad, facts, remarks, skipped
from tok4d_bench.compare.runs import Run, seedless
from tok4d_bench.fingerprint import fingerprint
from tok4d_bench.suite import known_suites

NO_CONTEST = ("bits_per_pixel", "tokens_per_sample", "peak_memory")  # what a subject spends: less is no merit by itself

PUBLISHED = " †"  # after the names of published methods


class _Key(NamedTuple):
    suite: str
    task: str
    metric: str


def compare(
    runs: Sequence[Run], anchors: Sequence[str] = (), seeds: bool = False, suites: Sequence[str] = ()
) -> Comparison:
    """Compare runs with each other and with published figures.

    Args:
        runs: of `find_runs`.
        anchors: of `tok4d_bench.anchors.parse_anchors`.
        seeds: runs of one subject with several seeds become one column, their mean and standard deviation.
        suites: files of suites whose names are not enough: they say where published values stand.
    """
    columns = sorted(_columns(runs, seeds), key=lambda column: column.null)  # what competes comes first
    ignored = ("seed",) if seeds else ()
    records = [[_records(run) for run in column.runs] for column in columns]
    keys = list(dict.fromkeys(key for column in records for run in column for key in run))
    keys = sorted(keys, key=lambda key: [(k.suite, k.task) for k in keys].index((key.suite, key.task)))
    said = list(remarks(columns))
    published, more = _published(runs, keys, anchors, suites)
    said += more
    columns += [Column(label, "published", (), table) for label, (table, _) in published.items()]
    rows = [_row(key, records, [values.get(key) for _, values in published.values()], ignored) for key in keys]
    return Comparison(
        columns,
        rows,
        differences(columns, rows, ignored),
        _sources(columns, rows),
        said,
        facts(columns),
        list(skipped(columns)),
        list(bad(columns)),
    )


def _columns(runs: Sequence[Run], seeds: bool) -> list[Column]:
    if not seeds:
        by_label: dict[str, list[Run]] = {}
        for run in runs:
            by_label.setdefault(run.label, []).append(run)
        return [Column(label, "run", tuple(own)) for label, own in by_label.items()]
    groups: dict[str, list[Run]] = {}
    for run in runs:
        groups.setdefault(seedless(run.name), []).append(run)
    columns = []
    for name, group in groups.items():
        count = max(Counter(run.suite for run in group).values())
        if count > 1:
            columns.append(Column(f"{name} ({count} seeds)", "seeds", tuple(group)))
        else:
            columns.append(Column(group[0].label, "run", tuple(group)))
    return columns


def _records(run: Run) -> dict[_Key, tuple[Run, dict[str, Any]]]:
    """Figures by row; two measures of a task that give a metric of one name are told apart by their labels."""
    named = Counter((record["task"], record["metric"]) for record in run.content["results"])
    found = {}
    for record in run.content["results"]:
        metric = str(record["metric"])
        if named[record["task"], record["metric"]] > 1:
            metric = f"{metric} [{run.measure(record)}]"
        found[_Key(run.suite, str(record["task"]), metric)] = (run, record)
    return found


def _row(
    key: _Key,
    records: Sequence[Sequence[dict[_Key, tuple[Run, dict[str, Any]]]]],
    published: Sequence[float | None],
    ignored: Sequence[str],
) -> Row:
    found = [[run[key] for run in column if key in run] for column in records]
    known = [record for column in found for _, record in column]
    first = next((record for record in known if record["value"] is not None), known[0])
    cells = [_cell(column, ignored) for column in found]
    nulls = [bool(column) and all(run.null for run, _ in column) for column in found]
    higher = None if first["metric"] in NO_CONTEST else first["higher_is_better"]
    marked = _marked(cells, nulls, higher)
    extra = [None if value is None else Cell(value, differs=True) for value in published]
    return Row(
        *key,
        unit=first["unit"] or "",
        higher_is_better=first["higher_is_better"],
        reproducible=bool(first.get("reproducible", True)),
        cells=(*marked, *extra),
    )


def _cell(found: Sequence[tuple[Run, dict[str, Any]]], ignored: Sequence[str]) -> Cell | None:
    if not found:
        return None
    protocols = [{k: v for k, v in run.protocol(record).items() if k not in ignored} for run, record in found]
    records = [record for _, record in found]
    notes = "; ".join(dict.fromkeys(record["note"] for record in records if record["note"]))
    if len(found) == 1:
        one = records[0]
        return Cell(one["value"], one["stderr"], int(one["n"]), notes, protocols[0])
    if len({fingerprint(protocol) for protocol in protocols}) > 1:
        return Cell(None, note="the runs of these seeds differ in their protocol: no mean", protocol=protocols[0])
    values = [float(record["value"]) for record in records if record["value"] is not None]
    if len(values) < len(records):
        return Cell(None, note=notes or "not all seeds have a figure", protocol=protocols[0])
    mean = math.fsum(values) / len(values)
    deviation = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1))
    return Cell(mean, deviation, int(min(record["n"] for record in records)), notes, protocols[0], len(values))


def _marked(cells: Sequence[Cell | None], nulls: Sequence[bool], higher: bool | None) -> list[Cell | None]:
    """Which cells are best among those of the protocol that most have, and which have another."""
    protocols = [None if cell is None or cell.protocol is None else fingerprint(cell.protocol) for cell in cells]
    counted = Counter(protocol for protocol in protocols if protocol is not None)
    common = counted.most_common(1)[0][0] if counted else None
    rivals = [
        cell.value
        for cell, protocol, null in zip(cells, protocols, nulls, strict=True)
        if cell is not None and cell.value is not None and protocol == common and not null
    ]
    best = None if higher is None or len(set(rivals)) < 2 else max(rivals) if higher else min(rivals)
    made: list[Cell | None] = []
    for cell, protocol, null in zip(cells, protocols, nulls, strict=True):
        if cell is None:
            made.append(None)
            continue
        wins = best is not None and cell.value == best and protocol == common and not null
        made.append(replace(cell, best=wins, differs=protocol != common))
    return made


_Found = dict[str, tuple[Published, dict[_Key, float]]]


def _published(
    runs: Sequence[Run], keys: Sequence[_Key], anchors: Sequence[str], files: Sequence[str]
) -> tuple[_Found, list[str]]:
    """Published methods by label, and what is to be said of them."""
    found: _Found = {}
    said: list[str] = []
    if not anchors:
        return found, said
    suites = known_suites((run.suite for run in runs), files)
    for name in dict.fromkeys(run.suite for run in runs):
        suite = suites.get(name)
        if suite is None:
            said.append(f"suite {name} is not known here, so that nothing says which published figures belong to it")
            continue
        for task in dict.fromkeys(key.task for key in keys if key.suite == name):
            spec = suite.tasks.get(task)
            for one in anchor_columns(spec.anchors if spec else {}, anchors):
                _add(found, one, [key for key in keys if (key.suite, key.task) == (name, task)])
    if not found:
        said.append(f"no published figures belong to these tasks (asked for: {', '.join(anchors)})")
    return found, said


def _add(found: _Found, one: AnchorColumn, keys: Sequence[_Key]) -> None:
    own = {key: one.values[key.metric] for key in keys if key.metric in one.values}
    if own:
        label = one.method + PUBLISHED
        if label in found and found[label][0] is not one.table:
            label = f"{one.method}, {one.table.name}{PUBLISHED}"
        found.setdefault(label, (one.table, {}))[1].update(own)


def _sources(columns: Sequence[Column], rows: Sequence[Row]) -> list[Source]:
    used = {column.published.name: column.published for column in columns if column.published is not None}
    made = []
    for table in used.values():
        places = [i for i, column in enumerate(columns) if column.published is table]
        own = [row for row in rows if any(row.cells[i] is not None for i in places)]
        tasks = tuple(dict.fromkeys(row.task for row in own))
        made.append(Source(table, unstated(own), tasks))
    return made
