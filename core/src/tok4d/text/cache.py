"""Text embeddings on disk: `$TOK4D_CACHE/text/TOWER/TEXTS.safetensors`, both names SHA-256.

N = texts, D = width of the embedding.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from tok4d.data.fetch import cache_root
from tok4d.errors import DataError
from tok4d.text.encoder import TextEncoder
from tok4d.weights.folder import read_tensors, write_tensors

KEY = "embedding"


class EmbeddingCache:
    """Keeps the embeddings of whole lists, such as the classes of a data set, by tower and list.

    Files appear complete or not at all, so processes may share the folder. A file that is not what it should be is
    computed anew; where nothing can be written, everything is computed every time.

    Args:
        folder: default the user's cache, `$TOK4D_CACHE/text`.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = cache_root() / "text" if folder is None else folder

    def path(self, encoder: TextEncoder, texts: Sequence[str]) -> Path:
        """The file of a list of texts, there or not."""
        listed = json.dumps([encoder.canonical(text) for text in texts])
        return self.folder / encoder.digest / f"{hashlib.sha256(listed.encode()).hexdigest()}.safetensors"

    def encode(self, encoder: TextEncoder, texts: Sequence[str]) -> Tensor:
        """As `encoder.encode(texts)`: `[N, D]`, float32, L2-normalised, on the tower's device."""
        path = self.path(encoder, texts)
        kept = _read(path, (len(texts), encoder.width))
        if kept is not None:
            return kept.to(encoder.device)
        made = encoder.encode(texts)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_tensors(path, {KEY: made.cpu()})
        except OSError:  # a read-only home, a full disk
            pass
        return made


def _read(path: Path, shape: tuple[int, int]) -> Tensor | None:
    """A stored embedding, or None when the file is missing or not one of unit vectors in this shape."""
    try:
        found = read_tensors(path).get(KEY)
    except DataError:
        return None
    if found is None or found.shape != shape or found.dtype != torch.float32:
        return None
    unit = (found.norm(dim=-1) - 1).abs() < 1e-3  # false for NaN as well
    return found if bool(unit.all()) else None
