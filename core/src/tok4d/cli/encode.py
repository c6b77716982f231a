"""`tok4d encode`: files to token files."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tok4d.cli.console import emit, progress, share, table
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
    ReadOptions,
    UseCodes,
    chunks,
    expand,
    known_suffixes,
    load_model,
    output_paths,
    read_options,
    read_patches,
)

if TYPE_CHECKING:
    import torch

    from tok4d.modality import Modality, SampleStream
    from tok4d.model.fsq import Codes
    from tok4d.tokens import TokenSet


def encode(
    files: Files,
    model: ModelFolder,
    out: Out,
    modality: ModalityName = None,
    use_codes: UseCodes = None,
    half: Annotated[bool, typer.Option("--half", help="Store latents as float16: half the size.")] = False,
    read: ReadOptions = None,
    batch_size: BatchSize = 8,
    device: Device = "auto",
    dtype: Dtype = "float32",
    as_json: Json = False,
) -> None:
    """Turn files into token files: OUT/<name>.tok.safetensors, from which alone `tok4d decode` restores them.

    Clips are read and encoded a few frames at a time, so their length costs no memory but for the tokens.
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
    job = _Job(loaded, codes, torch.float16 if half else torch.float32, modality, read_options(read), batch)
    with progress(len(jobs), "encode", as_json) as advance, torch.inference_mode():
        for some in chunks(jobs, batch_size):
            results += job.run(some, advance)
    emit({"model": loaded.digest, "files": results, "failed": batch.failures}, as_json, lambda: _render(results))
    batch.finish(results, "files")


@dataclass(frozen=True)
class _Job:
    """How files are encoded, and where failures go."""

    loaded: Loaded
    codes: bool
    stored: torch.dtype
    modality: str | None
    options: dict[str, Any]
    batch: Batch

    def run(self, some: Sequence[tuple[Path, Path]], advance: Callable[[float], None]) -> list[dict[str, Any]]:
        """Encode some files: those that come in pieces one by one, the others together."""
        from tok4d.plugins.registry import modality_for
        from tok4d.streaming import open_stream

        results: list[dict[str, Any]] = []
        whole: list[tuple[Path, Path, TokenSet]] = []
        for path, target in some:
            with share(advance) as part, self.batch.guard(path):
                owner = modality_for(path, self.modality)
                stream = open_stream(owner, path, self.loaded.model, self.options)
                if stream is None:
                    whole.append((path, target, read_patches(path, owner, self.loaded.model, self.options)[1]))
                else:
                    results.append(self._save(path, target, self._in_pieces(stream, owner, part)))
        return results + self._together(whole)

    def _in_pieces(self, stream: SampleStream, owner: Modality, advance: Callable[[float], None]) -> TokenSet | Codes:
        from tok4d import streaming

        model = self.loaded.model
        with stream:
            return streaming.encode(streaming.pieces(stream, owner, model, advance), owner, model, self.codes)

    def _together(self, read: list[tuple[Path, Path, TokenSet]]) -> list[dict[str, Any]]:
        """Encode files in one batch and write each; what fails on the way belongs to its file."""
        from tok4d.tokens import TokenSet

        results: list[dict[str, Any]] = []
        if not read:
            return results
        model = self.loaded.model
        with self.batch.guard(*(path for path, _, _ in read)):
            packed = TokenSet.pack([tokens for _, _, tokens in read]).to(self.loaded.device, self.loaded.dtype)
            encoded = model.encode(packed, pool=False)
            made: Sequence[TokenSet | Codes] = encoded.latents("mean").unpack()
            if self.codes:
                made = split_codes(model.quantize(encoded))
            for (path, target, _), item in zip(read, made, strict=True):
                with self.batch.guard(path):
                    results.append(self._save(path, target, item))
        return results

    def _save(self, path: Path, target: Path, item: TokenSet | Codes) -> dict[str, Any]:
        from tok4d.model.fsq import Codes
        from tok4d.tokenfile import save_tokens

        save_tokens(target, item, model_digest=self.loaded.digest, dtype=self.stored)
        tokens = item.tokens if isinstance(item, Codes) else item
        return {
            "file": str(path),
            "tokens": str(target),
            "modality": tokens.origins[0].modality,
            "count": tokens.num_tokens,
            "bytes": target.stat().st_size,
        }


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
