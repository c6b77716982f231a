"""Weights: model folders (safetensors + config), released checkpoints, and ways to start a model well.

Names load on first use: models import `tok4d.weights.folder`, and what is here imports models.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tok4d.weights.atoken import export_atoken, load_atoken
    from tok4d.weights.gaussians import load_atoken_gaussians
    from tok4d.weights.siglip2 import init_from_siglip2

__all__ = ["export_atoken", "init_from_siglip2", "load_atoken", "load_atoken_gaussians"]

_HOMES = {
    "export_atoken": "tok4d.weights.atoken",
    "init_from_siglip2": "tok4d.weights.siglip2",
    "load_atoken": "tok4d.weights.atoken",
    "load_atoken_gaussians": "tok4d.weights.gaussians",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
