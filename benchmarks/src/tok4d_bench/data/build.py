"""From the `data` of a task to samples: layouts and sources by name, and what is missing in words."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tok4d.errors import ConfigError, Tok4dError, unknown_name
from tok4d.plugins.targets import resolve
from tok4d_bench.contracts import Requirement, TaskSpec
from tok4d_bench.data.layouts import LAYOUTS, data_name
from tok4d_bench.data.samples import ListedData, SourceData, Thinned, source_options
from tok4d_bench.prepare import Prepare

_KEYS = ("layout", "source", "split", "options", "name")


class MissingDataError(Tok4dError):
    """Data that cannot be had here.

    Args:
        requirement: what it is, why it is not there, how to get it.
    """

    def __init__(self, requirement: Requirement) -> None:
        super().__init__(f"{requirement.what}: {requirement.missing}; {requirement.fix}")
        self.requirement = requirement


def open_data(spec: TaskSpec, folders: Mapping[str, Path], limit: int = 0) -> Thinned:
    """The data of a task.

    Args:
        folders: where data sets lie, by name.
        limit: at most that many samples, evenly spread; 0: all.

    Raises:
        MissingDataError: when it is not there.
        ConfigError: for unknown names or options.
        DataError: for a folder that is not the layout.
    """
    for key in spec.data:
        if key not in _KEYS:
            raise ConfigError(unknown_name("key of data", str(key), _KEYS))
    prepare, options = Prepare.parse(spec.prepare), dict(spec.data.get("options") or {})
    if "source" in spec.data:
        return _from_source(spec, prepare, options, limit)
    name = str(spec.data["layout"])
    if name not in LAYOUTS:
        raise ConfigError(unknown_name("layout", name, LAYOUTS))
    layout = LAYOUTS[name]
    if (folder := folders.get(data_name(spec))) is None:
        fix = f"give it with --data {data_name(spec)}=FOLDER, {layout.folder}"
        raise MissingDataError(Requirement(f"data {data_name(spec)}", "no folder is given", fix))
    split = str(spec.data.get("split") or layout.split)
    own = {key: options.pop(key) for key in ("resolution",) if key in options and name == "davis"}
    listing = resolve(layout.target)(folder.expanduser(), split, **own)
    about = {"layout": name, "split": split, **({"options": {**options, **own}} if options or own else {})}
    return ListedData(f"{name}/{split}", listing, prepare, limit, about, options)


def _from_source(spec: TaskSpec, prepare: Prepare, options: dict[str, Any], limit: int) -> SourceData:
    from tok4d.config.schema import TaskConfig
    from tok4d.data.build import build_source

    if prepare.frames or prepare.fps or prepare.stride != 1:
        raise ConfigError("prepare: frames of a source are chosen by its own options, not by frames, stride or fps")
    name = str(spec.data["source"])
    if spec.data.get("split"):
        options["split"] = spec.data["split"]
    source = build_source(TaskConfig(name, options))
    try:
        len(source)
    except ConfigError:
        raise
    except Tok4dError as error:
        fix = "see `tok4d data list`, and fetch it where a package registry can be reached"
        if "path" in source_options(source):
            fix = "give its files by the option `path`"
        raise MissingDataError(Requirement(f"data {name}", str(error), fix)) from None
    about = {"source": name, "options": {k: v for k, v in source_options(source).items() if k != "modality"}}
    return SourceData(f"{name}/{source.split}", source, prepare, limit, about)
