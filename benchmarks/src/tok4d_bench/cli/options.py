"""Options that several commands of `tok4d bench` share."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import typer

from tok4d.errors import ConfigError

SUITE = typer.Argument(help="A name of `tok4d bench list`, or the path of a suite file.")
DATA = typer.Option([], "--data", metavar="NAME=FOLDER", help="Where a data set lies: imagenet=/data/imagenet.")
TASKS = typer.Option("", "--tasks", help="Only these tasks, comma-separated.")
LIMIT = typer.Option(0, "--limit", min=0, help="At most that many samples of each data set, evenly spread.")
JSON = typer.Option(False, "--json", help="Give JSON alone on stdout.")


def parse_folders(pairs: Sequence[str]) -> dict[str, Path]:
    """`NAME=FOLDER` each.

    Raises:
        ConfigError: for anything else, or a folder that is not there.
    """
    found = {}
    for pair in pairs:
        name, separator, folder = pair.partition("=")
        if not separator or not name or not folder:
            raise ConfigError(f"--data {pair!r} must look like NAME=FOLDER, e.g. imagenet=/data/imagenet")
        path = Path(folder).expanduser()
        if not path.is_dir():
            raise ConfigError(f"--data {name}: no such folder {folder}")
        found[name] = path
    return found


def check_names(folders: dict[str, Path], known: Sequence[str]) -> None:
    """Refuse data that no task of the suite names: a misspelt name must not silently do nothing.

    Raises:
        ConfigError: with the nearest known name.
    """
    from tok4d.errors import unknown_name

    for name in folders:
        if name not in known:
            raise ConfigError(f"--data: {unknown_name('data of this suite', name, set(known))}")


def split_names(text: str) -> list[str]:
    """Comma-separated names."""
    return [name.strip() for name in text.split(",") if name.strip()]
