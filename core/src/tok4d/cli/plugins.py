"""`tok4d plugins`: what is installed, what each plugin provides, and why one is not loaded."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

import typer

from tok4d.cli.console import emit, table

if TYPE_CHECKING:
    from tok4d.plugins.loader import PluginRecord


def plugins(
    strict: bool = typer.Option(False, "--strict", help="Exit with code 1 when a plugin could not be loaded."),
    as_json: bool = typer.Option(False, "--json", help="Give JSON alone on stdout."),
) -> None:
    """List plugins, what they provide, and why one is not loaded.

    TOK4D_PLUGINS=a,b loads only these; TOK4D_PLUGINS=-x,-y all but these; TOK4D_STRICT_PLUGINS=1 stops at the first
    plugin that cannot be loaded.
    """
    from tok4d.plugins.registry import records

    found = records()
    emit([asdict(record) for record in found], as_json, lambda: _render(found))
    if strict and any(record.state not in ("loaded", "disabled") for record in found):
        raise typer.Exit(1)


def _render(found: list[PluginRecord]) -> None:
    columns = ("name", "distribution", "version", "state", "provides")
    table(columns, [(r.name, r.distribution or "-", r.version or "-", r.state, _provides(r)) for r in found], columns)
    for record in found:
        if record.error or record.fix:
            typer.echo(f"\n{record.name} ({record.distribution or 'not installed'}) is {record.state}")
            if record.error:
                typer.echo(f"  error: {record.error}")
            if record.fix:
                typer.echo(f"  fix:   {record.fix}")


def _provides(record: PluginRecord) -> str:
    return "\n".join(f"{kind}: {', '.join(items)}" for kind, items in record.provides.items() if kind != "configs")
