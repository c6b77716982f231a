"""`tok4d decode`: token files back to files, without the originals."""

from __future__ import annotations

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
    from tok4d.modality import Sample
    from tok4d.tokenfile import TokenFile
    from tok4d.tokens import TokenSet

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
    from tok4d.tokenfile import SUFFIX, load_tokens

    suffixes: dict[Path, str] = {}
    for path in paths:
        with batch.guard(path):
            suffixes[path] = output_suffix(load_tokens(path).modality, suffix)
    readable = list(suffixes)
    named = output_paths(readable, out, lambda path: (path.name.removesuffix(SUFFIX), suffixes[path]))
    return list(zip(readable, named, strict=True))


def output_suffix(name: str, wanted: str | None) -> str:
    """The suffix asked for, with its dot, or the modality's default."""
    from tok4d.plugins.registry import modality

    if wanted is None:
        return modality(name).suffixes[0]
    return wanted if wanted.startswith(".") else f".{wanted}"


def _decode(path: Path, target: Path, loaded: Loaded, allow_other: bool) -> list[dict[str, Any]]:
    """Decode one token file; several samples in it are numbered."""
    from tok4d.plugins.registry import modality
    from tok4d.tokenfile import load_tokens

    file = load_tokens(path)
    if file.digest != loaded.digest and not allow_other:
        raise DataError(
            path,
            f"was made by another model ({file.digest[:12]}) than this one ({loaded.digest[:12]}); "
            "use that model, or --allow-other-model",
        )
    check_patch(file.origins, loaded.model)
    samples = _restore(file, loaded)
    written = []
    for number, sample in enumerate(samples):
        place = target if len(samples) == 1 else target.with_name(f"{target.stem}-{number}{target.suffix}")
        modality(file.modality).write(sample, place)
        written.append({"tokens": str(path), "file": str(place), "modality": file.modality})
    return written


def _restore(file: TokenFile, loaded: Loaded) -> list[Sample]:
    """Samples of a token file, of the shapes that it promises.

    A modality trusts the origins that its own patchify made; those of a file may be anything, so whatever it raises
    on them is an error of the file.
    """
    from tok4d.plugins.registry import modality

    owner = modality(file.modality)
    patches = decode_values(file, loaded)
    try:
        samples = loaded.restore(patches)
    except Tok4dError:
        raise
    except (ValueError, TypeError, LookupError, ArithmeticError, RuntimeError, MemoryError) as error:
        raise Tok4dError(f"its origins do not describe a sample of {owner.name!r}: {reason(error)}") from error
    for sample, origin in zip(samples, file.origins, strict=True):
        if (shape := tuple(sample.data[owner.field].shape)) != origin.shape:
            raise Tok4dError(f"it promises a sample of shape {origin.shape}, its tokens give {shape}")
    return samples


def decode_values(file: TokenFile, loaded: Loaded) -> TokenSet:
    """Latents or codes of a token file through the decoder."""
    if file.kind == "latents":
        return loaded.model.decode(file.tokens(loaded.dtype).to(loaded.device))
    values, coords = file.values.to(loaded.device), file.coords.to(loaded.device)
    return loaded.model.decode_codes(values, coords, file.lengths, file.origins)


def _render(results: list[dict[str, Any]]) -> None:
    if results:
        rows = [(r["tokens"], r["modality"], r["file"]) for r in results]
        table(("tokens", "modality", "written"), rows, ("tokens", "written"))
