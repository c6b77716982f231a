"""The table: figures of the protocol, figures under each choice, and how far they are apart."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from tok4d.cli.console import cell
from tok4d.errors import Tok4dError
from tok4d_bench.contracts import Measure, Restored, Subject, Value
from tok4d_bench.data.samples import Thinned
from tok4d_bench.gathering import gather, reconstruct_all
from tok4d_bench.groups import Group
from tok4d_bench.prepare import Prepare
from tok4d_bench.sensitivity.choices import Choice, View, base_measures, base_prepare, seen

Made = list[tuple[Group, list[Restored]]]
Open = Callable[[Mapping[str, Any]], Thinned]  # data by its preparation


@dataclass(frozen=True)
class Row:
    """One figure under one choice.

    Attributes:
        what, value: the choice; empty for the protocol itself.
        figure: such as `psnr`.
        moved: difference from the protocol's.
        note: why there is none.
    """

    what: str
    value: str
    figure: str
    measured: float | None
    stderr: float | None
    moved: float | None
    n: int
    unit: str = ""
    note: str = ""


def table_of(
    subject: Subject,
    open_data: Open,
    tried: Sequence[Choice],
    side: int,
    network: str = "",
    inner_batch: int = 4,
    report: Callable[[str], None] = lambda text: None,
    bad: list[dict[str, str]] | None = None,
) -> list[Row]:
    """Rows of the protocol, then of every choice in turn.

    Args:
        open_data: gives the samples under a preparation.
        tried: see `choices`.
        side: of the protocol's crop.
        network: of the Fréchet distance; empty: none.
        bad: receives `{key, reason}` of what could not be used under the protocol, or under any choice.

    Raises:
        Tok4dError: for samples that the subject cannot take at all.
    """
    base = base_prepare(side)
    report("the protocol itself")
    data = open_data(base)
    left_out: list[dict[str, str]] = [] if bad is None else bad
    made = reconstruct_all(data, subject, inner_batch, left_out)
    figures = base_measures(network)
    rows = _rows(Choice("", ""), made, data, subject, figures, {})
    reached = {row.figure: row.measured for row in rows if row.measured is not None}
    for choice in tried:
        report(f"{choice.what}: {choice.value}")
        wanted = {name: measure for name, measure in (choice.measures or figures).items() if name in reached}
        if not wanted:
            continue
        if set(choice.prepare) - {"round"}:
            more: list[dict[str, str]] = []
            try:
                other = open_data({**base, **choice.prepare})
                again = reconstruct_all(other, subject, inner_batch, more)
            except Tok4dError as error:
                rows += [_nothing(choice, name, str(error)) for name in wanted]
                continue
            known = {item["key"] for item in left_out}
            left_out += [item for item in more if item["key"] not in known]
            rows += _rows(choice, again, other, subject, wanted, reached)
        else:
            rows += _rows(choice, made, data, subject, wanted, reached)
    return rows


def _rows(
    choice: Choice,
    made: Made,
    data: Thinned,
    subject: Subject,
    measures: Mapping[str, Measure],
    reached: Mapping[str, float | None],
) -> list[Row]:
    prepare = replace(data.prepare, round=choice.prepare.get("round", data.prepare.round))
    shown = [_seen(group, results, prepare, choice.view) for group, results in made]
    rows = []
    for name, measure in measures.items():
        if lacking := [r for r in measure.requirements() if r.missing]:
            rows.append(_nothing(choice, name, f"{lacking[0].what}: {lacking[0].missing}; {lacking[0].fix}"))
            continue
        try:
            (value, *_) = gather(shown, measure, data, subject)
        except Tok4dError as error:
            rows.append(_nothing(choice, name, str(error)))
            continue
        rows.append(_row(choice, name, value, reached.get(name)))
    return rows


def _seen(
    group: Group, results: Sequence[Restored], prepare: Prepare, view: View | None
) -> tuple[Group, list[Restored]]:
    """A group as the measure gets it."""
    rounded = [replace(one, sample=seen(prepare.rounded(one.sample), view)) for one in results]
    return replace(group, samples=[seen(sample, view) for sample in group.samples]), rounded


def _row(choice: Choice, figure: str, value: Value, base: float | None) -> Row:
    moved = None if value.value is None or base is None else value.value - base
    return Row(choice.what, choice.value, figure, value.value, value.stderr, moved, value.n, value.unit, value.note)


def _nothing(choice: Choice, figure: str, why: str) -> Row:
    return Row(choice.what, choice.value, figure, None, None, None, 0, note=why)


def markdown(rows: Sequence[Row], title: str, lines: Sequence[str]) -> str:
    """The table for people: a row for every choice, a column for every figure."""
    figures = list(dict.fromkeys(row.figure for row in rows))
    by_choice: dict[tuple[str, str], dict[str, Row]] = {}
    for row in rows:
        by_choice.setdefault((row.what, row.value), {})[row.figure] = row
    out = [f"# {title}", "", *lines, "", "| choice | " + " | ".join(figures) + " |"]
    out.append("|---|" + "---|" * len(figures))
    for (what, value), found in by_choice.items():
        name = f"{what}: {value}" if what else "the protocol"
        out.append(f"| {name} | " + " | ".join(_cell(found.get(figure)) for figure in figures) + " |")
    notes = list(dict.fromkeys(f"* {row.figure}: {row.note}" for row in rows if row.note))
    return "\n".join([*out, "", *notes]).rstrip() + "\n"


def _cell(row: Row | None) -> str:
    """Figure and how far it moved."""
    if row is None:
        return ""
    if row.measured is None:
        return "-"
    return cell(row.measured) if row.moved is None else f"{cell(row.measured)} ({row.moved:+.4g})"
