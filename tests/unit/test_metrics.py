"""Metrics over samples: hand-computed values, the same for any batching, loud on broken input."""

from __future__ import annotations

import math

import pytest
import torch
from torchmetrics.functional.image import structural_similarity_index_measure

from tok4d.errors import Tok4dError
from tok4d.metrics import CAP_DB, SamplePSNR, psnr, score_all
from tok4d.modality import Sample
from tok4d_image.metrics import SampleSSIM


def samples(*images: torch.Tensor) -> list[Sample]:
    return [Sample("image", {"image": image}, key=f"s{i}") for i, image in enumerate(images)]


def test_psnr_by_hand() -> None:
    target = torch.zeros(3, 2, 2)
    assert psnr(target + 0.2, target) == pytest.approx(20.0, abs=1e-5)  # 10 log10(2^2 / 0.2^2)
    one_off = target.clone()
    one_off[0, 0, 0] = 1.0
    assert psnr(one_off, target) == pytest.approx(10 * math.log10(4 * 12))


def test_psnr_clamps_and_caps() -> None:
    target = torch.ones(3, 2, 2)
    assert psnr(target * 7, target) == CAP_DB
    assert psnr(target, target) == CAP_DB
    assert psnr(target - 1e-7, target) == CAP_DB
    assert psnr(-target, target) == pytest.approx(0.0)


def test_psnr_is_exact_on_many_values() -> None:
    target = torch.zeros(3, 600, 600)
    assert psnr(target + 1e-3, target) == pytest.approx(10 * math.log10(4 / float(torch.tensor(1e-3)) ** 2), abs=1e-9)


def test_mean_is_over_samples_and_independent_of_batches() -> None:
    targets = [torch.zeros(3, side, side) for side in (2, 9, 30)]
    outputs = [target + delta for target, delta in zip(targets, (0.2, 0.02, 0.002), strict=True)]
    whole, single = SamplePSNR("image"), SamplePSNR("image")
    whole.update(samples(*outputs), samples(*targets))
    for output, target in zip(outputs, targets, strict=True):
        single.update(samples(output), samples(target))
    assert whole.compute() == pytest.approx(40.0, abs=1e-4)  # (20 + 40 + 60) / 3: not weighted by size
    assert whole.compute() == single.compute()
    assert whole.total.dtype == torch.float64
    assert whole.higher_is_better


def test_states_of_two_processes_add_up() -> None:
    metric = SamplePSNR("image")
    assert {name: str(how) for name, how in metric._reductions.items() if "sum" not in str(how)} == {}
    metric.half()
    assert metric.total.dtype == torch.float64


@pytest.mark.parametrize("make", [SamplePSNR, SampleSSIM])
def test_broken_input_is_named(make: type) -> None:
    metric = make("image")
    good, nan = torch.zeros(3, 4, 4), torch.full((3, 4, 4), torch.nan)
    for pair, message in [
        ((samples(nan), samples(good)), "reconstruction 's0' has 48 non-finite values of 48"),
        ((samples(good), samples(nan)), "target 's0' has 48 non-finite"),
        ((samples(good), samples(good[:, :2])), r"differ in shape: \(3, 4, 4\) and \(3, 2, 4\)"),
        ((samples(good, good), samples(good)), "2 reconstructions for 1 targets"),
        ((samples(good[:, :0]), samples(good[:, :0])), "is empty"),
        (([Sample("image", {"x": good})], samples(good)), "no tensor 'image'"),
    ]:
        with pytest.raises(Tok4dError, match=message):
            metric.update(*pair)
    with pytest.raises(Tok4dError, match="no samples"):
        metric.compute()


def test_ssim_is_that_of_torchmetrics_on_unit_range() -> None:
    generator = torch.Generator().manual_seed(0)
    target = torch.rand(3, 24, 31, generator=generator) * 2 - 1
    output = (target + 0.3 * torch.randn(3, 24, 31, generator=generator)).clamp(-1, 1)
    metric = SampleSSIM("image")
    metric.update(samples(output), samples(target))
    expected = structural_similarity_index_measure((output[None] + 1) / 2, (target[None] + 1) / 2, data_range=1.0)
    assert metric.compute() == pytest.approx(float(expected), abs=1e-6)
    assert 0.1 < metric.compute() < 0.95


@pytest.mark.parametrize("shape", [(1, 1), (5, 40), (10, 10), (11, 11)])
def test_ssim_of_small_images(shape: tuple[int, int]) -> None:
    target = torch.rand(3, *shape) * 2 - 1
    same, other = SampleSSIM("image"), SampleSSIM("image")
    same.update(samples(target), samples(target))
    other.update(samples(-target), samples(target))
    assert same.compute() == pytest.approx(1.0, abs=1e-5)
    assert other.compute() < 0.99


def test_ssim_of_constants_by_hand() -> None:
    metric = SampleSSIM("image")
    metric.update(samples(torch.full((3, 16, 16), -1.0)), samples(torch.full((3, 16, 16), 1.0)))
    assert metric.compute() == pytest.approx(1e-4 / (1 + 1e-4), rel=1e-3)  # c1 / (1 + c1), c1 = 0.01^2


class OfPairs(SamplePSNR):
    """Compares only where both have a second picture."""

    def applies(self, reconstruction: Sample, target: Sample) -> bool:
        return "second" in reconstruction.data and "second" in target.data


def test_metrics_that_do_not_apply_are_left_out() -> None:
    (target,), (output,) = samples(torch.zeros(3, 2, 2)), samples(torch.full((3, 2, 2), 0.2))
    factories = {"psnr": lambda: SamplePSNR("image"), "second": lambda: OfPairs("second")}
    assert score_all(factories, output, target) == {"psnr": pytest.approx(20.0, abs=1e-5)}
    output.data["second"], target.data["second"] = torch.zeros(1), torch.full((1,), 0.02)
    assert score_all(factories, output, target)["second"] == pytest.approx(40.0, abs=1e-4)
