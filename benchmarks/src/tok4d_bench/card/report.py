"""The card for people, in Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tok4d.cli.console import cell


def markdown(card: Mapping[str, Any]) -> str:
    """All parts that the card has."""
    subject, data = card["subject"], card["data"]
    parts = [
        f"# Latent card of {subject['name']}",
        "",
        f"{data['samples']} samples of {data['name']}. Model {subject['facts']['model'][:12]}, "
        f"{subject['facts']['parameters']:,} parameters, preset {subject['facts']['preset']}.",
        "",
        *_latents(card["latents"]),
    ]
    for part, render in (("codes", _codes), ("seams", _seams), ("probe", _probe)):
        if card[part] is not None:
            parts += ["", *render(card[part])]
    if card["bad"]:
        parts += ["", "## Left out", "", *(f"* {item['key']}: {item['reason']}" for item in card["bad"])]
    return "\n".join(parts) + "\n"


def _latents(found: Mapping[str, Any]) -> list[str]:
    channels = found["channels"]
    summary = [
        ("tokens", found["tokens"]),
        ("KL to the standard normal, nats a token", found["nats_per_token"]),
        (f"active channels of {channels} (variance of the mean > 0.01)", found["active_by_variance"]),
        (f"active channels of {channels} (> 0.01 nats)", found["active_by_nats"]),
        ("effective rank", found["effective_rank"]),
        ("components that hold 90 % / 99 % of the variance",
         f"{found['components_of_90_percent']} / {found['components_of_99_percent']}"),
    ]  # fmt: skip
    columns = ("channel", "mean", "std", "kurtosis", "posterior_std", "nats")
    rows = [[row[name] for name in columns] for row in found["per_channel"]]
    total = sum(found["eigenvalues"]) or 1.0
    shares, reached = [], 0.0
    for number, value in enumerate(found["eigenvalues"], 1):
        reached += value / total
        if number in _SHOWN or number == channels:
            shares.append([number, value, f"{reached:.1%}"])
    return [
        "## Latents", "", *_table(("", "value"), summary), "",
        "### Spectrum", "", *_table(("component", "eigenvalue", "variance up to it"), shares), "",
        "### Channels", "", *_table(columns, rows),
    ]  # fmt: skip


_SHOWN = (1, 2, 4, 8, 16, 32, 64, 128)


def _codes(found: Mapping[str, Any]) -> list[str]:
    fewer = "" if found["tokens"] == found["tokens_asked_for"] else f" (fewer than {found['tokens_asked_for']:,})"
    rows = [[g["group"], g["codes"], g["seen"], f"{g['usage']:.2%}", g["perplexity"]] for g in found["groups"]]
    return [
        "## Codes", "",
        f"At {found['tokens']:,} tokens{fewer}: usage {found['usage']:.2%}, perplexity {cell(found['perplexity'])} "
        f"of at most {found['most_perplexity']:,.0f}.", "",
        *_table(("group", "codes", "seen", "usage", "perplexity"), rows),
    ]  # fmt: skip


def _seams(found: Mapping[str, Any]) -> list[str]:
    columns = ("cached steps", "frame after a seam, dB", "inside, dB", "error ratio", "change over a seam, dB",
               "inside, dB ", "error ratio ")  # fmt: skip
    rows = [
        [steps, way["frame_at_seam"], way["frame_inside"], way["frame_ratio"], way["change_at_seam"],
         way["change_inside"], way["change_ratio"]]
        for steps, way in found["by_cached_steps"].items()
    ]  # fmt: skip
    return ["## Seams", "", f"{found['clips']} clips, a seam every {found['tile_frames']} frames.", "",
            *_table(columns, rows)]  # fmt: skip


def _probe(found: Mapping[str, Any]) -> list[str]:
    rows = [
        [where, one["accuracy"], one["stderr"], one["majority"], one["n"], one["note"]] for where, one in found.items()
    ]
    columns = ("at", "accuracy, %", "standard error", "majority, %", "n", "note")
    return ["## Linear probe", "", *_table(columns, rows)]


def _table(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> list[str]:
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    return [*lines, *("| " + " | ".join(cell(value) for value in row) + " |" for row in rows)]
