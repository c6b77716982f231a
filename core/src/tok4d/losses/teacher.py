"""Distance of a frozen teacher's patch features ("CLIP-perceptual" in AToken, which names no network).

N = pictures, T = patches, D = features of a patch.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from tok4d.errors import ConfigError
from tok4d.losses.perceptual import PAPER_SIZE
from tok4d.losses.pictures import PictureTerm, check_pair, resized
from tok4d.losses.trunks import Frozen, features, unit
from tok4d.losses.vision import load_tower
from tok4d.networks import Trunk
from tok4d.networks.catalogue import find_network
from tok4d.nn.precision import at_least_float32

SIGLIP2 = "siglip2"


class TeacherPerceptual(Frozen):
    """1 - cosine of a patch's features, plus their mean absolute difference; averaged over patches.

    1 - cosine is half of the squared distance of the features divided by their length: exactly 0 for equal pictures.

    Args:
        network: `siglip2`, the last layer of a SigLIP2 vision tower after its norm; or a trunk of `tok4d.networks`,
            such as `vgg16`, its last activation.
        source: folder or hub id of the tower.
        size: interpolate to size x size first; None: compare pictures as they are.
        trunk: a network to use instead.

    Raises:
        ConfigError: for an unknown network, a tower without a source, or a source for a trunk.
    """

    def __init__(
        self, network: str = SIGLIP2, source: str = "", size: int | None = None, trunk: Trunk | None = None
    ) -> None:
        if network != SIGLIP2 and trunk is None:
            find_network(network)
        if trunk is None and (network == SIGLIP2) != bool(source):
            raise ConfigError(
                f"the loss 'teacher' got network {network!r} and source {source!r}: a source, folder or hub id, goes "
                f"with {SIGLIP2!r}; without one, take a trunk: network: vgg16"
            )
        super().__init__(network, trunk)
        self.source, self.size = source, size

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Distances `[N]` of two `[N, 3, H, W]` in [-1, 1]; 0 for equal pictures."""
        check_pair(x, y, "TeacherPerceptual")
        x, y = resized(x, self.size), resized(y, self.size)
        teacher = self._teacher(x)
        a_NDT, b_NDT = (at_least_float32(features(teacher, z)[-1]).flatten(2) for z in (x, y))
        with torch.autocast(x.device.type, enabled=False):
            turned = 0.5 * (unit(a_NDT) - unit(b_NDT)).square().sum(1).mean(1)
            return turned + (a_NDT - b_NDT).abs().mean((1, 2))

    def _teacher(self, pictures: Tensor) -> Callable[[Tensor], list[Tensor]]:
        if not self.source:
            return self.trunk(pictures)
        return load_tower(self.source, pictures.device)


class TeacherTerm(PictureTerm):
    """`teacher`: `TeacherPerceptual` at 224 x 224.

    Args:
        network, source: as there.
        size, frames, optional: as in `PictureTerm`.
    """

    name = "teacher"

    def __init__(
        self,
        network: str = SIGLIP2,
        source: str = "",
        size: int | None = PAPER_SIZE,
        frames: int | None = None,
        optional: bool = False,
    ) -> None:
        super().__init__(TeacherPerceptual(network, source), size, frames, optional)
