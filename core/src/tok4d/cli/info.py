"""`tok4d info`: what a file, a model folder or a token file is."""

from __future__ import annotations

from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tok4d.cli.console import emit, pairs
from tok4d.cli.files import Json, ModalityName
from tok4d.errors import DataError

if TYPE_CHECKING:
    from tok4d.modality import Modality
    from tok4d.origin import Origin


def info(
    path: Annotated[Path, typer.Argument(metavar="FILE|MODEL", help="A file, a model folder or a token file.")],
    modality: ModalityName = None,
    as_json: Json = False,
) -> None:
    """Describe a file (shape, tokens, grid), a model folder (size, latents, digest) or a token file (contents)."""
    data = describe(path, modality)
    emit(data, as_json, lambda: pairs([(key.replace("_", " "), _text(value)) for key, value in data.items()]))


def describe(path: Path, name: str | None = None) -> dict[str, Any]:
    """Facts about a path.

    Raises:
        Tok4dError: when it is nothing that tok4d knows, or is broken.
    """
    if path.is_dir():
        return _model(path)
    if not path.exists():
        raise DataError(path, "no such file or folder")
    from tok4d.tokenfile import is_token_file

    if name is None and (path.suffix == ".safetensors" or is_token_file(path)):
        return _token_file(path)
    return _sample(path, name)


def _model(path: Path) -> dict[str, Any]:
    from tok4d.model.tokenizer import Tokenizer

    model = Tokenizer.from_pretrained(path)
    config = model.config
    fsq = config.quantizer
    return {
        "kind": "model",
        "preset": config.name,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "patch_size": list(config.patch_size),
        "encoder": _stack(config.encoder),
        "decoder": _stack(config.decoder),
        "latent_channels": config.latent,
        "quantizer": None if fsq is None else {"groups": fsq.groups, "levels": list(fsq.levels)},
        "heads": sorted(config.heads),
        "digest": model.digest,
    }


def _stack(stack: Any) -> dict[str, int]:
    return {"width": stack.width, "blocks": stack.blocks, "heads": stack.heads}


def _token_file(path: Path) -> dict[str, Any]:
    from tok4d.cli.decode import MAX_STREAMED
    from tok4d.tokenfile import load_tokens

    file = load_tokens(path, max_elements=MAX_STREAMED)  # nothing is restored here
    return {
        "kind": "token file",
        "version": file.version,
        "modality": file.modality,
        "holds": file.kind,
        "dtype": str(file.values.dtype).removeprefix("torch."),
        "channels": file.values.shape[1],
        "tokens": list(file.lengths),
        "shapes": [list(origin.shape) for origin in file.origins],
        "grids": [list(origin.grid) for origin in file.origins],
        "bytes": path.stat().st_size,
        "model_digest": file.digest,
    }


def _sample(path: Path, name: str | None) -> dict[str, Any]:
    from tok4d.plugins.registry import modality_for

    owner = modality_for(path, name)
    if owner.streams:
        return _streamed(path, owner)
    sample = owner.read(path)
    tokens = owner.patchify(sample)
    return _described(path, owner, tokens.origins[0], tokens.num_tokens, sample.fps, sample.meta)


def _streamed(path: Path, owner: Modality) -> dict[str, Any]:
    """A file that may be too long for memory, by its first frames."""
    from tok4d.modality import DEFAULT_PATCH

    stream = owner.stream(path, DEFAULT_PATCH[0])
    assert stream is not None, "a modality that streams has a stream"
    with stream:
        first = next(iter(stream), None)
        if first is None:
            raise DataError(path, "holds nothing")
        shape = first.data[owner.field].shape
        _, origin = owner.grid((stream.frames or shape[0], *shape[1:]))
        return _described(path, owner, origin, prod(origin.grid), stream.fps, stream.meta)


def _described(
    path: Path, owner: Modality, origin: Origin, tokens: int, fps: float | None, meta: dict[str, Any]
) -> dict[str, Any]:
    return {
        "kind": "sample",
        "modality": owner.name,
        "shape": list(origin.shape),
        "fps": fps,
        "patch_size": list(origin.patch),
        "tokens": tokens,
        "grid": list(origin.grid),
        "bytes": path.stat().st_size,
        **{f"meta_{key}": value for key, value in meta.items()},
    }


def _text(value: Any) -> str:
    """A value for people: dictionaries as `width 192, blocks 4`, sizes as `3 x 480 x 640`, whole numbers grouped."""
    if isinstance(value, dict):
        return ", ".join(f"{key} {_text(item)}" for key, item in value.items())
    if isinstance(value, list):
        nested = any(isinstance(item, list) for item in value)
        return (", " if nested or len(value) == 1 else " x ").join(map(_text, value)) or "-"
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return "-" if value is None else str(value)
