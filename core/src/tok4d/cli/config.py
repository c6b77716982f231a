"""`tok4d config show|validate`: presets and curricula as the program understands them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tok4d.cli import STYLE
from tok4d.cli.console import emit, note, table
from tok4d.cli.files import Json
from tok4d.errors import ConfigError, Tok4dError, unknown_name

if TYPE_CHECKING:
    from tok4d.config.schema import Curriculum, TokenizerConfig

app = typer.Typer(help="Show or validate presets and curricula.", no_args_is_help=True, **STYLE)
LOADED_KINDS = ("presets", "curricula")


@app.command()
def show(
    name: Annotated[str, typer.Argument(metavar="NAME|PATH", help="A preset, a curriculum, or a YAML file.")],
    overrides: Annotated[list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="What to change.")] = None,
    as_json: Json = False,
) -> None:
    """Print the full configuration: what the file says, what it extends, overrides, and every default."""
    import yaml

    from tok4d.config.loader import to_mapping

    data = to_mapping(resolve(name, overrides or ())[1])
    emit(data, as_json, lambda: typer.echo(yaml.safe_dump(data, sort_keys=False), nl=False))


@app.command()
def validate(
    paths: Annotated[list[str] | None, typer.Argument(metavar="[NAME|PATH]...", help="Default: all there are.")] = None,
    as_json: Json = False,
) -> None:
    """Check presets and curricula, by name, file or folder; without arguments all that core and plugins bring."""
    from tok4d.config.schema import Curriculum
    from tok4d.training.check import check_curriculum

    results, failed, towers = [], 0, list[tuple[str, str]]()
    for item in _expand(paths or []):
        try:
            kind, config = resolve(item)
            if isinstance(config, Curriculum):
                check_curriculum(config, fresh=False)
                if config.init == "siglip2":
                    towers.append((item, config.init_from))
            results.append({"config": item, "kind": kind, "error": None})
        except Tok4dError as error:
            failed += 1
            results.append({"config": item, "kind": None, "error": str(error)})
    rows = [(r["config"], r["kind"], "ok" if r["error"] is None else "refused") for r in results]
    emit(results, as_json, lambda: table(("config", "kind", "result"), rows, ("config",)))
    for result in results:
        if result["error"] is not None:
            note(f"error: {result['error']}")
    for item, source in towers:
        _note_missing(item, source)
    if failed:
        raise typer.Exit(1)


def _note_missing(item: str, source: str) -> None:
    """A curriculum is right whether or not the tower that it starts from is here already; training needs it."""
    from tok4d.weights.siglip2_tower import read_tower

    try:
        read_tower(source, weights=False)
    except Tok4dError as error:
        note(f"note: {item}: training will need init_from: {error}")


def resolve(name: str, overrides: Sequence[str] = ()) -> tuple[str, TokenizerConfig | Curriculum]:
    """Kind (`preset` or `curriculum`) and configuration of a name or path.

    Raises:
        ConfigError: for an unknown name or a configuration that cannot be used.
    """
    from tok4d.config.loader import load_curriculum, load_preset

    if _is_curriculum(name):
        return "curriculum", load_curriculum(_plain(name), list(overrides))
    return "preset", load_preset(_plain(name), list(overrides))


def _plain(name: str) -> str:
    """`base` of `curricula/base`; anything else as it is."""
    kind, _, stem = name.partition("/")
    return stem if kind in LOADED_KINDS and _is_name(kind, stem) else name


def _is_name(kind: str, stem: str) -> bool:
    from tok4d.plugins.registry import config_names

    return stem in config_names(kind)


def _is_curriculum(name: str) -> bool:
    """By name: where it is found. By path: by its folder, else by what it holds."""
    from tok4d.plugins.registry import config_names

    if _plain(name) != name:
        return name.startswith("curricula/")
    path = Path(name).expanduser()
    if path.suffix in (".yaml", ".yml") or len(path.parts) > 1:
        if not path.is_file():
            raise ConfigError(f"{name}: no such file")
        if path.parent.name in LOADED_KINDS:
            return path.parent.name == "curricula"
        return _means_curriculum(path)
    presets, curricula = config_names("presets"), config_names("curricula")
    if name not in presets and name not in curricula:
        raise ConfigError(unknown_name("preset or curriculum", name, dict.fromkeys([*presets, *curricula])))
    if name in presets and name in curricula:
        raise ConfigError(f"{name!r} is both a preset and a curriculum; say presets/{name} or curricula/{name}")
    return name in curricula


def _means_curriculum(path: Path) -> bool:
    """By the keys that only one kind has; a file of keys that both have, or neither, is what it extends."""
    from tok4d.config.loader import MAX_EXTENDS, read_yaml
    from tok4d.config.schema import Curriculum, TokenizerConfig

    keys = [{field.name for field in fields(schema)} for schema in (Curriculum, TokenizerConfig)]
    current = path
    for _ in range(MAX_EXTENDS):
        data = read_yaml(current)
        curriculum, preset = (len(data.keys() & (own - other)) for own, other in (keys, keys[::-1]))
        parent = data.get("extends")
        if curriculum != preset or not isinstance(parent, str):
            break
        if not parent.endswith((".yaml", ".yml")):
            return _is_curriculum(parent)
        current = current.parent / parent
    return curriculum > preset


def _expand(items: Sequence[str]) -> list[str]:
    """Names and files as they are, folders as the YAML files below them; nothing at all means everything known.

    Recipes of data sets are left out: they are checked where they are used.
    """
    from tok4d.plugins.registry import config_dirs

    if not items:
        folders = [folder / kind for folder in config_dirs() for kind in LOADED_KINDS]
        return [str(path) for folder in folders for path in sorted(folder.glob("*.yaml"))]
    found: list[str] = []
    for item in items:
        below: Any = sorted(Path(item).rglob("*.yaml")) if Path(item).is_dir() else None
        if below is None:
            found.append(item)
        elif not below:
            raise ConfigError(f"{item}: no .yaml file in this folder")
        else:
            found += [str(path) for path in below if path.parent.name != "recipes"]
    return found
