"""How many threads tests use; tiny text towers with random weights, in the layout of published checkpoints."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

WORDS = ["a", "cat", "dog", "in", "is", "kitten", "of", "photo", "picture", "red", "small", "the", "this", "train"]
LENGTH = 24  # tokens a text is padded to

if "PYTEST_XDIST_WORKER" in os.environ:  # processes share the cores: one thread each, in what tests start as well
    import torch

    os.environ["OMP_NUM_THREADS"] = "1"
    torch.set_num_threads(1)


def save_letter_tokenizer(folder: Path) -> None:
    """As Gemma's: BPE, spaces as U+2581, <eos> at the end, padding on the right; here of single letters."""
    from tokenizers import Tokenizer, models, normalizers, processors

    letters = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", "\u2581", *"abcdefghijklmnopqrstuvwxyz"]
    vocabulary = {letter: i for i, letter in enumerate(letters)}
    made = Tokenizer(models.BPE(vocabulary, [], unk_token="<unk>", fuse_unk=True))
    made.normalizer = normalizers.Replace(" ", "\u2581")
    made.post_processor = processors.TemplateProcessing(single="$A <eos>", special_tokens=[("<eos>", 1)])
    _save(made, folder, {"pad_token": "<pad>", "eos_token": "<eos>", "bos_token": "<bos>", "unk_token": "<unk>"})


def save_word_tokenizer(folder: Path) -> None:
    """As BERT's: WordPiece of lower-case words between [CLS] and [SEP]."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

    special = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    vocabulary = {word: i for i, word in enumerate([*special.values(), *WORDS])}
    made = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    made.normalizer = normalizers.BertNormalizer(lowercase=True)
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    made.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    _save(made, folder, special)


def _save(tokenizer: Any, folder: Path, special: dict[str, str]) -> None:
    from transformers import PreTrainedTokenizerFast

    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, padding_side="right", model_input_names=["input_ids"], **special
    ).save_pretrained(folder)


def save_siglip(folder: Path, layout: str = "siglip2", width: int = 32, seed: int = 0) -> Any:
    """A whole SigLIP model, both towers and tokenizer; gives the model. `layout` is its model type."""
    import torch
    import transformers

    name = {"siglip2": "Siglip2", "siglip": "Siglip"}[layout]
    common = {"hidden_size": width, "intermediate_size": 48, "num_attention_heads": 2, "num_hidden_layers": 2}
    text = {**common, "vocab_size": 40, "max_position_embeddings": LENGTH, "projection_size": width}
    text |= {"bos_token_id": 1, "eos_token_id": 1, "pad_token_id": 0}
    vision = {**common, "patch_size": 16, "num_hidden_layers": 1}
    vision |= {"num_patches": 16} if layout == "siglip2" else {"image_size": 64}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        config = getattr(transformers, f"{name}Config")(text_config=text, vision_config=vision)
        model = getattr(transformers, f"{name}Model")(config).eval()
        for parameter in model.text_model.parameters():  # its own start gives every text nearly the same embedding
            torch.nn.init.normal_(parameter, std=0.3)
    model.save_pretrained(folder)
    save_letter_tokenizer(folder)
    return model


def save_bert(folder: Path, width: int = 32, seed: int = 0) -> Any:
    """A BERT and its tokenizer; gives the model."""
    import torch
    from transformers import BertConfig, BertModel

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        config = BertConfig(
            vocab_size=40, hidden_size=width, num_hidden_layers=2, num_attention_heads=2, intermediate_size=48
        )
        model = BertModel(config).eval()
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, std=0.3)
    model.save_pretrained(folder)
    save_word_tokenizer(folder)
    return model


@pytest.fixture(scope="session")
def siglip() -> Callable[..., Any]:
    """Writes a tiny SigLIP model into a folder."""
    return save_siglip


@pytest.fixture(scope="session")
def bert() -> Callable[..., Any]:
    """Writes a tiny BERT sentence encoder into a folder."""
    return save_bert


def save_network(cache: Path, weights: str, seed: int = 0) -> None:
    """Random weights of `alex-lpips` or `effnet-lite0` where tok4d's cache keeps fetched ones, in their format."""
    import torch
    from torch import nn

    from tok4d.data.recipes import load_recipe
    from tok4d.networks import stored
    from tok4d.networks.effnet import EffNetLite0
    from tok4d.networks.trunks import AlexNetTrunk
    from tok4d.weights.folder import write_tensors

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network: nn.Module = AlexNetTrunk() if weights == "alex-lpips" else EffNetLite0().model
        for layer in network.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight)  # activations keep their size
    path = cache / "weights" / f"{weights}.safetensors"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_tensors(path, network.state_dict(), {"recipe": stored._stamp(load_recipe(weights))})


@pytest.fixture
def networks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of its own with made weights of AlexNet and EfficientNet-Lite0: nothing is fetched."""
    from tok4d.networks import load

    cache = tmp_path / "cache"
    for weights in ("alex-lpips", "effnet-lite0"):
        save_network(cache, weights)
    monkeypatch.setenv("TOK4D_CACHE", str(cache))
    monkeypatch.setattr(load, "_networks", {})  # loaded from here, they are nobody else's
    return cache
