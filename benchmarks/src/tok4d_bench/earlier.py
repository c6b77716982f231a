"""What an earlier run of a suite on a subject found: a run of some tasks must not lose the figures of the others."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any

from tok4d_bench.contracts import Subject, Suite

LISTS = ("results", "skipped", "bad")


def earlier(held: Mapping[str, Any], suite: Suite, subject: Subject, done: Collection[str]) -> dict[str, Any]:
    """Lists and protocols of a results file, of the suite's tasks that are not done now.

    Args:
        held: content of the file.
        done: tasks of this run.

    Returns:
        Nothing where the file is of another suite, version or subject, or cannot be used.
    """
    try:
        if [held["suite"], held["version"]] != [suite.name, suite.version]:
            return {}
        if held["subject"]["digest"] != subject.digest:
            return {}
        found = {name: [item for item in held[name] if _stays(item, suite, done)] for name in LISTS}
        used = {record["fingerprint"] for record in found["results"]}
        return {**found, "protocols": {key: held["protocols"][key] for key in used}}
    except (KeyError, TypeError):
        return {}


def merged(content: Mapping[str, Any], kept: Mapping[str, Any], tasks: Iterable[str]) -> dict[str, Any]:
    """Content of a results file with what was kept of another, in the order of the suite's tasks."""
    places = {task: place for place, task in enumerate(tasks)}
    lists = {
        name: sorted([*content[name], *kept.get(name, ())], key=lambda item: places.get(item["task"], len(places)))
        for name in LISTS
    }
    known = {**content["protocols"], **kept.get("protocols", {})}
    order = dict.fromkeys([*(record["fingerprint"] for record in lists["results"]), *known])
    return {**content, **lists, "protocols": {key: known[key] for key in order}}


def _stays(item: Mapping[str, Any], suite: Suite, done: Collection[str]) -> bool:
    return item["task"] in suite.tasks and item["task"] not in done
