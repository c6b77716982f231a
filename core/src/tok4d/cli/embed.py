"""`tok4d embed`: files to one vector each, in one safetensors or npz file.

N = files that could be used, D = the encoder's width.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tok4d.cli.console import emit
from tok4d.cli.embedding import FEATURES, EmbeddedFile, embed_files
from tok4d.cli.files import (
    Batch,
    BatchSize,
    Device,
    Dtype,
    Files,
    Json,
    ModalityName,
    ModelFolder,
    ReadOptions,
    expand,
    known_suffixes,
    load_model,
    read_options,
)
from tok4d.errors import Tok4dError, unknown_name

if TYPE_CHECKING:
    from torch import Tensor

FORMAT, VERSION = "tok4d-embeddings", 1
MAX_HEADER = 90_000_000  # safetensors refuses to read a file whose header is longer than 100 MB
SUFFIXES = (".safetensors", ".npz")


def embed(
    files: Files,
    model: ModelFolder,
    out: Annotated[Path, typer.Option("-o", "--out", metavar="OUT", help="File to write: .safetensors or .npz.")],
    modality: ModalityName = None,
    feature: Annotated[
        str, typer.Option("--features", help="embedding (length 1) or pooled (as the model gives it).")
    ] = "embedding",
    read: ReadOptions = None,
    batch_size: BatchSize = 8,
    device: Device = "auto",
    dtype: Dtype = "float32",
    as_json: Json = False,
) -> None:
    """Turn files into one vector each: an array [N, D] in float32, with the files' names and the model's digest.

    Safetensors: tensor `embedding` (or `pooled`), the rest as JSON in the metadata under "tok4d-embeddings". npz:
    arrays `embedding` (or `pooled`), `files` and `model`. A file that cannot be used is listed with its reason and left
    out; the exit code is then 1.
    """
    if feature not in FEATURES:
        raise Tok4dError(unknown_name("--features", feature, FEATURES))
    options = read_options(read)
    batch = Batch()
    paths = expand(files, known_suffixes(modality), batch)
    _check_out(out, paths)
    loaded = load_model(model, device, dtype)
    done = embed_files(
        paths,
        loaded,
        batch,
        modality=modality,
        read=options,
        batch_size=batch_size,
        feature=feature,
        as_json=as_json,
    )
    if done:
        _write(out, done, feature, loaded.digest)
    data = {
        "model": loaded.digest,
        "out": str(out) if done else None,
        "features": feature,
        "width": loaded.model.config.encoder.width,
        "files": [{**item.row(), "index": index} for index, item in enumerate(done)],
        "failed": batch.failures,
    }
    emit(data, as_json, lambda: _render(data))
    batch.finish(done, "files")


def _check_out(out: Path, inputs: Sequence[Path]) -> None:
    """Refuse at once what could only fail after hours of work."""
    if out.suffix == ".pt":
        raise Tok4dError(f"--out {out}: .pt files are pickles, which run code when read; use {' or '.join(SUFFIXES)}")
    if out.suffix not in SUFFIXES:
        raise Tok4dError(f"--out {out}: the name must end in {' or '.join(SUFFIXES)}")
    if out.is_dir():
        raise Tok4dError(f"--out {out}: that is a folder; give the name of a file")
    if out.resolve() in {path.resolve() for path in inputs}:
        raise Tok4dError(f"--out {out} is an input and would be overwritten; choose another name")
    if out.suffix == ".safetensors" and sum(len(json.dumps(str(path))) + 2 for path in inputs) > MAX_HEADER:
        raise Tok4dError(f"--out {out}: {len(inputs):,} file names are too long for safetensors metadata; use .npz")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise Tok4dError(f"--out {out}: cannot make its folder: {error.strerror}") from error


def _write(out: Path, done: Sequence[EmbeddedFile], feature: str, digest: str) -> None:
    """The file, complete or not there at all."""
    import torch

    vectors = torch.stack([item.vector for item in done])
    names = [str(item.path) for item in done]
    try:
        if out.suffix == ".npz":
            _write_npz(out, vectors, names, feature, digest)
        else:
            from tok4d.weights.folder import write_tensors

            head = {"version": VERSION, "features": feature, "model": digest, "files": names}
            write_tensors(out, {feature: vectors}, {FORMAT: json.dumps(head)})
    except OSError as error:
        raise Tok4dError(f"--out {out}: cannot be written: {error.strerror or error}") from error


def _write_npz(out: Path, vectors: Tensor, names: Sequence[str], feature: str, digest: str) -> None:
    import numpy as np

    from tok4d.weights.folder import replacing

    arrays: dict[str, Any] = {feature: vectors.numpy(), "files": np.array(names), "model": np.array(digest)}
    with replacing(out) as partial, partial.open("wb") as stream:  # given a name, numpy would append a suffix
        np.savez(stream, **arrays)


def _render(data: dict[str, Any]) -> None:
    if data["out"]:
        typer.echo(f"{data['out']}: {data['features']} [{len(data['files'])}, {data['width']}]")
