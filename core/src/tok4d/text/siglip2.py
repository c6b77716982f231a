"""The text towers of SigLIP2 (arXiv 2502.14786) and SigLIP (arXiv 2303.15343), through `transformers`.

n = texts of a batch, D = width of the embedding.
"""

from __future__ import annotations

import string
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from tok4d.errors import ConfigError
from tok4d.text import hf
from tok4d.text.encoder import TextEncoder, module_digest
from tok4d.weights.hf_folder import CONFIG, locate

# Model type of a checkpoint (both towers, or the text tower alone) -> class of its text tower.
CLASSES = {
    "siglip2": "Siglip2TextModel",
    "siglip2_text_model": "Siglip2TextModel",
    "siglip": "SiglipTextModel",
    "siglip_text_model": "SiglipTextModel",
}
_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)


def canonicalize(text: str) -> str:
    """Lower case, no punctuation, one space between words: how SigLIP's authors treat class names (big_vision).

    Underscores part words; other punctuation is ASCII's, removed without a gap: `T-shirt, red_blue!` becomes
    `tshirt red blue`.
    """
    return " ".join(text.replace("_", " ").translate(_NO_PUNCTUATION).lower().split())


class Siglip2Text(TextEncoder):
    """The text half of a SigLIP or SigLIP2 checkpoint.

    Texts are padded to the length of training (64) and the tower sees the padding, since it was trained without a mask.

    Args:
        source: folder or hub id; both towers or the text tower, safetensors, and the tokenizer's files.

    Raises:
        ConfigError: for a source that is not found, with where it was looked for, or that holds another model.
        DataError: for files that are missing or broken.
    """

    kind = "siglip2"

    def __init__(self, source: str, device: str | torch.device = "cpu") -> None:
        library = hf.transformers()
        self.folder: Path = locate(source, also=hf.TOKENIZER_FILES)
        config = hf.read_config(self.folder)
        if config.model_type not in CLASSES:
            raise ConfigError(
                f"{self.folder / CONFIG}: model_type {config.model_type!r} has no SigLIP text tower; "
                f"known are {', '.join(CLASSES)}"
            )
        inner = getattr(config, "text_config", config)
        self.tokenizer = hf.load_tokenizer(self.folder, inner.vocab_size)
        self.device = torch.device(device)
        self.model = hf.load_module(getattr(library, CLASSES[config.model_type]), self.folder, inner, self.device)
        self.length: int = inner.max_position_embeddings
        self.width: int = getattr(inner, "projection_size", None) or inner.hidden_size

    @cached_property
    def digest(self) -> str:
        return module_digest(self.model, self.kind.encode(), *hf.describing_files(self.folder))

    def canonical(self, text: str) -> str:
        return canonicalize(text)

    def forward(self, texts: list[str]) -> Tensor:
        ids = self.tokenizer(
            texts, padding="max_length", truncation=True, max_length=self.length, return_tensors="pt"
        ).input_ids
        pooled: Tensor = self.model(input_ids=ids.to(self.device)).pooler_output
        return pooled
