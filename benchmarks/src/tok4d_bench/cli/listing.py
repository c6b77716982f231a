"""`tok4d bench list`: suites, layouts, measures and baselines of all plugins."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import typer

from tok4d.cli.console import emit, table
from tok4d_bench.cli.options import JSON


def list_(as_json: bool = JSON) -> None:
    """List suites with their tasks, layouts of data sets, measures, and what can be measured beside models."""
    from tok4d.errors import Tok4dError
    from tok4d.plugins.registry import names, provider
    from tok4d_bench.data.layouts import LAYOUTS
    from tok4d_bench.suite import load_suite, suite_names

    suites: list[dict[str, Any]] = []
    for name in suite_names():
        try:
            suite = load_suite(name)
        except Tok4dError as error:  # another suite is still of use
            suites.append({"name": name, "version": None, "summary": f"cannot be used: {error}", "tasks": []})
        else:
            own = {"version": suite.version, "summary": suite.summary, "tasks": list(suite.tasks)}
            suites.append({"name": name, **own})
    found = {
        "suites": suites,
        "layouts": [{"name": name, "split": layout.split, "folder": layout.folder} for name, layout in LAYOUTS.items()],
        "measures": [{"name": name, "plugin": provider("metrics", name)} for name in names("metrics")],
        "baselines": _baselines(),
    }
    emit(found, as_json, lambda: _render(found))


def _baselines() -> list[dict[str, Any]]:
    from tok4d_bench.subjects import kind_rows

    return [asdict(row) for row in kind_rows()]


def _render(found: dict[str, Any]) -> None:
    rows = [(s["name"], s["version"], ", ".join(s["tasks"]), s["summary"]) for s in found["suites"]]
    table(("suite", "version", "tasks", "what"), rows, fold=("tasks", "what"))
    typer.echo()
    table(("layout", "split", "--data NAME=FOLDER"), [tuple(row.values()) for row in found["layouts"]])
    typer.echo()
    table(("measure", "plugin"), [tuple(row.values()) for row in found["measures"]])
    typer.echo()
    columns = list(found["baselines"][0]) if found["baselines"] else []
    table(columns, [tuple(map(str, row.values())) for row in found["baselines"]], fold=columns)
