"""`tok4d weights init-siglip2`: a model folder whose encoder is a SigLIP2 vision tower."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tok4d.cli.console import emit, pairs
from tok4d.cli.files import Batch, Json, expand, known_suffixes, read_patches
from tok4d.errors import Tok4dError

if TYPE_CHECKING:
    from tok4d.config.schema import TokenizerConfig
    from tok4d.model.tokenizer import Tokenizer
    from tok4d.tokens import TokenSet
    from tok4d.weights.siglip2 import InitReport
    from tok4d.weights.siglip2_tower import Tower

SHAPED_LIKE_TOWERS = ("base", "so400m")  # presets whose encoder is a published tower's
PICTURES = 4
MAX_SIDE = 16  # patches; a generated picture has the tower's own size, but no more than this


def init_siglip2(
    source: Annotated[str, typer.Argument(metavar="FOLDER_OR_ID", help="Published model: a folder, or a hub id.")],
    out: Annotated[Path, typer.Option("-o", "--out", metavar="OUT", help="Model folder to write.")],
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Changes to the configuration.")
    ] = None,
    preset: Annotated[
        str | None, typer.Option("--preset", help="Where all but the encoder comes from. Default: one that fits.")
    ] = None,
    positions: Annotated[
        str | None, typer.Option("--positions", help="joint (the table and RoPE) or table (SigLIP2 exactly).")
    ] = None,
    latent: Annotated[int | None, typer.Option("--latent", min=1, help="Latent channels.")] = None,
    seed: Annotated[int, typer.Option("--seed", help="Of what is not the tower's.")] = 0,
    images: Annotated[
        list[str] | None,
        typer.Option("--images", metavar="FILES", help="File, folder or pattern to measure on; may be repeated."),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite a model that is there.")] = False,
    as_json: Json = False,
) -> None:
    """Start a model at a SigLIP2 vision tower, and measure how near to it RoPE leaves the encoder (step-0 cosine).

    The decoder is new. With --positions joint train with `rope_ramp`, which starts exactly at SigLIP2.
    """
    import torch

    from tok4d.model.tokenizer import Tokenizer
    from tok4d.weights.folder import WEIGHTS
    from tok4d.weights.siglip2 import init_from_siglip2, step0_cosines
    from tok4d.weights.siglip2_tower import read_tower

    if (out / WEIGHTS).exists() and not force:
        raise Tok4dError(f"{out} holds a model already; choose another --out, or overwrite it with --force")
    options = {"positions": positions, "latent": latent}
    changes = [f"{key}={value}" for key, value in options.items() if value is not None] + (overrides or [])
    config = _configure(read_tower(source), preset, changes)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Tokenizer(config).eval()
    report = init_from_siglip2(model, source)
    batch = Batch()
    pictures = _generated(model) if images is None else _read(images, model, batch)
    pairs_of = [step0_cosines(model, tokens) for tokens in pictures]
    embedding, features = (float(torch.cat(part).mean()) for part in zip(*pairs_of, strict=True))
    model.save_pretrained(out)
    measured = {
        "pictures": "generated (image/shapes)" if images is None else "given",
        "count": len(pictures),
        "embedding_cosine": embedding,
        "feature_cosine": features,
    }
    data = {**_describe(out, model, report), "step0": measured, "failed": batch.failures}
    emit(data, as_json, lambda: _render(data))
    batch.finish(pictures, "pictures")


def _configure(tower: Tower, preset: str | None, changes: list[str]) -> TokenizerConfig:
    """The preset's configuration with an encoder of the tower's shape; the decoder's too when no preset has one."""
    from tok4d.config.loader import load_preset
    from tok4d.config.schema import StackConfig
    from tok4d.weights.siglip2 import fitting, text_config

    shape = fitting(tower)
    encoder = StackConfig(**shape["encoder"])
    if preset is None:
        preset = next((name for name in SHAPED_LIKE_TOWERS if load_preset(name).encoder == encoder), None)
    dotlist = _dotlist(shape)
    if preset is None:
        preset = SHAPED_LIKE_TOWERS[0]
        sizes = {key: shape["encoder"][key] for key in ("width", "blocks", "heads", "mlp")}
        dotlist += [*_dotlist({"decoder": sizes}), "name=siglip2"]
    config = load_preset(preset, [*dotlist, *changes])
    if not any(change.startswith("text") for change in changes):
        config.text = text_config(tower) or config.text
    return config


def _dotlist(values: dict[str, Any], prefix: str = "") -> list[str]:
    """Nested values as overrides, so that those of the command line can follow them."""
    flat: list[str] = []
    for key, value in values.items():
        flat += _dotlist(value, f"{prefix}{key}.") if isinstance(value, dict) else [f"{prefix}{key}={value}"]
    return flat


def _generated(model: Tokenizer) -> list[TokenSet]:
    """Pictures that depend on nothing but the model's patch and table."""
    from tok4d.config.schema import TaskConfig
    from tok4d.data.batches import load_tokens
    from tok4d.data.build import build_source

    side = model.patch_size[1] * min(model.config.table_side, MAX_SIDE)
    source = build_source(TaskConfig("image/shapes", {"count": 4 * PICTURES, "side": side}))
    return [load_tokens(source, index, model.patch_size, inputs=model.config.inputs) for index in range(PICTURES)]


def _read(images: list[str], model: Tokenizer, batch: Batch) -> list[TokenSet]:
    """The files that can be used; others are failures of the batch.

    Raises:
        Tok4dError: when no file can be used.
    """
    from tok4d.plugins.registry import modality_for

    read = []
    for path in expand(images, known_suffixes(None), batch):
        with batch.guard(path):
            read.append(read_patches(path, modality_for(path), model)[1])
    if not read:
        reasons = [f"{failure['file']}: {failure['error']}" for failure in batch.failures]
        raise Tok4dError(
            f"--images: none can be used, nothing was written; {reasons[0] if reasons else 'no such file'}"
        )
    return read


def _describe(out: Path, model: Tokenizer, report: InitReport) -> dict[str, Any]:
    tower, config = report.tower, model.config
    shape = {key: getattr(tower, key) for key in ("width", "blocks", "heads", "mlp", "patch")}
    return {
        "model": str(out),
        "source": tower.source,
        "layout": tower.layout,
        "encoder": {**shape, "table_side": tower.side, "table_resize": tower.resize},
        "preset": config.name,
        "positions": config.positions,
        "rope_scale": config.rope_scale,
        "latent": config.latent,
        "text": None if config.text is None else config.text.source,
        "parameters": {"taken": report.taken, "zero": report.zeroed, "new": report.fresh},
    }


def _render(data: dict[str, Any]) -> None:
    encoder, parameters, measured = data["encoder"], data["parameters"], data["step0"]
    rope = "" if data["positions"] == "table" else f", RoPE scale {data['rope_scale']:g}"
    shape = f"{encoder['blocks']} blocks, width {encoder['width']}, {encoder['heads']} heads, MLP {encoder['mlp']}"
    side = encoder["table_side"]
    pairs(
        [
            ("model", data["model"]),
            ("tower", f"{data['source']} ({data['layout']}): {shape}, patch {encoder['patch']}, table {side}x{side}"),
            ("preset", f"{data['preset']}, latent {data['latent']}, positions {data['positions']}{rope}"),
            ("taken", f"{parameters['taken']:,} parameters of the tower and its pooling head"),
            ("zero", f"{parameters['zero']:,} weights of the patches' further frames"),
            ("new", f"{parameters['new']:,} parameters of the latent projection and the decoder"),
            ("text tower", data["text"] or "none in this checkpoint"),
            ("pictures", f"{measured['count']} {measured['pictures']}"),
            (
                "step-0 cosine",
                f"embedding {measured['embedding_cosine']:.6f}, features {measured['feature_cosine']:.6f}",
            ),
        ]
    )
