"""SSIM and MS-SSIM against torchmetrics and our own float64 sums."""

from __future__ import annotations

import pytest
import torch
from loss_inputs import noise
from torch import Tensor
from torchmetrics.functional.image import (
    multiscale_structural_similarity_index_measure,
    structural_similarity_index_measure,
)

from tok4d.errors import ConfigError
from tok4d.losses import MSSSIMLoss, SSIMLoss
from tok4d.ssim import SCALES, scales, ssim


def pair(height: int, width: int, count: int = 2, strength: float = 0.3) -> tuple[Tensor, Tensor]:
    """Smooth pictures in [-1, 1] and the same with noise, float64."""
    coarse = noise(count, 3, 7, 5).double()
    wanted = torch.nn.functional.interpolate(coarse, (height, width), mode="bicubic").clamp(-1, 1)
    return (wanted + strength * noise(count, 3, height, width, seed=1)).clamp(-1, 1), wanted


@pytest.mark.parametrize("size", [(11, 11), (24, 61), (96, 40)])
def test_ssim_equals_torchmetrics_and_our_metric(size: tuple[int, int]) -> None:
    x, y = pair(*size)
    found = 1 - SSIMLoss()(x, y)
    expected = structural_similarity_index_measure((x + 1) / 2, (y + 1) / 2, data_range=1.0, reduction="none")
    torch.testing.assert_close(found, expected.double(), rtol=0, atol=1e-6)
    torch.testing.assert_close(found, ssim(x, y), rtol=0, atol=1e-12)


@pytest.mark.parametrize("size", [(3, 40), (1, 1), (10, 10)])
def test_sides_below_the_window_are_extended(size: tuple[int, int]) -> None:
    x, y = pair(*size)
    torch.testing.assert_close(1 - SSIMLoss()(x, y), ssim(x, y), rtol=0, atol=1e-12)
    torch.testing.assert_close(MSSSIMLoss()(x, y), SSIMLoss()(x, y).clamp(max=1), rtol=0, atol=1e-12)


@pytest.mark.parametrize(("size", "count"), [((176, 181), 5), ((100, 99), 4), ((47, 60), 3)])
def test_ms_ssim_equals_torchmetrics(size: tuple[int, int], count: int) -> None:
    assert scales(min(size)) == count
    exponents = SCALES if count == 5 else tuple(scale / sum(SCALES[:count]) for scale in SCALES[:count])
    x, y = pair(*size)
    expected = multiscale_structural_similarity_index_measure(
        (x + 1) / 2, (y + 1) / 2, data_range=1.0, reduction="none", betas=exponents
    )
    torch.testing.assert_close(1 - MSSSIMLoss()(x, y), expected.double(), rtol=0, atol=1e-6)


def test_as_many_scales_as_fit() -> None:
    assert [scales(side) for side in (1, 21, 22, 43, 44, 87, 88, 175, 176, 4000)] == [1, 1, 2, 2, 3, 3, 4, 4, 5, 5]
    assert sum(SCALES) == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("loss", [SSIMLoss(), MSSSIMLoss()])
def test_equal_pictures_cost_exactly_nothing(loss: torch.nn.Module) -> None:
    """Flat ones in float32 too, where the usual form of the formula is 1e-3 off."""
    flat = torch.full((1, 3, 64, 64), 0.731) + 1e-4 * noise(1, 3, 64, 64)
    for pictures in (flat, noise(1, 3, 64, 64), 1e3 * noise(1, 3, 64, 64), -torch.ones(1, 3, 9, 64)):
        assert loss(pictures, pictures).tolist() == [0.0]


@pytest.mark.parametrize("loss", [SSIMLoss(), MSSSIMLoss()])
def test_more_noise_costs_more_and_company_changes_nothing(loss: torch.nn.Module) -> None:
    values = [loss(*(z.float() for z in pair(50, 60, strength=strength))) for strength in (0.05, 0.2, 0.8)]
    assert bool((values[0] < values[1]).all())
    assert bool((values[1] < values[2]).all())
    x, y = pair(50, 60)
    torch.testing.assert_close(loss(x[1:], y[1:]), loss(x, y)[1:], rtol=0, atol=1e-12)


@pytest.mark.parametrize("loss", [SSIMLoss(), MSSSIMLoss()])
@pytest.mark.parametrize("size", [(23, 11), (5, 12)])
def test_gradients_in_float64(loss: torch.nn.Module, size: tuple[int, int]) -> None:
    x, y = pair(*size, count=1)
    assert torch.autograd.gradcheck(lambda z: loss(z, y), (x.requires_grad_(),), eps=1e-6, atol=1e-6)


@pytest.mark.parametrize("loss", [SSIMLoss(), MSSSIMLoss()])
@pytest.mark.parametrize("bf16", [False, True])
@pytest.mark.parametrize("got", [-1.0, 1.0, 0.3, 1e3])
def test_finite_wherever_pictures_are(loss: torch.nn.Module, bf16: bool, got: float) -> None:
    for wanted in (torch.ones(1, 3, 48, 48), -torch.ones(1, 3, 48, 48), noise(1, 3, 48, 48), 1e3 * noise(1, 3, 48, 48)):
        for values in (torch.full((1, 3, 48, 48), got), got * noise(1, 3, 48, 48, seed=3), -wanted):
            x = values.clone().requires_grad_()
            with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
                value = loss(x, wanted)
            value.sum().backward()
            assert value.dtype == torch.float32
            assert bool(((value >= 0) & (value <= 2 + 1e-5)).all())
            assert bool(x.grad.isfinite().all())


def test_what_cannot_be_compared() -> None:
    with pytest.raises(ConfigError, match="SSIMLoss compares two float"):
        SSIMLoss()(noise(1, 3, 8, 8), noise(1, 3, 8, 9))
    with pytest.raises(ConfigError, match="MSSSIMLoss compares two float"):
        MSSSIMLoss()(noise(3, 8, 8), noise(3, 8, 8))
