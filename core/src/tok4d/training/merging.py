"""Evaluations that several processes shared, put together: the same as one process would have found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import zip_longest
from typing import TYPE_CHECKING

from tok4d.losses.codes import CodeStatistics
from tok4d.training.alignment import Seen

if TYPE_CHECKING:
    from tok4d.training.evaluate import Scores


def merged_scores(parts: Sequence[Scores]) -> Scores:
    """Scores of all samples, in the order in which one process meets them; process r has every n-th from r on.

    Figures that are no means over samples come from samples of all processes already; the first part's are taken.
    """
    if len(parts) == 1:
        return parts[0]
    tasks: dict[str, dict[str, dict[str, float]]] = {}
    for host in dict.fromkeys(name for part in parts for name in part.tasks):
        found = [part.tasks.get(host, {}) for part in parts]
        metrics = dict.fromkeys(name for one in found for name in one)
        tasks[host] = {name: _dealt([one.get(name, {}) for one in found]) for name in metrics}
    bad = [reason for part in parts for reason in part.bad]
    return replace(parts[0], tasks=tasks, bad=bad)


def merged_seen(parts: Sequence[Mapping[str, Seen]]) -> dict[str, Seen]:
    """What all processes saw, by task."""
    found: dict[str, Seen] = {}
    for part in parts:
        for name, seen in part.items():
            found.setdefault(name, Seen()).merge(seen)
    return found


def merged_codes(parts: Sequence[Mapping[str, CodeStatistics]]) -> dict[str, CodeStatistics]:
    """Codes that all processes counted, by modality."""
    found: dict[str, CodeStatistics] = {}
    for part in parts:
        for name, statistics in part.items():
            if name in found:
                found[name].merge(statistics)
            else:
                found[name] = statistics
    return found


def _dealt(parts: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """One of each in turn, as they were dealt out."""
    rounds = zip_longest(*(part.items() for part in parts))
    return {item[0]: item[1] for one in rounds for item in one if item is not None}
