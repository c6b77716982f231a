"""Resizing: sizes by hand, values against Pillow's antialiasing and plain averages."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from made_clips import picture
from PIL import Image

from tok4d.errors import ConfigError
from tok4d_video.pixels import to_bytes, to_signed
from tok4d_video.resizing import Resize, centre_crop, resize


def frames(count: int = 3, height: int = 48, width: int = 64) -> torch.Tensor:
    return torch.from_numpy(np.stack([picture(i, height, width) for i in range(count)]))


@pytest.mark.parametrize(
    ("options", "size", "expected"),
    [
        ({"short": 256}, (1080, 1920), (256, 455)),  # 455.1
        ({"short": 256}, (1920, 1080), (455, 256)),
        ({"short": 224, "crop": (224, 224)}, (360, 640), (224, 224)),
        ({"short": 256}, (100, 200), (100, 200)),
        ({"short": 256, "enlarge": True}, (100, 200), (256, 512)),
        ({"size": (10, 20)}, (100, 100), (10, 20)),
        ({"crop": (64, 64)}, (48, 100), (48, 64)),
        ({"short": 256, "multiple": 16}, (1080, 1920), (256, 448)),
        ({"multiple": 16}, (10, 20), (10, 16)),
        ({}, (47, 63), (47, 63)),
        ({"short": 1}, (2, 1000), (1, 500)),
        ({"short": 2}, (1000, 3), (667, 2)),
    ],
)
def test_sizes(options: dict, size: tuple[int, int], expected: tuple[int, int]) -> None:
    wanted = Resize(**options)
    assert wanted.result(*size) == expected
    assert wanted(torch.zeros(1, *size, 3, dtype=torch.uint8)).shape == (1, *expected, 3)


@pytest.mark.parametrize(("filter", "pillow"), [("bilinear", 2), ("bicubic", 3)])
def test_shrinking_is_antialiased_as_pillow_does_it(filter: str, pillow: int) -> None:
    found = resize(frames(), (17, 20), filter)
    for i in range(3):
        wanted = np.asarray(Image.fromarray(picture(i)).resize((20, 17), resample=pillow))
        assert abs(found[i].numpy().astype(int) - wanted).max() <= 1
    fine = torch.zeros(1, 64, 64, 3, dtype=torch.uint8)
    fine[:, :, ::2] = 200
    assert (resize(fine, (8, 8), "bilinear").int()[:, :, 1:-1] - 100).abs().max() <= 3


def test_the_same_size_is_left_alone_and_chunks_do_not_matter() -> None:
    clip = frames()
    assert resize(clip, (48, 64)) is clip
    wanted = Resize(short=20)
    assert torch.equal(wanted(clip), torch.cat([wanted(clip[i : i + 1]) for i in range(3)]))


def test_the_crop_is_in_the_centre() -> None:
    clip = torch.arange(5 * 6).reshape(1, 5, 6, 1)
    assert centre_crop(clip, (2, 2))[0, :, :, 0].tolist() == [[8, 9], [14, 15]]
    assert centre_crop(clip, (5, 6)).shape == clip.shape


def test_unusable_options() -> None:
    with pytest.raises(ConfigError, match="Did you mean 'bicubic'"):
        Resize(filter="bicubik")
    with pytest.raises(ConfigError, match="short or size, not both"):
        Resize(short=3, size=(3, 3))
    for options in ({"short": -1}, {"size": (0, 3)}, {"crop": (3, 0)}, {"multiple": 0}):
        with pytest.raises(ConfigError, match="at least 1 pixel"):
            Resize(**options)


def test_every_byte_survives_the_way_to_values_and_back() -> None:
    values = torch.arange(256, dtype=torch.uint8).reshape(1, 16, 16, 1).repeat(1, 1, 1, 3)
    signed = to_signed(values)
    assert signed.shape == (1, 3, 16, 16)
    assert (signed.min(), signed.max()) == (-1, 1)
    assert torch.equal(to_bytes(signed), values)
