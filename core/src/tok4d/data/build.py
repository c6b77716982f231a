"""From configuration to sources: names resolve through the plugins, options are checked by the source's dataclass."""

from __future__ import annotations

from dataclasses import Field, fields
from typing import Any, cast

from tok4d.config.schema import TaskConfig
from tok4d.data.source import Source
from tok4d.errors import ConfigError, unknown_name
from tok4d.plugins.registry import source_factory

# What the options' plain types take; others (lists, optional values) the source checks itself.
_PLAIN: dict[str, tuple[type, ...]] = {"int": (int,), "float": (int, float), "str": (str,), "bool": (bool,)}


def build_source(task: TaskConfig) -> Source:
    """The source that a task names, with its options.

    Raises:
        ConfigError: for an unknown option, with the nearest known one, or a value that the source refuses.
    """
    factory = source_factory(task.source)
    known = {f.name: f for f in fields(factory) if f.init and f.name != "modality"}
    for option, value in task.options.items():
        if option not in known:
            raise ConfigError(f"source {task.source}: {unknown_name('option', option, known)}")
        _check_type(task.source, known[option], value)
    try:
        return cast(Source, factory(modality=task.source.split("/")[0], **task.options))
    except TypeError as error:
        raise ConfigError(f"source {task.source}: {error}") from error


def _check_type(source: str, option: Field[Any], value: Any) -> None:
    """YAML reads `no` as false and `1` as a number: say so here, not where the value is first used."""
    name = option.type if isinstance(option.type, str) else option.type.__name__
    wanted = _PLAIN.get(name)
    if wanted and (not isinstance(value, wanted) or (isinstance(value, bool) and bool not in wanted)):
        raise ConfigError(f"source {source}: {option.name} must be of type {name}, got {value!r}")
