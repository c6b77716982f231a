"""`tok4d data list|fetch|index`: real data by name from package registries into the cache; indices of tar shards."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import typer

from tok4d.cli.console import emit, note, progress, table
from tok4d.cli.main import STYLE

if TYPE_CHECKING:
    from tok4d.data.recipes import Recipe
    from tok4d.data.shards import Shard

app = typer.Typer(no_args_is_help=True, help="List and fetch data sets, index shards.", **STYLE)

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


@app.command("index")
def index_(
    shards: list[str] = typer.Argument(help="Tars, folders, globs or ranges like 'x-{000..010}.tar'; paths or URLs."),
    force: bool = typer.Option(False, "--force", help="Write an index anew although it is up to date."),
    as_json: bool = _JSON,
) -> None:
    """Write an index beside each WebDataset shard (NAME.tar.index), so that training opens it with one small read.

    An index is up to date while the shard has its size and time of change. A shard that cannot be indexed is listed
    with its reason; the exit code is then 1.
    """
    from tok4d.cli.files import Batch
    from tok4d.data.shards import expand

    batch = Batch()
    found = []
    for pattern in shards:
        with batch.guard(pattern):
            found += [shard for shard in expand(pattern) if shard not in found]
    entries = []
    with progress(len(found), "indexing", as_json) as advance:
        for shard in found:
            with batch.guard(str(shard)):
                entries.append(_index(shard, force))
            advance(1)
    emit({"shards": entries, "failures": batch.failures}, as_json, lambda: _render_shards(entries))
    batch.finish(entries, "shards")


def _index(shard: Shard, force: bool) -> dict[str, Any]:
    from tok4d.data.shard_index import index_file, usable_index, write_index

    kept = None if force else usable_index(shard)
    entries = write_index(shard) if kept is None else kept
    return {
        "shard": str(shard),
        "index": str(index_file(shard)),
        "written": kept is None,
        "samples": len(entries),
        "members": sum(len(entry.members) for entry in entries),
    }


def _render_shards(entries: list[dict[str, Any]]) -> None:
    for entry in entries:
        what = "written" if entry["written"] else "up to date"
        typer.echo(f"{entry['index']}  ({entry['samples']} samples, {entry['members']} members; {what})")


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
