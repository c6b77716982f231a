"""The choices: of what a model gets to see, of what becomes of it before it is measured, and of the measure.

N = pictures of a sample, H, W = height and width.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from tok4d.modality import Sample
from tok4d.plugins.registry import modality
from tok4d_bench.contracts import Measure
from tok4d_bench.measures.frechet import FrechetDistance
from tok4d_bench.measures.pictures import LPIPS, MSSSIM, PSNR, SSIM, PooledPSNR

View = Callable[[Tensor], Tensor]  # pictures [N, 3, H, W] in [-1, 1] -> pictures
LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601
INNER = 0.875  # side of what is left of a picture whose border does not count


@dataclass(frozen=True)
class Choice:
    """One change of the protocol.

    Attributes:
        what: the choice, such as `filter`.
        value: what is taken, such as `bilinear`.
        prepare: entries of `Prepare` that it changes: then the model reconstructs anew.
        view: applied to originals and reconstructions alike.
        measures: by figure, a measure that takes the place of the protocol's; empty: all figures of the protocol.
    """

    what: str
    value: str
    prepare: Mapping[str, Any] = field(default_factory=dict)
    view: View | None = None
    measures: Mapping[str, Measure] = field(default_factory=dict)


def base_measures(network: str) -> dict[str, Measure]:
    """The protocol's figures by name.

    Args:
        network: of the Fréchet distance; empty: none.
    """
    found: dict[str, Measure] = {"psnr": PSNR(), "ssim": SSIM(), "lpips": LPIPS("vgg")}
    return {**found, "frechet": FrechetDistance(network)} if network else found


def base_prepare(side: int) -> dict[str, Any]:
    """The protocol: shorter side by Pillow's bicubic, centre crop, reconstructions rounded to 8 bits."""
    return {"short": side, "crop": side, "filter": "bicubic", "antialias": True, "round": True}


def choices(side: int, networks: Sequence[str] = ()) -> list[Choice]:
    """Every choice that is tried.

    Args:
        side: of the protocol's crop.
        networks: further ones of the Fréchet distance.
    """
    return [
        Choice("size", "stretched to the square", {"short": 0, "crop": 0, "size": (side, side)}),
        Choice("size", "shorter side, nothing cut", {"crop": 0}),
        Choice("size", f"{side} cut from {side * 8 // 7}", {"short": side * 8 // 7}),
        *(Choice("filter", name, {"filter": name}) for name in ("bilinear", "lanczos", "area")),
        Choice("antialias", "off", {"antialias": False}),
        Choice("rounding", "off", {"round": False}),
        Choice("border", f"inner {INNER:.1%} of the sides", view=inner),
        Choice("colour", "luma", view=luma, measures={"psnr": PSNR(), "ssim": SSIM()}),
        Choice("mean", "error of all values pooled", measures={"psnr": PooledPSNR()}),
        Choice("ssim", "MS-SSIM", measures={"ssim": MSSSIM()}),
        Choice("lpips network", "AlexNet", measures={"lpips": LPIPS("alex")}),
        Choice("lpips size", "224 x 224", measures={"lpips": LPIPS("vgg", 224)}),
        Choice("lpips range", "[0, 1] given for [-1, 1]", view=unit, measures={"lpips": LPIPS("vgg")}),
        *(Choice("network", name, measures={"frechet": FrechetDistance(name)}) for name in networks),
    ]


def inner(pictures: Tensor) -> Tensor:
    """The middle of every picture."""
    height, width = pictures.shape[-2:]
    kept = max(1, round(height * INNER)), max(1, round(width * INNER))
    top, left = (height - kept[0]) // 2, (width - kept[1]) // 2
    return pictures[..., top : top + kept[0], left : left + kept[1]]


def luma(pictures: Tensor) -> Tensor:
    """Brightness alone, in all three channels."""
    weights = torch.tensor(LUMA, dtype=pictures.dtype, device=pictures.device).view(3, 1, 1)
    return (pictures * weights).sum(-3, keepdim=True).expand_as(pictures).contiguous()


def unit(pictures: Tensor) -> Tensor:
    """[0, 1] as it is wrongly given where [-1, 1] is expected."""
    return (pictures + 1) / 2


def seen(sample: Sample, view: View | None) -> Sample:
    """A sample with its pictures changed."""
    if view is None:
        return sample
    name = modality(sample.modality).field
    return replace(sample, data={**sample.data, name: view(sample.data[name].clamp(-1, 1))})
