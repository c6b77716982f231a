"""Schema of the Gaussian decoder. Light: no torch here. Defaults are the released `3d_decode_gs` of AToken."""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite
from typing import Optional

from tok4d.config.schema import MAX_BLOCKS
from tok4d.errors import ConfigError

MAX_SIZE = 1_000_000
_SIZES = ("resolution", "width", "latent", "blocks", "heads", "mlp", "window", "num_gaussians")
_GAINS = ("offset_gain", "color_gain", "scaling_gain", "rotation_gain", "opacity_gain")


@dataclass
class GaussianConfig:
    """A decoder of sparse voxels into a fixed number of 3D Gaussians per voxel.

    Attributes:
        resolution: voxels along each side of the unit cube.
        latent: channels that the decoder reads, the first ones of its input.
        width, blocks, heads, mlp: of the transformer.
        window: side of the attention windows in voxels.
        softcap: attention logits become softcap * tanh(logits / softcap); None: as they are (the release runs with 30).
        num_gaussians: Gaussians per voxel.
        voxel_size: how far a Gaussian may leave its voxel: its centre stays within this many half voxels.
        filter_2d: pixels^2 that the renderer adds to a projected covariance (its `eps2d`).
        filter_3d: smallest scale, added in quadrature, in units of the cube's side.
        scaling_bias, opacity_bias: scale and opacity of a Gaussian whose output is zero (before `filter_3d`).
        offset_gain, color_gain, scaling_gain, rotation_gain, opacity_gain: factors on the last layer's outputs.
    """

    resolution: int = 64
    latent: int = 768
    width: int = 768
    blocks: int = 12
    heads: int = 12
    mlp: int = 3072
    window: int = 8
    softcap: Optional[float] = None
    num_gaussians: int = 32
    voxel_size: float = 1.5
    filter_2d: float = 0.1
    filter_3d: float = 9e-4
    scaling_bias: float = 4e-3
    opacity_bias: float = 0.1
    offset_gain: float = 1.0
    color_gain: float = 1.0
    scaling_gain: float = 1.0
    rotation_gain: float = 0.1
    opacity_gain: float = 1.0

    @property
    def channels(self) -> int:
        """Outputs per voxel: offset, color and scaling (3 each), rotation (4) and opacity of every Gaussian."""
        return 14 * self.num_gaussians

    def check(self, where: str = "gaussians") -> GaussianConfig:
        """Raise ConfigError for values that cannot work; return self."""
        for name in _SIZES:
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or not 0 < value <= MAX_SIZE:
                raise ConfigError(f"{where}.{name} must be a whole number from 1 to {MAX_SIZE}, got {value!r}")
        if self.blocks > MAX_BLOCKS:
            raise ConfigError(f"{where}.blocks must be at most {MAX_BLOCKS}, got {self.blocks}")
        if self.width % self.heads:
            raise ConfigError(f"{where}: width {self.width} must be divisible by heads {self.heads}")
        if self.width < 6:
            raise ConfigError(f"{where}.width must be at least 6 (sine and cosine of x, y and z), got {self.width}")
        softcap = 1.0 if self.softcap is None else self.softcap
        for name, value in (("softcap", softcap), *((name, getattr(self, name)) for name in ("filter_3d", *_GAINS))):
            _number(f"{where}.{name}", value, 0, float("inf"))
        # At 1 or below, Gaussians on the border of a voxel would start at an infinite offset.
        _number(f"{where}.voxel_size", self.voxel_size, 1, float("inf"))
        _number(f"{where}.scaling_bias", self.scaling_bias, 0, 1)
        _number(f"{where}.opacity_bias", self.opacity_bias, 0, 1)
        if self.filter_2d != 0:
            _number(f"{where}.filter_2d", self.filter_2d, 0, float("inf"))
        return self


def _number(what: str, value: object, above: float, below: float) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not above < value < below:
        bounds = f"above {above:g}" + (f" and below {below:g}" if isfinite(below) else " and finite")
        raise ConfigError(f"{what} must be a number {bounds}, got {value!r}")
