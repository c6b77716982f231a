"""The transformer block against its formula, written with plain matrix products."""

from __future__ import annotations

from math import pi, sqrt

import pytest
import torch
from torch import Tensor

from tok4d.config.schema import StackConfig
from tok4d.nn.block import Block, Context
from tok4d.nn.rope import rotate, rotations
from tok4d.seqs import Seqs

SEQS = Seqs((5, 0, 3), torch.device("cpu"))
VARIANTS = {
    "encoder": StackConfig(width=32, blocks=1, heads=2, mlp=48, norm="layer", bias=True, qk_norm=False),
    "decoder": StackConfig(width=32, blocks=1, heads=2, mlp=48, norm="rms", bias=False, qk_norm=True),
}


def make_block(config: StackConfig) -> Block:
    block = Block(config).double()
    rng = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in block.parameters():  # none at its neutral start, or its place would not matter
            parameter.copy_(torch.randn(parameter.shape, generator=rng, dtype=torch.float64) * 0.3)
    return block


def linear(weights: dict[str, Tensor], name: str, x: Tensor) -> Tensor:
    return x @ weights[f"{name}.weight"].T + weights.get(f"{name}.bias", torch.zeros(()).double())


def norm(weights: dict[str, Tensor], name: str, x: Tensor, kind: str) -> Tensor:
    if kind == "rms":
        return x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt() * weights[f"{name}.weight"]
    centred = x - x.mean(-1, keepdim=True)
    scaled = centred / (centred.square().mean(-1, keepdim=True) + 1e-6).sqrt()
    return scaled * weights[f"{name}.weight"] + weights[f"{name}.bias"]


def by_hand(weights: dict[str, Tensor], config: StackConfig, x: Tensor, rotation: Tensor) -> Tensor:
    q, k, v = linear(weights, "attn.to_qkv", norm(weights, "norm1", x, config.norm)).view(-1, 3, 2, 16).unbind(1)
    if config.qk_norm:
        q = q / q.norm(dim=-1, keepdim=True) * weights["attn.q_rms_norm.gamma"] * 4
        k = k / k.norm(dim=-1, keepdim=True) * weights["attn.k_rms_norm.gamma"] * 4
    q, k = rotate(q, rotation), rotate(k, rotation)
    mixed = torch.zeros_like(q)
    for rows in (slice(0, 5), slice(5, 8)):
        for head in range(2):
            logits = q[rows, head] @ k[rows, head].T / 4
            mixed[rows, head] = logits.softmax(-1) @ v[rows, head]
    x = x + linear(weights, "attn.to_out", mixed.flatten(1))
    hidden = linear(weights, "mlp.mlp.0", norm(weights, "norm2", x, config.norm))
    gelu = 0.5 * hidden * (1 + torch.tanh(sqrt(2 / pi) * (hidden + 0.044715 * hidden**3)))
    return x + linear(weights, "mlp.mlp.2", gelu)


@pytest.mark.parametrize("name", VARIANTS)
def test_block_equals_its_formula(name):
    block = make_block(VARIANTS[name])
    rng = torch.Generator().manual_seed(1)
    x = torch.randn(8, 32, generator=rng, dtype=torch.float64)
    rotation = rotations(torch.randint(0, 9, (8, 4), generator=rng, dtype=torch.int32), 16)
    expected = by_hand(dict(block.state_dict()), VARIANTS[name], x, rotation)
    torch.testing.assert_close(block(x, Context(SEQS, rotation)), expected, rtol=1e-7, atol=1e-7)
    assert not torch.allclose(block(x, Context(SEQS, None)), expected), "the rotation must matter"


def test_variants_have_the_parameters_of_the_contract():
    encoder, decoder = (dict(make_block(config).named_parameters()) for config in VARIANTS.values())
    assert not [name for name in decoder if name.endswith("bias")]
    assert [name for name in encoder if "gamma" in name] == []
    assert decoder["attn.q_rms_norm.gamma"].shape == (2, 16)
    assert encoder["attn.to_qkv.weight"].shape == (96, 32)
