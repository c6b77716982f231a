"""What `bench explain` found, for people: Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tok4d.cli.console import cell


def markdown(found: dict[str, Any]) -> str:
    """The page beside `explain.json`."""
    lines = [
        f"# Loss analysis of {found['model']['name']}",
        "",
        f"{found['samples']} samples of `{found['task']['source']}`, losses `{found['task']['losses'] or 'default'}`, "
        f"model `{found['model']['digest'][:12]}`, seed {found['seed']}.",
        "",
    ]
    if bad := found.get("bad"):
        lines += [f"{len(bad)} could not be used and are left out: {'; '.join(bad)}.", ""]
    for key, write in (("distances", _distances), ("gradients", _gradients), ("landscape", _landscape)):
        if key in found:
            lines += [*write(found[key]), ""]
    return "\n".join(lines).rstrip() + "\n"


def _distances(found: dict[str, Any]) -> list[str]:
    lines = ["## Fréchet distance in two parts", ""]
    if "why" in found:
        return [*lines, f"Left out: {found['why']}."]
    rows = []
    notes = []
    for network, part in found.items():
        if "why" in part:
            notes.append(f"- {network} is left out: {part['why']}")
            continue
        rows += [(v["metric"], v["value"], v["stderr"], v["n"], v["note"]) for v in part["values"]]
    if rows:
        lines += _table(("value", "figure", "standard error", "n", "note"), rows)
    return [*lines, *notes]


def _gradients(found: dict[str, Any]) -> list[str]:
    lines = ["## Gradients by term", "", "Of the weighted terms; shares are of the sum of their norms.", ""]
    rows = [
        (
            name,
            term["weight"],
            term["value"],
            *(number for place in found["total"] for number in (term["norms"][place], _percent(term["shares"][place]))),
        )
        for name, term in found["terms"].items()
    ]
    places = [place.replace("_", " ") for place in found["total"]]
    lines += _table(("term", "weight", "value", *(c for p in places for c in (f"norm at {p}", "share"))), rows)
    for place, table in found["cosines"].items():
        lines += ["", f"Cosines at {place.replace('_', ' ')}:", ""]
        lines += _table(("", *table), [(name, *row.values()) for name, row in table.items()])
    return lines


def _landscape(found: dict[str, Any]) -> list[str]:
    lines = ["## Landscape of the weights", ""]
    lines.append(
        f"Loss {cell(found['centre'])} at the model; at the border of the plane, {found['steps'][-1]:g} filter lengths "
        f"away, {cell(found['rise'])} times that on average."
    )
    steps = [f"{step:g}" for step in found["steps"]]
    rows = [(step, *row) for step, row in zip(steps, found["losses"], strict=True)]
    return [*lines, "", *_table(("", *steps), rows), "", "![heat map](landscape.png)"]


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _table(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> list[str]:
    body = ["| " + " | ".join(cell(value) for value in row) + " |" for row in rows]
    return ["| " + " | ".join(columns) + " |", "|" + " --- |" * len(columns), *body]
