"""A report: figures, distributions, rate and distortion, use of codes, and samples, gathered and written as one folder.

OUT/index.html      the page
OUT/media/          pictures, clips and viewers that it shows
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from tok4d.errors import DataError
from tok4d.weights.folder import write_text
from tok4d_bench.compare.build import compare
from tok4d_bench.compare.model import Comparison
from tok4d_bench.compare.runs import Run
from tok4d_bench.contracts import Suite
from tok4d_bench.report import charts
from tok4d_bench.report.codebook import CodeUse, code_uses
from tok4d_bench.report.gallery import Exhibit, check_metric, exhibits
from tok4d_bench.report.page import report_page
from tok4d_bench.report.remake import Remaker
from tok4d_bench.report.values import PerSample, per_sample
from tok4d_bench.subjects.nulls import FIGURES
from tok4d_bench.suite import known_suites

RATE, DISTORTION = "bits_per_pixel", "psnr"


@dataclass
class Chart:
    """A chart of one task.

    Attributes:
        labels: of its series, in the order of their colours.
        said: what is not in it, and why.
    """

    task: str
    name: str
    svg: str
    labels: list[str] = field(default_factory=list)
    said: str = ""


@dataclass
class Report:
    """Everything that the page shows.

    Attributes:
        missing_nulls: `task: subject` that a suite asks for and that is not among the runs.
        said: what could not be shown, and why.
    """

    comparison: Comparison
    distributions: list[Chart]
    rates: list[Chart]
    codes: list[tuple[CodeUse, list[Chart]]]
    exhibits: list[Exhibit]
    missing_nulls: list[str]
    said: list[str]


@dataclass
class Asked:
    """What a report is asked for.

    Attributes:
        anchors, seeds, suites: as of `tok4d_bench.compare.build.compare`.
        samples: how many of the best, of the middle and of the worst of every task; 0: none.
        by: the metric by which they are chosen; empty: the first that has values per sample.
        specs, folders, device: as of `Remaker`.
        report: receives lines for people.
    """

    anchors: Sequence[str] = ()
    seeds: bool = False
    suites: Sequence[str] = ()
    samples: int = 1
    by: str = ""
    specs: Sequence[str] = ()
    folders: Mapping[str, Path] = field(default_factory=dict)
    device: str = "cpu"
    report: Callable[[str], None] = lambda text: None


def write_report(runs: Sequence[Run], out: Path, asked: Asked) -> Report:
    """Gather a report and write it.

    Raises:
        Tok4dError: for runs or files that cannot be used; samples that cannot be shown are no error but said.
    """
    comparison = compare(runs, asked.anchors, asked.seeds, asked.suites)
    suites = _suites(runs, asked.suites)
    if asked.by:
        check_metric(runs, asked.by)
    said: list[str] = []
    try:
        (out / "media").mkdir(parents=True, exist_ok=True)
        shown: list[Exhibit] = []
        if asked.samples:
            remaker = Remaker(suites, asked.specs, asked.folders, asked.device)
            shown = exhibits(runs, remaker, out / "media", asked.samples, asked.by, said, asked.report)
        report = Report(
            comparison,
            distributions(runs),
            rates(runs),
            [(use, _code_charts(use)) for run in runs for use in code_uses(run)],
            shown,
            _missing_nulls(runs, suites),
            list(dict.fromkeys(said)),
        )
        write_text(out / "index.html", report_page(report))
    except OSError as error:
        raise DataError(out, f"cannot be written ({error.strerror or error})") from error
    return report


def distributions(runs: Sequence[Run]) -> list[Chart]:
    """A histogram a figure that is a mean over samples, all subjects in it but the originals themselves."""
    found: dict[tuple[str, str, str], list[tuple[str, PerSample]]] = {}
    for run in runs:
        if run.null:
            continue
        for task in dict.fromkeys(record["task"] for record in run.content["results"]):
            for one in per_sample(run, task):
                if one.record.get("reproducible", True) and one.record["higher_is_better"] is not None:
                    found.setdefault((run.suite, task, one.name), []).append((run.label, one))
    charted = []
    for (_, task, name), own in found.items():
        series = [charts.Series(label, one.values) for label, one in own]
        charted.append(Chart(task, name, charts.histogram(series, name), [label for label, _ in own]))
    return charted


def rates(runs: Sequence[Run]) -> list[Chart]:
    """PSNR against bits per pixel of every task where two subjects have both; continuous latents are only named."""
    charted = []
    tasks = dict.fromkeys((run.suite, record["task"]) for run in runs for record in run.content["results"])
    for suite, task in tasks:
        lines: dict[str, list[tuple[float, float]]] = {}
        without = []
        for run in (run for run in runs if run.suite == suite and not run.null):
            known = {r["metric"]: r["value"] for r in run.content["results"] if r["task"] == task}
            if known.get(DISTORTION) is None:
                continue
            if known.get(RATE) is None:
                without.append(run.label)
            else:
                lines.setdefault(_family(run), []).append((known[RATE], known[DISTORTION]))
        if sum(map(len, lines.values())) > 1:
            series = [charts.Series(name, np.array(points)) for name, points in lines.items()]
            said = f"No rate, so not in it: {', '.join(without)}." if without else ""
            svg = charts.plot(series, "bits per pixel", "PSNR, dB")
            charted.append(Chart(task, "PSNR against rate", svg, list(lines), said))
    return charted


def _family(run: Run) -> str:
    """Codecs at several rates are points of one line; every model is one of its own."""
    kind = str(run.facts.get("kind") or "")
    return kind if kind and not run.facts.get("parameters") else run.label


def _code_charts(use: CodeUse) -> list[Chart]:
    found = []
    if use.usage and len(use.usage) <= 64:
        found.append(Chart(use.task, "codes seen", charts.bars(use.usage, "group", "share seen")))
        found.append(Chart(use.task, "perplexity", charts.bars(use.evenness, "group", "perplexity / codes")))
    ranked = [
        charts.Series(f"group {number}", np.stack([np.arange(1, len(shares) + 1), shares * 100], 1))
        for number, shares in enumerate(use.frequencies[: charts.COLOURS])
    ]
    svg = charts.plot(ranked, "rank of the code", "% of tokens")
    found.append(Chart(use.task, "frequencies", svg, [one.label for one in ranked]))
    return found


def _suites(runs: Sequence[Run], files: Sequence[str]) -> dict[str, Suite]:
    """The suites of the runs in the versions that these measured."""
    found = known_suites((run.suite for run in runs), files)
    versions = {run.suite: run.content["version"] for run in runs}
    return {name: suite for name, suite in found.items() if suite.version == versions.get(name)}


def _missing_nulls(runs: Sequence[Run], suites: Mapping[str, Suite]) -> list[str]:
    """Nulls of the suites that no run gives: by kind of subject, or as a figure of their own (`fid/null`)."""
    missing: dict[str, list[str]] = {}
    for name, suite in suites.items():
        own = [run for run in runs if run.suite == name]
        for task in dict.fromkeys(record["task"] for run in own for record in run.content["results"]):
            records: list[dict[str, Any]] = [r for run in own for r in run.content["results"] if r["task"] == task]
            kinds = {run.facts.get("kind") for run in own if any(r["task"] == task for r in run.content["results"])}
            for null in suite.tasks[task].nulls if task in suite.tasks else ():
                is_figure = any(re.search(r"/null$", str(r["metric"])) for r in records)
                if null not in kinds and not (null in FIGURES and is_figure):
                    missing.setdefault(null, []).append(task)
    return [f"{null} ({', '.join(tasks)})" for null, tasks in missing.items()]
