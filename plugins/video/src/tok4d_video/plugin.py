"""What this plugin provides. Light on purpose: the host imports it to list plugins, so nothing heavy loads here."""

from __future__ import annotations

from tok4d.plugins.hookspecs import Register, hookimpl

HOOK_API_VERSION = 1


@hookimpl
def tok4d_register_modalities(register: Register) -> None:
    register("video", "tok4d_video.modality:VideoModality")
