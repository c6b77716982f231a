"""What this plugin provides. Light on purpose: the host imports it to list plugins, so nothing heavy loads here."""

from __future__ import annotations

from pathlib import Path

from tok4d.plugins.hookspecs import Register, hookimpl

HOOK_API_VERSION = 1


@hookimpl
def tok4d_register_modalities(register: Register) -> None:
    register("image", "tok4d_image.modality:ImageModality")


@hookimpl
def tok4d_config_dirs() -> list[Path]:
    return [Path(__file__).parent / "config"]
