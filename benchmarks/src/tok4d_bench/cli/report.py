"""`tok4d bench report`: a web page of runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import typer

from tok4d.cli.console import emit, note
from tok4d.errors import DataError
from tok4d_bench.cli.compare import ANCHORS, RUNS, SEEDS, SUITE_FILES, name_broken
from tok4d_bench.cli.options import DATA, JSON, parse_folders


def report(
    runs: list[Path] = RUNS,
    out: Path = typer.Option(..., "-o", "--out", help="Folder for index.html and media/."),
    model: list[str] = typer.Option(
        [], "-m", "--model", help="As in the run, where its model has moved: samples are made again by it."
    ),
    data: list[str] = DATA,
    anchors: str = ANCHORS,
    seeds: bool = SEEDS,
    suites: list[str] = SUITE_FILES,
    samples: int = typer.Option(
        1, "--samples", min=0, help="How many of the best, the middle and the worst of every task; 0: none."
    ),
    by: str = typer.Option("", "--by", help="The metric by which they are chosen; default: the first of the task."),
    device: str = typer.Option("cpu", "--device", help="cpu, cuda, or auto."),
    as_json: bool = JSON,
) -> None:
    """Write a page of one or several runs that needs no server: figures with published ones beside, distributions,
    samples with error maps, clips that play, 3D that turns, use of codes, rate and distortion, protocols.
    """
    from tok4d_bench.anchors import parse_anchors
    from tok4d_bench.compare.runs import find_runs
    from tok4d_bench.report.build import Asked, write_report

    asked = Asked(parse_anchors(anchors), seeds, suites, samples, by, model, parse_folders(data), device)
    if not as_json:
        asked.report = note
    broken: list[DataError] = []
    made = write_report(find_runs(runs, broken), out, asked)
    for text in made.said:
        note(text)
    found: dict[str, Any] = {
        "page": str(out / "index.html"),
        "samples": len(made.exhibits),
        "not shown": made.said,
        **made.comparison.as_dict(),
    }
    emit(found, as_json, lambda: typer.echo(f"wrote {out / 'index.html'}: {len(made.exhibits)} samples"))
    name_broken(broken)
