"""Windows of a recipe's clips: exact, inside their side of the split, with scenes or times apart."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from made_clips import exact, picture

from tok4d.errors import ConfigError, DataError
from tok4d_video.clips import VideoClips
from tok4d_video.pixels import to_signed

LENGTHS = {"bigbuckbunny.mp4": 100, "bikes.mp4": 250, "carphone_pristine.mp4": 120, "carphone_distorted.mp4": 120}


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shipped clips recipe with stand-ins of 16 x 16 pixels, 25 frames a second."""
    from tok4d.data.fetch import location
    from tok4d.data.recipes import load_recipe

    root = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("TOK4D_CACHE", str(root))
        recipe = load_recipe("clips")
        folder = location(recipe)
        folder.mkdir(parents=True)
        for item in recipe.items:
            count = LENGTHS[item.file]
            exact(folder / item.file, count=count, frames=[picture(i, 16, 16) for i in range(count)])
        (folder / ".complete").write_text(recipe.digest)
    return root


@pytest.fixture(autouse=True)
def use_cache(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOK4D_CACHE", str(cache))


def names(source: VideoClips) -> list[str]:
    return sorted({window.path.name for window in source.windows})


def test_windows_follow_on_each_other() -> None:
    source = VideoClips("video", frames=16)
    assert len(source) == 6 + 15 + 7  # 100, 250 and 120 frames; what is left over is no window
    assert [source.key(i) for i in (0, 1, 5)] == [f"bigbuckbunny.mp4@{a}-{a + 15}" for a in (0, 16, 80)]
    for index in (0, 5, 27):
        sample = source.load(index)
        first = (index * 16) if index < 6 else 96
        assert sample.meta["frame_numbers"] == list(range(first, first + 16))
        wanted = np.stack([picture(i, 16, 16) for i in range(first, first + 16)])
        assert torch.equal(sample.data["video"], to_signed(torch.from_numpy(wanted)))
    assert len(VideoClips("video", frames=16, strides=[2, 3])) == 3 + 7 + 3
    assert len(VideoClips("video", frames=16, hop=4)) == 22 + 59 + 27
    assert VideoClips("video", frames=16, strides=[2, 3]).load(1).meta["frame_numbers"] == list(range(32, 64, 2))


def test_degraded_copies_are_left_out_and_share_their_scene() -> None:
    assert names(VideoClips("video")) == ["bigbuckbunny.mp4", "bikes.mp4", "carphone_pristine.mp4"]
    assert names(VideoClips("video", kinds=["camera"])) == ["bikes.mp4", "carphone_pristine.mp4"]
    kinds = ["camera", "animation", "degraded"]
    held_out = []
    for fold in range(3):
        train, val = (names(VideoClips("video", split=s, fold=fold, kinds=kinds)) for s in ("train", "val"))
        assert sorted(train + val) == sorted(LENGTHS)
        assert len({"carphone_pristine.mp4", "carphone_distorted.mp4"} & set(val)) in (0, 2)
        held_out += val
    assert sorted(held_out) == sorted(LENGTHS)
    with pytest.raises(ConfigError, match="Did you mean 'degraded'"):
        len(VideoClips("video", kinds=["degradad"]))
    with pytest.raises(ConfigError, match="no clip of the kinds"):
        len(VideoClips("video", kinds=[]))


def test_training_windows_begin_anywhere_at_any_stride_and_stay_inside() -> None:
    source = VideoClips("video", frames=8, strides=[1, 3], split="train", fold=0)
    seen: dict[str, set[int]] = {}
    strides = set()
    for seed in range(400):
        index = seed % len(source)
        numbers = source.load(index, np.random.default_rng(seed)).meta["frame_numbers"]
        window = source.windows[index]
        assert len(numbers) == 8
        assert window.low <= numbers[0] <= numbers[-1] < window.high
        assert abs(numbers[0] - window.first) <= 8 + 2 * 7
        strides.add(numbers[1] - numbers[0])
        seen.setdefault(window.path.name, set()).update(numbers)
    assert strides == {1, 2, 3}
    for name, numbers in seen.items():
        assert len(numbers) > 0.95 * LENGTHS[name]  # all of the clip is seen


@pytest.mark.parametrize("fold", range(3))
def test_held_out_time_is_exact_and_two_seconds_away(fold: int) -> None:
    options = {"frames": 8, "hold_out": "time", "fold": fold, "hop": 1}
    train, val, whole = (VideoClips("video", split=split, **options) for split in ("train", "val", "all"))

    def frames(source: VideoClips, name: str) -> set[int]:
        found = [range(w.first, w.stop) for w in source.windows if w.path.name == name]
        stretches = {i for w in source.windows if w.path.name == name for i in range(w.low, w.high)}
        used = {number for window in found for number in window}
        assert used <= stretches
        return stretches

    assert len(train)
    assert len(val)
    for name in names(whole):
        length = LENGTHS[name]
        held = frames(val, name)
        assert held == {i for i in range(length) if fold * length <= 3 * i < (fold + 1) * length}
        kept = frames(train, name)
        far = {i for i in range(length) if min(abs(i - h) for h in held) >= 50}  # 2 s
        runs = [{i for i in far if i < min(held)}, {i for i in far if i > max(held)}]
        assert kept == {i for run in runs if len(run) >= 8 for i in run}
    for seed in range(100):
        index = seed % len(train)
        numbers = train.load(index, np.random.default_rng(seed)).meta["frame_numbers"]
        name = train.windows[index].path.name
        assert min(abs(a - b) for a in numbers for b in frames(val, name)) >= 50


def test_why_there_is_nothing() -> None:
    with pytest.raises(DataError, match="3 scenes in 5 folds leave fold 4 without one"):
        len(VideoClips("video", split="val", folds=5, fold=4))
    with pytest.raises(DataError, match=r"nothing on the 'train' side .* gap 60 s, 16 frames \(clips: bigbuckbunny"):
        len(VideoClips("video", split="train", hold_out="time", gap=60))
    for options, message in (
        ({"gap": 1.5}, "gap must be at least 2 s"),
        ({"gap": float("nan")}, "gap"),
        ({"hop": -1}, "hop"),
        ({"hold_out": "times"}, "Did you mean 'time'"),
        ({"policy": "uniform"}, "'stride', not 'uniform'"),
    ):
        with pytest.raises(ConfigError, match=message):
            VideoClips("video", **options)


def test_a_clip_shorter_than_a_window_is_one(cache: Path) -> None:
    source = VideoClips("video", frames=200, kinds=["camera"], strides=[1, 2])
    assert [(w.first, w.stop) for w in source.windows] == [(0, 200), (0, 120)]
    assert source.load(1).data["video"].shape[0] == 120
    assert source.load(1, np.random.default_rng(0)).data["video"].shape[0] == 120


def test_an_unreadable_clip_is_left_out(cache: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = cache / "data" / "clips" / "bikes.mp4"
    content = path.read_bytes()
    path.write_bytes(content[:1000])
    try:
        assert names(VideoClips("video")) == ["bigbuckbunny.mp4", "carphone_pristine.mp4"]
        assert "bikes.mp4" in caplog.text
        with pytest.raises(DataError, match="none readable"):
            len(VideoClips("video", split="val", fold=2))
    finally:
        path.write_bytes(content)
