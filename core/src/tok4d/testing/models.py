"""Small models for tests."""

from __future__ import annotations

from typing import Any

import torch

from tok4d.modality import DEFAULT_PATCH, PatchSize
from tok4d.model.tokenizer import Tokenizer

_STACK = {"width": 32, "blocks": 1, "heads": 1, "mlp": 32}


def tiny_tokenizer(patch_size: PatchSize = DEFAULT_PATCH, seed: int = 0, **overrides: Any) -> Tokenizer:
    """An untrained tokenizer of one narrow block a side: milliseconds per call, the same weights for the same seed.

    Args:
        patch_size: frames, height, width of a patch.
        seed: of the random weights; the global random state stays as it is.
        overrides: further changes to the preset `tiny`, such as `latent=16`.
    """
    changes: dict[str, Any] = {"encoder": _STACK, "decoder": _STACK, "patch_size": list(patch_size), **overrides}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Tokenizer.from_preset("tiny", **changes).eval()
