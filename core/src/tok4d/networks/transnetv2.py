"""TransNet V2, a network that finds shot boundaries (Souček & Lokoč, arXiv 2008.04838), for features of clips.

N = clips, F = frames, C = channels, h w = height and width in cells.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tok4d.networks.base import VideoNetwork
from tok4d.networks.resize import levels

HEIGHT, WIDTH = 27, 48
FILTERS = (16, 32, 64)  # of the three stacks
WINDOW = 101  # frames each frame is compared with, itself in the middle
SIMILARITY = 128
DILATIONS = (1, 2, 4, 8)  # in time, side by side in every block


class _Separable(nn.Module):
    """A convolution over space, then one over time."""

    def __init__(self, before: int, filters: int, dilation: int) -> None:
        super().__init__()
        space = nn.Conv3d(before, 2 * filters, (1, 3, 3), padding=(0, 1, 1), bias=False)
        time = nn.Conv3d(
            2 * filters, filters, (3, 1, 1), dilation=(dilation, 1, 1), padding=(dilation, 0, 0), bias=False
        )
        self.layers = nn.Sequential(space, time)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.layers(x)
        return out


class _Block(nn.Module):
    """Convolutions of several time scales side by side, normalised together (the paper's DDCNN cell)."""

    def __init__(self, before: int, filters: int) -> None:
        super().__init__()
        for dilation in DILATIONS:
            self.add_module(f"Conv3D_{dilation}", _Separable(before, filters, dilation))
        self.bn = nn.BatchNorm3d(len(DILATIONS) * filters, eps=1e-3)

    def forward(self, x: Tensor) -> Tensor:
        scales = [getattr(self, f"Conv3D_{dilation}")(x) for dilation in DILATIONS]
        out: Tensor = self.bn(torch.cat(scales, 1))
        return out


class _Stack(nn.Module):
    """Two blocks with a shortcut around the second, then half the height and width."""

    def __init__(self, before: int, filters: int) -> None:
        super().__init__()
        self.DDCNN = nn.ModuleList([_Block(before, filters), _Block(len(DILATIONS) * filters, filters)])

    def forward(self, x: Tensor) -> Tensor:
        first = self.DDCNN[0](x).relu()
        return F.avg_pool3d(self.DDCNN[1](first).relu() + first, (1, 2, 2))


class _Similarity(nn.Module):
    """Each frame against its neighbours in time, by features `[N, F, C]` of unit length."""

    def __init__(self, features: int | None) -> None:
        super().__init__()
        self.projection = None if features is None else nn.Linear(features, SIMILARITY)
        self.fc = nn.Linear(WINDOW, SIMILARITY)

    def forward(self, x: Tensor) -> Tensor:
        unit = F.normalize(x if self.projection is None else self.projection(x), dim=2)
        half = WINDOW // 2
        table = F.pad(unit @ unit.transpose(1, 2), (half, half))
        frames = torch.arange(x.shape[1], device=x.device)[:, None]
        near = frames + torch.arange(WINDOW, device=x.device)
        out: Tensor = self.fc(table.gather(2, near.expand(len(x), -1, -1)))
        return out.relu()


class TransNetV2(VideoNetwork):
    """The mean over a clip's frames of the 1024 features before the boundary classifiers.

    Frames are resized to 27x48 pixels whatever their shape (bilinear, antialiased) and rounded to 8 bits, as the
    network takes them, so no gradient reaches the clips. A clip goes through whole, and alone.
    """

    name, width = "transnetv2", 1024
    preprocessing = "27x48 bilinear antialias, 8 bits, mean over frames of the dense features"

    def __init__(self) -> None:
        super().__init__()
        out = [len(DILATIONS) * filters for filters in FILTERS]
        self.SDDCNN = nn.ModuleList(_Stack(*pair) for pair in zip((3, *out[:-1]), FILTERS, strict=True))
        self.frame_sim_layer = _Similarity(sum(out))
        self.color_hist_layer = _Similarity(None)
        cells = (HEIGHT >> len(FILTERS)) * (WIDTH >> len(FILTERS))
        self.fc1 = nn.Linear(out[-1] * cells + 2 * SIMILARITY, self.width)

    def features(self, samples: Tensor) -> Tensor:
        return torch.cat([self.frames(_small(clip)[None]).mean(1) for clip in samples])

    def frames(self, pixels: Tensor) -> Tensor:
        """Features `[N, F, 1024]` of every frame, from pixels `[N, F, 3, 27, 48]`: whole numbers from 0 to 255."""
        x = pixels.transpose(1, 2) / 255
        pooled = []
        for stack in self.SDDCNN:
            x = stack(x)
            pooled.append(x.mean((3, 4)))
        alike = self.frame_sim_layer(torch.cat(pooled, 1).transpose(1, 2))
        dense = x.permute(0, 2, 3, 4, 1).flatten(2)
        out: Tensor = self.fc1(torch.cat([self.color_hist_layer(_histograms(pixels)), alike, dense], 2))
        return out.relu()


def _small(clip: Tensor) -> Tensor:
    return levels(F.interpolate(clip, (HEIGHT, WIDTH), mode="bilinear", align_corners=False, antialias=True))


def _histograms(pixels: Tensor) -> Tensor:
    """Counts `[N, F, 512]` of colours, 8 shades a channel."""
    red, green, blue = (pixels.long() >> 5).flatten(3).unbind(2)
    colours = (red << 6) + (green << 3) + blue
    return pixels.new_zeros(*colours.shape[:2], 512).scatter_add_(
        2, colours, torch.ones_like(colours, dtype=pixels.dtype)
    )


def transnetv2(tensors: Mapping[str, Tensor], where: str) -> TransNetV2:
    """The network from its weights; those of the boundary classifiers are left out."""
    from tok4d.weights.folder import assign

    network = TransNetV2()
    assign(network, {name: t for name, t in tensors.items() if not name.startswith("cls_layer")}, where)
    return network
