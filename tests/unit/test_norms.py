"""Norms against their formulas in float64."""

from __future__ import annotations

import pytest
import torch

from tok4d.nn.norms import EPS, HeadNorm, LayerNorm, RMSNorm, make_norm


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def layer_formula(norm: LayerNorm, x: torch.Tensor) -> torch.Tensor:
    mean = x.mean(-1, keepdim=True)
    variance = (x - mean).square().mean(-1, keepdim=True)
    return (x - mean) / (variance + EPS).sqrt() * norm.weight.double() + norm.bias.double()


def rms_formula(norm: RMSNorm, x: torch.Tensor) -> torch.Tensor:
    return x / (x.square().mean(-1, keepdim=True) + EPS).sqrt() * norm.weight.double()


FORMULAS = {"layer": layer_formula, "rms": rms_formula}


@pytest.fixture(params=["layer", "rms"])
def norm(request) -> LayerNorm | RMSNorm:
    made = make_norm(request.param, 24)
    with torch.no_grad():
        for number, parameter in enumerate(made.parameters()):
            parameter.copy_(normal(24, seed=number))
    return made


def formula(norm: LayerNorm | RMSNorm) -> object:
    return layer_formula if isinstance(norm, LayerNorm) else rms_formula


@pytest.mark.parametrize("size", [1e-4, 1.0, 1e3])
def test_norms_equal_their_formulas(norm, size):
    """At size 1e-4 the epsilon of 1e-6 dominates, so it is part of what is tested."""
    x = normal(7, 24, seed=9) * size
    expected = formula(norm)(norm, x)
    torch.testing.assert_close(norm(x.float()).double(), expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(norm.double()(x), expected, rtol=1e-12, atol=1e-12)


def test_half_precision_input_is_normalised_in_float32(norm):
    """The only rounding is that of the result: a bf16 sum over 24 squares would be off by far more."""
    x = (normal(50, 24, seed=9) * 30 + 100).bfloat16()
    norm.bfloat16()
    exact = formula(norm)(norm, x.double())
    assert norm(x).dtype == torch.bfloat16
    assert ((norm(x).double() - exact).abs() <= 2**-8 * exact.abs() + 1e-4).all()


def test_head_norm_by_hand():
    norm = HeadNorm(2, 4)
    with torch.no_grad():
        norm.gamma.copy_(torch.tensor([[1.0, 2.0, 3.0, 4.0], [0.5, 0.5, 0.5, 0.5]]))
    x = torch.tensor([[[3.0, 0.0, 4.0, 0.0], [1.0, 1.0, 1.0, 1.0]]])
    # head 0: x / 5 * gamma * 2; head 1: x / 2 * 0.5 * 2
    expected = torch.tensor([[[1.2, 0.0, 4.8, 0.0], [0.5, 0.5, 0.5, 0.5]]])
    torch.testing.assert_close(norm(x), expected)
    assert norm(x.bfloat16()).dtype == torch.float32


def test_head_norm_of_a_zero_vector_is_zero_with_finite_gradient():
    x = torch.zeros(1, 2, 8, requires_grad=True)
    out = HeadNorm(2, 8)(x)
    assert torch.equal(out, torch.zeros_like(out))
    out.sum().backward()
    assert torch.isfinite(x.grad).all()
