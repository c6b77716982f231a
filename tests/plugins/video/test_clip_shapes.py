"""Sizes of clips before they are decoded: what packing by tokens counts with."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_clips import exact

from tok4d.data.source import Source
from tok4d.errors import DataError
from tok4d_video.manifest import VideoManifest
from tok4d_video.moving import VideoMoving
from tok4d_video.pans import VideoPans
from tok4d_video.sources import VideoFolder


def agrees(source: Source, index: int, seed: int) -> None:
    for first, second in ((None, None), (np.random.default_rng(seed), np.random.default_rng(seed))):
        shape = source.shape(index, first)
        assert shape == tuple(source.load(index, second).data["video"].shape)
        assert source.token_count(index, (4, 16, 16), np.random.default_rng(seed) if first else None) == (
            -(-shape[0] // 4) * -(-shape[2] // 16) * -(-shape[3] // 16)
        )


@settings(max_examples=40, deadline=None)
@given(
    side=st.integers(4, 70),
    length=st.integers(1, 20),
    size=st.sampled_from([0, 16, 33]),
    resolutions=st.sampled_from([[], [12], [16, 24, 48]]),
    policy=st.sampled_from(["stride", "uniform", "fps"]),
    frames=st.integers(1, 9),
    more=st.integers(0, 5),
    seed=st.integers(0, 3),
)
def test_the_shape_told_is_the_shape_of_generated_clips(side, length, size, resolutions, policy, frames, more, seed):
    options = {"size": size, "resolutions": resolutions, "policy": policy, "frames": frames, "strides": [1, 3]}
    options["longest"] = frames + more if more and policy == "stride" else 0
    agrees(VideoMoving("video", count=3, side=side, length=length, fps=6, **options), 2, seed)


def test_training_draws_lengths_and_nothing_is_larger_than_foretold():
    """Of the paper's 16 to 32 frames every number comes up; evaluation takes the least."""
    source = VideoMoving("video", count=2, length=64, frames=16, longest=32, strides=[1, 2], size=32)
    lengths = {source.shape(0, np.random.default_rng(seed))[0] for seed in range(300)}
    assert lengths == set(range(16, 33))
    assert source.shape(0)[0] == 16
    assert source.largest_shape() == (32, 3, 32, 32)
    assert source.most_tokens((4, 16, 16)) == 8 * 2 * 2
    assert VideoMoving("video", frames=16, policy="fps", max_frames=64, size=16).most_tokens((4, 16, 16)) == 16
    assert VideoMoving("video", frames=16).largest_shape() is None


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("cache_mb", [0, 64])
def test_the_shape_told_is_the_shape_of_files(tmp_path: Path, seed: int, cache_mb: int):
    exact(tmp_path / "a.mp4", count=11)
    options = {"frames": 5, "resolutions": [12, 20], "flips": ["transpose", "time"], "cache_mb": cache_mb}
    agrees(VideoFolder("video", path=str(tmp_path), strides=[1, 4], **options), 0, seed)
    (tmp_path / "list.csv").write_text("path,start,end\na.mp4,0,0.1\na.mp4,0.1,\n")
    for index in (0, 1):
        agrees(VideoManifest("video", path=str(tmp_path / "list.csv"), **options), index, seed)


def test_pans_have_the_shape_asked_for():
    picture = {"count": 2, "side": 40}
    agrees(VideoPans("video", source="image/shapes", options=picture, frames=3, size=24), 1, 0)


def test_a_file_that_is_no_clip_has_no_shape(tmp_path: Path):
    (tmp_path / "a.mp4").write_bytes(b"no clip")
    with pytest.raises(DataError, match=r"a\.mp4"):
        VideoFolder("video", path=str(tmp_path)).shape(0)
