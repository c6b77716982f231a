"""The plugin loader: finds plugins by metadata, loads each on its own, and keeps a record of what became of it.

pluggy's own `load_setuptools_entrypoints` has no isolation: one broken plugin ends the program. Here every plugin is
checked in a `PluginManager` of its own and registers into a staging area that is merged only when all of it worked.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

import pluggy

from tok4d.errors import PluginError, unknown_name
from tok4d.plugins.hookspecs import GROUP, HOOK_API_VERSION, PROJECT, HookSpecs
from tok4d.plugins.targets import TARGET, advice, reason, resolve
from tok4d.plugins.validation import check_hooks

KINDS = ("modalities", "sources", "losses", "metrics", "suites", "baselines", "commands")
SELECT = "TOK4D_PLUGINS"
STRICT = "TOK4D_STRICT_PLUGINS"
CORE = "core"

State = Literal["loaded", "disabled", "broken", "incompatible", "conflict"]
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.\-/]*")


@dataclass(frozen=True)
class Candidate:
    """A plugin known from metadata alone; nothing of it is imported yet."""

    name: str
    target: str
    distribution: str
    version: str


@dataclass(frozen=True)
class PluginRecord:
    """What became of one plugin.

    Attributes:
        name: entry point name; two distributions may claim one name, then each has a record.
        distribution, version: the installed distribution that offers it.
        state: `loaded`; `disabled` by TOK4D_PLUGINS; `broken` (raises); `incompatible` (other hook API); `conflict`
            (a name is taken). Only a loaded plugin provides anything.
        provides: names by kind, such as `{"modalities": ("image",)}`.
        error: why it is not loaded; `fix`: what to do about it.
    """

    name: str
    distribution: str
    version: str
    state: State
    provides: Mapping[str, tuple[str, ...]] = field(default_factory=dict, hash=False)
    error: str = ""
    fix: str = ""


@dataclass(frozen=True)
class Entry:
    """One registered thing: where to import it from, and whose it is."""

    target: str
    plugin: str


@dataclass
class Loaded:
    """Everything that the loaded plugins provide, in order of registration."""

    records: list[PluginRecord] = field(default_factory=list)
    tables: dict[str, dict[str, Entry]] = field(default_factory=lambda: {kind: {} for kind in KINDS})
    config_dirs: dict[Path, str] = field(default_factory=dict)


class RefusedError(Exception):
    """Why one plugin is not loaded; becomes its record."""

    def __init__(self, state: State, error: str, fix: str) -> None:
        super().__init__(error)
        self.state: State = state
        self.error = error
        self.fix = fix


def discover() -> list[Candidate]:
    """Installed plugins of the group `tok4d.plugins`, sorted by name and distribution; imports none of them."""
    found = [
        Candidate(
            point.name, point.value, point.dist.name if point.dist else "?", point.dist.version if point.dist else "?"
        )
        for point in metadata.entry_points(group=GROUP)
    ]
    return sorted(found, key=lambda c: (c.name, c.distribution))


def load_plugins(candidates: Iterable[Candidate], environ: Mapping[str, str], builtin: Any = None) -> Loaded:
    """Load the selected plugins, each in isolation.

    Args:
        candidates: what `discover` found.
        environ: TOK4D_PLUGINS=a,b loads only these, TOK4D_PLUGINS=-x,-y all but these; with TOK4D_STRICT_PLUGINS=1
            the first plugin that cannot be loaded raises.
        builtin: module of core's own registrations, loaded first and always.

    Raises:
        PluginError: in strict mode only.
    """
    loaded = Loaded()
    held: dict[str, Candidate] = {}
    strict = environ.get(STRICT, "") not in ("", "0")
    if builtin is not None:
        from tok4d import __version__

        core = Candidate(CORE, builtin.__name__, PROJECT, __version__)
        held[CORE] = core
        loaded.records.append(_load(core, loaded, {}))
        _raise_if(True, loaded.records[0])  # nothing works without it
    selection = Selection.parse(environ.get(SELECT, ""))
    ordered = sorted(candidates, key=lambda c: (c.name, c.distribution))
    for candidate in ordered:
        if not selection.allows(candidate.name):
            loaded.records.append(_record(candidate, "disabled", fix=f"{SELECT} leaves it out; unset it or add it"))
            continue
        record = _load(candidate, loaded, held)
        loaded.records.append(record)
        _raise_if(strict, record)
        held.setdefault(candidate.name, candidate)
    for record in selection.unknown({c.name for c in ordered} | {CORE}):
        loaded.records.append(record)
        _raise_if(strict, record)
    return loaded


@dataclass(frozen=True)
class Selection:
    """What TOK4D_PLUGINS asks for."""

    only: frozenset[str]
    without: frozenset[str]

    @classmethod
    def parse(cls, text: str) -> Selection:
        """`a,b` only these; `-x,-y` all but these; `a,b,-b` means a. Empty: everything."""
        items = [item.strip() for item in text.split(",") if item.strip()]
        only = frozenset(item for item in items if not item.startswith("-"))
        return cls(only, frozenset(item[1:] for item in items if item.startswith("-")))

    def allows(self, name: str) -> bool:
        return (not self.only or name in self.only) and name not in self.without

    def unknown(self, known: set[str]) -> list[PluginRecord]:
        """A record for every selected name that no plugin has: a misspelt name must not silently do nothing."""
        return [
            PluginRecord(
                name,
                "",
                "",
                "broken",
                error=f"{SELECT} names an {unknown_name('plugin', name, known)}",
                fix=f"correct {SELECT}, or install the distribution that provides it",
            )
            for name in sorted((self.only | self.without) - known)
        ]


def _record(candidate: Candidate, state: State, **rest: Any) -> PluginRecord:
    return PluginRecord(candidate.name, candidate.distribution, candidate.version, state, **rest)


def _raise_if(strict: bool, record: PluginRecord) -> None:
    if strict and record.state not in ("loaded", "disabled"):
        raise PluginError(f"plugin {record.name!r} ({record.distribution or '?'}): {record.error}; {record.fix}")


def _load(candidate: Candidate, loaded: Loaded, held: Mapping[str, Candidate]) -> PluginRecord:
    """Load one plugin, merge what it registers only if everything worked, and say what became of it."""
    try:
        if (holder := held.get(candidate.name)) is not None:
            raise RefusedError(
                "conflict",
                f"both {holder.distribution} and {candidate.distribution} offer a plugin named {candidate.name!r}; "
                f"the first, {holder.distribution}, is used",
                f"uninstall one of {holder.distribution}, {candidate.distribution}",
            )
        staged = _stage(candidate, _import(candidate), loaded)
    except RefusedError as refusal:
        return _record(candidate, refusal.state, error=refusal.error, fix=refusal.fix)
    for kind, entries in staged.tables.items():
        loaded.tables[kind].update(entries)
    loaded.config_dirs.update(staged.config_dirs)
    provides = {kind: tuple(entries) for kind, entries in staged.tables.items() if entries}
    if staged.config_dirs:
        provides["configs"] = tuple(str(folder) for folder in staged.config_dirs)
    return _record(candidate, "loaded", provides=provides)


def _import(candidate: Candidate) -> Any:
    """The plugin module, after the check of its API version."""
    try:
        module = resolve(candidate.target)
    except (Exception, SystemExit) as error:  # a plugin may do anything on import, even exit
        raise RefusedError(
            "broken", f"importing {candidate.target} failed: {reason(error)}", _advice(candidate, error)
        ) from error
    version = getattr(module, "HOOK_API_VERSION", None)
    if version != HOOK_API_VERSION:
        wrote = "states no HOOK_API_VERSION" if version is None else f"is written for hook API version {version!r}"
        newer = isinstance(version, int) and version > HOOK_API_VERSION
        raise RefusedError(
            "incompatible",
            f"{candidate.target} {wrote}; this tok4d has version {HOOK_API_VERSION}",
            "update tok4d"
            if newer
            else f"update {candidate.distribution}; its authors set HOOK_API_VERSION = {HOOK_API_VERSION}",
        )
    return module


def _stage(candidate: Candidate, module: Any, loaded: Loaded) -> Loaded:
    """Run the plugin's hooks into a staging area."""
    manager = pluggy.PluginManager(PROJECT)
    manager.add_hookspecs(HookSpecs)
    try:
        manager.register(module, name=candidate.name)
        check_hooks(manager, module)
    except PluginError as error:
        raise RefusedError("broken", str(error), f"the authors of {candidate.distribution} correct the name") from error
    except Exception as error:  # pluggy's own validation, or a module whose attributes raise
        raise RefusedError("broken", reason(error), _advice(candidate, error)) from error
    staged = Loaded()
    conflicts: list[RefusedError] = []
    for kind in KINDS:
        hook = f"tok4d_register_{kind}"
        register = _Register(kind, candidate, loaded.tables[kind], staged.tables[kind], conflicts)
        _call(candidate, hook, lambda hook=hook, register=register: getattr(manager.hook, hook)(register=register))
        if conflicts:  # also when the plugin swallowed the refusal
            raise conflicts[0]
    results = _call(candidate, "tok4d_config_dirs", lambda: manager.hook.tok4d_config_dirs())
    for folder in (folder for result in results for folder in _folders(candidate, result)):
        staged.config_dirs[folder] = candidate.name
    return staged


def _call(candidate: Candidate, hook: str, call: Any) -> Any:
    try:
        return call()
    except RefusedError:
        raise
    except (Exception, SystemExit) as error:
        raise RefusedError("broken", f"{hook} raised {reason(error)}", _advice(candidate, error)) from error


def _folders(candidate: Candidate, result: Any) -> list[Path]:
    """What `tok4d_config_dirs` gave, checked."""
    items = result if isinstance(result, (list, tuple)) else [result]
    for item in items:
        if not isinstance(item, (str, Path)) or not Path(item).is_dir():
            raise RefusedError(
                "broken",
                f"tok4d_config_dirs gave {item!r}, which is not a folder",
                f"reinstall {candidate.distribution}; if it persists, report it to its authors",
            )
    return [Path(item) for item in items]


def _advice(candidate: Candidate, error: BaseException) -> str:
    return advice(error, candidate.target, candidate.distribution, f"{SELECT}=-{candidate.name}")


@dataclass(frozen=True)
class _Register:
    """The `register(name, target)` that a hook receives."""

    kind: str
    candidate: Candidate
    taken: Mapping[str, Entry]
    staged: dict[str, Entry]
    conflicts: list[RefusedError]

    def __call__(self, name: str, target: str) -> None:
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise PluginError(f"{self.kind} name {name!r} must be letters, digits and . _ - /")
        if not isinstance(target, str) or not TARGET.fullmatch(target):
            raise PluginError(f"{self.kind} {name!r} must be given as 'module:attribute', got {target!r}")
        holder = self.taken.get(name) or self.staged.get(name)
        if holder is not None:
            refusal = RefusedError(
                "conflict",
                f"{self.kind} name {name!r} is already provided by plugin {holder.plugin!r} ({holder.target})",
                f"rename it in {self.candidate.distribution}, or leave one out: {SELECT}=-{self.candidate.name}",
            )
            self.conflicts.append(refusal)
            raise refusal
        self.staged[name] = Entry(target, self.candidate.name)
