"""Clips made of pictures: windows inside the picture, exact pixels where nothing is resampled, split handed on."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tok4d.config.schema import TaskConfig
from tok4d.data.build import build_source
from tok4d.errors import ConfigError
from tok4d_video.pans import VideoPans, glide

SHAPES = {"source": "image/shapes", "options": {"count": 12, "side": 48}, "size": 32, "frames": 6}


def made(**options: object) -> VideoPans:
    return build_source(TaskConfig(source="video/pans", options={**SHAPES, **options}))


def test_whole_steps_give_the_pixels_themselves():
    picture = torch.rand(3, 20, 30)
    path = np.array([[8.0, 10.0, 8.0], [9.0, 12.0, 8.0]])  # centre row, centre column, side
    video = glide(picture, path, 8)
    torch.testing.assert_close(video[0], picture[:, 4:12, 6:14], atol=1e-5, rtol=0)
    torch.testing.assert_close(video[1], picture[:, 5:13, 8:16], atol=1e-5, rtol=0)


@pytest.mark.parametrize("seed", range(20))
def test_the_window_stays_inside_the_picture(seed):
    path = made(speed=9.0, zoom=1.4).path(np.random.default_rng(seed), 48, 70)
    rows, columns, sides = path.T
    assert (rows - sides / 2 >= -1e-9).all()
    assert (rows + sides / 2 <= 48 + 1e-9).all()
    assert (columns - sides / 2 >= -1e-9).all()
    assert (columns + sides / 2 <= 70 + 1e-9).all()
    assert 1 / 1.4 <= sides[-1] / sides[0] <= 1.4
    steps = np.hypot(*np.diff(path[:, :2], axis=0).T)
    assert steps.max() <= 9.0 + 1e-9
    np.testing.assert_allclose(steps, steps[0], atol=1e-9)


def test_samples_are_a_function_of_index_and_generator():
    source = made()
    sample = source.load(2)
    assert sample.data["video"].shape == (6, 3, 32, 32)
    assert torch.equal(sample.data["video"], source.load(2).data["video"])
    drawn = [source.load(2, np.random.default_rng(seed)).data["video"] for seed in (0, 0, 1)]
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])
    assert (sample.data["video"][0] - sample.data["video"][-1]).abs().max() > 1e-3, "it moves"


def test_the_split_is_that_of_the_pictures():
    train, held_out = made(split="train"), made(split="val")
    assert len(train) + len(held_out) == len(made()) == 12
    keys = [{source.key(i) for i in range(len(source))} for source in (train, held_out)]
    assert not keys[0] & keys[1]


def test_bad_options():
    with pytest.raises(ConfigError, match=r"zoom of at least 1, got 6, 32, 4\.0 and 0\.5"):
        made(zoom=0.5)
    with pytest.raises(ConfigError, match=r"unknown option 'cuont'.*count"):
        len(made(options={"cuont": 3}))
