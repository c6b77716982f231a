"""EfficientNet-Lite0, an ImageNet classifier (Tan & Le, arXiv 1905.11946; the Lite family of 2020), through `timm`.

N = images, D = 1280 features, H W = height and width.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from tok4d.errors import ConfigError
from tok4d.networks.base import FeatureNetwork
from tok4d.networks.resize import short_side

SIDE = 224
_STAGES = (1, 2, 2, 3, 3, 4, 1)  # blocks of each
_TOP = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2", "_fc": "classifier"}
_FIRST = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}
_LATER = dict(
    zip(
        ("_expand_conv", "_bn0", "_depthwise_conv", "_bn1", "_project_conv", "_bn2"),
        ("conv_pw", "bn1", "conv_dw", "bn2", "conv_pwl", "bn3"),
        strict=True,
    )
)


class EffNetLite0(FeatureNetwork):
    """The pooled 1280 features before the classifier, and its 1000 logits.

    An image's short side becomes 224 pixels (bicubic, antialiased), its centre is cut out. In [-1, 1], images are
    already normalised as the network was trained (mean and deviation 0.5). Differentiable in the images.

    Raises:
        ConfigError: where `timm` is not installed.
    """

    name, width = "effnet-lite0", 1280
    preprocessing = "short side 224 bicubic antialias, centre crop 224, [-1, 1]"

    def __init__(self) -> None:
        super().__init__()
        self.model: Any = _timm().create_model("tf_efficientnet_lite0", pretrained=False)

    def features(self, samples: Tensor) -> Tensor:
        pooled: Tensor = self.model.forward_head(self._maps(samples), pre_logits=True)
        return pooled

    def logits(self, images: Tensor) -> Tensor:
        """Scores of the ImageNet classes `[N, 1000]` in float32, for images as `forward` takes them.

        Raises:
            Tok4dError: for what is no batch of images.
        """
        self.check(images, "N 3 H W")
        with torch.autocast(images.device.type, enabled=False):
            scores: Tensor = self.model.forward_head(self._maps(images.float()))
        return scores

    @cached_property
    def class_names(self) -> tuple[str, ...]:
        """WordNet's words for the 1000 classes, in the order of the logits: `tabby, tabby cat`.

        One is there twice: class 134 `crane` is the bird, class 517 the machine.
        """
        from timm.data import ImageNetInfo

        info = ImageNetInfo()
        return tuple(info.index_to_description(index) for index in range(info.num_classes()))

    def _maps(self, images: Tensor) -> Tensor:
        maps: Tensor = self.model.forward_features(short_side(images, SIDE, "bicubic", antialias=True))
        return maps


def effnet_lite0(tensors: Mapping[str, Tensor], where: str) -> EffNetLite0:
    """The network from weights under timm's names."""
    from tok4d.weights.folder import assign

    network = EffNetLite0()
    assign(network.model, tensors, where)
    return network


def timm_names(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights of the package `efficientnet-lite-pytorch` under timm's names; unknown names stay as they are."""
    blocks = [(stage, index) for stage, count in enumerate(_STAGES) for index in range(count)]
    renamed = {}
    for name, tensor in tensors.items():
        found = re.fullmatch(r"_blocks\.(\d+)\.(\w+)\.(\w+)", name)
        if found and int(found[1]) < len(blocks):
            parts = _LATER if int(found[1]) else _FIRST
            stage, index = blocks[int(found[1])]
            name = f"blocks.{stage}.{index}.{parts.get(found[2], found[2])}.{found[3]}"
        elif not found:
            layer, dot, part = name.partition(".")
            name = f"{_TOP.get(layer, layer)}{dot}{part}"
        renamed[name] = tensor
    return renamed


def _timm() -> Any:
    try:
        import timm
    except ImportError as error:
        raise ConfigError('effnet-lite0 needs the package timm: pip install "tok4d[bench]"') from error
    return timm
