"""Suite files: which tasks there are, on what data, by which protocol. YAML, checked by name and type.

A suite comes from a folder `suites/` in one of the plugins' config folders, from the hook `tok4d_register_suites`
(a function or constant that gives a path, a mapping or a `Suite`), or from a path.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import fields
from pathlib import Path
from typing import Any

from tok4d.config.loader import read_yaml
from tok4d.errors import ConfigError, Tok4dError, unknown_name
from tok4d.options import from_options
from tok4d.plugins.registry import config_dirs, lookup, names
from tok4d_bench.contracts import Suite, TaskSpec

TASK_KINDS = ("reconstruction", "zero_shot", "retrieval", "probe", "codebook", "speed")
MAX_INNER_BATCH = 4096


def suite_names() -> list[str]:
    """Names of all suites, sorted."""
    return sorted({*_files(), *names("suites")})


def load_suite(name: str | Path) -> Suite:
    """A suite by name, or the path of a YAML file.

    Raises:
        ConfigError: for an unknown name, key or type, or values that cannot be used.
    """
    text = str(name)
    if text.endswith((".yaml", ".yml")) or "/" in text or os.sep in text:
        path = Path(text).expanduser()
        if not path.is_file():
            raise ConfigError(f"{text}: no such suite file")
        return parse_suite(read_yaml(path), path.stem, text)
    files = _files()
    if text in names("suites"):
        if text in files:
            raise ConfigError(f"suite {text!r} exists twice: a hook registers it, and {files[text][0]}")
        return _registered(text)
    if text not in files:
        raise ConfigError(unknown_name("suite", text, suite_names()))
    if len(files[text]) > 1:
        raise ConfigError(f"suite {text!r} exists twice, give a path: {', '.join(map(str, files[text]))}")
    return parse_suite(read_yaml(files[text][0]), text, str(files[text][0]))


def parse_suite(content: Mapping[str, Any], name: str, where: str) -> Suite:
    """A suite from plain data; errors as `load_suite`."""
    try:
        suite = _typed(Suite, {"name": name, **content})
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from None
    if suite.name != name:
        raise ConfigError(f"{where}: calls itself {suite.name!r}; a suite's name is that of its file")
    if not suite.tasks:
        raise ConfigError(f"{where}: has no tasks")
    suite.tasks = {str(task): _task(f"{where}: tasks.{task}", spec) for task, spec in suite.tasks.items()}
    return suite


def known_suites(wanted: Iterable[str], files: Sequence[str] = ()) -> dict[str, Suite]:
    """Suites by name: those of files, and of `wanted` those that are known by name.

    Raises:
        ConfigError: for a file that holds no suite.
    """
    found = {suite.name: suite for suite in map(load_suite, files)}
    for name in dict.fromkeys(wanted):
        if name not in found:
            with suppress(Tok4dError):
                found[name] = load_suite(name)
    return found


def select(suite: Suite, tasks: list[str]) -> dict[str, TaskSpec]:
    """The tasks asked for, in the suite's order; all where none is named.

    Raises:
        ConfigError: for an unknown one.
    """
    for task in tasks:
        if task not in suite.tasks:
            raise ConfigError(unknown_name(f"task of suite {suite.name}", task, suite.tasks))
    return {name: spec for name, spec in suite.tasks.items() if not tasks or name in tasks}


def measure_entries(spec: TaskSpec) -> list[tuple[str, dict[str, Any]]]:
    """Name and options of every measure of a task: `psnr`, or `{lpips: {net: vgg}}`.

    Raises:
        ConfigError: for anything else.
    """
    entries: list[tuple[str, dict[str, Any]]] = []
    for item in spec.measures:
        if isinstance(item, str):
            entries.append((item, {}))
        elif isinstance(item, Mapping) and len(item) == 1 and isinstance(options := next(iter(item.values())), Mapping):
            entries.append((str(next(iter(item))), dict(options)))
        else:
            raise ConfigError(f"a measure must be a name or {{name: {{option: value}}}}, got {item!r}")
    return entries


def _files() -> dict[str, list[Path]]:
    found: dict[str, list[Path]] = {}
    for folder in config_dirs():
        for path in sorted((folder / "suites").glob("*.yaml")):
            found.setdefault(path.stem, []).append(path)
    return found


def _registered(name: str) -> Suite:
    made = lookup("suites", name)
    if callable(made):
        made = made()
    if isinstance(made, (str, Path)):
        path = Path(made)
        return parse_suite(read_yaml(path), name, str(path))
    where = f"suite {name!r} of a plugin"
    if isinstance(made, Suite):
        made = {field.name: getattr(made, field.name) for field in fields(Suite)}
    if not isinstance(made, Mapping):
        raise ConfigError(f"{where} is a {type(made).__name__}, not a path, a mapping or a Suite")
    return parse_suite(made, name, where)


def _task(where: str, spec: Any) -> TaskSpec:
    try:
        task = spec if isinstance(spec, TaskSpec) else _typed(TaskSpec, spec)
        if task.kind not in TASK_KINDS:
            raise ConfigError(unknown_name("kind of task", task.kind, TASK_KINDS))
        if not 1 <= task.inner_batch <= MAX_INNER_BATCH:
            raise ConfigError(f"inner_batch must be in [1, {MAX_INNER_BATCH}], got {task.inner_batch}")
        if ("layout" in task.data) == ("source" in task.data):
            raise ConfigError("data must have a layout (of a real data set) or a source, one of them")
        if not task.measures:
            raise ConfigError("has no measures")
        measure_entries(task)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from None
    return task


def _typed(cls: Any, content: Any) -> Any:
    """A dataclass from a mapping."""
    if not isinstance(content, Mapping):
        raise ConfigError(f"must be a mapping of keys, got {content!r}")
    return from_options(cls, content, f"key of a {cls.__name__.lower().removesuffix('spec')}")
