"""SSIM against the library's, against the plain formula, and by hand."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torchmetrics.functional.image import (
    multiscale_structural_similarity_index_measure,
    structural_similarity_index_measure,
)

from tok4d import ssim as module
from tok4d.errors import Tok4dError
from tok4d.ssim import SCALES, STRIP, ms_ssim, scales, ssim

TALL = (STRIP // 80 + 30, 80)  # one strip and a rest


def pair(n: int, shape: tuple[int, int], noise: float = 0.3) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(n)
    target = torch.rand(n, 3, *shape, generator=generator) * 2 - 1
    return target + noise * torch.randn(n, 3, *shape, generator=generator), target


def plain(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """The formula with both variances, by a dense 2D window; `[N]`."""
    x, y = (((z.double().clamp(-1, 1) + 1) / 2) for z in (x, y))
    axis = torch.exp(-((torch.arange(11, dtype=torch.float64) - 5) ** 2) / (2 * 1.5**2))
    window = (torch.outer(axis, axis) / axis.sum() ** 2).expand(3, 1, 11, 11)

    def average(z: torch.Tensor) -> torch.Tensor:
        return F.conv2d(F.pad(z, (5, 5, 5, 5), mode="reflect"), window, groups=3)

    mx, my = average(x), average(y)
    vx, vy, c = average(x * x) - mx**2, average(y * y) - my**2, average(x * y) - mx * my
    score = (2 * mx * my + 1e-4) * (2 * c + 9e-4) / ((mx**2 + my**2 + 1e-4) * (vx + vy + 9e-4))
    return score.mean((1, 2, 3))


@pytest.mark.parametrize("shape", [(24, 31), (11, 11), TALL])
def test_it_is_the_plain_formula(shape: tuple[int, int]) -> None:
    x, y = pair(2, shape)
    found = ssim(x, y)
    assert found.dtype == torch.float64
    assert torch.allclose(found, plain(x, y), rtol=0, atol=1e-12)
    assert ((found > 0.05) & (found < 0.95)).all()


def test_nearly_flat_pictures_keep_their_digits() -> None:
    x, y = pair(2, (40, 40), noise=1e-4)
    x, y = x * 1e-4 + 0.9, y * 1e-4 + 0.9
    assert torch.allclose(ssim(x, y), plain(x, y), rtol=0, atol=1e-12)


def test_it_is_that_of_torchmetrics() -> None:
    x, y = pair(3, (30, 52))
    unit = [((z.double().clamp(-1, 1) + 1) / 2) for z in (x, y)]
    expected = [
        structural_similarity_index_measure(a[None], b[None], data_range=1.0) for a, b in zip(*unit, strict=True)
    ]
    assert torch.allclose(ssim(x, y), torch.stack(expected), rtol=0, atol=1e-10)


def test_a_score_does_not_depend_on_the_batch_or_on_strips(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = pair(4, (50, 33))
    together = ssim(x, y)
    assert torch.equal(together, torch.cat([ssim(a[None], b[None]) for a, b in zip(x, y, strict=True)]))
    assert len(set(together.tolist())) == 4
    for strip in (33 * 7, 20):  # seven rows and a rest; less than a row
        monkeypatch.setattr(module, "STRIP", strip)
        assert torch.allclose(ssim(x, y), together, rtol=0, atol=1e-14)


def test_constants_by_hand() -> None:
    black, white, grey = (torch.full((1, 3, 16, 16), value) for value in (-1.0, 1.0, 0.0))
    assert ssim(black, white).item() == pytest.approx(1e-4 / (1 + 1e-4))  # c1 / (1 + c1), c1 = 0.01^2
    assert ssim(grey, white).item() == pytest.approx((2 * 0.5 + 1e-4) / (0.25 + 1 + 1e-4))
    assert ssim(white * 7, white).item() == 1.0  # clamped


@pytest.mark.parametrize("shape", [(1, 1), (5, 40), (10, 11)])
def test_small_pictures(shape: tuple[int, int]) -> None:
    x, y = pair(2, shape)
    assert torch.allclose(ssim(y, y), torch.ones(2, dtype=torch.float64), rtol=0, atol=1e-12)
    assert (ssim(x, y) < 0.999).all()
    down, right = 11 - min(11, shape[0]), 11 - min(11, shape[1])
    larger = [F.pad(z, (0, right, 0, down), mode="replicate") for z in (x, y)]
    assert torch.equal(ssim(x, y), ssim(*larger))


def test_narrow_dtypes_are_widened() -> None:
    x, y = (z.bfloat16() for z in pair(1, (20, 20)))
    assert torch.equal(ssim(x, y), ssim(x.double(), y.double()))


def test_shapes_that_do_not_match() -> None:
    for x, y in [((1, 3, 8, 8), (1, 3, 8, 9)), ((3, 8, 8), (3, 8, 8)), ((0, 3, 8, 8), (0, 3, 8, 8))]:
        with pytest.raises(Tok4dError, match=r"two \[N, C, H, W\] of one shape"):
            ssim(torch.zeros(x), torch.zeros(y))


@pytest.mark.parametrize(("shape", "count"), [((176, 181), 5), ((100, 99), 4), ((47, 60), 3)])
def test_over_scales_it_is_the_librarys(shape: tuple[int, int], count: int) -> None:
    assert scales(min(shape)) == count
    x, y = pair(2, shape)
    betas = SCALES if count == 5 else tuple(power / sum(SCALES[:count]) for power in SCALES[:count])
    units = [((z.double().clamp(-1, 1) + 1) / 2) for z in (x, y)]
    expected = multiscale_structural_similarity_index_measure(*units, data_range=1.0, reduction="none", betas=betas)
    torch.testing.assert_close(ms_ssim(x, y), expected.double(), rtol=0, atol=1e-7)


def test_over_scales_small_pictures_have_one_and_opposites_none() -> None:
    x, y = pair(2, (21, 30))
    torch.testing.assert_close(ms_ssim(x, y), ssim(x, y).clamp_min(0), rtol=0, atol=1e-12)
    assert ms_ssim(y, y).tolist() == [pytest.approx(1, abs=1e-12)] * 2
    wide = pair(1, (64, 64))[1]
    assert ms_ssim(wide, -wide).tolist() == [0]
    assert ms_ssim(*(z[:, :, :3, :2] for z in (x, y))).shape == (2,)
    with pytest.raises(Tok4dError, match="ms_ssim compares two"):
        ms_ssim(x, y[:1])
