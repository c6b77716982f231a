"""The entry into FSQ: worth, order, scale and gain of latent channels."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from tok4d.config.schema import FSQConfig
from tok4d.model.fsq import FSQ
from tok4d.patches import patchify
from tok4d.testing.models import tiny_tokenizer
from tok4d.training.discrete import (
    SCALES,
    Entry,
    best_scale,
    channel_order,
    channel_worth,
    level_gain,
    measure_entry,
)
from tok4d.training.grow import Learned, quantize

UNEVEN = FSQConfig(groups=2, levels=[16, 3, 3])
EVEN = FSQConfig(groups=2, levels=[4, 4, 4])
DEVIATIONS = torch.tensor([0.2, 8.0, 1.0, 0.1, 0.4, 3.0])


def scores(count: int, seed: int = 0) -> Tensor:
    """Gaussian latents `[count, 6]`, most of them in channels 1 and 5."""
    return torch.randn(count, 6, generator=torch.Generator().manual_seed(seed)) * DEVIATIONS


class Linear:
    """A model whose latents are given and whose decoder is one matrix."""

    def __init__(self, matrix: Tensor) -> None:
        self.matrix, self.config = matrix, SimpleNamespace(latent=len(matrix))

    def encode(self, tokens: SimpleNamespace, pool: bool) -> SimpleNamespace:
        return SimpleNamespace(latents=lambda kind: tokens)

    def decode(self, tokens: SimpleNamespace) -> SimpleNamespace:
        return SimpleNamespace(feats=tokens.feats @ self.matrix)


def batch(values: Tensor, width: int) -> SimpleNamespace:
    tokens = SimpleNamespace(
        feats=values,
        width=width,
        origins=[SimpleNamespace(channels=width)],
        replace=lambda feats: SimpleNamespace(feats=feats),
    )
    return SimpleNamespace(tokens=tokens)


def test_worth_is_variance_times_what_the_decoder_makes_of_it():
    matrix = torch.randn(6, 20, generator=torch.Generator().manual_seed(3))
    values = scores(4000)
    means, worth = channel_worth(Linear(matrix), [batch(values[:1000], 20), batch(values[1000:], 20)])
    assert torch.equal(means, values)
    torch.testing.assert_close(worth, DEVIATIONS**2 * matrix.square().sum(1), rtol=0.15, atol=0)


def test_worth_does_not_see_padding():
    """Pictures fill the first frame of a patch: what the decoder writes behind it is nobody's loss."""
    matrix = torch.zeros(6, 20)
    matrix[0, :4], matrix[1, 4:] = 1.0, 100.0
    _, worth = channel_worth(Linear(matrix), [batch(scores(500), 4)])
    assert worth[0] > 0.1
    assert worth[1] == 0


def test_the_order_by_hand():
    worth = torch.tensor([1.0, 4, 2, 3])
    assert channel_order(worth, FSQConfig(groups=2, levels=[3, 8])).tolist() == [2, 1, 0, 3]
    assert channel_order(worth, FSQConfig(groups=2, levels=[8, 3])).tolist() == [1, 2, 3, 0]
    assert channel_order(worth, FSQConfig(groups=2, levels=[4, 4])).tolist() == [0, 1, 2, 3]


def left(values: Tensor, quantizer: FSQConfig, scale: Tensor) -> Tensor:
    """Mean squared error by channel of codes times their gain, as the decoder reads them."""
    unit = values / scale
    return ((FSQ(quantizer)(unit)[0] * level_gain(unit, quantizer) - unit) * scale).square().mean(0)


@pytest.mark.parametrize("quantizer", [EVEN, UNEVEN])
def test_the_scale_is_the_best_of_those_tried(quantizer):
    values = scores(3000) * (scores(3000, 1) / DEVIATIONS) + 0.1  # heavy tails, as a PCA's scores have
    unit = values.square().mean(0).sqrt()
    scale = best_scale(values, quantizer)
    tried = torch.stack([left(values, quantizer, unit * factor) for factor in SCALES])
    torch.testing.assert_close(left(values, quantizer, scale), tried.amin(0), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(best_scale(values * 10, quantizer), scale * 10)
    plain = left(values, quantizer, unit)
    assert float(plain.sum()) > 1.05 * float(tried.amin(0).sum()), "a deviation of one alone is not good enough"


def test_more_levels_where_they_are_worth_most():
    """Fewer codes, and less than half of the error on channels as uneven as a PCA's."""
    values, even = scores(3000), FSQConfig(groups=2, levels=[6, 5, 5])
    order = channel_order(DEVIATIONS**2, UNEVEN)
    assert order[[0, 3]].tolist() == [1, 5]
    assert FSQ(UNEVEN).vocabulary[0] == 144
    assert FSQ(even).vocabulary[0] == 150
    moved = values[:, order]
    uneven = left(moved, UNEVEN, best_scale(moved, UNEVEN)).sum()
    assert float(uneven) < 0.5 * float(left(values, even, best_scale(values, even)).sum())


def test_the_decoder_reads_codes_as_large_as_what_they_stand_for():
    values = scores(500) / DEVIATIONS
    gain, codes = level_gain(values, EVEN), FSQ(EVEN)(values)[0]
    torch.testing.assert_close(gain, (values * codes).sum(0) / codes.square().sum(0))
    assert float((values - gain * codes).square().mean()) <= float((values - codes).square().mean())


@torch.no_grad()
def test_a_model_enters_with_what_it_knows():
    """Order and scale change nothing without the quantizer, and with it codes lose less than they would have."""
    model = tiny_tokenizer((4, 8, 8), latent=6).eval()
    tokens = patchify(torch.rand(3, 64, 64, generator=torch.Generator().manual_seed(1)) * 2 - 1, "x", (4, 8, 8))
    model.proj.weight[:6] *= (DEVIATIONS * 20)[:, None]
    batches = [SimpleNamespace(tokens=tokens)]
    with torch.enable_grad():
        entry = measure_entry(model, UNEVEN, batches)
    latents = model.encode(tokens, pool=False).latents("mean")
    plain = quantize(Learned(model), UNEVEN, Entry(entry.order, entry.scale, torch.ones(6))).model
    again = plain.decode(plain.encode(tokens, pool=False).latents("mean")).feats
    torch.testing.assert_close(again, model.decode(latents).feats, rtol=1e-3, atol=1e-5)

    def lost(entry: Entry | None, quantizer: FSQConfig) -> float:
        entered = quantize(Learned(model), quantizer, entry).model.eval()
        codes = entered.quantize(entered.encode(tokens, pool=False))
        return float((entered.decode(codes.latents()).feats - model.decode(latents).feats).square().mean())

    assert lost(entry, UNEVEN) < 0.5 * lost(None, UNEVEN)


def test_nothing_to_measure_is_harmless():
    entry = measure_entry(tiny_tokenizer(latent=6), UNEVEN, [])
    assert torch.isfinite(entry.scale).all()
    assert torch.isfinite(entry.gain).all()
    assert sorted(entry.order.tolist()) == list(range(6))
