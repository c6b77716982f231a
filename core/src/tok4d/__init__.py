"""tok4d: build, train, measure and use unified visual tokenizers.

Names are imported on first use, so that `import tok4d` stays light and loads no torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tok4d.errors import Tok4dError
    from tok4d.modality import Modality, Sample
    from tok4d.model.tokenizer import Tokenizer
    from tok4d.origin import Origin
    from tok4d.tokens import TokenSet

__version__ = "0.1.0"

_HOMES = {
    "Modality": "tok4d.modality",
    "Origin": "tok4d.origin",
    "Sample": "tok4d.modality",
    "Tok4dError": "tok4d.errors",
    "TokenSet": "tok4d.tokens",
    "Tokenizer": "tok4d.model.tokenizer",
}

__all__ = [
    "Modality",
    "Origin",
    "Sample",
    "Tok4dError",
    "TokenSet",
    "Tokenizer",
    "__version__",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'tok4d' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
