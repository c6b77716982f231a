"""Golden data of the numeric contract: random weights, inputs and outputs of a reference implementation."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import load_file

from tok4d import Tokenizer, TokenSet
from tok4d.weights import load_atoken

COMPACT = Path(__file__).parent / "data"
FULL = Path(__file__).parents[3] / "shared" / "parity"
ROOT = FULL if FULL.is_dir() else COMPACT  # the compact subset travels with the repository


def load_model(folder: Path) -> Tokenizer:
    """The tiny reference model of one golden folder."""
    arch = json.loads((folder / "weights.json").read_text())["arch_cfg"]
    return load_atoken(load_weights(folder), arch, where=folder)


def load_weights(folder: Path) -> dict[str, torch.Tensor]:
    """The state dict of one golden folder, in float32 (the files hold bf16)."""
    tensors = {**load_file(folder / "weights_encoder.safetensors"), **load_file(folder / "weights_decoder.safetensors")}
    return {name: tensor.float() for name, tensor in tensors.items()}


def load_case(folder: Path, name: str) -> tuple[TokenSet, dict[str, torch.Tensor]]:
    """Input tokens of a case and all its tensors; voxel cases hold raw RGB, `raw * 2 - 1` padded to the patch width."""
    tensors = load_file(folder / f"{name}.safetensors")
    feats = tensors.get("feats")
    if feats is None:
        feats = torch.nn.functional.pad(tensors["vox_feats_raw"].float() * 2 - 1, (0, 3072 - 768))
    return pack(feats.float(), tensors["coords"]), tensors


def pack(feats: torch.Tensor, batched_coords: torch.Tensor) -> TokenSet:
    """Tokens from coordinates with a leading sample column."""
    sample = batched_coords[:, 0]
    lengths = torch.bincount(sample).tolist()
    assert (sample[1:] >= sample[:-1]).all(), "golden samples are contiguous"
    return TokenSet(feats, batched_coords[:, 1:].contiguous().int(), tuple(lengths))
