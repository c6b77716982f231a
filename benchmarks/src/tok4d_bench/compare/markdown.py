"""A comparison as Markdown: stable text for `benchmarks/results/` and for pull requests."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from tok4d.cli.console import cell as number
from tok4d_bench.compare.model import Cell, Comparison, Row

LEGEND = (
    "Arrows: which way is better. **Bold**: best of the runs under one protocol (what codes nothing does not compete; "
    "what a subject spends, bits or tokens, is no contest). "
    "≠: measured under another protocol than the other columns, see below. †: published, not measured here."
)


def markdown(comparison: Comparison) -> str:
    """The whole comparison; the same comparison gives the same text."""
    return "\n".join(_lines(comparison)) + "\n"


def direction(row: Row) -> str:
    """An arrow to where it is better; empty where neither is."""
    return "" if row.higher_is_better is None else " ↑" if row.higher_is_better else " ↓"


def figure(cell: Cell | None) -> str:
    """A figure with its spread, without marks: `28.41 ± 0.12`; a dash for none."""
    if cell is None or cell.value is None:
        return "-"
    text = number(cell.value)
    if cell.spread is None:
        return text
    decimals = len(text.partition(".")[2]) if "e" not in text else None
    return f"{text} ± {number(cell.spread) if decimals is None else format(cell.spread, f'.{decimals}f')}"


def spread_word(comparison: Comparison) -> str:
    """What stands behind the plus-minus sign."""
    seeds = [column.label for column in comparison.columns if column.kind == "seeds"]
    said = "± standard error over samples"
    return f"{said}; over the seeds, standard deviation: {', '.join(seeds)}" if seeds else said


def _lines(comparison: Comparison) -> Iterator[str]:
    yield f"# {', '.join(comparison.suites)}"
    yield ""
    yield from _figures(comparison)
    yield ""
    yield f"{LEGEND} {spread_word(comparison)}."
    yield from _differences(comparison)
    yield from _published(comparison)
    if comparison.remarks:
        yield from ("", "## Mind", "")
        yield from (f"- {escape(remark)}" for remark in comparison.remarks)
    yield from _notes(comparison)
    yield from _left_out(comparison)
    yield from ("", "## What was measured", "")
    keys = list(dict.fromkeys(key for facts in comparison.facts.values() for key in facts))
    rows = [[label, *(facts.get(key, "-") for key in keys)] for label, facts in comparison.facts.items()]
    yield from grid(["subject", *keys], rows)


def _figures(comparison: Comparison) -> Iterator[str]:
    suites = len({row.suite for row in comparison.rows}) > 1
    heads = [*(["suite"] if suites else []), "task", "metric", "n", *(column.label for column in comparison.columns)]
    rows = []
    for row in comparison.rows:
        if not row.measured:
            continue
        unit = f" ({row.unit})" if row.unit else ""
        name = escape(f"{row.metric}{unit}{direction(row)}")
        own = [*([row.suite] if suites else []), row.task, name, row.n, *(_marked(cell) for cell in row.cells)]
        rows.append(own)
    yield from grid(heads, rows, numbers=len(heads) - len(comparison.columns) - 1, escaped=True)


def _marked(cell: Cell | None) -> str:
    text = figure(cell)
    if cell is None or cell.value is None:
        return text
    text = f"**{text}**" if cell.best else text
    return f"{text} ≠" if cell.differs and cell.protocol is not None else text


def _differences(comparison: Comparison) -> Iterator[str]:
    yield from ("", "## Differences of protocol", "")
    runs = [column for column in comparison.columns if column.runs]
    if not comparison.differences:
        yield "None between the runs." if len(runs) > 1 else "There is one run."
        return
    rows = [
        [one.key, "; ".join(f"{value} ({', '.join(labels)})" for value, labels in one.values), ", ".join(one.where)]
        for one in comparison.differences
    ]
    yield from grid(["line", "values", "figures"], rows)


def _published(comparison: Comparison) -> Iterator[str]:
    if not comparison.sources:
        return
    yield from ("", "## Published figures", "")
    for source in comparison.sources:
        table = source.table
        said = f'as published: "{table.protocol}"' if table.protocol else "its source states no protocol"
        yield f"- **{table.name}** ({table.source}): {escape(table.caption)}. Protocol {escape(said)}. " + (
            f"Beside {', '.join(source.where)}; not stated in a form that could be compared with ours: "
            f"{', '.join(source.unknown)}."
        )


def notes(comparison: Comparison) -> list[str]:
    """Notes of figures, equal ones of a task told once."""
    found: dict[tuple[str, str], dict[str, list[str]]] = {}
    for row in comparison.rows:
        for column, cell in zip(comparison.columns, row.cells, strict=True):
            if cell is not None and cell.note:
                found.setdefault((row.task, cell.note), {}).setdefault(row.metric, []).append(column.label)
    told = []
    for (task, note), metrics in found.items():
        labels = dict.fromkeys(label for own in metrics.values() for label in own)
        told.append(f"{task} {', '.join(metrics)}: {note} ({', '.join(labels)})")
    return told


def _notes(comparison: Comparison) -> Iterator[str]:
    if told := notes(comparison):
        yield from ("", "## Notes", "")
        yield from (f"- {escape(text)}" for text in told)


def _left_out(comparison: Comparison) -> Iterator[str]:
    for name, heads in (("skipped", ("column", "task", "what", "why", "fix")), ("bad", ("column", "task", "key"))):
        entries = comparison.skipped if name == "skipped" else comparison.bad
        heads = (*heads, "reason") if name == "bad" else heads
        if entries:
            yield from ("", "## Left out" if name == "skipped" else "## Samples that could not be used", "")
            yield from grid(["subject", *heads[1:]], [[entry.get(head, "") for head in heads] for entry in entries])


def grid(
    heads: Sequence[str], rows: Sequence[Sequence[str]], numbers: int | None = None, escaped: bool = False
) -> Iterator[str]:
    """Lines of a table.

    Args:
        numbers: columns from here on are aligned to the right.
        escaped: the rows are Markdown already.
    """
    numbers = len(heads) if numbers is None else numbers
    yield f"| {' | '.join(map(escape, heads))} |"
    yield f"|{'|'.join('--:' if place >= numbers else '---' for place in range(len(heads)))}|"
    for row in rows:
        yield f"| {' | '.join(row if escaped else map(escape, row))} |"


def escape(text: str) -> str:
    """Text that Markdown shows as it is, on one line."""
    for char in "\\|*`<>":
        text = text.replace(char, f"\\{char}")
    return " ".join(text.split())
