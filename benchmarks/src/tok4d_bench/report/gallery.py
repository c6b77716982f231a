"""The best, the middle and the worst samples of every task: original, reconstructions and error maps side by side."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tok4d.errors import ConfigError, DataError, Tok4dError, unknown_name
from tok4d_bench.compare.runs import Run
from tok4d_bench.contracts import Subject
from tok4d_bench.report.media import Shown, error_maps, show
from tok4d_bench.report.remake import Made, Remaker
from tok4d_bench.report.values import PerSample, chosen, per_sample

MOST_RUNS = 6  # reconstructions of one sample side by side


@dataclass(frozen=True)
class Exhibit:
    """One sample.

    Attributes:
        rank: `best`, `median`, `worst 2`, ...
        by: `METRIC of SUBJECT` by which it was chosen.
        pairs: reconstruction of every subject, and its error map where there is one.
        scale: error at the end of the maps' scale, as a part of the full range; 0: no maps.
    """

    suite: str
    task: str
    rank: str
    key: str
    by: str
    original: Shown
    pairs: tuple[tuple[Shown, ...], ...]
    scale: float


@dataclass
class _Choice:
    task: str
    rank: str
    leading: PerSample
    row: int
    by: str
    null: bool  # nothing but the originals themselves has this task


def exhibits(
    runs: Sequence[Run],
    remaker: Remaker,
    out: Path,
    count: int,
    by: str,
    said: list[str],
    report: Callable[[str], None],
) -> list[Exhibit]:
    """Choose samples by the first run that competes, make them again with every run's subject, and write them.

    Args:
        out: where files go.
        count: how many of each kind.
        by: metric; empty: the first one.
        said: receives what could not be shown, and why.
    """
    found: list[Exhibit] = []
    for suite in dict.fromkeys(run.suite for run in runs):
        own = sorted((run for run in runs if run.suite == suite), key=lambda run: run.null)
        choices = list(_choices(own, count, by))
        made: dict[int, list[tuple[Run, Made]]] = {}
        for run in own:
            fit = [
                n for n, choice in enumerate(choices) if run.null is choice.null and len(made.get(n, ())) < MOST_RUNS
            ]
            if not fit or not (subject := _subject(remaker, run, said)):
                continue
            report(f"{suite}: samples of {run.label}")
            for place in fit:
                if (one := _make(remaker, run, subject, choices[place], said)) is not None:
                    made.setdefault(place, []).append((run, one))
        if any(len(shown) == MOST_RUNS for shown in made.values()):
            said.append(f"at most {MOST_RUNS} reconstructions of a sample are shown")
        found += [_exhibit(suite, choices[place], made[place], out) for place in sorted(made)]
    return found


def check_metric(runs: Sequence[Run], by: str) -> None:
    """Refuse a metric that no sample can be chosen by.

    Raises:
        ConfigError: with those that there are.
    """
    tasks = [(run, task) for run in runs for task in dict.fromkeys(r["task"] for r in run.content["results"])]
    known = {one.metric for run, task in tasks for one in _of_pairs(run, task)}
    if by not in known:
        raise ConfigError(f"--by: {unknown_name('metric with values per sample', by, known)}")


def _subject(remaker: Remaker, run: Run, said: list[str]) -> Subject | None:
    try:
        return remaker.subject(run)
    except Tok4dError as error:
        said.append(f"no samples of {run.label}: {error}")
        return None


def _choices(runs: Sequence[Run], count: int, by: str) -> Iterator[_Choice]:
    """Samples of every task, by the first run that has values per sample of it."""
    tasks = dict.fromkeys(record["task"] for run in runs for record in run.content["results"])
    for task in tasks:
        for run in runs:
            fit = [one for one in _of_pairs(run, task) if by in ("", one.metric)]
            if fit:
                for rank, row in chosen(fit[0], count).items():
                    yield _Choice(task, rank, fit[0], row, f"{fit[0].metric} of {run.label}", run.null)
                break


def _of_pairs(run: Run, task: str) -> list[PerSample]:
    """Figures of reconstructions: those of embeddings and timings show nothing."""
    found = []
    for one in per_sample(run, task):
        kind = run.content["protocols"][one.record["fingerprint"]]["task"]["kind"]
        if kind == "reconstruction" and one.record["higher_is_better"] is not None:
            found.append(one)
    return found


def _make(remaker: Remaker, run: Run, subject: Subject, choice: _Choice, said: list[str]) -> Made | None:
    """The chosen sample by one run; None where this run does not have it."""
    index = int(choice.leading.indices[choice.row])
    for one in _of_pairs(run, choice.task):
        rows = [row for row, other in enumerate(one.indices) if int(other) == index]
        if one.metric == choice.leading.metric and rows:
            try:
                made = remaker.make(run, subject, choice.task, one, rows[0])
            except (Tok4dError, NotImplementedError) as error:
                said.append(f"no samples of {run.label}: {error}")
                return None
            if not made.same:
                said.append(
                    f"{choice.task}, {one.keys[rows[0]]}: made again, {one.metric} of {run.label} is {made.again:.6g}; "
                    f"the run has {made.recorded:.6g}"
                )
            return made
    return None


def _exhibit(suite: str, choice: _Choice, made: Sequence[tuple[Run, Made]], out: Path) -> Exhibit:
    key = choice.leading.keys[choice.row]
    stem = _plain(f"{suite}-{choice.task}-{choice.rank}")
    original = made[0][1].original
    shown = show(original, out, f"{stem}-original", "original", f"{key}, original")
    maps, scale = error_maps(original, {run.label: one.restored for run, one in made})
    pairs = []
    unit = f" {choice.leading.record['unit']}" if choice.leading.record["unit"] else ""
    for number, (run, one) in enumerate(made):
        title = f"{run.label}, {choice.leading.metric} {one.recorded:.4g}{unit}"
        files = [show(one.restored, out, f"{stem}-{number}", title, f"{key}, reconstruction by {run.label}")]
        if (error := maps.get(run.label)) is not None:
            told = f"error of {run.label}"
            alt = f"{key}, map of the absolute error of {run.label}, black is none, yellow is {scale:.1%} of the range"
            files.append(show(error, out, f"{stem}-{number}-error", told, alt))
        pairs.append(tuple(files))
    return Exhibit(suite, choice.task, choice.rank, key, choice.by, shown, tuple(pairs), scale)


def _plain(text: str) -> str:
    """Part of a file name and of an address."""
    plain = re.sub(r"[^\w.-]+", "-", text).strip("-.")
    if not plain:
        raise DataError(text, "gives no file name")
    return plain
