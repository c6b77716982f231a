"""Small networks and samples for the tests of losses."""

from __future__ import annotations

import hashlib
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from tok4d.modality import Sample
from tok4d.model.bottleneck import Encoded, Posterior
from tok4d.networks import Trunk
from tok4d.text import TextEncoder
from tok4d.tokens import TokenSet


class SmallTrunk(Trunk):
    """Three convolutions with random weights, whose calls are counted."""

    name, channels, least = "small", (4, 6, 5), 4

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            widths = (3, *self.channels)
            self.layers = nn.ModuleList(nn.Conv2d(a, b, 3, stride=2, padding=1) for a, b in pairwise(widths))
        self.freeze()
        self.calls: list[tuple[int, ...]] = []
        self.with_gradients = 0

    def forward(self, images: Tensor) -> list[Tensor]:
        self.check(images, "N 3 H W")
        self.calls.append(tuple(images.shape))
        found = []
        for layer in self.layers:
            images = layer(images).relu()
            found.append(images)
        self.with_gradients += found[-1].requires_grad
        return found

    def heads(self) -> list[Tensor]:
        """Linear layers for LPIPS, as the package has them: not negative."""
        rng = torch.Generator().manual_seed(1)
        return [torch.rand(1, width, 1, 1, generator=rng) for width in self.channels]


def use_trunk(monkeypatch: Any, trunk: SmallTrunk) -> SmallTrunk:
    """Let every pretrained trunk be this one."""
    monkeypatch.setattr("tok4d.losses.trunks.load_network", lambda name, device: trunk)
    monkeypatch.setattr("tok4d.losses.perceptual.lpips_heads", lambda net: trunk.heads())
    return trunk


class HashTower(TextEncoder):
    """A text tower of width 6 whose embeddings are pseudorandom functions of the text."""

    kind, width, device = "minilm", 6, torch.device("cpu")

    def __init__(self) -> None:
        self.seen: list[str] = []

    @property
    def digest(self) -> str:
        return "hash-tower"

    def canonical(self, text: str) -> str:
        return " ".join(text.lower().split())

    def forward(self, texts: list[str]) -> Tensor:
        self.seen += texts
        digests = [hashlib.sha256(text.encode()).digest()[: self.width] for text in texts]
        return torch.tensor([[byte / 127.5 - 1 for byte in digest] for digest in digests])


def use_tower(monkeypatch: Any, tower: HashTower) -> HashTower:
    """Let every text tower be this one, embeddings kept in memory only."""
    monkeypatch.setattr("tok4d.losses.texts.load_text_encoder", lambda kind, source, device: tower)
    monkeypatch.setattr("tok4d.losses.texts._banks", {})
    return tower


def noise(*shape: int, seed: int = 0) -> Tensor:
    """Uniform in [-1, 1]."""
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def image(tensor: Tensor, caption: str | None = None, key: str = "a.png") -> Sample:
    """A picture `[3, H, W]` as a sample."""
    return Sample("image", {"image": tensor}, caption=caption, key=key)


def clip(tensor: Tensor, caption: str | None = None, key: str = "a.mp4") -> Sample:
    """Frames `[F, 3, H, W]` as a sample."""
    return Sample("video", {"video": tensor}, caption=caption, key=key)


def encoded(count: int = 1, pooled: Tensor | None = None, text_head: Any = None) -> Encoded:
    """What the encoder may have made of `count` samples of one token."""
    coords = torch.arange(4 * count, dtype=torch.int32).view(count, 4)
    tokens = TokenSet(torch.zeros(count, 1), coords, (1,) * count)
    posterior = Posterior(torch.zeros(count, 2), torch.zeros(count, 2))
    return Encoded(tokens, posterior, pooled=pooled, text_head=text_head)
