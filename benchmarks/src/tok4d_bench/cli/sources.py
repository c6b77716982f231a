"""Data of commands that measure one source and no suite."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from tok4d.cli.console import note
from tok4d.errors import ConfigError

if TYPE_CHECKING:
    from tok4d_bench.data.samples import Thinned

SOURCE = typer.Option(
    ..., "--data", metavar="SOURCE", help="Source of samples, such as image/photos (its side val), or image/folder."
)
OPTIONS = typer.Option(
    "", "--options", metavar="YAML", help="Its options: '{split: all, size: 128}', '{path: FOLDER}'."
)


def leave_out(bad: Sequence[Mapping[str, str]]) -> None:
    """Name what could not be used, and end with exit code 1 where there is something.

    Args:
        bad: `{key, reason}` each.
    """
    for item in bad:
        note(f"left out: {named(item['key'], item['reason'])}")
    if bad:
        raise typer.Exit(1)


def named(key: str, reason: str) -> str:
    """A sample and what is wrong with it; errors of files begin with the path, and it often ends in the key."""
    file, separator, _ = reason.partition(": ")
    return reason if separator and Path(file).parts[-len(Path(key).parts) :] == Path(key).parts else f"{key}: {reason}"


def parse_options(text: str) -> dict[str, Any]:
    """Options of a source.

    Raises:
        ConfigError: for what is no mapping.
    """
    import yaml

    try:
        found = yaml.safe_load(text) if text else {}
    except yaml.YAMLError as error:
        raise ConfigError(f"--options {text!r} is no YAML: {str(error).splitlines()[0]}") from error
    if not isinstance(found, dict):
        raise ConfigError(f"--options {text!r} must be a mapping, such as '{{split: val}}'")
    return {str(key): value for key, value in found.items()}


def open_source(source: str, options: Mapping[str, Any], prepare: Mapping[str, Any], limit: int = 0) -> Thinned:
    """A source's samples, prepared: of a recipe its side `val`, of your own files all, unless the options say more.

    Raises:
        Tok4dError: for an unknown source or option, and data that is not there.
    """
    from dataclasses import fields

    from tok4d.plugins.registry import source_factory
    from tok4d_bench.contracts import TaskSpec
    from tok4d_bench.data.build import open_data

    chosen = dict(options)
    known = {field.name for field in fields(source_factory(source))}
    if "split" in known and "path" not in known:
        chosen.setdefault("split", "val")
    spec = TaskSpec(data={"source": source, "options": chosen}, prepare=dict(prepare))
    return open_data(spec, {}, limit)
