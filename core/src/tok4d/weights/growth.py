"""What a model is given when a stage begins: stills for clips, more latent channels, latents that fit FSQ.

The functions of one tensor serve weights, their averages and AdamW's moments alike.

L = latent channels, C = encoder channels, W = decoder width.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from tok4d.config.schema import FSQConfig, TokenizerConfig
from tok4d.data.order import seed_of
from tok4d.errors import ConfigError
from tok4d.model.tokenizer import Tokenizer

PROJ, DECODER_IN = "proj.weight", "decoder.input_layer.weight"
SMALL = 0.02  # deviation of new rows, as of every matrix at the start


@torch.no_grad()
def repeat_first_frame(model: Tokenizer) -> None:
    """Let a model of pictures write its picture to every frame of a patch: training on clips begins at stills.

    A picture is frame 0 of its patch, so a model trained on pictures never wrote the others. The output rows of frame 0
    are copied to them; what pictures look like does not change. The input needs nothing: what it does with frames 1
    to 3, its start at zero included, pictures never used.
    """
    layer = model.decoder.out_layer
    frames = model.patch_size[0]
    for values in (layer.weight, layer.bias):
        if values is not None:
            parts = values.unflatten(0, (frames, -1))
            parts[1:] = parts[:1]


def new_rows(before: int, after: int, channels: int, seed: int) -> Tensor:
    """Rows of `proj` for new latent channels, `[2, after - before, C]` (mean, log-variance): small and random."""
    rows = torch.empty(2, after - before, channels)
    generator = torch.Generator().manual_seed(seed_of(seed, "latent", before, after))
    return torch.nn.init.trunc_normal_(rows, std=SMALL, generator=generator)


def widened(name: str, value: Tensor, before: int, after: int, rows: Tensor | None = None) -> Tensor:
    """A tensor of a model with `before` latent channels for one with `after`; others than the bottleneck's as it is.

    `proj` keeps its rows in the mean half and the log-variance half separately; the new ones are `rows`, or zero (as
    moments begin). New columns of the decoder's input are zero: it does not read the new channels yet, and learns to
    since they are not zero themselves.
    """
    if name == PROJ:
        mean, logvar = value.chunk(2)
        new = value.new_zeros(2, after - before, value.shape[1]) if rows is None else rows.to(value)
        return torch.cat([mean, new[0], logvar, new[1]])
    if name == DECODER_IN:
        return F.pad(value, (0, after - before))
    if name in ("latent_mean", "latent_std"):
        return F.pad(value, (0, after - before), value=float(name == "latent_std"))
    return value


def reordered(name: str, value: Tensor, order: Tensor) -> Tensor:
    """A tensor of a model whose latent channel i is `order[i]` of the old one, `[L]`; what it restores stays."""
    if name == PROJ:
        mean, logvar = value.chunk(2)
        return torch.cat([mean[order], logvar[order]])
    if name == DECODER_IN:
        return value[:, order]
    return value[order] if name in ("latent_mean", "latent_std") else value


def rescaled(name: str, value: Tensor, scale: Tensor, power: int = 1) -> Tensor:
    """A tensor of a model whose posterior means are divided by `scale` `[L]`, and multiplied again by the decoder.

    What the mean decodes to stays. The posterior's deviation would need a bias that `proj` does not have; a quantizer
    does not read it.

    Args:
        power: 1 for weights and their averages; -1 and -2 for AdamW's first and second moments, as the gradient of
            w / s is s times that of w.
    """
    factor = (scale**power).to(value)
    if name == PROJ:
        mean, logvar = value.chunk(2)
        return torch.cat([mean / factor[:, None], logvar])
    if name == DECODER_IN:
        return value * factor
    return value / factor if name in ("latent_mean", "latent_std") else value


def amplified(name: str, value: Tensor, gain: Tensor, power: int = 1) -> Tensor:
    """A tensor of a model whose decoder multiplies its latents by `gain` `[L]`; `power` as in `rescaled`."""
    return value * (gain**power).to(value) if name == DECODER_IN else value


def wider_config(config: TokenizerConfig, latent: int) -> TokenizerConfig:
    """The configuration with more latent channels.

    Raises:
        ConfigError: for fewer.
    """
    if latent < config.latent:
        raise ConfigError(f"latent channels only grow: the model has {config.latent}, {latent} are wanted")
    return replace(config, latent=latent, parameters=None)


def discrete_config(config: TokenizerConfig, quantizer: FSQConfig) -> TokenizerConfig:
    """The configuration with FSQ.

    Raises:
        ConfigError: when it does not fit the latent channels.
    """
    quantizer.check(config.latent)
    return replace(config, quantizer=quantizer, parameters=None)


def rebuilt(config: TokenizerConfig, tensors: Mapping[str, Tensor]) -> Tokenizer:
    """A model of another configuration that holds the given tensors (a whole state dict)."""
    with torch.random.fork_rng(devices=[]):  # its own start is overwritten, and must not move anyone's randomness
        model = Tokenizer(config)
    model.load_state_dict(dict(tensors))
    return model
