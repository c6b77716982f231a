"""What stands beside the figures of a comparison: who made them on what, what was left out, what is easily misread."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from tok4d_bench.compare.model import Column
from tok4d_bench.compare.runs import Run


def remarks(columns: Sequence[Column]) -> Iterator[str]:
    """Names of several models, versions of suites, machines of figures that depend on them, uncommitted code."""
    runs = [run for column in columns for run in column.runs]
    for name in dict.fromkeys(run.name for run in runs):
        digests = dict.fromkeys(run.digest for run in runs if run.name == name)
        if len(digests) > 1:
            yield f"{name} names {len(digests)} different models: digests {', '.join(d[:12] for d in digests)}"
    for suite in dict.fromkeys(run.suite for run in runs):
        versions = _by(str(run.content["version"]) + "\0" + run.label for run in runs if run.suite == suite)
        if len(versions) > 1:
            yield f"suite {suite} in several versions: {_said(versions)}"
    timed = [run for run in runs if any(not record.get("reproducible", True) for record in run.content["results"])]
    machines = _by(f"{_machine(run)}\0{run.label}" for run in timed)
    if len(machines) > 1:
        yield f"seconds and memory were measured on different machines: {_said(machines)}"
    if dirty := [run.label for run in runs if run.content.get("dirty")]:
        yield f"made with changes that no commit holds: {', '.join(dict.fromkeys(dirty))}"


def facts(columns: Sequence[Column]) -> dict[str, dict[str, str]]:
    """What each column of runs was made by: model, seeds, threads, commit, versions, machine."""
    found = {}
    for column in columns:
        if not column.runs:
            continue
        lines = [_facts(run) for run in column.runs]
        keys = dict.fromkeys(key for line in lines for key in line)
        values = {key: dict.fromkeys(line[key] for line in lines if key in line) for key in keys}
        found[column.label] = {key: ", ".join(own) for key, own in values.items()}
    return found


def skipped(columns: Sequence[Column]) -> Iterator[dict[str, str]]:
    """What runs left out."""
    return _entries(columns, "skipped")


def bad(columns: Sequence[Column]) -> Iterator[dict[str, str]]:
    """Samples that runs could not use."""
    return _entries(columns, "bad")


def _entries(columns: Sequence[Column], name: str) -> Iterator[dict[str, str]]:
    for column in columns:
        for run in column.runs:
            for entry in run.content[name]:
                yield {"column": run.label, **{str(key): str(value) for key, value in entry.items()}}


def _facts(run: Run) -> dict[str, str]:
    content, own = run.content, run.facts
    found = {"digest": run.digest[:12]}
    found |= {key: _short(own[key]) for key in own if isinstance(own[key], (str, int, float, bool)) and own[key] != ""}
    found |= {key: str(content[key]) for key in ("seed", "threads") if key in content}
    if content.get("commit"):
        found["commit"] = str(content["commit"])[:12] + (" with changes" if content.get("dirty") else "")
    if versions := content.get("versions"):
        found["versions"] = " ".join(f"{name} {version}" for name, version in versions.items())
    if machine := _machine(run):
        found["hardware"] = machine
    if "seconds" in content:
        found["seconds of the last command"] = str(content["seconds"])
    return found


def _machine(run: Run) -> str:
    hardware: dict[str, Any] = run.content.get("hardware") or {}
    return ", ".join(f"{key} {value}" for key, value in hardware.items() if value not in (None, "", []))


def _short(value: Any) -> str:
    text = str(value)
    return f"{text[:12]}..." if len(text) == 64 and set(text) <= set("0123456789abcdef") else text


def _by(pairs: Iterator[str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for pair in pairs:
        value, _, label = pair.partition("\0")
        found.setdefault(value, []).append(label)
    return found


def _said(found: dict[str, list[str]]) -> str:
    return "; ".join(f"{value} ({', '.join(dict.fromkeys(labels))})" for value, labels in found.items())
