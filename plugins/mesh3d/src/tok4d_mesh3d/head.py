"""The extra decoder of a model for 3D: voxels to Gaussians, sized to the model (AToken, section 3.2)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from tok4d.config.gaussians import GaussianConfig
from tok4d.errors import ConfigError, unknown_name
from tok4d.model.gaussians import GaussianDecoder
from tok4d_mesh3d.head_start import can_carry_colours, start_at_colours

# For models that two CPU cores train. The released decoder of 12 blocks is {preset: released}.
SMALL: dict[str, Any] = {
    "width": 128,
    "blocks": 3,
    "heads": 2,
    "mlp": 512,
    "num_gaussians": 8,
    "opacity_bias": 0.25,  # eight of them on top of each other cover nine tenths
}
STARTS = ("colours", "grey")
COVER = 0.3  # voxel sides: deviation of a new Gaussian, so that those of neighbouring voxels meet on any grid
PRESETS: dict[str, dict[str, Any]] = {"small": SMALL, "released": {"softcap": 30.0}}


def make_head(config: Mapping[str, Any]) -> GaussianDecoder:
    """A decoder from `heads: {mesh3d: {resolution: 16, num_gaussians: 8}}`.

    Args:
        config: fields of `tok4d.config.gaussians.GaussianConfig` on top of `preset`: `small` (the default: 3 blocks of
            width 128, 8 Gaussians a voxel) or `released` (12 blocks of width 768, 32 Gaussians a voxel, softcap 30).
            `start`: `colours` begins at the voxels' mean colours (the default of `small` where its width allows it, see
            `head_start`), `grey` with grey ones.

    Raises:
        ConfigError: for an unknown option, with the nearest, or a value that cannot work.
    """
    options = dict(config)
    preset = options.pop("preset", "small")
    if preset not in PRESETS:
        raise ConfigError(f"heads.mesh3d: {unknown_name('preset', str(preset), PRESETS)}")
    able = preset == "small" and can_carry_colours(options.get("width", SMALL["width"]), options.get("latent", 768))
    start = options.pop("start", "colours" if able else "grey")
    if start not in STARTS:
        raise ConfigError(f"heads.mesh3d: {unknown_name('start', str(start), STARTS)}")
    known = [field.name for field in fields(GaussianConfig)]
    for name in options:
        if name not in known:
            raise ConfigError(f"heads.mesh3d: {unknown_name('option', str(name), ['preset', 'start', *known])}")
    made = {**PRESETS[preset], **options}
    side = made.get("resolution", GaussianConfig.resolution)
    if preset == "small" and "scaling_bias" not in made and isinstance(side, int) and side > 0:
        made["scaling_bias"] = min(0.5, COVER / side)
    decoder = GaussianDecoder(GaussianConfig(**made).check("heads.mesh3d"))
    if start == "colours":
        start_at_colours(decoder)
    return decoder
