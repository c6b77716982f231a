"""Features of frozen trunks, one forward for all terms of an objective that want them.

N = pictures, C = channels, h, w = height and width of an activation.
"""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn

from tok4d.errors import ConfigError
from tok4d.losses.shared import shared
from tok4d.networks import Trunk, load_network

EPS = 1e-10  # of LPIPS's normalisation
_exact: dict[tuple[str, str], Trunk] = {}


def load_trunk(name: str, pictures: Tensor) -> Trunk:
    """A pretrained trunk where the pictures are, in float64 for pictures in float64.

    Raises:
        ConfigError: for a network that is no trunk.
        Tok4dError: when its weights cannot be had.
    """
    trunk = load_network(name, device=pictures.device)
    if not isinstance(trunk, Trunk):
        raise ConfigError(f"network {name!r} gives no activations to compare; take a trunk, such as vgg16 or alexnet")
    if pictures.dtype != torch.float64:
        return trunk
    key = (name, str(pictures.device))
    if key not in _exact:
        _exact[key] = copy.deepcopy(trunk).double()
    return _exact[key]


def features(trunk: Callable[[Tensor], list[Tensor]], pictures: Tensor) -> list[Tensor]:
    """Activations of pictures `[N, 3, H, W]` in [-1, 1], `[N, C, h, w]` each; shared within an objective."""
    return shared("features", (trunk, pictures), (), lambda: trunk(pictures))


def unit(features_NChw: Tensor) -> Tensor:
    """Every position's channels divided by their length plus `EPS`, float32 at least; zeros stay zeros.

    As LPIPS does it, but for the gradient of the square root at 0, which would be NaN.
    """
    x = features_NChw if features_NChw.dtype == torch.float64 else features_NChw.float()
    return x / (x.square().sum(1, keepdim=True).clamp_min(1e-30).sqrt() + EPS)


class Frozen(nn.Module):
    """Base of the modules that compare pictures by a network's features.

    The network is loaded when the first pictures come, and is no part of the module: it is shared with all others, is
    never trained or saved, and follows the pictures to their device.

    Args:
        network: its name in `tok4d.networks`.
        trunk: a network to use instead.
    """

    def __init__(self, network: str, trunk: Trunk | None = None) -> None:
        super().__init__()
        self.network = network
        self.__dict__["_given"] = trunk  # past nn.Module, which would make it a part

    def trunk(self, pictures: Tensor) -> Trunk:
        """The network for these pictures; errors as `load_trunk`."""
        given: Trunk | None = self.__dict__["_given"]
        return load_trunk(self.network, pictures) if given is None else given
