"""What this plugin provides. Light on purpose: the host imports it to list plugins, so nothing heavy loads here."""

from __future__ import annotations

from tok4d.plugins.hookspecs import Register, hookimpl

HOOK_API_VERSION = 1


@hookimpl
def tok4d_register_modalities(register: Register) -> None:
    register("mesh3d", "tok4d_mesh3d.modality:Mesh3dModality")


@hookimpl
def tok4d_register_sources(register: Register) -> None:
    # The same objects for other modalities, by names that belong to those: `image/...` gives their samples.
    register("image/furniture", "tok4d_mesh3d.turning:FurniturePictures")
    register("video/furniture", "tok4d_mesh3d.turning:FurnitureTurntables")


@hookimpl
def tok4d_register_losses(register: Register) -> None:
    register("render", "tok4d_mesh3d.objective:Render")
