"""Configurations of released AToken models: theirs (`arch_cfg` of a YAML file) and ours.

Light: no torch here. The file's layout is `model: {class_name, model_cfg: {..., arch_cfg: {...}}}`; switches of the
release's own training and evaluation beside `arch_cfg` say nothing about the model and are ignored.
"""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from typing import Any

from tok4d.config.schema import FSQConfig, StackConfig, TextConfig, TokenizerConfig
from tok4d.errors import ConfigError, unknown_name

WRAPPERS = ("model", "model_cfg", "arch_cfg")
CLASS_NAME = "models.pretrained.autoencoder_kl.AutoencoderKLTrain"
MAX_SIZE = 1_000_000
LEVELS = 4  # per channel of the release's FSQ
TEXT_WIDTH, TEXT_SOURCE = 1152, "google/siglip2-so400m-patch16-naflex"

SIZES = {"model_channels": "width", "num_blocks": "blocks", "num_heads": "heads", "mlp_channels": "mlp"}
ENCODER = StackConfig(norm="layer", bias=True, qk_norm=False)
DECODER = StackConfig(norm="rms", bias=False, qk_norm=True)
FIXED: dict[str, Any] = {  # of every released model; what another value would compute is published nowhere
    f"{part}_{key}": value
    for part, stack in (("encoder", ENCODER), ("decoder", DECODER))
    for key, value in (
        ("attn_mode", "full"),
        ("pe_mode", "joint"),
        ("qk_rms_norm", stack.qk_norm),
        ("use_bias", stack.bias),
        ("use_rms_norm", stack.norm == "rms"),
    )
} | {"use_decoder": True}
QUANTIZER_FIXED: dict[str, Any] = {"quantizer_type": "fsq", "quantizer_chunk_size": 1}
QUANTIZER_SIZES = ("quantizer_codebook_size", "quantizer_feature_dim", "quantizer_num_codebooks")
REQUIRED = ("latent_channels", *(f"{part}_{key}" for part in ("encoder", "decoder") for key in SIZES))
KNOWN = (
    *("patch_size", "in_channels", "out_channels", "use_quantizer"),
    *REQUIRED,
    *FIXED,
    *QUANTIZER_FIXED,
    *QUANTIZER_SIZES,
)

RELEASE: dict[str, Any] = {  # what the released inference code does where ours has a choice
    "positions": "joint",
    "table_extent": "tokens",
    "windows": "batch",
    "tile_steps": 4,
    "cached_steps": 0,
    "inputs": {"image": {"fit": "crop"}, "video": {"fit": "crop", "frames": "floor"}, "mesh3d": {"t_offset": 1}},
}


def arch_cfg(data: Mapping[str, Any]) -> Mapping[str, Any]:
    """The `arch_cfg` of a released YAML file, however deep it is; a bare one is returned as it is."""
    for key in WRAPPERS:
        if isinstance(data.get(key), Mapping):
            data = data[key]
    return data


def config_of(data: Mapping[str, Any]) -> TokenizerConfig:
    """Our configuration of a released model, with the options that reproduce the release.

    Args:
        data: the release's YAML mapping, or its `arch_cfg`.

    Raises:
        ConfigError: for unknown, missing, contradicting or unsupported values, by name.
    """
    arch = arch_cfg(data)
    if "representation_config" in arch:
        raise ConfigError(
            "this is the configuration of a Gaussian decoder, not of a tokenizer; "
            "tok4d.weights.load_atoken_gaussians loads those"
        )
    for key in arch:
        if key not in KNOWN:
            raise ConfigError(unknown_name("key", str(key), KNOWN))
    if missing := [key for key in REQUIRED if key not in arch]:
        raise ConfigError(f"lacks {', '.join(missing)}")
    _check_fixed(arch, FIXED)
    latent, patch = _size(arch, "latent_channels"), _patch(arch)
    width = _size(arch, "encoder_model_channels")
    return TokenizerConfig(
        name="atoken",
        patch_size=patch,
        latent=latent,
        encoder=_stack(arch, "encoder", ENCODER),
        decoder=_stack(arch, "decoder", DECODER),
        quantizer=_quantizer(arch, latent),
        text=TextConfig(kind="siglip2", source=TEXT_SOURCE) if width == TEXT_WIDTH else None,
        **deepcopy(RELEASE),
    ).check()


def arch_of(config: TokenizerConfig) -> dict[str, Any]:
    """The release's YAML mapping of one of our configurations; inverse of `config_of`.

    Raises:
        ConfigError: naming everything that the release's format cannot express.
    """
    if problems := _inexpressible(config):
        raise ConfigError(f"the released format cannot hold this model: {'; '.join(problems)}")
    frames, height, width = config.patch_size
    channels = frames * height * width * 3
    arch: dict[str, Any] = {
        "patch_size": list(config.patch_size),
        "in_channels": channels,
        "out_channels": channels,
        "latent_channels": config.latent,
    }
    for part, stack in (("encoder", config.encoder), ("decoder", config.decoder)):
        arch.update({f"{part}_{key}": getattr(stack, ours) for key, ours in SIZES.items()})
        arch.update({key: value for key, value in FIXED.items() if key.startswith(part)})
    arch["use_decoder"] = True
    if config.quantizer is not None:
        arch.update(
            use_quantizer=True,
            **QUANTIZER_FIXED,
            quantizer_codebook_size=LEVELS ** len(config.quantizer.levels),
            quantizer_feature_dim=config.latent,
            quantizer_num_codebooks=config.quantizer.groups,
        )
    return {"model": {"class_name": CLASS_NAME, "model_cfg": {"arch_cfg": arch}}}


def kind_of(config: TokenizerConfig) -> str:
    """Which of the released models a configuration is like, as far as it tells (paper, section 4.1)."""
    if config.quantizer is not None:
        return "stage 4: discrete (FSQ), all modalities"
    if config.latent == 32:
        return "stage 1: continuous, images"
    if config.latent == 48:
        return "stage 2 or 3: continuous; images and video, or all modalities"
    return f"continuous; no released model has {config.latent} latent channels"


def unlike_release(config: TokenizerConfig) -> list[str]:
    """Choices of a model that are no part of the released files, where they differ from what the release does."""
    ours = {key: getattr(config, key) for key in RELEASE}
    differing = [key for key, value in RELEASE.items() if ours[key] != value and (key != "inputs" or ours[key])]
    return [f"{key}: {ours[key]} here, the release runs with {RELEASE[key]}" for key in differing]


def _inexpressible(config: TokenizerConfig) -> list[str]:
    wanted = {"positions": "joint", "table_side": 16, "table_resize": "bilinear", "rope_scale": 1.0}
    problems = [f"{key} is {getattr(config, key)}, not {v}" for key, v in wanted.items() if getattr(config, key) != v]
    for part, released in (("encoder", ENCODER), ("decoder", DECODER)):
        stack = getattr(config, part)
        for key in ("norm", "bias", "qk_norm"):
            if getattr(stack, key) != getattr(released, key):
                problems.append(f"{part}.{key} is {getattr(stack, key)}, not {getattr(released, key)}")
    if config.heads:
        problems.append(f"it has extra decoders ({', '.join(sorted(config.heads))})")
    if config.quantizer is not None and set(config.quantizer.levels) != {LEVELS}:
        problems.append(f"quantizer.levels are {list(config.quantizer.levels)}, not all {LEVELS}")
    return problems


def _check_fixed(arch: Mapping[str, Any], fixed: Mapping[str, Any]) -> None:
    for key, value in fixed.items():
        if key in arch and (arch[key] != value or type(arch[key]) is not type(value)):
            raise ConfigError(f"{key}: {arch[key]!r} is not supported; every released model has {value!r}")


def _size(arch: Mapping[str, Any], key: str) -> int:
    value = arch[key]
    if not isinstance(value, int) or isinstance(value, bool) or not 0 < value <= MAX_SIZE:
        raise ConfigError(f"{key} must be a whole number from 1 to {MAX_SIZE}, got {value!r}")
    return value


def _patch(arch: Mapping[str, Any]) -> list[int]:
    patch = arch.get("patch_size", [4, 16, 16])
    if not isinstance(patch, (list, tuple)) or len(patch) != 3:
        raise ConfigError(f"patch_size must be frames, height and width, got {patch!r}")
    frames, height, width = (_size({"patch_size": value}, "patch_size") for value in patch)
    for key in ("in_channels", "out_channels"):
        if key in arch and _size(arch, key) != frames * height * width * 3:
            raise ConfigError(
                f"{key}: {arch[key]} is not the width of a patch of {frames} x {height} x {width} pixels in RGB, "
                f"{frames * height * width * 3}"
            )
    return [frames, height, width]


def _stack(arch: Mapping[str, Any], part: str, released: StackConfig) -> StackConfig:
    sizes = {ours: _size(arch, f"{part}_{key}") for key, ours in SIZES.items()}
    return StackConfig(**sizes, norm=released.norm, bias=released.bias, qk_norm=released.qk_norm)


def _quantizer(arch: Mapping[str, Any], latent: int) -> FSQConfig | None:
    used = arch.get("use_quantizer", False)
    if not isinstance(used, bool):
        raise ConfigError(f"use_quantizer must be true or false, got {used!r}")
    if not used:
        return None
    if missing := [key for key in QUANTIZER_SIZES if key not in arch]:
        raise ConfigError(f"use_quantizer needs {', '.join(missing)}")
    _check_fixed(arch, QUANTIZER_FIXED)
    codes, channels, groups = (_size(arch, key) for key in QUANTIZER_SIZES)
    if channels != latent:
        raise ConfigError(
            f"quantizer_feature_dim: {channels} is not latent_channels: {latent}; projections in and out "
            "of the quantizer are not supported"
        )
    if latent % groups:
        raise ConfigError(f"quantizer_num_codebooks: {groups} does not divide latent_channels: {latent}")
    if codes != LEVELS ** (latent // groups):
        raise ConfigError(
            f"quantizer_codebook_size: {codes} is not {LEVELS}^{latent // groups}: {groups} codebooks of "
            f"{latent // groups} channels with {LEVELS} levels each"
        )
    return FSQConfig(groups=groups, levels=[LEVELS] * (latent // groups))
