"""Tiny SigLIP2 models of `transformers` with random weights, and what they compute."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import (
    Siglip2Config,
    Siglip2Model,
    Siglip2VisionConfig,
    Siglip2VisionModel,
    SiglipConfig,
    SiglipModel,
    SiglipVisionConfig,
    SiglipVisionModel,
)

SHAPE: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "patch_size": 16,
}
TEXT: dict[str, Any] = {
    "vocab_size": 50,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "bos_token_id": 2,
    "eos_token_id": 3,
}
PATCH = 16


def randomise(model: nn.Module, seed: int = 0) -> None:
    """Normal weights everywhere: fresh biases are zeros and norms ones, so that mixing two up would not show."""
    rng = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=rng)
            if "norm" in name and name.endswith("weight"):
                parameter.copy_(1 + 0.2 * noise)
            else:
                parameter.copy_((noise / parameter[0].numel() ** 0.5) if parameter.ndim > 1 else 0.3 * noise)


def naflex(both: bool = True, **changes: Any) -> nn.Module:
    """A model of any aspect ratio with a 16x16 table; with its text tower, or the vision tower alone."""
    shape = {**SHAPE, **changes}
    model: nn.Module
    if both:
        model = Siglip2Model(Siglip2Config(vision_config=shape, text_config=TEXT))
    else:
        model = Siglip2VisionModel(Siglip2VisionConfig(**shape))
    randomise(model)
    return model.eval()


def fixed(both: bool = True, **changes: Any) -> nn.Module:
    """A model of 64 x 64 pixels: a 4x4 table."""
    shape = {**SHAPE, "image_size": 64, **changes}
    model: nn.Module
    if both:
        model = SiglipModel(SiglipConfig(vision_config=shape, text_config=TEXT))
    else:
        model = SiglipVisionModel(SiglipVisionConfig(**shape))
    randomise(model)
    return model.eval()


def save(model: nn.Module, folder: Path, **options: Any) -> Path:
    """As published: `save_pretrained`."""
    model.save_pretrained(folder, **options)  # type: ignore[operator]
    return folder


def vision(model: nn.Module) -> nn.Module:
    """The vision tower of either kind of model."""
    tower = getattr(model, "vision_model", model)
    assert isinstance(tower, nn.Module)
    return tower


def picture(rows: int, columns: int, seed: int = 0) -> Tensor:
    """Random pixels in [-1, 1] of that many patches, `[3, H, W]`."""
    rng = torch.Generator().manual_seed(seed)
    return torch.rand(3, rows * PATCH, columns * PATCH, generator=rng) * 2 - 1


def patches(image: Tensor) -> Tensor:
    """`[T, 768]` row by row, each (row, column, colour) with colour fastest."""
    rows, columns = (range(0, side, PATCH) for side in image.shape[1:])
    cut = [image[:, x : x + PATCH, y : y + PATCH] for x in rows for y in columns]
    return torch.stack([part.permute(1, 2, 0).flatten() for part in cut])


@torch.no_grad()
def run_naflex(model: nn.Module, pictures: Sequence[Tensor]) -> list[tuple[Tensor, Tensor]]:
    """Features `[T, C]` and pooled output `[C]` of every picture, from one padded batch with a mask."""
    cut = [patches(picture) for picture in pictures]
    longest = max(map(len, cut))
    out = vision(model)(
        pixel_values=torch.stack([F.pad(p, (0, 0, 0, longest - len(p))) for p in cut]),
        pixel_attention_mask=torch.stack([(torch.arange(longest) < len(p)).int() for p in cut]),
        spatial_shapes=torch.tensor([[p.shape[1] // PATCH, p.shape[2] // PATCH] for p in pictures]),
    )
    features, pooled = out.last_hidden_state, out.pooler_output
    return [(f[: len(p)], one) for f, p, one in zip(features, cut, pooled, strict=True)]


@torch.no_grad()
def run_fixed(model: nn.Module, pictures: Sequence[Tensor]) -> list[tuple[Tensor, Tensor]]:
    """As `run_naflex`, one by one: these models take one size at a time."""
    found = []
    for image in pictures:
        out = vision(model)(pixel_values=image[None], interpolate_pos_encoding=True)
        found.append((out.last_hidden_state[0], out.pooler_output[0]))
    return found
