"""Pretrained networks that losses, teachers and metrics compare pictures and clips with; frozen, without a hub.

`load_network("vgg16")` gives the one shared object, its weights fetched through a recipe and converted on first use;
`available("i3d")` says without loading whether it can be had here, and how otherwise; `lpips_heads("vgg")` are LPIPS's
linear layers.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tok4d.networks.base import FeatureNetwork, Network, Trunk, VideoNetwork
    from tok4d.networks.catalogue import Availability, available
    from tok4d.networks.heads import lpips_heads
    from tok4d.networks.load import load_network

__all__ = [
    "Availability",
    "FeatureNetwork",
    "Network",
    "Trunk",
    "VideoNetwork",
    "available",
    "load_network",
    "lpips_heads",
]

_HOMES = {
    "Availability": "tok4d.networks.catalogue",
    "FeatureNetwork": "tok4d.networks.base",
    "Network": "tok4d.networks.base",
    "Trunk": "tok4d.networks.base",
    "VideoNetwork": "tok4d.networks.base",
    "available": "tok4d.networks.catalogue",
    "load_network": "tok4d.networks.load",
    "lpips_heads": "tok4d.networks.heads",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
