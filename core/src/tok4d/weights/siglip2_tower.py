"""Shape of a SigLIP2 vision tower, from its published `config.json`.

Two layouts exist. `naflex` (model type `siglip2`) takes any aspect ratio: a linear patch embedding, and a position
table that is resized bilinearly with antialiasing. `fixed` (model type `siglip`) is what the checkpoints of one
resolution are: a convolution, and a table that is resized bicubically when a picture has another size.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import isqrt
from pathlib import Path
from typing import Any

from tok4d.errors import ConfigError
from tok4d.weights.hf_folder import CONFIG, locate, read_json

LAYOUTS = {
    "siglip2": "naflex",
    "siglip2_vision_model": "naflex",
    "siglip": "fixed",
    "siglip_vision_model": "fixed",
}
# A published configuration leaves out what equals the defaults of its model type.
DEFAULTS: dict[str, Any] = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "num_channels": 3,
    "patch_size": 16,
    "image_size": 224,
    "num_patches": 256,
    "hidden_act": "gelu_pytorch_tanh",
    "layer_norm_eps": 1e-6,
    "vision_use_head": True,
}
# What the encoder and its pooling head compute, whatever their size.
REQUIRED = {"num_channels": 3, "hidden_act": "gelu_pytorch_tanh", "layer_norm_eps": 1e-6, "vision_use_head": True}


@dataclass(frozen=True)
class Tower:
    """What must be known of a tower to build an encoder like it.

    Attributes:
        source: folder or hub id, as given.
        folder: where its files are.
        layout: `naflex` or `fixed`.
        width, blocks, heads, mlp: of the transformer; the pooling head shares them.
        patch: height and width of its square patches, in pixels.
        side: the position table is side x side.
        with_text: whether the checkpoint holds the text tower too.
    """

    source: str
    folder: Path
    layout: str
    width: int
    blocks: int
    heads: int
    mlp: int
    patch: int
    side: int
    with_text: bool

    @property
    def resize(self) -> str:
        """How its position table comes to other grids, as in `TokenizerConfig.table_resize`."""
        return "bilinear" if self.layout == "naflex" else "bicubic"


def read_tower(source: str | Path, *, weights: bool = True) -> Tower:
    """Shape of the tower in a folder or under a hub id.

    Args:
        weights: whether the weights will be needed too, so that a hub id is fetched at once.

    Raises:
        ConfigError: for a model that is no SigLIP2 tower, one that this encoder cannot be, or a source not found.
        DataError: for a `config.json` that is missing or broken.
    """
    folder = locate(str(source), weights=weights)
    path = folder / CONFIG
    outer = read_json(path)
    kind = str(outer.get("model_type"))
    if kind not in LAYOUTS:
        raise ConfigError(f"{path}: model_type {kind!r} is no SigLIP2 model; known are {', '.join(LAYOUTS)}")
    alone = kind.endswith("_vision_model")
    inner = outer if alone else outer.get("vision_config", {})
    if not isinstance(inner, dict):
        raise ConfigError(f"{path}: vision_config must be a JSON object, got {inner!r}")
    values = {**DEFAULTS, **{key: value for key, value in inner.items() if key in DEFAULTS}}
    _refuse_variants(path, values)
    patch = _patch(path, values)
    return Tower(
        source=str(source),
        folder=folder,
        layout=LAYOUTS[kind],
        width=_count(path, values, "hidden_size"),
        blocks=_count(path, values, "num_hidden_layers"),
        heads=_count(path, values, "num_attention_heads"),
        mlp=_count(path, values, "intermediate_size"),
        patch=patch,
        side=_side(path, values, patch, LAYOUTS[kind]),
        with_text=not alone,
    )


def _refuse_variants(path: Path, values: Mapping[str, Any]) -> None:
    wrong = [f"{key} {values[key]!r} (must be {value!r})" for key, value in REQUIRED.items() if values[key] != value]
    if wrong:
        raise ConfigError(f"{path}: this tower cannot start a tokenizer: {', '.join(wrong)}")


def _count(path: Path, values: Mapping[str, Any], name: str) -> int:
    value = values[name]
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ConfigError(f"{path}: {name} must be a positive integer, got {value!r}")
    return value


def _patch(path: Path, values: Mapping[str, Any]) -> int:
    """One number, or two equal ones."""
    value = values["patch_size"]
    sides = value if isinstance(value, list) else [value]
    if not sides or any(side != sides[0] for side in sides):
        raise ConfigError(f"{path}: patch_size must be square, got {value!r}")
    return _count(path, {"patch_size": sides[0]}, "patch_size")


def _side(path: Path, values: Mapping[str, Any], patch: int, layout: str) -> int:
    if layout == "fixed":
        return _count(path, values, "image_size") // patch
    count = _count(path, values, "num_patches")
    if isqrt(count) ** 2 != count:
        raise ConfigError(f"{path}: num_patches {count} is not a square table")
    return isqrt(count)
