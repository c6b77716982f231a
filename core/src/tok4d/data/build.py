"""From configuration to sources: names resolve through the plugins, options are checked by the source's dataclass."""

from __future__ import annotations

from dataclasses import fields
from typing import cast

from tok4d.config.schema import TaskConfig
from tok4d.data.source import Source
from tok4d.errors import ConfigError, unknown_name
from tok4d.plugins.registry import source_factory


def build_source(task: TaskConfig) -> Source:
    """The source that a task names, with its options.

    Raises:
        ConfigError: for an unknown option, with the nearest known one, or a value that the source refuses.
    """
    factory = source_factory(task.source)
    known = [f.name for f in fields(factory) if f.init and f.name != "modality"]
    for option in task.options:
        if option not in known:
            raise ConfigError(f"source {task.source}: {unknown_name('option', option, known)}")
    try:
        return cast(Source, factory(modality=task.source.split("/")[0], **task.options))
    except TypeError as error:
        raise ConfigError(f"source {task.source}: {error}") from error
