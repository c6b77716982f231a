"""Frozen teachers: pictures to embeddings in a text tower's space.

b = samples, n = pictures, D = width of the embeddings, K = classes.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from tok4d.errors import ConfigError, unknown_name
from tok4d.losses.pictures import check_count, grouped
from tok4d.losses.texts import FrozenTexts, TextOptions
from tok4d.losses.vision import load_tower
from tok4d.networks import load_network

TEACHERS = ("effnet-minilm", "siglip2")
CLASSIFIER = "effnet-lite0"


class Teacher(ABC):
    """Attributes: `size` of the pictures it wants, None for any."""

    size: int | None = None

    def embed(self, pictures: Sequence[Tensor], texts: FrozenTexts) -> Tensor:
        """One unit vector a sample, `[b, D]` float32, of its pictures `[n, 3, H, W]`: the mean of theirs."""
        total = torch.zeros(len(pictures), texts.width, device=texts.tower.device)
        for group in grouped([(some,) for some in pictures], self.size):
            vectors = F.normalize(self.vectors(group.pictures[0], texts).float(), dim=-1)
            total = total.index_add(0, group.owner, vectors * group.share[:, None].to(vectors))
        return F.normalize(total, dim=-1)

    @abstractmethod
    def vectors(self, pictures: Tensor, texts: FrozenTexts) -> Tensor:
        """`[n, D]` of `[n, 3, H, W]`, of any length."""

    def log_scale(self, device: torch.device) -> float | None:
        """Of its own logits, where it knows one."""
        return None


class Siglip2Teacher(Teacher):
    """The vision tower of the checkpoint whose text tower embeds the texts."""

    def __init__(self, source: str, size: int) -> None:
        self.source, self.size = source, size

    def vectors(self, pictures: Tensor, texts: FrozenTexts) -> Tensor:
        tower = load_tower(self.source, pictures.device)
        if tower.width != texts.width:
            raise ConfigError(
                f"{self.source}: its vision tower has width {tower.width} and the text tower {texts.width}; a teacher "
                "needs both of one checkpoint"
            )
        return tower.embed(pictures)

    def log_scale(self, device: torch.device) -> float | None:
        return load_tower(self.source, device).log_scale


class ClassTeacher(Teacher):
    """ImageNet's class names as the text tower embeds them, weighted by a classifier's probabilities.

    The two networks share no space by themselves: the names are what ties them together.
    """

    def vectors(self, pictures: Tensor, texts: FrozenTexts) -> Tensor:
        classifier: Any = load_network(CLASSIFIER, device=pictures.device)
        names_KD = texts.embed_list(classifier.class_names)
        with torch.autocast(pictures.device.type, enabled=False):
            probabilities: Tensor = classifier.logits(pictures).softmax(-1)
            return probabilities @ names_KD


def make_teacher(name: str, source: str, size: int, text: TextOptions) -> Teacher:
    """A teacher by name; its networks are loaded when it sees the first pictures.

    Raises:
        ConfigError: for an unknown name, a source that is missing or of no use, or another tower's texts.
    """
    if name not in TEACHERS:
        raise ConfigError(unknown_name("teacher", name, TEACHERS))
    check_count("losses.distill.size", size)
    if name != "siglip2":
        if source:
            raise ConfigError(f"losses.distill: teacher {name!r} has no use for a source, got {source!r}")
        return ClassTeacher()
    if not source:
        raise ConfigError("losses.distill: teacher 'siglip2' needs a source: a folder, or a hub id like owner/name")
    if text.kind != "siglip2":
        raise ConfigError(
            f"losses.distill: teacher 'siglip2' goes with its own text tower, got text.kind {text.kind!r}"
        )
    return Siglip2Teacher(source, size)
