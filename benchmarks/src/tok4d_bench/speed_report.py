"""The speed benchmark's figures as Markdown."""

from __future__ import annotations

import sys
from typing import Any

LOADS = "| load | precision | blocks a stack | tokens | model, CPU s | bare, CPU s | ratio | bar | tokens/s |"
MEMORY = "| sample | tokens | growth, MB | bytes a token | exponent (1 = linear) |"


def markdown(report: dict[str, Any]) -> str:
    """Tables of a report of `tok4d_bench.speed`."""
    machine = report["machine"]
    lines = [
        f"# Speed: {report['preset']} against its bare products",
        "",
        f"`{report['command']}`",
        "",
        f"CPU {machine['cpu_capability']}, bf16 products {machine['bf16_products']}, {machine['threads']} thread(s), "
        f"torch {machine['torch']}. Encode (with pooling) and decode; medians of {_rounds(report)} alternating rounds.",
        "",
        *_table(LOADS, [_load(row) for row in report["loads"]]),
    ]
    for row in report["loads"]:
        lines += ["", f"Parts at {row['load']}, {row['dtype']} (CPU s, one run): {_parts(row['parts'])}."]
    if report["memory"]:
        cells = [line for row in report["memory"] for line in _memory(row)]
        lines += ["", "Peak memory of encode, preset tiny, float32, input not counted:", "", *_table(MEMORY, cells)]
    step = report["training"]
    lines += [
        "",
        f"For information: a training step of {step['preset']} at {step['load']} in {step['dtype']} costs "
        f"{step['model']['median_cpu_seconds']:.2f} CPU s, {step['ratio']:.2f} x forward and backward of its products.",
    ]
    return "\n".join(lines)


def print_line(text: str) -> None:
    """A line of the report on stdout."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def _rounds(report: dict[str, Any]) -> int:
    return max((len(row["model"]["seconds"]) for row in report["loads"]), default=0)


def _table(head: str, rows: list[list[str]]) -> list[str]:
    return [head, "|---" * (head.count("|") - 1) + "|", *("| " + " | ".join(row) + " |" for row in rows)]


def _load(row: dict[str, Any]) -> list[str]:
    medians = [f"{row[side]['median_cpu_seconds']:.2f}" for side in ("model", "bare")]
    bar = "-" if row["limit"] is None else f"{row['limit']} {'held' if row['within'] else 'MISSED'}"
    head = [row["load"], row["dtype"], str(row["blocks"]), str(row["tokens"])]
    return [*head, *medians, f"{row['ratio']:.3f}", bar, f"{row['tokens_per_second']:.0f}"]


def _parts(parts: dict[str, float]) -> str:
    total = sum(parts.values())
    shown = [f"{name} {s:.3g} ({s / total:.1%})" for name, s in parts.items() if s >= 0.002 * total]
    return ", ".join(shown)


def _memory(row: dict[str, Any]) -> list[list[str]]:
    exponent = str(row.get("exponent", "-"))
    return [
        [row["kind"], str(tokens), f"{grown / 1e6:.0f}", str(each), exponent]
        for tokens, grown, each in zip(row["tokens"], row["bytes"], row["bytes_per_token"], strict=True)
    ]
