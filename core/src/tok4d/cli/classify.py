"""`tok4d classify`: which of some labels, given as text, fits a file best.

N = files that could be used, C = labels, D = width of the embeddings.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tok4d.cli.console import emit, note, table
from tok4d.cli.embedding import EmbeddedFile, embed_files
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
from tok4d.config.schema import TEXT_TOWERS, TextConfig
from tok4d.errors import Tok4dError, unknown_name

if TYPE_CHECKING:
    from torch import Tensor

    from tok4d.model.tokenizer import Tokenizer
    from tok4d.text import TextEncoder


def classify(
    files: Files,
    model: ModelFolder,
    labels: Annotated[str | None, typer.Option("--labels", metavar="A,B,C", help="Labels, parted by commas.")] = None,
    labels_file: Annotated[
        Path | None, typer.Option("--labels-file", metavar="FILE", help="Text file with one label a line.")
    ] = None,
    templates: Annotated[
        str,
        typer.Option("--templates", metavar="NAME|FILE", help="plain, siglip, openai7, or a file, one a line."),
    ] = "siglip",
    text: Annotated[
        str | None,
        typer.Option("--text", metavar="KIND[=SOURCE]", help="Text tower, such as siglip2=FOLDER_OR_ID or minilm."),
    ] = None,
    top: Annotated[int, typer.Option("--top", min=1, help="How many labels to show for a file.")] = 5,
    modality: ModalityName = None,
    read: ReadOptions = None,
    batch_size: BatchSize = 8,
    device: Device = "auto",
    dtype: Dtype = "float32",
    as_json: Json = False,
) -> None:
    """Classify files of any modality without training: cosines with the embeddings of labels, best first.

    softmax: probability among the labels given. sigmoid: probability that a label fits, each for itself (SigLIP). The
    model must be aligned with a text tower; it names its own, --text takes another.
    """
    from tok4d.text.zero_shot import check_labels, load_templates

    names = _labels(labels, labels_file)
    check_labels(names)
    prompts = load_templates(templates)
    options = read_options(read)
    loaded = load_model(model, device, dtype)
    tower = _tower(text, _own_tower(loaded.model), model)
    encoder = _encoder(tower, loaded.device, loaded.model.embedding_width)
    weights = _weights(encoder, names, prompts)
    batch = Batch()
    paths = expand(files, known_suffixes(modality), batch)
    done = embed_files(
        paths,
        loaded,
        batch,
        modality=modality,
        read=options,
        batch_size=batch_size,
        label="classify",
        as_json=as_json,
    )
    results = [{**item.row(), "labels": _ranked(item, names, weights, tower)[:top]} for item in done]
    data = {
        "model": loaded.digest,
        "text": {"kind": tower.kind, "source": tower.source, "digest": encoder.digest},
        "log_scale": tower.log_scale,
        "bias": tower.bias,
        "templates": list(prompts),
        "labels": names,
        "files": results,
        "failed": batch.failures,
    }
    emit(data, as_json, lambda: _render(results))
    batch.finish(results, "files")


def _labels(given: str | None, file: Path | None) -> list[str]:
    from tok4d.text.zero_shot import read_lines

    if (given is None) == (file is None):
        raise typer.BadParameter("give either --labels A,B,C or --labels-file FILE")
    if file is not None:
        return read_lines(file)
    return [label.strip() for label in (given or "").split(",") if label.strip()]


def _own_tower(model: Tokenizer) -> TextConfig | None:
    """The model's tower, with the constants that it has learned where it has learned some."""
    if model.config.text is None:
        return None
    log_scale, bias = model.text_constants()
    return replace(model.config.text, log_scale=log_scale, bias=bias)


def _tower(given: str | None, own: TextConfig | None, model: Path) -> TextConfig:
    """The text tower to use, with the constants of the model's own sigmoid loss where it has some.

    Raises:
        Tok4dError: when there is none, or the one given is of an unknown kind.
    """
    if given is None:
        if own is None:
            raise Tok4dError(
                f"{model}: the embeddings of this model are aligned with no text, so labels mean nothing to it; "
                "if you know its text tower, name it: --text siglip2=FOLDER_OR_ID or --text minilm"
            )
        return own
    kind, _, source = given.partition("=")
    if kind not in TEXT_TOWERS:
        raise Tok4dError(f"--text: {unknown_name('text tower', kind, TEXT_TOWERS)}")
    if own is None:
        note("note: this model names no text tower; the sigmoid is that of SigLIP2's constants")
        return TextConfig(kind, source)
    return TextConfig(kind, source, own.log_scale, own.bias)


def _encoder(tower: TextConfig, device: Any, width: int) -> TextEncoder:
    """The text tower, checked against the model before any file is read."""
    from tok4d.text import load_text_encoder

    try:
        encoder = load_text_encoder(tower.kind, tower.source, device, note)
    except Tok4dError as error:
        raise Tok4dError(f"text tower {tower.kind}: {error}; another one goes by --text KIND=SOURCE") from error
    if encoder.width != width:
        raise Tok4dError(
            f"the embeddings of the model have width {width}, those of the text tower {tower.kind} "
            f"{tower.source or '(default)'} {encoder.width}; it is not the tower that the model is aligned with"
        )
    return encoder


def _weights(encoder: TextEncoder, labels: Sequence[str], templates: Sequence[str]) -> Tensor:
    from tok4d.text import EmbeddingCache, zero_shot_weights

    return zero_shot_weights(encoder, labels, templates, EmbeddingCache()).cpu()


def _ranked(item: EmbeddedFile, labels: Sequence[str], weights: Tensor, tower: TextConfig) -> list[dict[str, Any]]:
    """Labels of one file, the best first; equal ones in the order given. `weights` is [C, D]."""
    cosines = (weights.double() @ item.vector.double()).clamp(-1, 1)
    logits = math.exp(tower.log_scale) * cosines + tower.bias
    softmax, sigmoid = logits.softmax(0), logits.sigmoid()
    return [
        {
            "label": labels[i],
            "softmax": softmax[i].item(),
            "sigmoid": sigmoid[i].item(),
            "cosine": cosines[i].item(),
            "logit": logits[i].item(),
        }
        for i in cosines.argsort(descending=True, stable=True).tolist()
    ]


def _render(results: list[dict[str, Any]]) -> None:
    if results:
        rows = [
            (result["file"] if rank == 0 else "", row["label"], row["softmax"], row["sigmoid"], row["cosine"])
            for result in results
            for rank, row in enumerate(result["labels"])
        ]
        table(("file", "label", "softmax", "sigmoid", "cosine"), rows, ("file", "label"))
