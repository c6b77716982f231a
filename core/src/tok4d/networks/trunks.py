"""VGG16 and AlexNet as LPIPS cuts them (Zhang et al., arXiv 1801.03924): activations after five of their ReLUs.

N = images, C = channels, H W = height and width.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn

from tok4d.networks.base import FeatureNetwork, Trunk

SHIFT = (-0.030, -0.088, -0.188)  # of LPIPS: ImageNet's mean and deviation, for images in [-1, 1]
SCALE = (0.458, 0.448, 0.450)


class _Convolutions(Trunk):
    """Layers in a row, named as torchvision names them, so that its state dicts fit."""

    preprocessing = "lpips-0.1 (images - shift) / scale"
    taps: ClassVar[tuple[int, ...]]
    shift: Tensor
    scale: Tensor

    def __init__(self, layers: list[nn.Module]) -> None:
        super().__init__()
        self.features = nn.Sequential(*layers)
        self.register_buffer("shift", torch.tensor(SHIFT).view(3, 1, 1), persistent=False)
        self.register_buffer("scale", torch.tensor(SCALE).view(3, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> list[Tensor]:
        self.check(images, "N 3 H W")
        x = (images - self.shift) / self.scale
        found = []
        for index, layer in enumerate(self.features):
            x = layer(x)
            if index in self.taps:
                found.append(x)
        return found


class Vgg16Trunk(_Convolutions):
    """VGG16's 13 convolutions (Simonyan & Zisserman, arXiv 1409.1556): relu1_2, 2_2, 3_3, 4_3, 5_3."""

    name, channels, least = "vgg16", (64, 128, 256, 512, 512), 16
    taps = (3, 8, 15, 22, 29)

    def __init__(self) -> None:
        layers: list[nn.Module] = []
        before = 3
        for block, (width, count) in enumerate(zip(self.channels, (2, 2, 3, 3, 3), strict=True)):
            layers += [nn.MaxPool2d(2)] if block else []
            for _ in range(count):
                layers += [nn.Conv2d(before, width, 3, padding=1), nn.ReLU(inplace=True)]
                before = width
        super().__init__(layers)


class AlexNetTrunk(_Convolutions):
    """AlexNet's 5 convolutions in its one-column form (Krizhevsky, arXiv 1404.5997): after each ReLU."""

    name, channels, least = "alexnet", (64, 192, 384, 256, 256), 31
    taps = (1, 4, 7, 9, 11)

    def __init__(self) -> None:
        super().__init__(
            [
                *(nn.Conv2d(3, 64, 11, stride=4, padding=2), nn.ReLU(inplace=True), nn.MaxPool2d(3, 2)),
                *(nn.Conv2d(64, 192, 5, padding=2), nn.ReLU(inplace=True), nn.MaxPool2d(3, 2)),
                *(nn.Conv2d(192, 384, 3, padding=1), nn.ReLU(inplace=True)),
                *(nn.Conv2d(384, 256, 3, padding=1), nn.ReLU(inplace=True)),
                *(nn.Conv2d(256, 256, 3, padding=1), nn.ReLU(inplace=True)),
            ]
        )


class Vgg16Features(FeatureNetwork):
    """Mean over the positions of VGG16's relu5_3, 512 features; images are seen at their own size."""

    name, width, least = "vgg16-features", 512, Vgg16Trunk.least
    preprocessing = f"{Vgg16Trunk.preprocessing}, mean of relu5_3"

    def __init__(self) -> None:
        super().__init__()
        self.trunk = Vgg16Trunk()

    def features(self, samples: Tensor) -> Tensor:
        last: Tensor = self.trunk(samples)[-1]
        return last.mean((2, 3))


def vgg16(tensors: Mapping[str, Tensor], where: str) -> Trunk:
    """VGG16's trunk from its weights."""
    return _filled(Vgg16Trunk(), tensors, where)


def vgg16_features(tensors: Mapping[str, Tensor], where: str) -> FeatureNetwork:
    """VGG16's features from its weights."""
    network = Vgg16Features()
    _filled(network.trunk, tensors, where)
    return network


def alexnet(tensors: Mapping[str, Tensor], where: str) -> Trunk:
    """AlexNet's trunk from its weights."""
    return _filled(AlexNetTrunk(), tensors, where)


def _filled(trunk: Trunk, tensors: Mapping[str, Tensor], where: str) -> Trunk:
    """A trunk with its convolutions; torchvision's files hold a classifier too, which is left out."""
    from tok4d.weights.folder import assign

    assign(trunk, {name: t for name, t in tensors.items() if not name.startswith("classifier.")}, where)
    return trunk
