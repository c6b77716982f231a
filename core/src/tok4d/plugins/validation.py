"""Checks of one plugin's hook names: pluggy's `check_pending()`, but for one plugin and with the nearest name."""

from __future__ import annotations

import inspect
from typing import Any

import pluggy

from tok4d.errors import PluginError, unknown_name
from tok4d.plugins.hookspecs import HookSpecs

HOOKS = tuple(name for name in vars(HookSpecs) if name.startswith("tok4d_"))


def check_hooks(manager: pluggy.PluginManager, plugin: Any) -> None:
    """Refuse hooks that would never be called.

    Raises:
        PluginError: for a hookimpl whose name no specification has, and for a function named like a hook that lacks
            the `@hookimpl` mark.
    """
    implemented = manager.get_hookcallers(plugin) or []
    for caller in implemented:
        if not caller.has_spec():
            raise PluginError(unknown_name("hook", caller.name, HOOKS))
    marked = {caller.name for caller in implemented}
    for name in HOOKS:
        if name not in marked and inspect.isroutine(getattr(plugin, name, None)):
            raise PluginError(f"{name} is defined without @hookimpl and would never be called")
