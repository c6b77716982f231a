"""LPIPS (Zhang et al., arXiv 1801.03924) and the Gram loss (Gatys et al., arXiv 1508.06576) on one shared trunk.

N = pictures, C = channels, h, w = height and width of an activation, P = h * w.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from tok4d.errors import ConfigError, unknown_name
from tok4d.losses.pictures import PictureTerm, check_pair, resized
from tok4d.losses.trunks import Frozen, features, unit
from tok4d.networks import Trunk, lpips_heads
from tok4d.nn.precision import at_least_float32

TRUNKS = {"vgg": "vgg16", "alex": "alexnet"}
PAPER_SIZE = 224  # AToken compares pictures interpolated to 224 x 224


class LPIPS(Frozen):
    """Learned perceptual distance, version 0.1, of the `lpips` package.

    At every position of five activations, the channels of both pictures are divided by their length; squared
    differences are weighted by channel, summed, averaged over positions, and summed over activations.

    Args:
        net: `vgg` or `alex`.
        size: interpolate to size x size first; None: compare pictures as they are, as the package does.
        trunk, heads: a network and its linear layers `[1, C, 1, 1]` to use instead of the pretrained ones.

    Raises:
        ConfigError: for an unknown network.
    """

    def __init__(
        self,
        net: str = "vgg",
        size: int | None = None,
        trunk: Trunk | None = None,
        heads: Sequence[Tensor] | None = None,
    ) -> None:
        if net not in TRUNKS:
            raise ConfigError(unknown_name("LPIPS network", net, TRUNKS))
        super().__init__(TRUNKS[net], trunk)
        self.net, self.size = net, size
        self._heads = None if heads is None else list(heads)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Distances `[N]` of two `[N, 3, H, W]` in [-1, 1]; 0 for equal pictures."""
        check_pair(x, y, "LPIPS")
        x, y = resized(x, self.size), resized(y, self.size)
        trunk = self.trunk(x)
        if self._heads is None:
            self._heads = lpips_heads(self.net)
        total = at_least_float32(x.new_zeros(len(x)))
        for a, b, head in zip(features(trunk, x), features(trunk, y), self._heads, strict=True):
            with torch.autocast(x.device.type, enabled=False):
                difference = (unit(a) - unit(b)).square()
                weighted = difference * head.to(difference)
                total = total + weighted.sum(1).mean((1, 2))
        return total


class GramLoss(Frozen):
    """Distance of textures: G = F F^T / (C * h * w) of VGG16's activations F `[C, h * w]`, the squared difference
    averaged over the C x C entries, summed over activations.

    AToken takes the squared Frobenius norm, with a weight of 1000, and does not say how G is scaled or of which
    network. Summed over the entries, that is thousands of times its other terms; averaged, it is of their size.

    Args:
        network: a trunk of `tok4d.networks`; the default is the one of LPIPS, and its forward pass is shared.
        size: interpolate to size x size first; None: compare pictures as they are.
        trunk: a network to use instead.
    """

    def __init__(self, network: str = "vgg16", size: int | None = None, trunk: Trunk | None = None) -> None:
        super().__init__(network, trunk)
        self.size = size

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Distances `[N]` of two `[N, 3, H, W]` in [-1, 1]; 0 for equal pictures."""
        check_pair(x, y, "GramLoss")
        x, y = resized(x, self.size), resized(y, self.size)
        trunk = self.trunk(x)
        total = at_least_float32(x.new_zeros(len(x)))
        for a, b in zip(features(trunk, x), features(trunk, y), strict=True):
            total = total + (gram(a) - gram(b)).square().mean((1, 2))
        return total


def gram(features_NChw: Tensor) -> Tensor:
    """Gram matrices `[N, C, C]` over positions, divided by C * h * w, float32 at least (half precision overflows)."""
    with torch.autocast(features_NChw.device.type, enabled=False):
        x_NCP = at_least_float32(features_NChw).flatten(2)
        scale = (x_NCP.shape[1] * x_NCP.shape[2]) ** -0.5
        x_NCP = x_NCP * scale
        gram_NCC: Tensor = x_NCP @ x_NCP.mT
        return gram_NCC


class LPIPSTerm(PictureTerm):
    """`lpips`: LPIPS at 224 x 224.

    Args:
        net: `vgg` or `alex`.
        size, frames, optional: as in `PictureTerm`.
    """

    name = "lpips"

    def __init__(
        self, net: str = "vgg", size: int | None = PAPER_SIZE, frames: int | None = None, optional: bool = False
    ) -> None:
        super().__init__(LPIPS(net), size, frames, optional)


class GramTerm(PictureTerm):
    """`gram`: the Gram loss at 224 x 224.

    Args:
        network: a trunk of `tok4d.networks`.
        size, frames, optional: as in `PictureTerm`.
    """

    name = "gram"

    def __init__(
        self, network: str = "vgg16", size: int | None = PAPER_SIZE, frames: int | None = None, optional: bool = False
    ) -> None:
        super().__init__(GramLoss(network), size, frames, optional)
