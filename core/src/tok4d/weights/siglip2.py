"""`init: siglip2`: start the encoder and its pooling head at a SigLIP2 vision tower (AToken, section 3.1).

The encoder is that tower with two additions, and both leave it as it was at the start: patches have more frames, whose
weights are zero, and attention has RoPE, which does nothing at `rope_scale` 0 and without which (`positions: table`)
a single image gets SigLIP2's own features and embedding. `proj` and the decoder stay as they are.

C = encoder channels, M = MLP channels, N = side of the position table, p = side of a patch in pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from tok4d.config.schema import TextConfig, TokenizerConfig
from tok4d.errors import ConfigError, DataError
from tok4d.model.tokenizer import Tokenizer
from tok4d.tokens import TokenSet
from tok4d.weights.hf_folder import Stored, stored_tensors
from tok4d.weights.siglip2_tower import Tower, read_tower

FRAMES = 4  # of a patch, when nobody says otherwise (AToken, section 3.1)
_PARTS = ("embeddings.", "encoder.", "post_layernorm.", "head.")
_FLOATS = ("F64", "F32", "F16", "BF16")
_ATTENTION = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")


@dataclass(frozen=True)
class InitReport:
    """What an initialisation did, in numbers of parameters.

    Attributes:
        tower: shape of the tower and where it is.
        taken: parameters that are the tower's.
        zeroed: weights of the patches' further frames.
        fresh: all others, left as they were: latent projection, decoder, extra heads.
    """

    tower: Tower
    taken: int
    zeroed: int
    fresh: int


def siglip2_config(source: str | Path, frames: int = FRAMES) -> dict[str, Any]:
    """Overrides of a preset that make its encoder fit a tower: `patch_size, encoder, table_side, table_resize`.

    Raises:
        ConfigError, DataError: as `read_tower`.
    """
    return fitting(read_tower(source, weights=False), frames)


def fitting(tower: Tower, frames: int = FRAMES) -> dict[str, Any]:
    """Overrides as `siglip2_config` gives them, for a tower already read."""
    return {
        "patch_size": [frames, tower.patch, tower.patch],
        "encoder": {
            "width": tower.width,
            "blocks": tower.blocks,
            "heads": tower.heads,
            "mlp": tower.mlp,
            "norm": "layer",
            "bias": True,
            "qk_norm": False,
        },
        "table_side": tower.side,
        "table_resize": tower.resize,
    }


def check_fits(config: TokenizerConfig, source: str | Path) -> None:
    """Refuse a configuration that cannot start at a tower; reads the tower's `config.json` only.

    Raises:
        ConfigError: naming all differences and the configuration that fits.
        DataError: as `read_tower`.
    """
    _refuse_misfit(config, read_tower(source, weights=False))


@torch.no_grad()
def init_from_siglip2(tokenizer: Tokenizer, source: str | Path) -> InitReport:
    """Put a SigLIP2 vision tower into the encoder and its pooling head.

    Pixels are in [-1, 1] on both sides. RoPE acts as the tokenizer is configured (`positions`, `rope_scale`).

    Args:
        tokenizer: its encoder is overwritten, once all of the tower has been checked.
        source: a folder with `config.json` and safetensors, or a hub id.

    Raises:
        ConfigError: when the shapes differ, naming all differences and the configuration that fits.
        DataError: for files that are missing, broken, or hold other tensors than their configuration says.
    """
    tower = read_tower(source)
    _refuse_misfit(tokenizer.config, tower)
    stored = _stored(tower)
    parameters = dict(tokenizer.encoder.named_parameters())
    for name, tensor in _converted(tower, tokenizer.config.patch_size[0], lambda key: stored[key].load()):
        parameters.pop(name).copy_(tensor)
    assert not parameters, f"the tower left {sorted(parameters)} as they were"
    taken = sum(prod(tensor.shape) for tensor in stored.values())
    zeroed = tokenizer.encoder.input_layer.weight.numel() - tower.width * 3 * tower.patch**2
    total = sum(parameter.numel() for parameter in tokenizer.parameters())
    return InitReport(tower, taken, zeroed, total - taken - zeroed)


def text_config(tower: Tower) -> TextConfig | None:
    """The text tower of the same checkpoint, with the constants of its sigmoid loss; None when it has none."""
    if not tower.with_text:
        return None
    local = Path(tower.source).expanduser()
    config = TextConfig("siglip2", str(local.resolve()) if local.is_dir() else tower.source)
    constants = stored_tensors(tower.folder, ("logit_scale", "logit_bias"))
    if {"logit_scale", "logit_bias"} <= set(constants):
        config.log_scale = float(constants["logit_scale"].load().reshape(-1)[0])
        config.bias = float(constants["logit_bias"].load().reshape(-1)[0])
    return config


@torch.no_grad()
def step0_cosines(tokenizer: Tokenizer, tokens: TokenSet) -> tuple[Tensor, Tensor]:
    """How far RoPE takes a tokenizer from the tower it starts at: 1 where it changes nothing.

    Returns:
        Cosine of the embeddings `[B]` and mean cosine of the patch features `[B]`, between the encoder as it is and
        with RoPE off, which for single images is the tower itself.
    """
    encoder = tokenizer.encoder
    ours, scale = tokenizer.encode(tokens), encoder.rope_scale
    encoder.rope_scale = 0.0
    try:
        theirs = tokenizer.encode(tokens)
    finally:
        encoder.rope_scale = scale
    assert ours.pooled is not None
    assert theirs.pooled is not None
    patches = F.cosine_similarity(ours.features.feats.float(), theirs.features.feats.float(), dim=-1)
    means = torch.stack([part.mean() for part in patches.split(list(tokens.lengths))])
    return F.cosine_similarity(ours.pooled.float(), theirs.pooled.float(), dim=-1), means


def _refuse_misfit(config: TokenizerConfig, tower: Tower) -> None:
    wanted = fitting(tower, config.patch_size[0])
    found = {
        "patch_size": list(config.patch_size),
        **{f"encoder.{name}": getattr(config.encoder, name) for name in wanted["encoder"]},
        "table_side": config.table_side,
        "table_resize": config.table_resize,
    }
    flat = {**wanted, **{f"encoder.{name}": value for name, value in wanted["encoder"].items()}}
    problems = [f"{name} is {value}, not {flat[name]}" for name, value in found.items() if value != flat[name]]
    advice = " ".join(f"{name}={_flow(value)}" for name, value in wanted.items())
    if config.positions == "rope":
        problems.append("positions is rope, which has no place for the position table")
        advice += " positions=joint"
    if problems:
        raise ConfigError(f"SigLIP2 tower {tower.source} does not fit: {'; '.join(problems)}. This fits: {advice}")


def _flow(value: Any) -> str:
    """A value as an override on the command line takes it."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {_flow(item)}" for key, item in value.items()) + "}"
    return str(value).lower() if isinstance(value, bool) else str(value).replace(" ", "")


def _stored(tower: Tower) -> Mapping[str, Stored]:
    """The tower's tensors by their name inside of it: all that it needs and no other, in the right shapes."""
    found = stored_tensors(tower.folder, ("vision_model.",)) or stored_tensors(tower.folder, _PARTS)
    stored = {key.removeprefix("vision_model."): value for key, value in found.items()}
    stored.pop("embeddings.position_ids", None)  # 0, 1, 2, ...: files of older versions hold it
    wanted = _shapes(tower)
    problems = [f"lacks {name}" for name in wanted if name not in stored]
    problems += [f"has unknown {name}" for name in sorted(stored) if name not in wanted]
    for name in sorted(wanted.keys() & stored.keys()):
        if stored[name].shape != wanted[name]:
            problems.append(f"has {name} {stored[name].shape} instead of {wanted[name]}")
        elif stored[name].dtype not in _FLOATS:
            problems.append(f"has {name} of type {stored[name].dtype}")
    if problems:
        more = f" and {len(problems) - 3} more" if len(problems) > 3 else ""
        raise DataError(tower.folder, f"the weights do not fit config.json: {'; '.join(problems[:3])}{more}")
    return stored


def _shapes(tower: Tower) -> dict[str, tuple[int, ...]]:
    """Every tensor of a tower and its shape."""
    C, M, p = tower.width, tower.mlp, tower.patch
    linear: dict[str, tuple[int, int]] = {
        "head.mlp.fc1": (M, C),
        "head.mlp.fc2": (C, M),
        "head.attention.out_proj": (C, C),
    }
    norms = ["post_layernorm", "head.layernorm"]
    for i in range(tower.blocks):
        layer = f"encoder.layers.{i}"
        linear |= {f"{layer}.{name}": (C, C) for name in (*_ATTENTION, "self_attn.out_proj")}
        linear |= {f"{layer}.mlp.fc1": (M, C), f"{layer}.mlp.fc2": (C, M)}
        norms += [f"{layer}.layer_norm1", f"{layer}.layer_norm2"]
    return {
        "embeddings.patch_embedding.weight": (C, 3 * p * p) if tower.layout == "naflex" else (C, 3, p, p),
        "embeddings.patch_embedding.bias": (C,),
        "embeddings.position_embedding.weight": (tower.side**2, C),
        **{f"{name}.weight": shape for name, shape in linear.items()},
        **{f"{name}.bias": shape[:1] for name, shape in linear.items()},
        **{f"{name}.{part}": (C,) for name in norms for part in ("weight", "bias")},
        "head.probe": (1, 1, C),
        "head.attention.in_proj_weight": (3 * C, C),
        "head.attention.in_proj_bias": (3 * C,),
    }


def _converted(tower: Tower, frames: int, load: Callable[[str], Tensor]) -> Iterator[tuple[str, Tensor]]:
    """Every parameter of our encoder from the tower's tensors, a few of which are in memory at a time."""
    patch = load("embeddings.patch_embedding.weight")
    # Our features are (frame, row, column, colour) with colour fastest; so is the linear layout, for one frame.
    first = patch if patch.ndim == 2 else patch.permute(0, 2, 3, 1).flatten(1)
    yield "input_layer.weight", F.pad(first, (0, (frames - 1) * first.shape[1]))
    yield "input_layer.bias", load("embeddings.patch_embedding.bias")
    yield "pos_embedder.position_embedding.weight", load("embeddings.position_embedding.weight")
    for part in ("weight", "bias"):
        for i in range(tower.blocks):
            ours, theirs = f"blocks.{i}", f"encoder.layers.{i}"
            yield f"{ours}.norm1.{part}", load(f"{theirs}.layer_norm1.{part}")
            yield f"{ours}.norm2.{part}", load(f"{theirs}.layer_norm2.{part}")
            yield f"{ours}.attn.to_qkv.{part}", torch.cat([load(f"{theirs}.{name}.{part}") for name in _ATTENTION])
            yield f"{ours}.attn.to_out.{part}", load(f"{theirs}.self_attn.out_proj.{part}")
            yield f"{ours}.mlp.mlp.0.{part}", load(f"{theirs}.mlp.fc1.{part}")
            yield f"{ours}.mlp.mlp.2.{part}", load(f"{theirs}.mlp.fc2.{part}")
        yield f"post_layernorm.{part}", load(f"post_layernorm.{part}")
        query, keys = load(f"head.attention.in_proj_{part}").split([tower.width, 2 * tower.width])
        yield f"head.attention.to_q.{part}", query
        yield f"head.attention.to_kv.{part}", keys
        yield f"head.attention.to_out.{part}", load(f"head.attention.out_proj.{part}")
        yield f"head.layernorm.{part}", load(f"head.layernorm.{part}")
        yield f"head.mlp.mlp.0.{part}", load(f"head.mlp.fc1.{part}")
        yield f"head.mlp.mlp.2.{part}", load(f"head.mlp.fc2.{part}")
    yield "head.probe", load("head.probe").flatten()
