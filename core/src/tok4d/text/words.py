"""A text tower without weights: every word has a fixed random direction, a text is the sum of its words.

It knows no meaning, only which words two texts share. That is enough for captions made of a small vocabulary ("a red
circle"), and it is there without any download: for smoke tests, first steps and controls.

n = texts of a batch, D = width of the embedding.
"""

from __future__ import annotations

import hashlib
from functools import cached_property

import torch
from torch import Tensor

from tok4d.data.order import seed_of
from tok4d.errors import ConfigError
from tok4d.text.encoder import TextEncoder

DEFAULT_WIDTH = 64
LEAST, MOST = 8, 4096


class WordsText(TextEncoder):
    """Sums of random unit vectors, one a word, a pure function of the word and the width.

    Args:
        source: width D as a number; empty: 64.

    Raises:
        ConfigError: for a source that is no number from 8 to 4096.
    """

    kind = "words"

    def __init__(self, source: str = "", device: str | torch.device = "cpu") -> None:
        if source and not (source.isdecimal() and LEAST <= int(source) <= MOST):
            raise ConfigError(f"the text tower 'words' takes a width from {LEAST} to {MOST} as source, got {source!r}")
        self.width = int(source) if source else DEFAULT_WIDTH
        self.device = torch.device(device)
        self._known: dict[str, Tensor] = {}

    @cached_property
    def digest(self) -> str:
        return hashlib.sha256(f"{self.kind} 1 {self.width}".encode()).hexdigest()

    def canonical(self, text: str) -> str:
        """Lower case, letters and digits alone, one space between words."""
        return " ".join("".join(c if c.isalnum() else " " for c in text.lower()).split())

    def forward(self, texts: list[str]) -> Tensor:
        rows = [torch.stack([self._word(word) for word in text.split() or [""]]).sum(0) for text in texts]
        return torch.stack(rows).to(self.device)

    def _word(self, word: str) -> Tensor:
        if word not in self._known:
            generator = torch.Generator().manual_seed(seed_of("word", word))
            self._known[word] = torch.nn.functional.normalize(torch.randn(self.width, generator=generator), dim=0)
        return self._known[word]
