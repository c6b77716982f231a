"""Tiny random autoencoders, one of every class of `diffusers` that benchmarks know."""

from __future__ import annotations

from typing import Any

import torch

DOWN, UP = ("DownEncoderBlock2D",) * 2, ("UpDecoderBlock2D",) * 2
FOUR = (8, 8, 8, 8)
ONES = (1, 1, 1, 1, 1)
WAN = {"base_dim": 3, "z_dim": 16, "dim_mult": [1, 1, 1, 1], "num_res_blocks": 1}
HUNYUAN = {
    "latent_channels": 4,
    "block_out_channels": (32, 32),
    "layers_per_block": 1,
    "spatial_compression_ratio": 2,
    "temporal_compression_ratio": 2,
}

PICTURES: dict[str, dict[str, Any]] = {
    "AsymmetricAutoencoderKL": {
        "down_block_types": DOWN,
        "down_block_out_channels": (4, 8),
        "up_block_types": UP,
        "up_block_out_channels": (4, 8),
        "norm_num_groups": 2,
    },
    "AutoencoderDC": {
        "latent_channels": 4,
        "attention_head_dim": 2,
        "encoder_block_types": ("ResBlock", "EfficientViTBlock"),
        "decoder_block_types": ("ResBlock", "EfficientViTBlock"),
        "encoder_block_out_channels": (8, 8),
        "decoder_block_out_channels": (8, 8),
        "encoder_layers_per_block": (1, 1),
        "decoder_layers_per_block": (1, 1),
        "encoder_qkv_multiscales": ((), (5,)),
        "decoder_qkv_multiscales": ((), (5,)),
    },
    "AutoencoderKL": {
        "block_out_channels": (4, 8),
        "down_block_types": DOWN,
        "up_block_types": UP,
        "norm_num_groups": 2,
    },
    "AutoencoderKLFlux2": {
        "block_out_channels": (4, 8),
        "down_block_types": DOWN,
        "up_block_types": UP,
        "latent_channels": 4,
        "norm_num_groups": 2,
        "layers_per_block": 1,
    },
    "AutoencoderKLHunyuanImage": {
        "in_channels": 3,
        "out_channels": 3,
        "latent_channels": 4,
        "block_out_channels": (32, 64),
        "layers_per_block": 1,
        "spatial_compression_ratio": 4,
        "sample_size": 32,
    },
    "AutoencoderKLKVAE": {
        "channels": 32,
        "num_enc_blocks": 1,
        "num_dec_blocks": 1,
        "z_channels": 4,
        "ch_mult": (1, 2),
    },
    "AutoencoderKLQwenImage21": {
        "base_dim": 8,
        "decoder_base_dim": 8,
        "dim_mult": [1, 1, 1, 1, 1],
        "num_res_blocks": 1,
    },
    "AutoencoderRAE": {
        "encoder_hidden_size": 64,
        "encoder_patch_size": 4,
        "encoder_num_hidden_layers": 1,
        "decoder_hidden_size": 16,
        "decoder_num_hidden_layers": 1,
        "decoder_num_attention_heads": 2,
        "decoder_intermediate_size": 32,
        "patch_size": 8,
        "encoder_input_size": 16,
    },
    "AutoencoderTiny": {
        "encoder_block_out_channels": (8, 8),
        "decoder_block_out_channels": (8, 8),
        "num_encoder_blocks": (1, 1),
        "num_decoder_blocks": (1, 1),
    },
    "ConsistencyDecoderVAE": {
        "encoder_block_out_channels": (8, 8),
        "encoder_down_block_types": DOWN,
        "encoder_layers_per_block": 1,
        "encoder_norm_num_groups": 2,
        "decoder_block_out_channels": (8, 8),
        "decoder_down_block_types": ("ResnetDownsampleBlock2D",) * 2,
        "decoder_up_block_types": ("ResnetUpsampleBlock2D",) * 2,
        "decoder_layers_per_block": 1,
        "decoder_norm_num_groups": 2,
    },
    "VQModel": {
        "block_out_channels": (4, 8),
        "down_block_types": DOWN,
        "up_block_types": UP,
        "num_vq_embeddings": 16,
        "norm_num_groups": 2,
    },
}

CLIPS: dict[str, dict[str, Any]] = {
    "AutoencoderKLAllegro": {
        "block_out_channels": FOUR,
        "layers_per_block": 1,
        "norm_num_groups": 2,
        "sample_size": 128,
    },
    "AutoencoderKLCogVideoX": {
        "block_out_channels": FOUR,
        "latent_channels": 4,
        "layers_per_block": 1,
        "norm_num_groups": 2,
    },
    "AutoencoderKLCosmos": {
        "latent_channels": 4,
        "encoder_block_out_channels": FOUR,
        "decode_block_out_channels": FOUR,
        "attention_resolutions": (8,),
        "resolution": 64,
        "num_layers": 1,
        "spatial_compression_ratio": 4,
        "temporal_compression_ratio": 4,
    },
    "AutoencoderKLHunyuanImageRefiner": HUNYUAN,
    "AutoencoderKLHunyuanVideo": {
        "latent_channels": 4,
        "block_out_channels": FOUR,
        "layers_per_block": 1,
        "norm_num_groups": 4,
    },
    "AutoencoderKLHunyuanVideo15": HUNYUAN,
    "AutoencoderKLKVAEVideo": {
        "ch": 32,
        "ch_mult": (1, 2),
        "num_res_blocks": 1,
        "z_channels": 4,
        "temporal_compress_times": 2,
    },
    "AutoencoderKLLTX2Video": {
        "latent_channels": 8,
        "block_out_channels": FOUR,
        "decoder_block_out_channels": (16, 32, 64),
        "layers_per_block": ONES,
        "decoder_layers_per_block": (1, 1, 1, 1),
        "patch_size": 1,
    },
    "AutoencoderKLLTXVideo": {
        "latent_channels": 8,
        "block_out_channels": FOUR,
        "decoder_block_out_channels": FOUR,
        "layers_per_block": ONES,
        "decoder_layers_per_block": ONES,
        "spatio_temporal_scaling": (True, True, False, False),
        "decoder_spatio_temporal_scaling": (True, True, False, False),
        "patch_size": 1,
        "timestep_conditioning": True,
    },
    "AutoencoderKLMagvit": {
        "latent_channels": 4,
        "block_out_channels": FOUR,
        "layers_per_block": 1,
        "norm_num_groups": 2,
    },
    "AutoencoderKLMiniMaxH3": {
        "latent_channels": 4,
        "block_out_channels": (8,) * 6,
        "layers_per_block": 1,
        "norm_num_groups": 2,
        "decoder_num_layers": 1,
        "decoder_num_attention_heads": 2,
        "decoder_attention_head_dim": 16,
        "latents_mean": (0.0,) * 4,
        "latents_std": (1.0,) * 4,
    },
    "AutoencoderKLMochi": {
        "latent_channels": 4,
        "encoder_block_out_channels": (32,) * 4,
        "decoder_block_out_channels": (32,) * 4,
        "layers_per_block": ONES,
    },
    "AutoencoderKLQwenImage": {**WAN, "temperal_downsample": [False, True, True]},
    "AutoencoderKLTemporalDecoder": {
        "block_out_channels": (32, 64),
        "down_block_types": DOWN,
        "latent_channels": 4,
    },
    "AutoencoderKLWan": {**WAN, "temperal_downsample": [False, True, True]},
    "AutoencoderVidTok": {"ch": 32, "ch_mult": [1, 1, 1, 1], "num_res_blocks": 1},
}

# A size that each takes as it is: height, width and, of clips, frames.
SIZES: dict[str, tuple[int, ...]] = {
    "AutoencoderRAE": (32, 32),
    "AutoencoderKLAllegro": (128, 128, 24),
    "AutoencoderKLCogVideoX": (16, 24, 9),
    "AutoencoderKLMiniMaxH3": (32, 48, 22),
    "AutoencoderKLMochi": (16, 24, 7),
    "AutoencoderKLLTX2Video": (32, 48, 17),
}


def make(name: str, seed: int = 0, **changes: Any) -> Any:
    """A model of a class, with random weights that make something visible of what it sees."""
    import diffusers

    options = {**PICTURES, **CLIPS}[name] | changes
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return getattr(diffusers, name)(**options).eval()


def size_of(name: str) -> tuple[int, ...]:
    """Height, width (and frames) that the tiny model takes as it is."""
    return SIZES.get(name, (16, 32) if name in PICTURES else (16, 24, 5))
