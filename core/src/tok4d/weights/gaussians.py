"""Released Gaussian decoders (`3d_decode_gs`) to `GaussianDecoder`; the state dict has the same names on both sides."""

from __future__ import annotations

from collections.abc import Mapping
from os import PathLike
from typing import Any

import torch
from torch import Tensor

from tok4d.config.gaussians import GaussianConfig
from tok4d.errors import ConfigError, DataError, unknown_name
from tok4d.model.gaussians import GaussianDecoder
from tok4d.weights import folder

WRAPPERS = ("model", "model_cfg", "arch_cfg")
IGNORED = "lpips_loss."  # weights of the release's training loss, in the same file
SIZES = {
    "resolution": "resolution",
    "model_channels": "width",
    "latent_channels": "latent",
    "num_blocks": "blocks",
    "num_heads": "heads",
    "mlp_channels": "mlp",
    "window_size": "window",
}
REPRESENTATION = {
    "num_gaussians": "num_gaussians",
    "voxel_size": "voxel_size",
    "2d_filter_kernel_size": "filter_2d",
    "3d_filter_kernel_size": "filter_3d",
    "scaling_bias": "scaling_bias",
    "opacity_bias": "opacity_bias",
}
GAINS = {
    "_xyz": "offset_gain",
    "_features_dc": "color_gain",
    "_scaling": "scaling_gain",
    "_rotation": "rotation_gain",
    "_opacity": "opacity_gain",
}
# What another value would compute is published nowhere.
FIXED = {"attn_mode": "swin"}
FIXED_REPRESENTATION: dict[str, Any] = {"perturb_offset": True, "scaling_activation": "softplus"}


def load_atoken_gaussians(
    state_dict: Mapping[str, Tensor],
    config: Mapping[str, Any],
    *,
    softcap: float | None = 30.0,
    where: str | PathLike[str] = "state dict",
) -> GaussianDecoder:
    """A released Gaussian decoder in evaluation mode.

    The tensors become the module's parameters without a copy, in their own dtype.

    Args:
        state_dict: every tensor of the checkpoint, by the release's names; those of `lpips_loss` are left out.
        config: the release's YAML mapping, or what stands under its `model`.
        softcap: of the attention logits; 30 is what the release's default attention kernel applies, None what its
            other kernels compute. The files do not say which.
        where: what to call the checkpoint in errors.

    Raises:
        ConfigError: for unknown, missing or unsupported values in the configuration, by name.
        DataError: when a tensor is missing, unknown or of another shape, naming the first few.
    """
    if not state_dict:
        raise DataError(str(where), "holds no tensors")
    if "proj.weight" in state_dict:
        raise DataError(str(where), "holds a tokenizer; tok4d.weights.load_atoken loads it")
    tensors = {name: tensor for name, tensor in state_dict.items() if not name.startswith(IGNORED)}
    for name, tensor in tensors.items():
        if not isinstance(tensor, Tensor):
            raise DataError(str(where), f"{name} is a {type(tensor).__name__}, not a tensor")
    with torch.device("meta"):
        decoder = GaussianDecoder(config_of(config, softcap))
    folder.assign(decoder, tensors, where)
    return decoder.eval()


def config_of(data: Mapping[str, Any], softcap: float | None = 30.0) -> GaussianConfig:
    """Our configuration of a released Gaussian decoder; arguments and errors as in `load_atoken_gaussians`."""
    for key in WRAPPERS:
        if isinstance(data.get(key), Mapping):
            data = data[key]
    if "representation_config" not in data:
        raise ConfigError(
            "lacks representation_config; a Gaussian decoder's configuration has one (tok4d.weights.load_atoken "
            "loads tokenizers)"
        )
    representation = _mapping(data, "representation_config")
    gains = _mapping(representation, "lr")
    values = _renamed(data, "", SIZES, FIXED, ("class_name", "representation_config"))
    values |= _renamed(representation, "representation_config.", REPRESENTATION, FIXED_REPRESENTATION, ("lr",))
    values |= _renamed(gains, "representation_config.lr.", GAINS, {}, ())
    return GaussianConfig(**values, softcap=softcap).check("Gaussian decoder")


def _mapping(data: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = data.get(key)
    if not isinstance(value, Mapping):
        raise ConfigError(f"{key} must be a mapping, got {value!r}")
    return value


def _renamed(
    data: Mapping[str, Any], prefix: str, names: Mapping[str, str], fixed: Mapping[str, Any], others: tuple[str, ...]
) -> dict[str, Any]:
    """The values of `data` by our names; every one of them must be there, and nothing else."""
    known = [*names, *fixed, *others]
    for key in data:
        if key not in known:
            raise ConfigError(unknown_name("key", f"{prefix}{key}", [prefix + name for name in known]))
    if missing := [prefix + key for key in names if key not in data]:
        raise ConfigError(f"lacks {', '.join(missing)}")
    for key, value in fixed.items():
        if key in data and (data[key] != value or type(data[key]) is not type(value)):
            raise ConfigError(f"{prefix}{key}: {data[key]!r} is not supported; the released decoder has {value!r}")
    for key in names:
        if isinstance(data[key], bool) or not isinstance(data[key], (int, float)):
            raise ConfigError(f"{prefix}{key} must be a number, got {data[key]!r}")
    return {ours: data[key] for key, ours in names.items()}
