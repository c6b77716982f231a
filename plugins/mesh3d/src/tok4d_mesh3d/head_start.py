"""A Gaussian decoder that begins at the colours of its voxels instead of grey.

C = width of the decoder. Its stream is the input layer plus sines and cosines of the position. The sine of the lowest
frequency hardly moves (below 0.01 on any grid up to 64): those of the three axes carry red, green, blue. The position
code leaves a channel over that is always zero; the last layer reads the difference to it, so that the mean that the
last norm subtracts cancels. The blocks' outputs start at zero, as in a linear start (`tok4d.weights.linear`).
"""

from __future__ import annotations

import torch
from torch import nn

from tok4d.errors import ConfigError
from tok4d.model.gaussians import SH_DC, GaussianDecoder
from tok4d.nn.block import Block
from tok4d.nn.windows import sincos

SIGNAL = 0.3  # of a colour at full strength, in the stream: small beside the position code, so that the norm is steady


def can_carry_colours(width: object, latent: object) -> bool:
    """Whether a decoder has a channel without position code, and colours for an input."""
    return isinstance(width, int) and isinstance(latent, int) and width % 6 != 0 and latent % 3 == 0


@torch.no_grad()
def start_at_colours(decoder: GaussianDecoder) -> None:
    """Set the weights so that every Gaussian has its voxel's mean colour, in place; shapes and places stay.

    The first `latent` input channels are values in [-1, 1], red, green and blue in turn, as patches hold them.

    Raises:
        ConfigError: for a decoder whose width leaves no channel without a position code (a multiple of 6), or whose
            input is no whole number of colours.
    """
    config = decoder.config
    per_axis = config.width // 6  # sines, and as many cosines, of one axis
    free = config.width - 1
    if not can_carry_colours(config.width, config.latent):
        raise ConfigError(
            f"heads.mesh3d: a start at colours needs a width that is no multiple of 6 and a latent that is one of 3, "
            f"got width {config.width} and latent {config.latent}; set start: grey"
        )
    carriers = [axis * 2 * per_axis + per_axis - 1 for axis in range(3)]
    decoder.input_layer.weight.zero_()
    decoder.out_layer.weight.zero_()
    begin = 3 * config.num_gaussians  # offsets come first, then colours
    strength = _spread(config.width, config.resolution) / SIGNAL / (2 * SH_DC) / config.color_gain
    for colour, channel in enumerate(carriers):
        decoder.input_layer.weight[channel, colour : config.latent : 3] = SIGNAL / (config.latent // 3)
        rows = slice(begin + colour, 2 * begin, 3)
        decoder.out_layer.weight[rows, channel] = strength
        decoder.out_layer.weight[rows, free] = -strength
    for block in decoder.blocks:
        assert isinstance(block, Block)
        for last in (block.attn.to_out, block.mlp.mlp[2]):
            assert isinstance(last, nn.Linear)
            last.weight.zero_()


def _spread(width: int, resolution: int) -> float:
    """Deviation of the position code over channels, averaged over places on the grid: what the last norm divides by."""
    with torch.device("cpu"):  # a saved model is built on the meta device, which has no values
        side = torch.linspace(0, resolution - 1, min(8, resolution)).round().to(torch.int32)
        places = torch.cartesian_prod(side, side, side)
        coords = torch.cat([torch.zeros_like(places[:, :1]), places], 1)
        return float(sincos(coords, width).std(1, correction=0).mean())
