"""Text towers by name."""

from __future__ import annotations

import torch

from tok4d.config.schema import TEXT_TOWERS
from tok4d.data.fetch import Report
from tok4d.errors import ConfigError, unknown_name
from tok4d.text.encoder import TextEncoder


def load_text_encoder(
    kind: str, source: str = "", device: str | torch.device = "cpu", report: Report = lambda text: None
) -> TextEncoder:
    """A text tower, ready to encode.

    Args:
        kind: `siglip2` (SigLIP too), `minilm`, or `words`, which has no weights.
        source: folder or hub id of its weights; empty for `minilm`, which a package registry has; a width for `words`.
        device: where it computes.
        report: receives a line of progress of a fetch at a time.

    Raises:
        Tok4dError: for an unknown kind, a source that is missing or not found, and weights that do not fit.
    """
    if kind == "siglip2":
        from tok4d.text.siglip2 import Siglip2Text

        if not source:
            raise ConfigError("the text tower 'siglip2' needs a source: a folder, or a hub id like owner/name")
        return Siglip2Text(source, device)
    if kind == "minilm":
        from tok4d.text.minilm import MiniLMText

        return MiniLMText(source, device, report)
    if kind == "words":
        from tok4d.text.words import WordsText

        return WordsText(source, device)
    raise ConfigError(unknown_name("text tower", kind, TEXT_TOWERS))
