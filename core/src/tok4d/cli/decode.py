"""`tok4d decode`: token files back to files, without the originals."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tok4d.cli.console import emit, progress, table
from tok4d.cli.files import (
    Batch,
    Device,
    Dtype,
    Json,
    Loaded,
    ModelFolder,
    Out,
    check_patch,
    expand,
    load_model,
    output_paths,
)
from tok4d.errors import DataError, Tok4dError
from tok4d.plugins.targets import reason

if TYPE_CHECKING:
    from tok4d.modality import Modality, Sample
    from tok4d.tokenfile import TokenFile
    from tok4d.tokens import TokenSet

MAX_STREAMED = 2**41  # values of a sample that is written in pieces: an hour of 4K
STREAMED_FRAMES = 64  # more than a piece has

Format = Annotated[str | None, typer.Option("--format", help="Suffix of the files to write, such as .png.")]


def decode(
    tokens: Annotated[list[str], typer.Argument(metavar="TOKENS", help="Token files, folders or glob patterns.")],
    model: ModelFolder,
    out: Out,
    suffix: Format = None,
    allow_other_model: Annotated[
        bool, typer.Option("--allow-other-model", help="Decode tokens of another model all the same.")
    ] = False,
    device: Device = "auto",
    dtype: Dtype = "float32",
    as_json: Json = False,
) -> None:
    """Restore files from token files alone, as OUT/<name> with the suffix of their modality or --format.

    A token file of another model is refused. What fails is listed; the others are still decoded, and the exit code
    is 1.
    """
    import torch

    loaded = load_model(model, device, dtype)
    batch = Batch()
    found = expand(tokens, [".safetensors"], batch)
    results: list[dict[str, Any]] = []
    with progress(len(found), "decode", as_json) as advance, torch.inference_mode():
        jobs = _targets(found, out, suffix, batch)
        for path, target in jobs:
            with batch.guard(path):
                results += _decode(path, target, loaded, allow_other_model)
            advance(1)
    emit({"model": loaded.digest, "files": results, "failed": batch.failures}, as_json, lambda: _render(results))
    batch.finish(results, "files")


def _targets(paths: list[Path], out: Path, suffix: str | None, batch: Batch) -> list[tuple[Path, Path]]:
    """Token files that can be read, each with its output."""
    from tok4d.tokenfile import SUFFIX

    suffixes: dict[Path, str] = {}
    for path in paths:
        with batch.guard(path):
            suffixes[path] = output_suffix(_load(path).modality, suffix)
    readable = list(suffixes)
    named = output_paths(readable, out, lambda path: (path.name.removesuffix(SUFFIX), suffixes[path]))
    return list(zip(readable, named, strict=True))


def _load(path: Path) -> TokenFile:
    """A token file whose samples fit into memory: whole, or a second of them at a time for what is written in pieces.

    Raises:
        DataError: for a damaged file, or one that would restore too much.
    """
    from tok4d.plugins.registry import modality
    from tok4d.tokenfile import MAX_ELEMENTS, load_tokens

    file = load_tokens(path, max_elements=MAX_STREAMED)
    streams = modality(file.modality).streams
    shapes = [(min(o.shape[0], STREAMED_FRAMES), *o.shape[1:]) if streams else o.shape for o in file.origins]
    if (elements := sum(prod(shape) for shape in shapes)) > MAX_ELEMENTS:
        raise DataError(path, f"would restore {elements} values at once, the bound is {MAX_ELEMENTS}")
    return file


def output_suffix(name: str, wanted: str | None) -> str:
    """The suffix asked for, with its dot, or the modality's default."""
    from tok4d.plugins.registry import modality

    if wanted is None:
        return modality(name).suffixes[0]
    return wanted if wanted.startswith(".") else f".{wanted}"


def _decode(path: Path, target: Path, loaded: Loaded, allow_other: bool) -> list[dict[str, Any]]:
    """Decode one token file; several samples in it are numbered."""
    from tok4d.plugins.registry import modality

    file = _load(path)
    if file.digest != loaded.digest and not allow_other:
        raise DataError(
            path,
            f"was made by another model ({file.digest[:12]}) than this one ({loaded.digest[:12]}); "
            "use that model, or --allow-other-model",
        )
    check_patch(file.origins, loaded.model)
    owner, count = modality(file.modality), len(file.origins)
    places = [target if count == 1 else target.with_name(f"{target.stem}-{i}{target.suffix}") for i in range(count)]
    if owner.streams:
        _write_pieces(file, owner, loaded, places)
    else:
        for sample, place in zip(_restore(file, loaded), places, strict=True):
            owner.write(sample, place)
    return [{"tokens": str(path), "file": str(place), "modality": file.modality} for place in places]


def _write_pieces(file: TokenFile, owner: Modality, loaded: Loaded, places: list[Path]) -> None:
    """Decode and write every sample of a token file a few frames at a time."""
    from tok4d import streaming

    for latents, place in zip(latents_of(file, loaded).unpack(), places, strict=True):
        (origin,) = latents.origins
        with _trusting_nothing(owner), owner.writer(place, origin.fps) as writer:
            frames = 0
            for piece in streaming.decode(latents, owner, loaded.model):
                writer.add(piece)
                frames += len(piece.data[owner.field])
            if frames != origin.shape[0]:
                raise Tok4dError(f"it promises {origin.shape[0]} frames, its tokens give {frames}")


@contextmanager
def _trusting_nothing(owner: Modality) -> Iterator[None]:
    """A modality trusts the origins that its own patchify made; those of a file may be anything, so whatever it
    raises on them is an error of the file.
    """
    try:
        yield
    except Tok4dError:
        raise
    except (ValueError, TypeError, LookupError, ArithmeticError, RuntimeError, MemoryError) as error:
        raise Tok4dError(f"its origins do not describe a sample of {owner.name!r}: {reason(error)}") from error


def _restore(file: TokenFile, loaded: Loaded) -> list[Sample]:
    """Samples of a token file, of the shapes that it promises."""
    from tok4d.plugins.registry import modality

    owner = modality(file.modality)
    patches = loaded.model.decode(latents_of(file, loaded))
    with _trusting_nothing(owner):
        samples = loaded.restore(patches)
    for sample, origin in zip(samples, file.origins, strict=True):
        if (shape := tuple(sample.data[owner.field].shape)) != origin.shape:
            raise Tok4dError(f"it promises a sample of shape {origin.shape}, its tokens give {shape}")
    return samples


def latents_of(file: TokenFile, loaded: Loaded) -> TokenSet:
    """Latents of a token file, or the values of its codes."""
    if file.kind == "latents":
        return file.tokens(loaded.dtype).to(loaded.device)
    values, coords = file.values.to(loaded.device), file.coords.to(loaded.device)
    return loaded.model.latents_of_codes(values, coords, file.lengths, file.origins)


def _render(results: list[dict[str, Any]]) -> None:
    if results:
        rows = [(r["tokens"], r["modality"], r["file"]) for r in results]
        table(("tokens", "modality", "written"), rows, ("tokens", "written"))
