"""A frozen SigLIP2 (arXiv 2502.14786) or SigLIP vision tower, through `transformers`.

N = pictures, T = patches of a picture, D = width of the tower, p = side of a patch in pixels.
"""

from __future__ import annotations

import threading
from typing import Any

import torch
from einops import rearrange
from torch import Tensor

from tok4d.errors import ConfigError
from tok4d.losses.shared import shared
from tok4d.text import hf
from tok4d.weights.hf_folder import CONFIG, locate, stored_tensors

# Model type of a checkpoint (both towers, or the vision tower alone) -> class of its vision tower.
CLASSES = {
    "siglip2": "Siglip2VisionModel",
    "siglip2_vision_model": "Siglip2VisionModel",
    "siglip": "SiglipVisionModel",
    "siglip_vision_model": "SiglipVisionModel",
}
_towers: dict[tuple[str, str], VisionTower] = {}
_lock = threading.Lock()


class VisionTower:
    """Frozen, evaluating, float32; differentiable in the pictures, under autocast in its type.

    Args:
        source: folder or hub id; safetensors.

    Attributes:
        patch: p; pictures are multiples of it.
        width: D.
        log_scale: of the checkpoint's own logits; None where it holds no text tower.

    Raises:
        ConfigError: for a source that is not found, or that holds another model.
        DataError: for files that are missing or broken.
    """

    def __init__(self, source: str, device: str | torch.device = "cpu") -> None:
        library = hf.transformers()
        folder = locate(source)
        config = hf.read_config(folder)
        if config.model_type not in CLASSES:
            raise ConfigError(
                f"{folder / CONFIG}: model_type {config.model_type!r} has no SigLIP vision tower; "
                f"known are {', '.join(CLASSES)}"
            )
        inner = getattr(config, "vision_config", config)
        name = CLASSES[config.model_type]
        self.naflex = name.startswith("Siglip2")
        self.model: Any = hf.load_module(getattr(library, name), folder, inner, torch.device(device))
        self.patch: int = inner.patch_size
        self.width: int = inner.hidden_size
        stored = stored_tensors(folder, ("logit_scale",)).get("logit_scale")
        self.log_scale = None if stored is None else float(stored.load())

    def __call__(self, pictures: Tensor) -> list[Tensor]:
        """Features of every patch of `[N, 3, H, W]` in [-1, 1], `[N, D, T]`; a list, as trunks give."""
        return [self._run(pictures).last_hidden_state.mT]

    def embed(self, pictures: Tensor) -> Tensor:
        """Pooled features of `[N, 3, H, W]` in [-1, 1], `[N, D]`, not normalised."""
        pooled: Tensor = self._run(pictures).pooler_output
        return pooled

    def _run(self, pictures: Tensor) -> Any:
        """Sides must be multiples of p. Pictures need no normalisation: SigLIP's takes them to [-1, 1]."""
        height, width = pictures.shape[2:]
        if height % self.patch or width % self.patch:
            raise ConfigError(
                f"this vision tower cuts pictures into patches of {self.patch} pixels and got {height}x{width}; give a "
                f"size that is a multiple of {self.patch}"
            )
        return shared("tower", (self, pictures), (), lambda: self._forward(pictures.float()))

    def _forward(self, pictures: Tensor) -> Any:
        if not self.naflex:
            return self.model(pictures, interpolate_pos_encoding=True)
        patches = rearrange(pictures, "n c (h p) (w q) -> n (h w) (p q c)", p=self.patch, q=self.patch)
        shape = torch.tensor([side // self.patch for side in pictures.shape[2:]], device=pictures.device)
        mask = torch.ones(patches.shape[:2], dtype=torch.int64, device=pictures.device)
        return self.model(patches, pixel_attention_mask=mask, spatial_shapes=shape.expand(len(patches), 2))


def load_tower(source: str, device: str | torch.device = "cpu") -> VisionTower:
    """A tower; one object a process for each source and device. Errors as `VisionTower`."""
    key = (source, str(torch.device(device)))
    with _lock:
        if key not in _towers:
            _towers[key] = VisionTower(source, device)
        return _towers[key]
