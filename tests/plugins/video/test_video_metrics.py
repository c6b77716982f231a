"""Video metrics: hand-computed values, the same for every split into pieces, loud on broken input."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from tok4d.errors import ConfigError, Tok4dError
from tok4d.metrics import CAP_DB, PieceMean, SamplePSNR
from tok4d.modality import Sample
from tok4d.ssim import ssim
from tok4d_video import metrics as module
from tok4d_video.metrics import VideoFramePSNR, VideoPerceptual, VideoSeamFlicker, VideoSSIM, VideoTemporal

C1 = 0.01**2  # of SSIM


def mean_distance(a: Tensor, b: Tensor) -> Tensor:
    return (a - b).abs().mean((1, 2, 3))


ALL: dict[str, Callable[[], PieceMean]] = {
    "psnr": lambda: SamplePSNR("video"),
    "frame_psnr": lambda: VideoFramePSNR("video"),
    "ssim": lambda: VideoSSIM("video"),
    "perceptual": lambda: VideoPerceptual("video", mean_distance),
    "temporal": lambda: VideoTemporal("video"),
    "seam_flicker": lambda: VideoSeamFlicker("video"),
}
PAIRWISE = ("temporal", "seam_flicker")
each = pytest.mark.parametrize("name", ALL)


def sample(video: Tensor) -> Sample:
    return Sample("video", {"video": video}, key="clip")


def levels(*values: float, side: int = 4) -> Tensor:
    """A video of flat frames of those values."""
    return torch.tensor(values, dtype=torch.float32)[:, None, None, None].expand(-1, 3, side, side).clone()


def value(metric: PieceMean, reconstruction: Tensor, target: Tensor) -> float:
    metric.update([sample(reconstruction)], [sample(target)])
    return float(metric.compute())


def noisy(frames: int, shape: tuple[int, int] = (12, 14)) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(frames)
    target = torch.rand(frames, 3, *shape, generator=generator) * 2 - 1
    strength = torch.rand(frames, 1, 1, 1, generator=generator)
    return target + 0.3 * strength * torch.randn(target.shape, generator=generator), target


def test_frame_psnr_by_hand() -> None:
    target = torch.zeros(2, 3, 4, 4)
    output = levels(0.2, 0.02)
    assert value(VideoFramePSNR("video"), output, target) == pytest.approx((20 + 40) / 2, abs=1e-5)
    pooled = 10 * math.log10(4 / ((0.2**2 + 0.02**2) / 2))
    assert value(SamplePSNR("video"), output, target) == pytest.approx(pooled, abs=1e-5)


def test_frame_psnr_clamps_and_caps_every_frame() -> None:
    assert value(VideoFramePSNR("video"), levels(7, 0.8), levels(1, 1)) == pytest.approx((CAP_DB + 20) / 2, abs=1e-5)


def test_ssim_by_hand() -> None:
    found = value(VideoSSIM("video"), levels(-1, 1, 0, side=16), levels(1, 1, 1, side=16))
    half = (2 * 0.5 + C1) / (0.25 + 1 + C1)
    assert found == pytest.approx((C1 / (1 + C1) + 1 + half) / 3, abs=1e-12)


def test_ssim_is_the_mean_of_its_frames() -> None:
    output, target = noisy(5)
    assert value(VideoSSIM("video"), output, target) == pytest.approx(float(ssim(output, target).mean()), abs=1e-14)


def test_perceptual_by_hand_in_small_calls() -> None:
    calls: list[int] = []

    def distance(a: Tensor, b: Tensor) -> Tensor:
        calls.append(len(a))
        assert a.max() <= 1
        return mean_distance(a, b)

    metric = VideoPerceptual("video", distance, frames_at_once=2)
    assert value(metric, levels(0.5, 7, 0, 0, 0), levels(0, 0.5, 0, 0, 0.25)) == pytest.approx(1.25 / 5)
    assert calls == [2, 2, 1]
    assert metric.higher_is_better is False


def test_perceptual_runs_a_network_without_gradients_and_moves_it() -> None:
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(48, 1, bias=False), torch.nn.Flatten(0))
    seen: list[bool] = []

    class Distance(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = network

        def forward(self, a: Tensor, b: Tensor) -> Tensor:
            found: Tensor = (self.network(a) - self.network(b)).abs()
            seen.append(found.requires_grad)
            return found

    metric = VideoPerceptual("video", Distance())
    expected = float(network[1].weight.detach().sum().abs()) * 0.5
    metric.piece(sample(levels(0.5, 0.5)), sample(levels(0, 0)))
    assert metric.close() == pytest.approx(expected, rel=1e-5)
    assert seen == [False]
    assert any(parameter is network[1].weight for parameter in metric.parameters())


def test_perceptual_refuses_bad_distances() -> None:
    frames = levels(0, 0)
    for distance, message in [
        (lambda a, b: (a - b).abs().mean(), r"must be \[2\], one a frame; got \[\]"),
        (lambda a, b: torch.full((2,), torch.nan), "not finite"),
    ]:
        with pytest.raises(Tok4dError, match=message):
            value(VideoPerceptual("video", distance), frames, frames)
    with pytest.raises(ConfigError, match="frames_at_once is 0"):
        VideoPerceptual("video", mean_distance, frames_at_once=0)


def test_temporal_by_hand() -> None:
    target = torch.zeros(4, 3, 4, 4)
    flicker = levels(0.1, -0.1, 0.1, -0.1)
    assert value(VideoTemporal("video"), flicker, target) == pytest.approx(20.0, abs=1e-5)  # differences of 0.2, peak 2
    assert value(SamplePSNR("video"), flicker, target) == pytest.approx(20 + 20 * math.log10(2), abs=1e-5)
    one_step = levels(0, 0, 0.4, 0.4)
    mse = 0.4**2 / 3  # pooled over three pairs
    assert value(VideoTemporal("video"), one_step, target) == pytest.approx(10 * math.log10(4 / mse), abs=1e-5)


def test_temporal_ignores_what_does_not_change() -> None:
    moving = levels(-0.5, 0, 0.5)
    assert value(VideoTemporal("video"), moving + 0.25, moving) == CAP_DB
    assert value(VideoTemporal("video"), levels(7, 9), levels(1, 1)) == CAP_DB  # clamped
    assert value(VideoTemporal("video"), levels(0.5), levels(0)) == CAP_DB  # one frame: no pair


def test_noise_costs_temporal_consistency_3_db() -> None:
    generator = torch.Generator().manual_seed(0)
    target = torch.zeros(16, 3, 32, 32)
    output = 0.1 * torch.randn(target.shape, generator=generator)
    gap = value(SamplePSNR("video"), output, target) - value(VideoTemporal("video"), output, target)
    assert gap == pytest.approx(10 * math.log10(2), abs=0.3)


def test_seam_flicker_by_hand() -> None:
    target = levels(*(i / 40 for i in range(40)))  # moves, so that only errors can count
    at_seams = target.clone()
    at_seams[16:32] -= 0.1
    assert value(VideoSeamFlicker("video"), at_seams, target) == pytest.approx(12.75, abs=1e-4)  # 0.1 * 127.5
    one_seam = target.clone()
    one_seam[32:] -= 0.1
    assert value(VideoSeamFlicker("video"), one_seam, target) == pytest.approx(12.75 / 2, abs=1e-4)
    elsewhere = target.clone()
    elsewhere[8:] -= 0.1
    assert value(VideoSeamFlicker("video"), elsewhere, target) == pytest.approx(-12.75 / 37, abs=1e-4)
    everywhere = target.clone()
    everywhere[::2] -= 0.1
    assert value(VideoSeamFlicker("video"), everywhere, target) == pytest.approx(0, abs=1e-4)
    assert value(VideoSeamFlicker("video", tile_frames=8), elsewhere, target) == pytest.approx(12.75 / 4, abs=1e-4)


def test_seam_flicker_without_a_seam() -> None:
    output, target = noisy(16)
    assert value(VideoSeamFlicker("video"), output, target) == 0
    assert value(VideoSeamFlicker("video", tile_frames=15), output, target) != 0
    with pytest.raises(ConfigError, match="tile_frames is 1"):
        VideoSeamFlicker("video", tile_frames=1)


@each
@pytest.mark.parametrize("split", [(37,), (1,) * 37, (16, 16, 5), (5, 20, 12), (36, 1)])
def test_pieces_do_not_matter(name: str, split: tuple[int, ...]) -> None:
    output, target = noisy(37)
    whole = value(ALL[name](), output, target)
    metric = ALL[name]()
    for a, b in zip(output.split(split), target.split(split), strict=True):
        metric.piece(sample(a), sample(b))
    assert metric.close() == pytest.approx(whole, rel=1e-12)
    assert abs(whole) > 0.01


@each
def test_chunks_do_not_matter(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    output, target = noisy(20)
    whole = value(ALL[name](), output, target)
    for frames in (1, 3):
        monkeypatch.setattr(module, "CHUNK_VALUES", frames * target[0].numel())
        assert value(ALL[name](), output, target) == pytest.approx(whole, rel=1e-12)


@each
def test_pieces_are_not_kept_or_changed(name: str) -> None:
    output, target = noisy(20)
    expected = value(ALL[name](), output, target)
    metric = ALL[name]()
    for a, b in zip(output.split(7), target.split(7), strict=True):
        left, right = a.clone(), b.clone()
        metric.piece(sample(left), sample(right))
        assert torch.equal(left, a)
        assert torch.equal(right, b)
        left.zero_()  # a reader may use its buffer again
        right.zero_()
    assert metric.close() == pytest.approx(expected, rel=1e-12)


@each
def test_mean_over_samples_of_any_length_and_batch(name: str) -> None:
    clips = [noisy(frames, shape) for frames, shape in ((1, (3, 5)), (20, (12, 11)), (34, (16, 12)))]
    each_alone = [value(ALL[name](), *clip) for clip in clips]
    together = ALL[name]()
    together.update([sample(a) for a, _ in clips], [sample(b) for _, b in clips])
    assert float(together.compute()) == pytest.approx(sum(each_alone) / 3, rel=1e-12)


@each
def test_compute_sees_every_closed_sample_and_reset_forgets(name: str) -> None:
    metric, (output, target) = ALL[name](), noisy(20)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for copy in (output, target):
            metric.piece(sample(copy), sample(target))
            metric.close()
            float(metric.compute())
    perfect = value(ALL[name](), target, target)
    expected = (value(ALL[name](), output, target) + perfect) / 2
    assert float(metric.compute()) == pytest.approx(expected, rel=1e-12)
    metric.piece(sample(output), sample(target))
    metric.reset()
    assert value(metric, target, target) == perfect
    metric.reset()
    metric.piece(sample(target), sample(target))
    assert metric.close() == perfect


@each
def test_broken_input_is_named(name: str) -> None:
    good, nan = levels(0, 0), levels(0, torch.nan)
    for pair, message in [((nan, good), "has 48 non-finite values of 96"), ((good, good[:1]), "differ in shape")]:
        with pytest.raises(Tok4dError, match=message):
            value(ALL[name](), *pair)
    if name != "psnr":  # of any shape
        with pytest.raises(Tok4dError, match=r"must be \[frames, 3, height, width\], got \[3, 4, 4\]"):
            value(ALL[name](), good[0], good[0])
        with pytest.raises(Tok4dError, match="no frames to score"):
            ALL[name]().close()


@pytest.mark.parametrize("name", PAIRWISE)
def test_pieces_of_one_video_have_one_size(name: str) -> None:
    metric = ALL[name]()
    metric.piece(sample(levels(0)), sample(levels(0)))
    with pytest.raises(Tok4dError, match=r"frames of \[3, 5, 5\] after \[3, 4, 4\]"):
        metric.piece(sample(levels(0, side=5)), sample(levels(0, side=5)))
