"""Golden data of the numeric contract: random weights, inputs and outputs of a reference implementation."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import load_file

from tok4d import Tokenizer, TokenSet
from tok4d.config.schema import FSQConfig, StackConfig, TokenizerConfig

COMPACT = Path(__file__).parent / "data"
FULL = Path(__file__).parents[3] / "shared" / "parity"
ROOT = FULL if FULL.is_dir() else COMPACT  # the compact subset travels with the repository


def load_model(folder: Path, fsq: bool = False) -> Tokenizer:
    """The tiny reference model of one golden folder, weights strictly assigned."""
    arch = json.loads((folder / "weights.json").read_text())["arch_cfg"]
    config = TokenizerConfig(
        patch_size=arch["patch_size"],
        latent=arch["latent_channels"],
        cached_steps=0,
        table_extent="tokens",
        encoder=_stack(arch, "encoder"),
        decoder=_stack(arch, "decoder"),
        quantizer=FSQConfig() if fsq else None,
    )
    model = Tokenizer(config)
    tensors = {**load_file(folder / "weights_encoder.safetensors"), **load_file(folder / "weights_decoder.safetensors")}
    tensors = {name: tensor.float() for name, tensor in tensors.items()}
    latent_statistics = {"latent_mean": model.latent_mean, "latent_std": model.latent_std}
    model.load_state_dict({**tensors, **latent_statistics}, strict=True)
    return model.eval()


def _stack(arch: dict[str, object], part: str) -> StackConfig:
    def value(name: str) -> int:
        return int(str(arch[f"{part}_{name}"]))

    return StackConfig(
        width=value("model_channels"),
        blocks=value("num_blocks"),
        heads=value("num_heads"),
        mlp=value("mlp_channels"),
        norm="rms" if arch[f"{part}_use_rms_norm"] else "layer",
        bias=bool(arch[f"{part}_use_bias"]),
        qk_norm=bool(arch[f"{part}_qk_rms_norm"]),
    )


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
