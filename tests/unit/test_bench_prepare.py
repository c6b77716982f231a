"""Sizes of a protocol against torchvision and Pillow, frames by hand, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torchvision.transforms import functional as TF

from tok4d.errors import ConfigError, DataError
from tok4d.modality import Sample
from tok4d_bench.prepare import Prepare, from_levels, to_levels

MODES = {
    "bilinear": TF.InterpolationMode.BILINEAR,
    "bicubic": TF.InterpolationMode.BICUBIC,
    "lanczos": TF.InterpolationMode.LANCZOS,
    "area": TF.InterpolationMode.BOX,
}


def picture(height: int, width: int, seed: int = 0) -> Image.Image:
    """Noise over a ramp: edges everywhere, so that any wrong filter or offset shows."""
    rng = np.random.default_rng(seed)
    ramp = np.add.outer(np.arange(height), np.arange(width))[..., None] % 200
    return Image.fromarray((ramp + rng.integers(0, 56, (height, width, 3))).astype(np.uint8))


def sample(image: Image.Image) -> Sample:
    levels = torch.from_numpy(np.array(image)).permute(2, 0, 1)
    return Sample("image", {"image": levels.float() / 127.5 - 1}, key="made.png")


def bytes_of(prepared: Sample, field: str = "image") -> np.ndarray:
    levels = (prepared.data[field] + 1) * 127.5
    assert torch.allclose(levels, levels.round(), atol=1e-3)  # 8-bit levels, exactly
    return levels.round().to(torch.uint8).numpy()


@pytest.mark.parametrize("filter", list(MODES))
@pytest.mark.parametrize("size", [(37, 61), (61, 37), (50, 50), (24, 90), (19, 23)])
def test_shorter_side_and_centre_crop_equal_torchvision_on_pillow(filter: str, size: tuple[int, int]) -> None:
    image = picture(*size)
    wanted = TF.center_crop(TF.resize(image, 24, MODES[filter]), [24, 24])
    got = bytes_of(Prepare(short=24, crop=24, filter=filter).apply(sample(image)))
    assert np.array_equal(got, np.array(wanted).transpose(2, 0, 1))


def test_exact_size_equals_pillow() -> None:
    image = picture(40, 30)
    wanted = np.array(image.resize((20, 33), Image.Resampling.LANCZOS)).transpose(2, 0, 1)
    assert np.array_equal(bytes_of(Prepare(size=(33, 20), filter="lanczos").apply(sample(image))), wanted)


@pytest.mark.parametrize("filter", ["bilinear", "bicubic"])
def test_without_antialias_equals_torch_and_differs_from_pillow(filter: str) -> None:
    image = picture(64, 64)
    plain = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].float()
    wanted = F.interpolate(plain, (16, 16), mode=filter, align_corners=False).round().clamp(0, 255)[0].numpy()
    got = bytes_of(Prepare(size=(16, 16), filter=filter, antialias=False).apply(sample(image)))
    assert np.array_equal(got, wanted.astype(np.uint8))
    smooth = bytes_of(Prepare(size=(16, 16), filter=filter).apply(sample(image)))
    assert np.abs(smooth.astype(int) - got.astype(int)).mean() > 5


def test_area_without_antialias_takes_means_of_whole_pixels() -> None:
    image = picture(32, 48)
    wanted = np.array(image, dtype=np.float64).reshape(16, 2, 24, 2, 3).mean((1, 3)).transpose(2, 0, 1)
    got = bytes_of(Prepare(size=(16, 24), filter="area", antialias=False).apply(sample(image)))
    assert np.abs(got - wanted).max() <= 0.5


def test_a_small_picture_is_enlarged_only_when_asked_to() -> None:
    small = sample(picture(20, 30))
    assert Prepare(short=40).apply(small).data["image"].shape == (3, 40, 60)
    assert Prepare(short=40, enlarge=False).apply(small).data["image"].shape == (3, 20, 30)


def test_the_crop_of_an_odd_rest_is_torchvisions() -> None:
    for height, width in [(33, 40), (35, 41), (34, 37), (39, 43)]:
        image = picture(height, width)
        wanted = np.array(TF.center_crop(image, [30, 32])).transpose(2, 0, 1)
        assert np.array_equal(bytes_of(Prepare(crop=(30, 32)).apply(sample(image))), wanted)


def test_frames_of_a_clip_are_sized_like_pictures() -> None:
    pictures = [picture(40, 60, seed) for seed in range(3)]
    clip = torch.stack([sample(p).data["image"] for p in pictures])
    got = Prepare(short=20, crop=20).apply(Sample("video", {"video": clip}))
    each = [Prepare(short=20, crop=20).apply(sample(p)).data["image"] for p in pictures]
    assert torch.equal(got.data["video"], torch.stack(each))


def test_originals_are_rounded_to_8_bits_and_reconstructions_when_asked_to() -> None:
    values = torch.tensor([-1.2, -1.0, 0.001, 0.5, 1.0, 3.0]).repeat(3, 1, 1).reshape(3, 2, 3)
    wanted = torch.tensor([0, 0, 128, 191, 255, 255]).reshape(2, 3)
    whole = Prepare().apply(Sample("image", {"image": values}))
    assert torch.equal(to_levels(whole.data["image"])[0], wanted.to(torch.uint8))
    assert torch.equal(Prepare().rounded(Sample("image", {"image": values})).data["image"], whole.data["image"])
    assert torch.equal(Prepare(round=False).rounded(Sample("image", {"image": values})).data["image"], values)


def test_all_levels_survive_the_way_to_floats_and_back() -> None:
    levels = torch.arange(256, dtype=torch.uint8)
    assert torch.equal(to_levels(from_levels(levels)), levels)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"shrt": 3}, "Did you mean 'short'"),
        ({"filter": "bicubik"}, "Did you mean 'bicubic'"),
        ({"filter": "lanczos", "antialias": False}, "no form without antialias"),
        ({"short": 3, "size": [4, 4]}, "not both"),
        ({"short": -3}, "whole number"),
        ({"crop": [3, 4, 5]}, "pixels or"),
        ({"size": [0, 4]}, "pixels or"),
        ({"stride": 0}, "stride"),
        ({"stride": 2, "fps": 3.0}, "not both"),
        ({"fps": -1.0}, "at least 0"),
    ],
)
def test_options_that_cannot_be_used_are_refused(options: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        Prepare.parse(options)


def test_what_cannot_be_prepared_is_refused() -> None:
    with pytest.raises(DataError, match="20 x 30 pixels are too small for a crop of 24 x 24"):
        Prepare(crop=24).apply(sample(picture(20, 30)))
    voxels = Sample("mesh3d", {"voxels": torch.zeros(4, 768), "coords": torch.zeros(4, 3, dtype=torch.int32)})
    assert Prepare().apply(voxels) is voxels
    with pytest.raises(ConfigError, match="leave out short"):
        Prepare(short=8).apply(voxels)
    with pytest.raises(DataError, match="not finite"):
        Prepare().rounded(Sample("image", {"image": torch.full((3, 4, 4), float("nan"))}))
