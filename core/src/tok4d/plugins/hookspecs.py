"""What a plugin can provide. Every hook is one line; values are strings ("module:attribute"), so nothing heavy loads.

A plugin is a module named by an entry point of the group `tok4d.plugins`. It states the API it was written for and
implements any of these hooks:

    HOOK_API_VERSION = 1

    @hookimpl
    def tok4d_register_modalities(register):
        register("radar", "tok4d_radar.modality:RadarModality")
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pluggy

PROJECT = "tok4d"
GROUP = "tok4d.plugins"
HOOK_API_VERSION = 1

hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)

Register = Callable[[str, str], None]  # register(name, "module:attribute")


class HookSpecs:
    """The hooks. `register(name, target)` refuses a name that another plugin already provides."""

    @hookspec
    def tok4d_register_modalities(self, register: Register) -> None:
        """Modality classes by name: `register("image", "tok4d_image.modality:ImageModality")`."""

    @hookspec
    def tok4d_register_sources(self, register: Register) -> None:
        """Modality-independent sources; those of a modality come from `Modality.sources()`."""

    @hookspec
    def tok4d_register_losses(self, register: Register) -> None:
        """Loss terms (`tok4d.losses.objective:Term` classes) by the name used in configs."""

    @hookspec
    def tok4d_register_metrics(self, register: Register) -> None:
        """Modality-independent metric factories; those of a modality come from `Modality.metrics()`."""

    @hookspec
    def tok4d_register_suites(self, register: Register) -> None:
        """Benchmark suites by name."""

    @hookspec
    def tok4d_register_baselines(self, register: Register) -> None:
        """Kinds of subjects that benchmarks measure: `register("mycodec", "tok4d_mycodec.bench:MyCodec")`."""

    @hookspec
    def tok4d_register_commands(self, register: Register) -> None:
        """CLI commands by name: `register("radar-scan", "tok4d_radar.cli:scan")` (a Typer function)."""

    @hookspec
    def tok4d_config_dirs(self) -> list[Path]:
        """Folders that may hold `presets/`, `curricula/` and `recipes/` of YAML files."""
        return []
