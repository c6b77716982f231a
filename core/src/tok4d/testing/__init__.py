"""For plugin authors: the conformance kit and small helpers for tests.

    from tok4d.testing import ModalityConformance

Names are imported on first use: pytest loads this package in every run of the environment.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tok4d.testing.conformance import ModalityConformance
    from tok4d.testing.models import tiny_tokenizer

_HOMES = {
    "ModalityConformance": "tok4d.testing.conformance",
    "tiny_tokenizer": "tok4d.testing.models",
}

__all__ = ["ModalityConformance", "tiny_tokenizer"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'tok4d.testing' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
