"""`tok4d bench validate`: whether a suite can run here, before hours are spent."""

from __future__ import annotations

import typer

from tok4d.cli.console import emit, table
from tok4d_bench.cli.options import DATA, JSON, SUITE, TASKS, check_names, parse_folders, split_names


def validate(
    suite: str = SUITE,
    data: list[str] = DATA,
    tasks: str = TASKS,
    read: int = typer.Option(3, "--read", min=0, help="Samples of each data set to read, evenly spread; 0: all."),
    as_json: bool = JSON,
) -> None:
    """Check folders against the suite (counts, classes, captions, files) and which weights are missing.

    Exit code 1 when something is missing or wrong.
    """
    from tok4d_bench.checking import Checker
    from tok4d_bench.data.layouts import data_name
    from tok4d_bench.suite import load_suite, select

    folders = parse_folders(data)
    loaded = load_suite(suite)
    check_names(folders, [data_name(spec) for spec in loaded.tasks.values()])
    checker = Checker(folders, read)
    chosen = select(loaded, split_names(tasks))
    findings = [finding for name, spec in chosen.items() for finding in checker.task(name, spec)]
    columns = ("task", "what", "state", "detail", "fix")
    rows = [tuple(finding) for finding in findings]
    emit(
        {"suite": loaded.name, "version": loaded.version, "findings": [f._asdict() for f in findings]},
        as_json,
        lambda: table(columns, rows, fold=columns),
    )
    if any(finding.state != "ok" for finding in findings):
        raise typer.Exit(1)
