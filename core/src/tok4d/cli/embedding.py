"""What `embed` and `classify` share: files to one pooled vector each.

N = files that could be used, D = the encoder's width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tok4d.cli.console import progress
from tok4d.cli.files import Batch, Loaded, chunks, read_patches
from tok4d.errors import DataError

if TYPE_CHECKING:
    from torch import Tensor

    from tok4d.tokens import TokenSet

FEATURES = ("embedding", "pooled")  # attributes of `Encoded`


@dataclass(frozen=True)
class EmbeddedFile:
    """A file and its vector `[D]`, float32 on the CPU."""

    path: Path
    modality: str
    tokens: int
    vector: Tensor

    def row(self) -> dict[str, Any]:
        """The part of a command's result that names the file."""
        return {"file": str(self.path), "modality": self.modality, "tokens": self.tokens}


def embed_files(
    paths: Sequence[Path],
    loaded: Loaded,
    batch: Batch,
    *,
    modality: str | None = None,
    read: Mapping[str, Any] | None = None,
    batch_size: int = 8,
    feature: str = "embedding",
    label: str = "embed",
    as_json: bool = False,
) -> list[EmbeddedFile]:
    """Vectors of all files that can be used, in order; the others become failures of the batch.

    Args:
        feature: `embedding` (L2-normalised) or `pooled`.
        label: what the progress bar says.
    """
    import torch

    done: list[EmbeddedFile] = []
    with progress(len(paths), label, as_json) as advance, torch.inference_mode():
        for some in chunks(paths, batch_size):
            cut = _read(some, modality, read, loaded, batch)
            done += _embed(cut, loaded, feature, batch)
            advance(len(some))
    return done


def _read(
    paths: Sequence[Path], name: str | None, options: Mapping[str, Any] | None, loaded: Loaded, batch: Batch
) -> list[tuple[Path, TokenSet]]:
    from tok4d.plugins.registry import modality_for

    cut = []
    for path in paths:
        with batch.guard(path):
            _, tokens = read_patches(path, modality_for(path, name), loaded.model, options)
            if not tokens.num_tokens:
                raise DataError(path, "it has no tokens to embed")
            cut.append((path, tokens))
    return cut


def _embed(cut: list[tuple[Path, TokenSet]], loaded: Loaded, feature: str, batch: Batch) -> list[EmbeddedFile]:
    """Encode files together; what fails on the way belongs to its file."""
    from tok4d.tokens import TokenSet

    done: list[EmbeddedFile] = []
    if not cut:
        return done
    packed = TokenSet.pack([tokens for _, tokens in cut]).to(loaded.device, loaded.dtype)
    with batch.guard(*(path for path, _ in cut)):
        vectors: Tensor = getattr(loaded.model.encode(packed), feature).float().cpu()
        for (path, tokens), vector in zip(cut, vectors, strict=True):
            with batch.guard(path):
                if not vector.isfinite().all():
                    raise DataError(path, "the model gives no finite embedding for it")
                done.append(EmbeddedFile(path, tokens.origins[0].modality, tokens.num_tokens, vector))
    return done
