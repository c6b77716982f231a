"""`init: linear`: start a tokenizer at the PCA of its patches, without changing its architecture.

From random weights a small model needs hours to reach what a PCA gives for nothing. Here the first L scores of the PCA
become the latent, the residual branches start at zero, and training begins where the linear method ends. It needs
patches only, so it serves any modality.

C = stream channels = K constants + S signals, V = patch channels in use, R = PCA scores carried, L = latent channels,
M = min(L, V) latent channels that hold a score (patches of a narrow modality have fewer scores than that).

The stream of encoder and decoder holds K constant channels of +-k with zero sum (written through the position table:
a constant survives its resize, and the decoder has no bias) and S channels of signal. Constants much larger than the
signal keep LayerNorm and RMSNorm near-linear. Signals go through a Householder matrix whose columns sum to zero, so
that LayerNorm's mean subtraction changes nothing; it stays close to the axes, where Adam does the least damage.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt

import torch
from torch import Tensor, nn

from tok4d.errors import ConfigError
from tok4d.model.pca import PatchPCA
from tok4d.model.stack import Stack
from tok4d.model.tokenizer import Tokenizer
from tok4d.nn.block import Block

CONSTANTS = 8
HEADROOM = 1000.0  # energy of the constants over that of the signal; at 100 the norms already cost 0.4 dB
LOGVAR = -12.0
CONSTANT_GAIN = 0.1  # what blocks see of the constants: enough for the local heads, too little to drown the signal
SHARPNESS = 6.0  # how firmly a local head looks at its neighbour
NEIGHBOURS = ((-1, 0), (0, -1), (1, 0), (0, 1))


@dataclass(frozen=True)
class Plan:
    """Numbers that all parts of a linear start share, and what grows from it later."""

    signs: Tensor  # [K] of +-1, zero sum
    constant: float  # k
    rms: float  # root mean square of the stream, all of it from the constants
    basis: Tensor  # [S, R], orthonormal columns of zero sum
    latent: int  # M
    unit: float  # one unit for all channels: the deviation of the last latent score
    scores: Tensor  # [V, R] PCA directions carried
    deviations: Tensor  # [R]
    mean: Tensor  # [V]


@torch.no_grad()
def init_linear(model: Tokenizer, pca: PatchPCA) -> None:
    """Set all weights so that encode + decode of a posterior mean equals `pca` with `latent` components, or all it has.

    Args:
        model: a tokenizer with a position table; its weights are overwritten.
        pca: of patches of the training data, V <= patch width.

    Raises:
        ConfigError: for a model that cannot start linearly, with the reason.
    """
    latent = model.config.latent
    plans = {}
    for name, stack in (("encoder", model.encoder), ("decoder", model.decoder)):
        width = stack.input_layer.out_features
        if stack.pos_embedder is None:
            raise ConfigError("init: linear needs a position table; use positions: joint or table")
        if width - CONSTANTS - 1 < latent:
            raise ConfigError(f"init: linear needs {name}.width > latent + {CONSTANTS}, got {width} and {latent}")
        plans[name] = plan_of(pca, width, min(latent, len(pca.mean)))
    _start_encoder(model, plans["encoder"])
    _start_decoder(model, plans["decoder"])
    for name, stack in (("encoder", model.encoder), ("decoder", model.decoder)):
        for depth, block in enumerate(stack.blocks):
            assert isinstance(block, Block)
            _silence(block, plans[name])
            if model.config.positions != "table":
                _look_at_neighbours(block, plans[name], depth)


def plan_of(pca: PatchPCA, width: int, latent: int) -> Plan:
    """The plan of a stream of `width` channels whose first `latent` scores become latents."""
    signals = width - CONSTANTS
    carried = min(signals - 1, len(pca.mean))
    deviations = pca.deviations[:carried].clamp_min(1e-3)
    unit = float(deviations[latent - 1])
    constant = sqrt(HEADROOM * float((deviations / unit).square().sum()) / CONSTANTS)
    # Householder reflection that swaps the constant direction with the last axis: its other columns sum to zero.
    v = torch.full((signals,), -1 / sqrt(signals))
    v[-1] += 1
    basis = (torch.eye(signals) - 2 * torch.outer(v, v) / v.dot(v))[:, :carried]
    signs = torch.tensor([1.0, -1.0] * (CONSTANTS // 2))
    rms = sqrt(CONSTANTS / width) * constant
    return Plan(signs, constant, rms, basis, latent, unit, pca.components[:, :carried], deviations, pca.mean)


def _start_table(stack: Stack, plan: Plan) -> None:
    assert stack.pos_embedder is not None
    weight = stack.pos_embedder.position_embedding.weight
    weight.zero_()
    weight[:, :CONSTANTS] = plan.constant * plan.signs


def _start_encoder(model: Tokenizer, plan: Plan) -> None:
    encoder, latent = model.encoder, model.config.latent
    _start_table(encoder, plan)
    directions = plan.basis @ (plan.scores / plan.unit).T  # [S, V]
    encoder.input_layer.weight.zero_()
    encoder.input_layer.weight[CONSTANTS:, : len(plan.mean)] = directions
    encoder.input_layer.bias.zero_()
    encoder.input_layer.bias[CONSTANTS:] = -directions @ plan.mean
    _scale_norm(encoder.post_layernorm, plan.rms)
    used = plan.latent
    whiten = plan.unit / plan.deviations[:used]
    height = plan.constant / plan.rms  # of the constants after the last norm
    model.proj.weight.zero_()
    model.proj.weight[:used, CONSTANTS:] = whiten[:, None] * plan.basis[:, :used].T
    model.proj.weight[latent:, :2] = LOGVAR / 2 / height * plan.signs[:2]


def _start_decoder(model: Tokenizer, plan: Plan) -> None:
    decoder, latent = model.decoder, plan.latent
    _start_table(decoder, plan)
    decoder.input_layer.weight.zero_()
    decoder.input_layer.weight[CONSTANTS:, :latent] = plan.basis[:, :latent] * (plan.deviations[:latent] / plan.unit)
    _scale_norm(decoder.out_norm, plan.rms)
    height = plan.constant / plan.rms
    out, used = decoder.out_layer.weight, len(plan.mean)
    out.zero_()
    # Columns for scores beyond the latent too, so that the blocks can write detail where the PCA is blind.
    out[:used, CONSTANTS:] = (plan.scores * plan.unit) @ plan.basis.T
    out[:used, :CONSTANTS] = plan.mean[:, None] * plan.signs / height / CONSTANTS
    for linear in (decoder.input_layer, decoder.out_layer):
        if linear.bias is not None:
            linear.bias.zero_()


def _scale_norm(norm: nn.Module, gain: float) -> None:
    """Undo the division by the stream's rms on the signal channels."""
    assert isinstance(norm.weight, Tensor)
    norm.weight.fill_(gain)
    norm.weight[:CONSTANTS] = 1.0
    if isinstance(getattr(norm, "bias", None), Tensor):
        norm.bias.zero_()  # type: ignore[operator]


def _silence(block: Block, plan: Plan) -> None:
    """Residual branches start at zero; their inputs are whitened scores."""
    last = block.mlp.mlp[2]
    assert isinstance(last, nn.Linear)
    for linear in (block.attn.to_out, last):
        linear.weight.zero_()
        if linear.bias is not None:
            linear.bias.zero_()
    carried = len(plan.deviations)
    for norm in (block.norm1, block.norm2):
        norm.weight[:CONSTANTS] = CONSTANT_GAIN
        norm.weight[CONSTANTS : CONSTANTS + carried] = plan.rms * plan.unit / plan.deviations
        norm.weight[CONSTANTS + carried :] = plan.rms * plan.unit / plan.deviations[-1]


def _look_at_neighbours(block: Block, plan: Plan, depth: int) -> None:
    """Two heads of the block attend to one neighbour each: up and left, or down and right, alternating.

    The value is the neighbour's leading channels. On natural pictures this start decides whether training beats the
    PCA.
    """
    attention = block.attn
    size, width = attention.head_dim, attention.to_out.in_features
    for head in range(min(2, attention.heads)):
        values = look_at(block, plan, head, NEIGHBOURS[(2 * depth + head) % 4])
        copied = min(size, width - CONSTANTS)
        values[:, CONSTANTS : CONSTANTS + copied] = torch.eye(size, copied)


def look_at(block: Block, plan: Plan, head: int, offset: tuple[int, int]) -> Tensor:
    """Let a head attend to the neighbour at an offset (dx, dy), and give the rows of its values, emptied, `[d, C]`.

    Query and key come from the constants, with phases for which RoPE peaks at the neighbour's offset.
    """
    attention, (dx, dy) = block.attn, offset
    width, size = attention.to_out.in_features, attention.head_dim
    r = size // 8
    rate = 10000.0 ** (-torch.arange(r) / size)
    active = torch.zeros(size // 2)
    active[r : 3 * r] = 1  # pairs of the x and the y axis
    height = plan.constant / plan.rms * CONSTANT_GAIN
    amplitude = sqrt(SHARPNESS * 40 / sqrt(size))
    phase = torch.zeros(size // 2)
    phase[r : 2 * r], phase[2 * r : 3 * r] = rate * dx, rate * dy
    query = torch.stack([phase.cos() * active, phase.sin() * active], -1).flatten() * amplitude
    key = torch.stack([active, torch.zeros_like(active)], -1).flatten() * amplitude
    rows = [slice(part * width + head * size, part * width + (head + 1) * size) for part in range(3)]
    weight = attention.to_qkv.weight
    for row, vector in zip(rows, (query, key), strict=False):
        weight[row] = 0
        weight[row, :CONSTANTS] = vector[:, None] * plan.signs / CONSTANTS / height
    weight[rows[2]] = 0
    if attention.q_rms_norm is not None and attention.k_rms_norm is not None:
        gain = sqrt(SHARPNESS * 10 / 8)
        attention.q_rms_norm.gamma[head] = gain
        attention.k_rms_norm.gamma[head] = gain
    return weight[rows[2]]
