"""`tok4d weights list|fetch`: pretrained networks by name, and how to get those that no package registry has."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from tok4d.cli.console import emit, note, table
from tok4d.cli.files import Json

if TYPE_CHECKING:
    from tok4d.networks.catalogue import Weights


def list_weights(as_json: Json = False) -> None:
    """List the pretrained networks that losses, teachers and metrics use, and whether they are here."""
    from tok4d.networks.catalogue import WEIGHTS

    entries = [_entry(weights) for weights in WEIGHTS.values()]
    emit(entries, as_json, lambda: _render(entries))


def fetch_weights(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A name of `tok4d weights list`.")],
    force: Annotated[bool, typer.Option("--force", help="Fetch and convert anew although it is there.")] = False,
    as_json: Json = False,
) -> None:
    """Fetch pretrained weights into the cache ($TOK4D_CACHE), and convert them to safetensors once."""
    from tok4d.networks.catalogue import find_weights
    from tok4d.networks.stored import bring

    weights = find_weights(name)
    path = bring(weights, note, force=force)
    entry = _entry(weights)
    emit(entry, as_json, lambda: typer.echo(f"{path}  (licence: {entry['licence']})"))


def _entry(weights: Weights) -> dict[str, Any]:
    from tok4d.data.recipes import load_recipe
    from tok4d.networks.catalogue import NETWORKS, available

    recipe = load_recipe(weights.name) if weights.fetched else None
    found = available(weights.name)
    return {
        "name": weights.name,
        "networks": [entry.name for entry in NETWORKS.values() if entry.weights == weights.name],
        "use": weights.use,
        "licence": weights.licence if recipe is None else recipe.licence,
        "size_mb": None if recipe is None else recipe.size_mb,
        "packages": [] if recipe is None else [package.pinned for package in recipe.packages],
        "present": found.present,
        "where": found.where,
        "how": found.how,
    }


def _render(entries: list[dict[str, Any]]) -> None:
    columns = ("name", "MB", "here", "use", "licence")
    table(columns, [_row(entry) for entry in entries], fold=columns)


def _row(entry: dict[str, Any]) -> tuple[Any, ...]:
    here = "yes" if entry["present"] else "no" if entry["packages"] else f"no: {entry['how']}"
    return entry["name"], entry["size_mb"], here, entry["use"], entry["licence"]
