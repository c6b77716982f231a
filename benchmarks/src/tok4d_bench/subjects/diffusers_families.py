"""What is known of each autoencoder class of `diffusers`: sizes that it takes, its range, how it encodes and decodes.

B = batch, F = frames, H, W = height and width, L = latent channels. Picture models take `[B, 3, H, W]`, clip models
`[B, 3, F, H, W]`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import log2
from typing import Any

import torch
from torch import Tensor

Model = Any  # a ModelMixin of diffusers


@dataclass(frozen=True)
class Sizes:
    """Lengths of an axis that a model takes: `first + k * step`; step 0: `first` alone."""

    first: int
    step: int

    def fit(self, length: int) -> int | None:
        """The smallest of them that is not below `length`; None when there is none."""
        if length <= self.first:
            return self.first
        return None if self.step == 0 else self.first + -(-(length - self.first) // self.step) * self.step


@dataclass(frozen=True)
class Coded:
    """Latents of a batch `[B, L, ...]`, and for discrete models the code of every place `[B, places, groups]`."""

    latents: Tensor
    codes: Tensor | None = None


@dataclass(frozen=True)
class Family:
    """A class of autoencoders.

    Attributes:
        sides: allowed heights and widths of a model.
        frames: allowed numbers of frames; None for models of pictures.
        encode: pixels -> latents, the mode of a posterior.
        decode: latents, and the shape of the pixels -> pixels.
        mean, std: pixels are given as ([0, 1] - mean) / std; the default is [-1, 1].
        vocabulary: codes of a place by group; empty for continuous latents.
        tiled: runs by tiles alone, and takes one sample at a time.
    """

    sides: Callable[[Model], tuple[Sizes, Sizes]]
    frames: Callable[[Model], Sizes] | None = None
    encode: Callable[[Model, Tensor], Coded] = lambda model, x: Coded(_mode(model.encode(x)))
    decode: Callable[[Model, Coded, tuple[int, ...]], Tensor] = lambda model, coded, shape: _sample(
        model.decode(coded.latents)
    )
    mean: tuple[float, ...] = (0.5, 0.5, 0.5)
    std: tuple[float, ...] = (0.5, 0.5, 0.5)
    vocabulary: Callable[[Model], tuple[int, ...]] = lambda model: ()
    tiled: bool = False


def _mode(encoded: Any) -> Tensor:
    """The latents without noise, whatever a class calls them."""
    for name in ("latent_dist", "latent", "latents"):
        found = getattr(encoded, name, None)
        if found is not None:
            mode: Tensor = found.mode() if name == "latent_dist" else found
            return mode
    raise TypeError(f"{type(encoded).__name__} holds no latents")


def _sample(decoded: Any) -> Tensor:
    found: Tensor = decoded if isinstance(decoded, Tensor) else decoded.sample
    return found


# --- sizes ------------------------------------------------------------------------------------------------------------


def _square(stride: Callable[[Model], int]) -> Callable[[Model], tuple[Sizes, Sizes]]:
    """Whole multiples of a stride."""

    def sides(model: Model) -> tuple[Sizes, Sizes]:
        step = int(stride(model))
        return Sizes(step, step), Sizes(step, step)

    return sides


def _causal(stride: Callable[[Model], int]) -> Callable[[Model], Sizes]:
    """1 + k * stride frames: the first one stands alone, so that a picture is a clip of one."""
    return lambda model: Sizes(1, int(stride(model)))


def _halvings(field: str) -> Callable[[Model], int]:
    """2 to the power of the levels of a U-shaped network, the first of which keeps the size."""
    return lambda model: 2 ** (len(model.config[field]) - 1)


def _ratio(name: str) -> Callable[[Model], int]:
    """An entry of the config, else an attribute that the model works out from it."""
    return lambda model: int(model.config.get(name) or getattr(model, name))


def _wan_side(model: Model) -> int:
    return int(2 ** (len(model.config.dim_mult) - 1) * (model.config.get("patch_size") or 1))


def _wan_time(model: Model) -> int:
    return 2 ** sum(bool(down) for down in model.config.temperal_downsample)


def _allegro_sides(model: Model) -> tuple[Sizes, Sizes]:
    _, height, width = model.kernel
    _, down, right = model.stride
    return Sizes(height, down), Sizes(width, right)


def _vidtok_frames(model: Model) -> Sizes:
    batch = int(model.num_sample_frames_batch_size)
    return Sizes(1, int(model.temporal_compression_ratio)) if model.is_causal else Sizes(batch, batch)


def _minimax_sides(model: Model) -> tuple[Sizes, Sizes]:
    """Its padding mirrors latents, of which a side must have two."""
    step = int(model.spatial_compression_ratio)
    return Sizes(2 * step, step), Sizes(2 * step, step)


def _rae_sides(model: Model) -> tuple[Sizes, Sizes]:
    config = model.config
    side = int(config.image_size or config.encoder_input_size // config.encoder_patch_size * config.patch_size)
    return Sizes(side, 0), Sizes(side, 0)


# --- classes that encode or decode in a way of their own --------------------------------------------------------------


def _vq_encode(model: Model, pixels: Tensor) -> Coded:
    """Codes beside the latents, which `decode` quantises itself."""
    latents = model.encode(pixels).latents
    indices: Tensor = model.quantize(latents)[2][2]
    return Coded(latents, indices.reshape(len(pixels), -1, 1).to(torch.int32))


def _vidtok_encode(model: Model, pixels: Tensor) -> Coded:
    """Causal models see the first frame repeated before it, as their `forward` does; `decode` cuts that off again."""
    if model.is_causal:
        before = pixels[:, :, :1].expand(-1, -1, model.temporal_compression_ratio - 1, -1, -1)
        pixels = torch.cat([before, pixels], 2)
    encoded = model.encode(pixels)
    if model.regularizer == "kl":
        return Coded(_mode(encoded))
    latents, indices = encoded
    return Coded(latents, indices.reshape(len(pixels), -1, 1).to(torch.int32))


def _with_time(model: Model, coded: Coded, shape: tuple[int, ...]) -> Tensor:
    """Decoders that also remove noise are told that there is none."""
    asks = bool(model.config.get("timestep_conditioning"))
    return _sample(model.decode(coded.latents, coded.latents.new_zeros(len(coded.latents)) if asks else None))


def _frames_encode(model: Model, pixels: Tensor) -> Coded:
    """`[B, 3, F, H, W]` frame by frame."""
    batch, frames = pixels.shape[0], pixels.shape[2]
    latents = _mode(model.encode(pixels.transpose(1, 2).flatten(0, 1)))
    return Coded(latents.unflatten(0, (batch, frames)).transpose(1, 2))


def _frames_decode(model: Model, coded: Coded, shape: tuple[int, ...]) -> Tensor:
    """All frames of a clip together; they share what the temporal layers see."""
    batch, _, frames = coded.latents.shape[:3]
    decoded = _sample(model.decode(coded.latents.transpose(1, 2).flatten(0, 1), num_frames=frames))
    return decoded.unflatten(0, (batch, frames)).transpose(1, 2)


def _opaque_encode(model: Model, pixels: Tensor) -> Coded:
    """A model of pictures in the shape of clips, with a fourth channel, opacity: all of it."""
    if model.config.in_channels == 4:
        pixels = torch.cat([pixels, torch.ones_like(pixels[:, :1])], 1)
    return Coded(_mode(model.encode(pixels[:, :, None])))


def _only_frame(model: Model, coded: Coded, shape: tuple[int, ...]) -> Tensor:
    return _sample(model.decode(coded.latents))[:, :, 0]


def _frames_first(model: Model, coded: Coded, shape: tuple[int, ...]) -> Tensor:
    """A decoder that gives `[B, F, 3, H, W]`."""
    return _sample(model.decode(coded.latents)).transpose(1, 2)


# --- the table --------------------------------------------------------------------------------------------------------

_BLOCKS = _square(_halvings("block_out_channels"))
_SPATIAL = _square(_ratio("spatial_compression_ratio"))
_TEMPORAL = _causal(_ratio("temporal_compression_ratio"))
_WAN_SIDES, _WAN_FRAMES = _square(_wan_side), _causal(_wan_time)
_UNIT: dict[str, Any] = {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}
_IMAGENET: dict[str, Any] = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}

FAMILIES: dict[str, Family] = {
    # pictures
    "AsymmetricAutoencoderKL": Family(_square(_halvings("down_block_out_channels"))),
    "AutoencoderDC": Family(_SPATIAL),
    "AutoencoderKL": Family(_BLOCKS),
    "AutoencoderKLFlux2": Family(_BLOCKS),
    "AutoencoderKLHunyuanImage": Family(_SPATIAL),
    "AutoencoderKLKVAE": Family(_square(_halvings("ch_mult"))),
    "AutoencoderKLQwenImage21": Family(_WAN_SIDES, encode=_opaque_encode, decode=_only_frame),
    "AutoencoderRAE": Family(_rae_sides, **_UNIT),
    "AutoencoderTiny": Family(_square(_halvings("encoder_block_out_channels"))),
    "ConsistencyDecoderVAE": Family(_square(_halvings("encoder_block_out_channels"))),
    "VQModel": Family(_BLOCKS, encode=_vq_encode, vocabulary=lambda model: (int(model.config.num_vq_embeddings),)),
    # clips, of which a picture is one frame
    "AutoencoderKLAllegro": Family(
        _allegro_sides, lambda model: Sizes(model.kernel[0], model.stride[0]), decode=_frames_first, tiled=True
    ),
    # It keeps the first frame apart where the number of latent frames is odd.
    "AutoencoderKLCogVideoX": Family(_BLOCKS, _causal(lambda model: 2 * model.config.temporal_compression_ratio)),
    "AutoencoderKLCosmos": Family(_SPATIAL, _TEMPORAL),
    "AutoencoderKLHunyuanImageRefiner": Family(_SPATIAL, _TEMPORAL),
    "AutoencoderKLHunyuanVideo": Family(_SPATIAL, _TEMPORAL),
    "AutoencoderKLHunyuanVideo15": Family(_SPATIAL, _TEMPORAL),
    "AutoencoderKLKVAEVideo": Family(
        _square(_halvings("ch_mult")), _causal(lambda model: int(model.config.temporal_compress_times))
    ),
    "AutoencoderKLLTX2Video": Family(_SPATIAL, _TEMPORAL, decode=_with_time),
    "AutoencoderKLLTXVideo": Family(_SPATIAL, _TEMPORAL, decode=_with_time),
    "AutoencoderKLMagvit": Family(_SPATIAL, _TEMPORAL),
    "AutoencoderKLMiniMaxH3": Family(
        _minimax_sides, lambda model: Sizes(5 + model.config.clip_length, int(model.config.clip_length)), **_IMAGENET
    ),
    "AutoencoderKLMochi": Family(_SPATIAL, _TEMPORAL),
    "AutoencoderKLQwenImage": Family(_WAN_SIDES, _WAN_FRAMES),
    "AutoencoderKLTemporalDecoder": Family(
        _BLOCKS, lambda model: Sizes(1, 1), encode=_frames_encode, decode=_frames_decode
    ),
    "AutoencoderKLWan": Family(_WAN_SIDES, _WAN_FRAMES),
    "AutoencoderVidTok": Family(
        _square(lambda model: 2 ** len(model.encoder.spatial_ds)),
        _vidtok_frames,
        encode=_vidtok_encode,
        vocabulary=lambda model: (int(model.config.codebook_size),) if model.regularizer == "fsq" else (),
    ),
}


def bits_of_place(vocabulary: tuple[int, ...]) -> float:
    """Bits of one place at a fixed length of the code."""
    return sum(log2(size) for size in vocabulary)
