"""Sampling policies against values worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tok4d.errors import ConfigError
from tok4d_video.sampling import FAR, NEAR, at_rate, consecutive, in_span, uniform


def test_uniform_frames_are_those_of_the_recipe() -> None:
    assert uniform(100, 8).tolist() == [0, 14, 28, 42, 56, 70, 84, 99]  # i * 99 / 7
    assert uniform(8, 8).tolist() == list(range(8))
    assert uniform(5, 8).tolist() == [0, 1, 2, 3, 4]
    assert uniform(10, 2).tolist() == [0, 9]
    assert uniform(10, 1).tolist() == [4]
    assert uniform(1, 1).tolist() == [0]


def test_consecutive_frames_at_one_stride() -> None:
    rng = np.random.default_rng(0)
    strides, firsts = set(), set()
    for _ in range(2000):
        taken = consecutive(40, 16, NEAR, rng)
        assert len(taken) == 16
        steps = set(np.diff(taken).tolist())
        assert len(steps) == 1
        strides |= steps
        firsts.add(int(taken[0]))
        assert min(taken) >= 0
        assert max(taken) < 40
    assert strides == {1, 2}, "15 steps of 3 need 46 frames"
    assert firsts == set(range(25)), "stride 1 may begin anywhere from 0 to 24"


def test_every_start_and_stride_is_as_likely() -> None:
    rng = np.random.default_rng(1)
    taken = [consecutive(100, 4, FAR, rng) for _ in range(9000)]
    strides = np.bincount([int(t[1] - t[0]) for t in taken], minlength=13)[4:]
    assert len(strides) == 9
    assert (abs(strides - 1000) < 150).all()
    starts = [int(t[0]) for t in taken if t[1] - t[0] == 12]  # 0 .. 63
    assert (min(starts), max(starts)) == (0, 63)


def test_short_clips_are_taken_whole_or_at_a_smaller_stride() -> None:
    rng = np.random.default_rng(0)
    assert consecutive(3, 16, NEAR, rng).tolist() == [0, 1, 2]
    assert consecutive(16, 16, FAR, rng).tolist() == list(range(16))
    assert consecutive(31, 16, FAR, rng).tolist() == list(range(0, 31, 2))
    assert consecutive(1, 1, NEAR, rng).tolist() == [0]


def test_the_same_generator_gives_the_same_frames_and_lengths_do_not_shift_it() -> None:
    one, two = np.random.default_rng(7), np.random.default_rng(7)
    consecutive(3, 16, NEAR, one)
    consecutive(3000, 16, NEAR, two)
    assert one.integers(1 << 30) == two.integers(1 << 30)


def test_one_frame_a_second() -> None:
    times = np.arange(75) / 25  # 3 seconds
    assert at_rate(times, 1).tolist() == [0, 25, 50]
    assert at_rate(times, 2).tolist() == [0, 12, 25, 37, 50, 62]  # 0.5 s lies in frame 12
    assert at_rate(times, 1, limit=2).tolist() == [0, 50]
    assert at_rate(times, 100).tolist() == list(range(75))
    assert at_rate([0.0], 1).tolist() == [0]


def test_one_frame_a_second_up_to_64() -> None:
    times = np.arange(200 * 10) / 10  # 200 seconds
    taken = at_rate(times, 1, limit=64)
    assert len(taken) == 64
    assert (taken[0], taken[-1]) == (0, 1990)
    assert len(at_rate(times[:640], 1, limit=64)) == 64
    assert at_rate(times[:640], 1, limit=64).tolist() == list(range(0, 640, 10))


def test_rates_follow_the_time_shown_not_the_number() -> None:
    times = [0, 0.1, 0.2, 5.0, 5.1]  # a still from 0.2 s to 5 s
    assert at_rate(times, 1).tolist() == [0, 2, 3]
    rounded = np.round(np.arange(90) * 1001 / 30000, 3)  # a container's milliseconds
    assert at_rate(rounded, 30000 / 1001).tolist() == list(range(90))


def test_frames_in_a_span_of_time() -> None:
    times = np.arange(50) / 10
    assert in_span(times, 1.0, 2.0).tolist() == list(range(10, 20))
    assert in_span(times + 7, 1.0, 2.0).tolist() == list(range(10, 20)), "seconds count from the first frame"
    assert in_span(times, 4.8, 99).tolist() == [48, 49]
    assert in_span(times, 0, 0.05).tolist() == [0]
    assert in_span(times, 1.02, 1.03).tolist() == [10], "the frame that is shown then"
    with pytest.raises(ConfigError, match="after the last frame"):
        in_span(times, 5.2, 6)
    for start, end in ((-1, 2), (2, 2), (3, 1), (float("nan"), 1)):
        with pytest.raises(ConfigError, match="0 <= start < end"):
            in_span(times, start, end)


def test_unusable_numbers_are_named() -> None:
    rng = np.random.default_rng(0)
    with pytest.raises(ConfigError, match="count must be at least 1 frame, got 0"):
        uniform(10, 0)
    with pytest.raises(ConfigError, match="total must be at least 1 frame, got 0"):
        consecutive(0, 4, NEAR, rng)
    with pytest.raises(ConfigError, match="strides must be 1 <= low <= high, got 3 and 1"):
        consecutive(10, 4, (3, 1), rng)
    with pytest.raises(ConfigError, match="rate must be positive, got 0"):
        at_rate([0.0], 0)


@given(st.integers(1, 500), st.integers(1, 80), st.integers(1, 12), st.integers(0, 5), st.integers(0, 99))
def test_numbers_rise_and_exist(total: int, count: int, low: int, more: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    for taken in (consecutive(total, count, (low, low + more), rng), uniform(total, count)):
        assert len(taken) == min(total, count)
        assert taken.dtype == np.int64
        assert 0 <= taken[0] <= taken[-1] < total
        assert (np.diff(taken) > 0).all()
