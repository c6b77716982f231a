"""Queries on what plugins provide. Plugins load on the first query; nothing here imports torch.

`modality("image")` is the one object of that name, `modality_for("photo.png")` the same by suffix, `lookup("losses",
"l1")` imports whatever a plugin registered, `source_factory("image/photos")` and `metric_factory` name what belongs
to a modality.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tok4d.errors import ConfigError, DataError, PluginError, unknown_name
from tok4d.modality import Modality
from tok4d.plugins.loader import KINDS, SELECT, Loaded, PluginRecord, discover, load_plugins
from tok4d.plugins.targets import advice, reason, resolve

CONFIG_KINDS = ("presets", "curricula", "recipes")
SINGULAR = {
    "modalities": "modality",
    "sources": "source",
    "losses": "loss",
    "metrics": "metric",
    "suites": "suite",
    "baselines": "baseline",
    "commands": "command",
    "presets": "preset",
    "curricula": "curriculum",
    "recipes": "recipe",
}

_lock = threading.RLock()
_loaded: Loaded | None = None
_loading = False
_modalities: dict[str, Modality] = {}


def reset() -> None:
    """Forget all plugins; the next query loads them anew. For tests."""
    global _loaded
    with _lock:
        _loaded = None
        _modalities.clear()


def _host() -> Loaded:
    """The loaded plugins, loaded now if this is the first query."""
    global _loaded, _loading
    with _lock:
        if _loaded is None:
            if _loading:
                raise PluginError("a plugin module asks the registry while plugins load; do it inside a function")
            from tok4d.plugins import builtin

            _loading = True
            try:
                _loaded = load_plugins(discover(), os.environ, builtin)
            finally:
                _loading = False
        return _loaded


def records() -> list[PluginRecord]:
    """One record per plugin, core first; also of those that are disabled or could not be loaded."""
    return list(_host().records)


def names(kind: str) -> list[str]:
    """Registered names of a kind, in order of registration."""
    if kind not in KINDS:
        raise ValueError(unknown_name("kind", kind, KINDS))
    return list(_host().tables[kind])


def provider(kind: str, name: str) -> str:
    """Name of the plugin that provides `name`.

    Raises:
        PluginError: for an unknown name.
    """
    if name not in names(kind):
        raise PluginError(unknown_name(SINGULAR[kind], name, names(kind)) + _not_loaded())
    return _host().tables[kind][name].plugin


def lookup(kind: str, name: str) -> Any:
    """Import what a plugin registered under a name.

    Raises:
        PluginError: for an unknown name, or when the import fails: names the plugin, its target and the fix.
    """
    plugin = provider(kind, name)
    target = _host().tables[kind][name].target
    try:
        return resolve(target)
    except (Exception, SystemExit) as error:
        owner = next(r for r in _host().records if r.name == plugin and r.state == "loaded")
        fix = advice(error, target, owner.distribution, f"{SELECT}=-{plugin}")
        raise PluginError(
            f"{SINGULAR[kind]} {name!r} of plugin {plugin!r}: importing {target} failed: {reason(error)}; {fix}"
        ) from error


def _not_loaded() -> str:
    """Hint for an unknown name, when a plugin that may have had it is not loaded."""
    missing = [f"{r.name} ({r.state})" for r in _host().records if r.state != "loaded"]
    return f" (plugins not loaded: {', '.join(missing)}; see `tok4d plugins`)" if missing else ""


def modalities() -> list[str]:
    """Names of the registered modalities, in order of registration."""
    return names("modalities")


def modality(name: str) -> Modality:
    """The modality of a name; one object per process.

    Raises:
        PluginError: for an unknown name, a class that is not a Modality, or one that calls itself something else.
    """
    with _lock:
        if name not in _modalities:
            _modalities[name] = _make_modality(name)
        return _modalities[name]


def _make_modality(name: str) -> Modality:
    made = lookup("modalities", name)
    where = f"modality {name!r} of plugin {provider('modalities', name)!r}"
    if isinstance(made, type):
        try:
            made = made()
        except Exception as error:
            raise PluginError(f"{where}: {made.__name__}() raised {reason(error)}") from error
    if not isinstance(made, Modality):
        raise PluginError(f"{where} is a {type(made).__name__}, which is not a tok4d.Modality")
    if getattr(made, "name", None) != name:
        raise PluginError(f"{where} calls itself {getattr(made, 'name', None)!r}; register it under its own name")
    return made


def modality_for(path: str | Path, name: str | None = None) -> Modality:
    """The modality that reads a file, by its suffix; the longest suffix that matches wins, then the first registered.

    Args:
        name: take this modality instead.

    Raises:
        DataError: when no modality knows the suffix; lists the known ones.
        PluginError: for an unknown `name`.
    """
    if name is not None:
        return modality(name)
    text = Path(path).name.lower()
    best: tuple[int, Modality | None] = (0, None)
    known: set[str] = set()
    broken: list[str] = []
    for candidate in modalities():
        try:
            found = modality(candidate)
        except PluginError as error:  # another modality may still know the suffix
            broken.append(str(error))
            continue
        known.update(found.suffixes)
        longest = max((len(suffix) for suffix in found.suffixes if text.endswith(suffix)), default=0)
        if longest > best[0]:
            best = (longest, found)
    if best[1] is None:
        what = f"the suffix {Path(path).suffix!r}" if Path(path).suffix else "a file without suffix"
        known_text = f"no modality reads {what}; known: {', '.join(sorted(known)) or 'none'}"
        raise DataError(path, "; ".join([known_text, *broken]))
    return best[1]


def source_factory(name: str) -> Any:
    """Source class by name: `image/photos` from a modality, anything else from a hook.

    Raises:
        PluginError: for an unknown name, with the nearest one.
    """
    return _factory("sources", name, lambda owner: owner.sources())


def metric_factory(name: str) -> Any:
    """Metric factory by name: `image/psnr` from a modality, anything else from a hook.

    Raises:
        PluginError: for an unknown name, with the nearest one.
    """
    return _factory("metrics", name, lambda owner: owner.metrics())


def _factory(kind: str, name: str, provided: Callable[[Modality], dict[str, Any]]) -> Any:
    if name in names(kind):
        return lookup(kind, name)
    prefix, slash, short = name.partition("/")
    if slash and prefix in modalities():
        own = provided(modality(prefix))
        if short in own:
            return own[short]
        available = [f"{prefix}/{key}" for key in own]
    else:
        available = [f"{m}/{key}" for m in modalities() for key in _quietly(m, provided)]
    raise PluginError(unknown_name(SINGULAR[kind], name, [*available, *names(kind)]) + _not_loaded())


def _quietly(name: str, provided: Callable[[Modality], dict[str, Any]]) -> list[str]:
    """Names for a hint; a modality that does not import has none."""
    try:
        return list(provided(modality(name)))
    except PluginError:
        return []


def config_dirs() -> list[Path]:
    """Folders with `presets/`, `curricula/`, `recipes/`: core's first, then those of plugins."""
    return list(_host().config_dirs)


def config_names(kind: str) -> list[str]:
    """Stems of all YAML files of a kind (`presets`, `curricula`, `recipes`), sorted."""
    return sorted({path.stem for folder in config_dirs() for path in (folder / kind).glob("*.yaml")})


def find_config(kind: str, stem: str | Path) -> Path:
    """The YAML file of a preset, curriculum or recipe: by name, or the path of a file that exists.

    Raises:
        ConfigError: for an unknown name (with the nearest), a missing file, or a name that two plugins have.
    """
    if kind not in CONFIG_KINDS:
        raise ValueError(unknown_name("kind of config", kind, CONFIG_KINDS))
    text = str(stem)
    if text.endswith((".yaml", ".yml")) or "/" in text or os.sep in text:
        if not Path(text).expanduser().is_file():
            raise ConfigError(f"{text}: no such {SINGULAR[kind]} file")
        return Path(text).expanduser()
    found = [path for folder in config_dirs() if (path := folder / kind / f"{text}.yaml").is_file()]
    if not found:
        raise ConfigError(unknown_name(SINGULAR[kind], text, config_names(kind)))
    if len(found) > 1:
        raise ConfigError(f"{SINGULAR[kind]} {text!r} exists twice, give a path: {', '.join(map(str, found))}")
    return found[0]
