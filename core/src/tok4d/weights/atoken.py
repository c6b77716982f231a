"""Released AToken checkpoints to tokenizers and back; the state dict's names are the same on both sides.

L = latent channels. Names and shapes are those of the released files (AToken, arXiv 2509.14476); ours adds the buffers
`latent_mean` and `latent_std`, `[L]`.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from os import PathLike
from typing import Any

import torch
from torch import Tensor

from tok4d.config.schema import TokenizerConfig
from tok4d.errors import ConfigError, DataError
from tok4d.model.tokenizer import Tokenizer
from tok4d.weights import folder
from tok4d.weights.atoken_arch import arch_cfg, arch_of, config_of, unlike_release

STATISTICS = ("latent_mean", "latent_std")
DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
SHOWN = 3  # differences that an error names
EVIDENCE = (  # key of the config, matrix that shows it, its axis, entries per unit
    ("latent_channels", "proj.weight", 0, 2),
    ("in_channels", "encoder.input_layer.weight", 1, 1),
    ("out_channels", "decoder.out_layer.weight", 0, 1),
    ("encoder_model_channels", "encoder.input_layer.weight", 0, 1),
    ("encoder_mlp_channels", "encoder.blocks.0.mlp.mlp.0.weight", 0, 1),
    ("decoder_model_channels", "decoder.input_layer.weight", 0, 1),
    ("decoder_mlp_channels", "decoder.blocks.0.mlp.mlp.0.weight", 0, 1),
    ("decoder_num_heads", "decoder.blocks.0.attn.q_rms_norm.gamma", 0, 1),
)


def load_atoken(
    state_dict: Mapping[str, Tensor], arch: Mapping[str, Any], *, where: str | PathLike[str] = "state dict"
) -> Tokenizer:
    """A released model as a tokenizer in evaluation mode, with the options that reproduce the release.

    The tensors become the model's parameters without a copy, in their own dtype. Those that `read_checkpoint` maps
    from a `.pt` file need that file for as long as the model lives.

    Args:
        state_dict: every tensor of the checkpoint, by the release's names.
        arch: the release's `arch_cfg`, or its whole YAML mapping.
        where: what to call the checkpoint in errors.

    Raises:
        ConfigError: for a configuration that cannot be used.
        DataError: when a tensor is missing, unknown or of another shape, naming the first few differences.
    """
    if "offset_perturbation" in state_dict and "proj.weight" not in state_dict:
        raise DataError(str(where), "holds a Gaussian decoder; tok4d.weights.load_atoken_gaussians loads it")
    config = config_of(arch)
    dtype = _common_dtype(state_dict, where)
    if differences := list(_differences(config, state_dict)):
        more = f"; and {len(differences) - SHOWN} more" if len(differences) > SHOWN else ""
        raise DataError(str(where), f"does not fit its config: {'; '.join(differences[:SHOWN])}{more}")
    with torch.device("meta"):
        model = Tokenizer(config)
    statistics = {
        "latent_mean": torch.zeros(config.latent, dtype=dtype),
        "latent_std": torch.ones(config.latent, dtype=dtype),
    }
    folder.assign(model, {**state_dict, **statistics}, where)
    return model.eval()


def export_atoken(tokenizer: Tokenizer) -> dict[str, Tensor]:
    """The model's tensors by the release's names, sharing memory with it; `arch_of(tokenizer.config)` goes with them.

    The release has no place for per-channel latent statistics: they are left out (`lost_in_export` says so).

    Raises:
        ConfigError: naming everything that the release's format cannot express.
    """
    arch_of(tokenizer.config)
    if any(stack.rope_scale != 1.0 for stack in (tokenizer.encoder, tokenizer.decoder)):
        raise ConfigError("the released format cannot hold this model: its RoPE is scaled (rope_ramp has not ended)")
    return {name: tensor for name, tensor in tokenizer.state_dict().items() if name not in STATISTICS}


def lost_in_export(tokenizer: Tokenizer) -> list[str]:
    """What a model has or does that an exported checkpoint does not say; empty for an imported model."""
    lost = unlike_release(tokenizer.config)
    if bool((tokenizer.latent_mean != 0).any()) or bool((tokenizer.latent_std != 1).any()):
        lost.append("latent_mean and latent_std: left out, the release has no place for them")
    return lost


def _common_dtype(state_dict: Mapping[str, Tensor], where: str | PathLike[str]) -> torch.dtype:
    if not state_dict:
        raise DataError(str(where), "holds no tensors")
    for name, value in state_dict.items():
        if not isinstance(value, Tensor):
            raise DataError(str(where), f"{name} is a {type(value).__name__}, not a tensor")
        if name in STATISTICS:
            raise DataError(str(where), f"has unknown {name}; it is a model folder's, not a released checkpoint's")
        if value.dtype not in DTYPES:
            raise DataError(str(where), f"{name} is {_short(value.dtype)}, not one of {', '.join(map(_short, DTYPES))}")
    counts = Counter(value.dtype for value in state_dict.values())
    (dtype, most), *others = counts.most_common()
    if others:
        odd = next(name for name, value in state_dict.items() if value.dtype != dtype)
        raise DataError(
            str(where),
            f"mixes {_short(dtype)} ({most} tensors) with {_short(state_dict[odd].dtype)} ({odd}); convert it to one",
        )
    return dtype


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _differences(config: TokenizerConfig, state_dict: Mapping[str, Tensor]) -> Iterator[str]:
    """Sizes on which config and weights disagree, in the config's terms: shorter than the list of keys it spoils."""
    arch = arch_cfg(arch_of(config))
    for key, name, axis, entries in EVIDENCE:
        shape = list(state_dict[name].shape) if name in state_dict else []
        if len(shape) == 2 and shape[axis] != arch[key] * entries:
            yield f"{key}: {arch[key]} in the config, but {name} is {shape}, that is {shape[axis] // entries}"
    for part in ("encoder", "decoder"):
        blocks = {found[1] for name in state_dict if (found := re.match(rf"{part}\.blocks\.(\d+)\.", name))}
        if blocks and len(blocks) != arch[f"{part}_num_blocks"]:
            yield f"{part}_num_blocks: {arch[f'{part}_num_blocks']} in the config, but {len(blocks)} in the weights"
