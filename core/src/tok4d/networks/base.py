"""What every pretrained network offers, by what it gives: activations, features of images, features of clips.

N = images or clips, F = frames, H W = height and width, D = features.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from tok4d.errors import Tok4dError
from tok4d.text.encoder import module_digest


class Network(nn.Module):
    """A frozen network in float32. Everyone who loads it gets the same object: copy it before changing it.

    Attributes:
        name: as `load_network` knows it.
        width: features a sample; 0 for a trunk.
        licence: of its weights.
        preprocessing: names what happens to an image before the first layer; changes when that changes.
        least: the smallest height and width it can see.
    """

    name: str = ""
    width: int = 0
    licence: str = ""
    preprocessing: ClassVar[str] = ""
    least: ClassVar[int] = 1

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the preprocessing's name and of all weights. Computed once."""
        return module_digest(self, self.preprocessing.encode())

    def freeze(self) -> Network:
        """Stop gradients to the weights, and evaluate for ever; gives itself."""
        return self.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> Any:
        """Stays as it is: a model that is trained around it must not move its batch statistics."""
        return super().train(False)

    def check(self, samples: Tensor, axes: str) -> None:
        """Refuse what is no batch of `axes`, `N 3 H W` say.

        Raises:
            Tok4dError: for a wrong shape, integers, or a picture that is too small.
        """
        names = axes.split()
        if samples.ndim != len(names) or samples.shape[-3] != 3 or not samples.is_floating_point():
            found = f"{list(samples.shape)} of {str(samples.dtype).removeprefix('torch.')}"
            raise Tok4dError(f"{self.name} takes floats [{', '.join(names)}] in [-1, 1], got {found}")
        height, width = samples.shape[-2:]
        if min(height, width) < self.least:
            raise Tok4dError(f"{self.name} needs at least {self.least}x{self.least} pixels, got {height}x{width}")


class _Vectors(Network):
    """One vector a sample, in float32 whatever autocast is on; none for none."""

    def compute(self, samples: Tensor) -> Tensor:
        """`features` in float32."""
        if not len(samples):
            return samples.new_zeros(0, self.width, dtype=torch.float32)
        with torch.autocast(samples.device.type, enabled=False):
            return self.features(samples.float())

    def features(self, samples: Tensor) -> Tensor:
        """`forward` of checked float32 samples, at least one."""
        raise NotImplementedError


class Trunk(Network):
    """Convolutions whose activations are compared, as LPIPS and the Gram loss do.

    Called with images `[N, 3, H, W]` in [-1, 1], it gives a list of activations `[N, C, h, w]`, differentiable in the
    images; under autocast in its type.

    Attributes:
        channels: C of each.
    """

    channels: tuple[int, ...] = ()


class FeatureNetwork(_Vectors):
    """One vector an image.

    Called with images `[N, 3, H, W]` in [-1, 1] of any size, it gives `[N, D]` in float32, whatever autocast is on;
    differentiable where the network says no different.
    """

    def forward(self, images: Tensor) -> Tensor:
        self.check(images, "N 3 H W")
        return self.compute(images)


class VideoNetwork(_Vectors):
    """One vector a clip.

    Called with clips `[N, F, 3, H, W]` in [-1, 1] of any size, it gives `[N, D]` in float32, whatever autocast is on.
    """

    def forward(self, clips: Tensor) -> Tensor:
        self.check(clips, "N F 3 H W")
        if not clips.shape[1]:
            raise Tok4dError(f"{self.name} needs at least one frame, got {list(clips.shape)}")
        return self.compute(clips)
