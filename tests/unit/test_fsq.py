"""FSQ: properties over ALL codes, the straight-through gradient, and precision."""

from __future__ import annotations

from itertools import product
from math import atanh, prod, tanh

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from made import make_tokens

from tok4d.config.schema import FSQConfig
from tok4d.errors import ConfigError, Tok4dError
from tok4d.model.fsq import FSQ, Codes, unflatten

LEVELS = [[4] * 6, [2], [3], [2, 3, 4], [8, 5, 5, 5], [7, 4], [1000]]
RELAXED = settings(max_examples=30, deadline=None, derandomize=True)


def quantizer(levels: list[int], groups: int = 1) -> FSQ:
    return FSQ(FSQConfig(groups=groups, levels=levels))


def digit(value: float, levels: int) -> int:
    """The level of one channel, by the paper's formula in Python's own floats (round is half-to-even)."""
    half = (levels - 1) * 1.001 / 2
    offset = 0.5 if levels % 2 == 0 else 0.0
    return round(tanh(value + atanh(offset / half)) * half - offset) + levels // 2


def code_of(values: torch.Tensor, levels: list[int]) -> torch.Tensor:
    """Index of code values `[N, K]`, written out: first channel fastest."""
    index, basis = torch.zeros(len(values), dtype=torch.int64), 1
    for channel, count in enumerate(levels):
        index += (values[:, channel] * (count // 2) + count // 2).round().long() * basis
        basis *= count
    return index


@pytest.mark.parametrize("levels", LEVELS, ids=str)
def test_every_code_is_one_value_and_back(levels):
    indices = torch.arange(prod(levels), dtype=torch.int32)[:, None]
    values = quantizer(levels).values(indices)
    assert values.dtype == torch.float32
    assert values.abs().max() <= 1
    assert torch.equal(code_of(values, levels), indices[:, 0].long())
    assert len(torch.unique(values, dim=0)) == prod(levels)


@pytest.mark.parametrize("levels", LEVELS[:-1], ids=str)
def test_every_code_can_be_reached_and_none_beyond(levels):
    """Latents at the middle of every level's interval, and far outside."""
    axes = []
    for count in levels:
        half, offset = (count - 1) * 1.001 / 2, 0.5 if count % 2 == 0 else 0.0
        places = [(level - count // 2 + offset) / half for level in range(count)]
        axes.append([atanh(min(max(p, -0.9999), 0.9999)) - atanh(offset / half) for p in places])
    z = torch.tensor(list(product(*reversed(axes)))).flip(1)  # first channel fastest
    values, indices = quantizer(levels)(z)
    assert torch.equal(indices[:, 0], torch.arange(prod(levels), dtype=torch.int32))
    torch.testing.assert_close(values, quantizer(levels).values(indices))
    far = torch.tensor([[-1e30] * len(levels), [1e30] * len(levels)])
    assert quantizer(levels)(far)[1].flatten().tolist() == [0, prod(levels) - 1]


@RELAXED
@given(st.lists(st.floats(-4, 4, width=32), min_size=6, max_size=6), st.sampled_from([[4] * 6, [5, 2, 7, 3, 8, 4]]))
def test_indices_equal_the_formula(z, levels):
    digits = [digit(value, count) for value, count in zip(z, levels, strict=True)]
    near = any(digit(value - 1e-4, count) != digit(value + 1e-4, count) for value, count in zip(z, levels, strict=True))
    expected = sum(d * prod(levels[:i]) for i, d in enumerate(digits))
    if not near:  # on a border float32 may round to the other side
        assert int(quantizer(levels)(torch.tensor([z]))[1]) == expected


def test_gradient_is_that_of_the_bounded_value():
    """d value / dz = (1 - tanh^2(z + shift)) * half / middle: rounding is passed straight through."""
    z = torch.linspace(-2, 2, 12).view(2, 6).requires_grad_()
    values, _ = quantizer([4] * 6)(z)
    weight = torch.arange(12.0).view(2, 6)
    (values * weight).sum().backward()
    half = 3 * 1.001 / 2
    slope = (1 - torch.tanh(z.detach() + atanh(0.5 / half)) ** 2) * half / 2
    torch.testing.assert_close(z.grad, slope * weight)


@pytest.mark.parametrize("model_dtype", [torch.float32, torch.bfloat16])
def test_half_precision_loses_no_code(model_dtype):
    """Also after `model.bfloat16()` and under autocast; rounding in bf16 would lose half of the codes."""
    fsq = quantizer([4] * 6, groups=8).to(model_dtype)
    z = (torch.randn(500, 48, generator=torch.Generator().manual_seed(0)) * 1.5).bfloat16()
    expected = quantizer([4] * 6, groups=8)(z.float())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        values, indices = fsq(z)
    assert torch.equal(indices, expected[1])
    assert torch.equal(values, expected[0])
    assert values.dtype == torch.float32
    assert len(torch.unique(values)) == 4


@pytest.mark.parametrize("groups", [1, 3])
def test_flatten_is_a_bijection_onto_one_vocabulary(groups):
    fsq = quantizer([3, 2], groups)
    indices = torch.tensor(list(product(range(6), repeat=groups)), dtype=torch.int32)
    tokens = make_tokens([len(indices)], fsq.width, (1, 16, 16, 1))
    codes = Codes(indices, fsq.values(indices), fsq.vocabulary, tokens)
    ids = codes.flatten()
    assert sorted(set(ids.tolist())) == list(range(6 * groups))
    assert ids[:groups].tolist() == [6 * g for g in range(groups)]
    assert torch.equal(unflatten(ids, fsq.vocabulary), indices)
    assert torch.equal(codes.latents().coords, tokens.coords)


def test_errors_name_what_is_wrong():
    fsq = quantizer([3, 2], groups=2)
    with pytest.raises(Tok4dError, match="2 x 2 channels got latents of width 6"):
        fsq(torch.zeros(1, 6))
    with pytest.raises(Tok4dError, match=r"code 6 of token 1, group 0 is outside \[0, 6\)"):
        fsq.values(torch.tensor([[5, 5], [6, 0]]))
    with pytest.raises(Tok4dError, match="code -1 of token 0, group 1"):
        fsq.values(torch.tensor([[0, -1]]))
    with pytest.raises(Tok4dError, match=r"integers \[T, 2\], got torch.float32"):
        fsq.values(torch.zeros(3, 2))
    with pytest.raises(Tok4dError, match="3 ids are no multiple of the 2 groups"):
        unflatten(torch.tensor([0, 6, 1]), fsq.vocabulary)
    with pytest.raises(Tok4dError, match="code 6 of token 0, group 0"):
        unflatten(torch.tensor([6, 6]), fsq.vocabulary)


@pytest.mark.parametrize(
    ("config", "latent", "error"),
    [
        (FSQConfig(groups=2, levels=[4, 4]), 6, "6 != 2 x 2"),
        (FSQConfig(groups=1, levels=[1, 4]), 2, r"in \[2, 1000\], got \[1, 4\]"),
        (FSQConfig(groups=1, levels=[1003]), 1, r"in \[2, 1000\]"),
        (FSQConfig(groups=1, levels=[]), 0, "levels"),
        (FSQConfig(groups=0, levels=[4]), 0, "groups must be positive"),
        (FSQConfig(groups=1, levels=[1000] * 4), 4, "more codes than an int32"),
    ],
)
def test_configurations_that_cannot_work(config, latent, error):
    with pytest.raises(ConfigError, match=error):
        config.check(latent)
