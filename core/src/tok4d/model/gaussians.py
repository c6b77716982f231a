"""The Gaussian decoder: sparse voxels to 3D Gaussians (AToken, section 3.2; the released `3d_decode_gs`).

T = packed voxels of all samples, C = channels, G = Gaussians per voxel, N = Gaussians of one asset = G * its voxels.
Outputs of a voxel: offset 3G, color 3G, scaling 3G, rotation 4G, opacity G. Gaussians are ordered voxel by voxel.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import expm1, log

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tok4d.config.gaussians import GaussianConfig
from tok4d.config.schema import StackConfig
from tok4d.errors import Tok4dError
from tok4d.nn.block import Block, Context
from tok4d.nn.linear import exact
from tok4d.nn.precision import at_least_float32
from tok4d.nn.windows import sincos, windows
from tok4d.tokens import TokenSet

SH_DC = 0.28209479177387814  # the constant spherical harmonic, 1 / (2 sqrt(pi))
PARTS = {"offset": 3, "color": 3, "scaling": 3, "rotation": 4, "opacity": 1}  # in the order of the channels
EPS = 1e-5  # of the last, non-affine norm


@dataclass(frozen=True, eq=False)
class Gaussians:
    """The 3D Gaussians of one asset, in the unit cube [-0.5, 0.5]^3 (a little beyond at its border).

    Attributes:
        means: centres x, y, z, `[N, 3]`.
        scales: standard deviations along the Gaussian's own axes, `[N, 3]`, positive, in units of the cube's side.
        quaternions: rotations w, x, y, z, `[N, 4]`, of length 1.
        opacities: `[N]` in (0, 1).
        colors: coefficients of the constant spherical harmonic, `[N, 3]`, unbounded.

    Raises:
        Tok4dError: on construction, for shapes that do not fit together.
    """

    means: Tensor
    scales: Tensor
    quaternions: Tensor
    opacities: Tensor
    colors: Tensor

    def __post_init__(self) -> None:
        n = len(self.means)
        wanted = {"means": (n, 3), "scales": (n, 3), "quaternions": (n, 4), "opacities": (n,), "colors": (n, 3)}
        for name, shape in wanted.items():
            if tuple(getattr(self, name).shape) != shape:
                raise Tok4dError(f"{name} of {n} Gaussians must be {shape}, got {tuple(getattr(self, name).shape)}")

    def __len__(self) -> int:
        return len(self.means)

    @property
    def rgb(self) -> Tensor:
        """Colors `[N, 3]`: 0.5 + SH_DC * colors, in [0, 1] for what a screen can show; not clamped."""
        return 0.5 + SH_DC * self.colors


def hammersley(count: int) -> Tensor:
    """Evenly spread points in [0, 1)^3, float64 `[count, 3]`: i / count, then i's digits mirrored in base 2 and 3."""
    return torch.tensor(
        [[i / count, _mirrored(i, 2), _mirrored(i, 3)] for i in range(count)], dtype=torch.float64, device="cpu"
    )


def _mirrored(number: int, base: int) -> float:
    """The digits of a number behind the point, least significant first (van der Corput)."""
    value, place = 0.0, 1.0
    while number:
        number, digit = divmod(number, base)
        place /= base
        value += digit * place
    return value


class GaussianDecoder(nn.Module):
    """Transformer over voxels with shifted windows and absolute positions; a last layer gives Gaussians.

    A new decoder starts with its last layer at zero: small grey Gaussians, spread evenly over their voxel.

    Raises:
        ConfigError: for a configuration that cannot work.
    """

    def __init__(self, config: GaussianConfig) -> None:
        super().__init__()
        self.config = config.check()
        stack = StackConfig(
            width=config.width,
            blocks=config.blocks,
            heads=config.heads,
            mlp=config.mlp,
            norm="rms",
            bias=False,
            qk_norm=False,
        )
        self.input_layer = nn.Linear(config.latent, config.width, bias=False)
        self.blocks = nn.ModuleList(Block(stack) for _ in range(config.blocks))
        self.out_layer = nn.Linear(config.width, config.channels)
        self.offset_perturbation: Tensor
        start = torch.atanh((hammersley(config.num_gaussians) * 2 - 1) / config.voxel_size).float()
        # Copied into a fresh tensor, so that a decoder built on the meta device has all of its tensors there.
        self.register_buffer("offset_perturbation", torch.empty(config.num_gaussians, 3).copy_(start))
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
        nn.init.zeros_(self.out_layer.weight)
        nn.init.zeros_(self.out_layer.bias)

    def forward(self, tokens: TokenSet) -> list[Gaussians]:
        """Gaussians of every sample, G per voxel; an empty sample has none. Differentiable, float32 at least.

        Args:
            tokens: coordinates in [0, resolution)^3 (t is ignored), features `[T, latent or more]`, of which the
                first `latent` channels are read.

        Raises:
            Tok4dError: for too narrow features or a coordinate outside the grid.
        """
        made = self.activate(self.raw(tokens), tokens.coords)
        parts = [
            part.split([length * self.config.num_gaussians for length in tokens.lengths])
            for part in (made.means, made.scales, made.quaternions, made.opacities, made.colors)
        ]
        return [Gaussians(*sample) for sample in zip(*parts, strict=True)]

    def raw(self, tokens: TokenSet) -> Tensor:
        """The last layer's outputs `[T, 14 G]`, float32 at least; arguments and errors as in `forward`."""
        x = tokens.feats
        if x.shape[1] < self.config.latent:
            raise Tok4dError(f"this Gaussian decoder reads {self.config.latent} channels, got only {x.shape[1]}")
        x = exact(self.input_layer, x[:, : self.config.latent])
        x = self.run(x + sincos(tokens.coords, self.config.width).to(x.dtype), tokens)
        with torch.autocast(x.device.type, enabled=False):
            x = F.layer_norm(at_least_float32(x), x.shape[-1:], eps=EPS)
            weight, bias = at_least_float32(self.out_layer.weight), at_least_float32(self.out_layer.bias)
            return F.linear(x.to(weight.dtype), weight, bias)

    def run(self, x: Tensor, tokens: TokenSet) -> Tensor:
        """The blocks alone, `[T, C] -> [T, C]`; every second one with its windows shifted by half of their side.

        The stream itself goes into the order of a block's windows and from there into that of the next block's:
        one gather a block, where queries, keys, values and results would be four.
        """
        size, resolution = self.config.window, self.config.resolution
        grouped = [windows(tokens, size, shift, resolution) for shift in (0, size // 2)]
        contexts = [Context(each.seqs, None, softcap=self.config.softcap) for each in grouped]
        moves = [grouped[1].inverse[grouped[0].order], grouped[0].inverse[grouped[1].order]]
        for i, block in enumerate(self.blocks):
            x = x[grouped[0].order] if i == 0 else x[moves[i % 2]]
            x = block(x, contexts[i % 2])
        return x[grouped[(len(self.blocks) - 1) % 2].inverse]

    def split(self, raw: Tensor) -> dict[str, Tensor]:
        """The outputs by part, each times its gain: offset, color, scaling `[T, G, 3]`, rotation 4, opacity 1."""
        count = self.config.num_gaussians
        pieces = raw.split([count * width for width in PARTS.values()], dim=1)
        return {
            name: piece.unflatten(1, (count, width)) * getattr(self.config, f"{name}_gain")
            for (name, width), piece in zip(PARTS.items(), pieces, strict=True)
        }

    def activate(self, raw: Tensor, coords: Tensor) -> Gaussians:
        """Gaussians of the outputs `[T, 14 G]` of voxels at `coords` `[T, 4]`, all samples in a row (T * G of them)."""
        config = self.config
        with torch.autocast(raw.device.type, enabled=False):
            part = self.split(at_least_float32(raw))
            reach = 0.5 * config.voxel_size / config.resolution
            centre = (coords[:, None, 1:].to(raw.dtype) + 0.5) / config.resolution - 0.5
            means = centre + torch.tanh(part["offset"] + self.offset_perturbation) * reach
            width = F.softplus(part["scaling"] + config.scaling_bias + log(-expm1(-config.scaling_bias)))
            scales = (width.square() + config.filter_3d**2).sqrt()
            opacities = torch.sigmoid(part["opacity"] + log(config.opacity_bias / (1 - config.opacity_bias)))
            return Gaussians(
                means=means.flatten(0, 1),
                scales=scales.flatten(0, 1),
                quaternions=_rotations(part["rotation"]).flatten(0, 1),
                opacities=opacities.flatten(),
                colors=part["color"].flatten(0, 1),
            )


def _rotations(change: Tensor) -> Tensor:
    """Unit quaternions w, x, y, z of (1, 0, 0, 0) + change, `[..., 4]`; the identity where that sum is zero."""
    identity = change.new_tensor([1.0, 0.0, 0.0, 0.0])
    q = change + identity
    square = q.square().sum(-1, keepdim=True)
    defined = square > 1e-12
    # Selected before the root too: a gradient of infinity times zero would be NaN.
    return torch.where(defined, q * torch.where(defined, square, 1.0).rsqrt(), identity)
