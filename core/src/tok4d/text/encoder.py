"""`TextEncoder`: what any text tower offers.

N = texts, D = width of the embedding.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tok4d.errors import Tok4dError

BATCH = 64  # texts a forward pass


class TextEncoder(ABC):
    """A frozen text tower in float32.

    Attributes:
        kind: name of the tower's kind, as in `TextConfig.kind`.
        width: D.
        device: where it computes, and where its embeddings are.
    """

    kind: str
    width: int
    device: torch.device

    @property
    @abstractmethod
    def digest(self) -> str:
        """SHA-256 of all that decides an embedding: weights, config, text processing. Computed once."""

    def canonical(self, text: str) -> str:
        """A text as the tower's own tokenizer gets it; texts that are equal then have one embedding."""
        return " ".join(text.split())

    @abstractmethod
    def forward(self, texts: list[str]) -> Tensor:
        """Embeddings of a batch of canonical texts `[n, D]`, not normalised."""

    @torch.no_grad()
    def encode(self, texts: Sequence[str]) -> Tensor:
        """Embeddings `[N, D]`, float32, L2-normalised, on the tower's device.

        The embedding of a text depends on no other text (up to rounding, 1e-6).

        Raises:
            Tok4dError: for a single string instead of a list of them.
        """
        if isinstance(texts, str):
            raise Tok4dError(f"texts must be a list of strings, got the string {texts[:40]!r}")
        canonical = [self.canonical(text) for text in texts]
        distinct = list(dict.fromkeys(canonical))
        rows: dict[str, Tensor] = {}
        with torch.autocast(self.device.type, enabled=False):  # the caller's training may run in bf16
            for start in range(0, len(distinct), BATCH):
                some = distinct[start : start + BATCH]
                rows.update(zip(some, F.normalize(self.forward(some).float(), dim=-1), strict=True))
        if not rows:
            return torch.empty(0, self.width, device=self.device)
        return torch.stack([rows[text] for text in canonical])


def module_digest(module: nn.Module, *parts: bytes) -> str:
    """SHA-256 over `parts` and, in sorted order, name, dtype, shape and bytes of a module's tensors."""
    sha = hashlib.sha256()
    for part in parts:
        sha.update(len(part).to_bytes(8, "little") + part)
    for name, tensor in sorted(module.state_dict().items()):
        plain = tensor.detach().cpu().contiguous()
        sha.update(f"{name}:{plain.dtype}:{tuple(plain.shape)}".encode())
        sha.update(plain.view(-1).view(torch.uint8).numpy().data)
    return sha.hexdigest()
