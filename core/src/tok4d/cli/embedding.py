"""What `embed` and `classify` share: files to one pooled vector each.

N = files that could be used, D = the encoder's width.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tok4d.cli.console import progress, share
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
            found: list[EmbeddedFile] = []
            cut: list[tuple[Path, TokenSet]] = []
            for path in some:
                with share(advance) as part, batch.guard(path):
                    item = _load(path, modality, dict(read or {}), loaded, feature, part)
                    if isinstance(item, EmbeddedFile):
                        found.append(item)
                    else:
                        cut.append((path, item))
            found += _embed(cut, loaded, feature, batch)
            done += sorted(found, key=lambda item: some.index(item.path))
    return done


def _load(
    path: Path,
    name: str | None,
    options: dict[str, Any],
    loaded: Loaded,
    feature: str,
    advance: Callable[[float], None],
) -> TokenSet | EmbeddedFile:
    """Tokens of a file to be encoded with others, or at once the vector of one that comes in pieces."""
    from tok4d.plugins.registry import modality_for
    from tok4d.streaming import open_stream, pieces

    owner = modality_for(path, name)
    stream = open_stream(owner, path, loaded.model, options)
    if stream is None:
        _, tokens = read_patches(path, owner, loaded.model, options)
        if not tokens.num_tokens:
            raise DataError(path, "it has no tokens to embed")
        return tokens
    encode, count = loaded.model.encode_stream(), 0
    with stream:
        for piece in pieces(stream, owner, loaded.model, advance):
            encode(piece.tokens.to(loaded.device, loaded.dtype))
            count += piece.tokens.num_tokens
    return _checked(path, owner.name, count, getattr(encode, feature)[0])


def _embed(cut: list[tuple[Path, TokenSet]], loaded: Loaded, feature: str, batch: Batch) -> list[EmbeddedFile]:
    """Encode files together; what fails on the way belongs to its file."""
    from tok4d.tokens import TokenSet

    done: list[EmbeddedFile] = []
    if not cut:
        return done
    packed = TokenSet.pack([tokens for _, tokens in cut]).to(loaded.device, loaded.dtype)
    with batch.guard(*(path for path, _ in cut)):
        vectors: Tensor = getattr(loaded.model.encode(packed), feature)
        for (path, tokens), vector in zip(cut, vectors, strict=True):
            with batch.guard(path):
                done.append(_checked(path, tokens.origins[0].modality, tokens.num_tokens, vector))
    return done


def _checked(path: Path, modality: str, tokens: int, vector: Tensor) -> EmbeddedFile:
    vector = vector.float().cpu()
    if not vector.isfinite().all():
        raise DataError(path, "the model gives no finite embedding for it")
    return EmbeddedFile(path, modality, tokens, vector)
