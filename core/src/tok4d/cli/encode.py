"""`tok4d encode`: files to token files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tok4d.cli.console import emit, progress, table
from tok4d.cli.files import (
    Batch,
    BatchSize,
    Device,
    Dtype,
    Files,
    Json,
    Loaded,
    ModalityName,
    ModelFolder,
    Out,
    UseCodes,
    chunks,
    expand,
    known_suffixes,
    load_model,
    output_paths,
    read_patches,
)

if TYPE_CHECKING:
    import torch

    from tok4d.model.fsq import Codes
    from tok4d.tokens import TokenSet


def encode(
    files: Files,
    model: ModelFolder,
    out: Out,
    modality: ModalityName = None,
    use_codes: UseCodes = None,
    half: Annotated[bool, typer.Option("--half", help="Store latents as float16: half the size.")] = False,
    batch_size: BatchSize = 8,
    device: Device = "auto",
    dtype: Dtype = "float32",
    as_json: Json = False,
) -> None:
    """Turn files into token files: OUT/<name>.tok.safetensors, from which alone `tok4d decode` restores them.

    A file that cannot be used is listed with its reason; the others are still encoded, and the exit code is 1.
    """
    import torch

    from tok4d.tokenfile import SUFFIX

    loaded = load_model(model, device, dtype)
    codes = loaded.uses_codes(use_codes)
    batch = Batch()
    paths = expand(files, known_suffixes(modality), batch)
    jobs = list(zip(paths, output_paths(paths, out, lambda path: (path.stem, SUFFIX)), strict=True))
    results: list[dict[str, Any]] = []
    with progress(len(jobs), "encode", as_json) as advance, torch.inference_mode():
        for some in chunks(jobs, batch_size):
            read = _read(some, modality, loaded, batch)
            stored = torch.float16 if half else torch.float32
            results += _encode(read, loaded, codes, stored, batch)
            advance(len(some))
    emit({"model": loaded.digest, "files": results, "failed": batch.failures}, as_json, lambda: _render(results))
    batch.finish(results, "files")


def _read(jobs: Any, name: str | None, loaded: Loaded, batch: Batch) -> list[tuple[Path, Path, TokenSet]]:
    from tok4d.plugins.registry import modality_for

    read = []
    for path, target in jobs:
        with batch.guard(path):
            _, tokens = read_patches(path, modality_for(path, name), loaded.model)
            read.append((path, target, tokens))
    return read


def _encode(
    read: list[tuple[Path, Path, TokenSet]], loaded: Loaded, codes: bool, stored: torch.dtype, batch: Batch
) -> list[dict[str, Any]]:
    """Encode files together and write each; what fails on the way belongs to its file."""
    from tok4d.tokenfile import save_tokens
    from tok4d.tokens import TokenSet

    results: list[dict[str, Any]] = []
    if not read:
        return results
    packed = TokenSet.pack([tokens for _, _, tokens in read]).to(loaded.device, loaded.dtype)
    with batch.guard(*(path for path, _, _ in read)):
        encoded = loaded.model.encode(packed, pool=False)
        made: Sequence[TokenSet | Codes] = encoded.latents("mean").unpack()
        if codes:
            made = split_codes(loaded.model.quantize(encoded))
        for (path, target, tokens), item in zip(read, made, strict=True):
            with batch.guard(path):
                save_tokens(target, item, model_digest=loaded.digest, dtype=stored)
                results.append(
                    {
                        "file": str(path),
                        "tokens": str(target),
                        "modality": tokens.origins[0].modality,
                        "count": tokens.num_tokens,
                        "bytes": target.stat().st_size,
                    }
                )
    return results


def split_codes(codes: Codes) -> list[Codes]:
    """Codes of a batch, one per sample."""
    from tok4d.model.fsq import Codes

    lengths = list(codes.tokens.lengths)
    parts = zip(codes.indices.split(lengths), codes.values.split(lengths), codes.tokens.unpack(), strict=True)
    return [Codes(indices, values, codes.vocabulary, tokens) for indices, values, tokens in parts]


def _render(results: list[dict[str, Any]]) -> None:
    if results:
        rows = [(r["file"], r["modality"], r["count"], r["bytes"], r["tokens"]) for r in results]
        table(("file", "modality", "tokens", "bytes", "written"), rows, ("file", "written"))
