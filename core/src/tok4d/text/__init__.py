"""Text towers: texts to the vectors that a tokenizer's embeddings are aligned with, and what classifies by them.

`load_text_encoder("siglip2", FOLDER_OR_ID)` or `load_text_encoder("minilm")` gives a `TextEncoder`; `zero_shot_weights`
turns labels and templates into one vector a label, through an `EmbeddingCache` where wanted.
"""

from __future__ import annotations

from tok4d.text.cache import EmbeddingCache
from tok4d.text.encoder import TextEncoder
from tok4d.text.load import load_text_encoder
from tok4d.text.zero_shot import TEMPLATES, zero_shot_weights

__all__ = ["TEMPLATES", "EmbeddingCache", "TextEncoder", "load_text_encoder", "zero_shot_weights"]
