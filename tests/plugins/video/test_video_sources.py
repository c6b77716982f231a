"""Sampling, cutting and keeping of clips in sources: by hand-counted frames, and the same for whoever loads them."""

from __future__ import annotations

import multiprocessing
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from made_clips import exact, picture
from torch.utils.data import DataLoader

from tok4d.config.schema import StageConfig, TaskConfig
from tok4d.data.batches import StageBatches
from tok4d.errors import ConfigError, DataError
from tok4d_video.augment import middle
from tok4d_video.clips import VideoClips
from tok4d_video.moving import MOTIONS, MovingClip, VideoMoving
from tok4d_video.pixels import to_signed
from tok4d_video.reading import Clip
from tok4d_video.shards import VideoShards
from tok4d_video.sources import VideoFolder


class Draws:
    """A generator that answers with what the test says."""

    def __init__(self, *values: object) -> None:
        self.values = list(values)

    def random(self) -> object:
        return self.values.pop(0)

    def integers(self, low: int, high: int | None = None) -> object:
        value = self.values.pop(0)
        assert (0 if high is None else low) <= value < (low if high is None else high)
        return value

    def choice(self, options: list[int]) -> object:
        return options[self.values.pop(0)]


def made(numbers: list[int], height: int = 48, width: int = 64) -> torch.Tensor:
    return to_signed(torch.from_numpy(np.stack([picture(i, height, width) for i in numbers])))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("clips")
    for number in range(6):
        exact(path / f"c{number}.mp4", count=24 + number, group=6)
    exact(path / "short.mkv", count=3)
    return path


def test_evaluation_takes_the_middle_at_the_smallest_stride(folder: Path) -> None:
    source = VideoFolder("video", path=str(folder), frames=4, strides=[2, 5])
    sample = source.load(0)
    # 24 frames, 7 of them spanned: 8 before, 9 after
    assert sample.meta["frame_numbers"] == [8, 10, 12, 14]
    assert torch.equal(sample.data["video"], made([8, 10, 12, 14]))
    assert (sample.fps, sample.meta["clip_frames"], sample.meta["reader"]) == (12.5, 24, "decord")
    assert sample.key == source.key(0) == str(folder / "c0.mp4")


def test_training_draws_stride_place_resolution_crop_and_flips(folder: Path) -> None:
    options = {"resolutions": [12, 24], "size": 8, "flips": ["time", "horizontal"]}
    source = VideoFolder("video", path=str(folder), frames=4, strides=[1, 3], **options)
    # stride 3; place 0.5 of the 15 possible; the resolution 24; row 3, column 5; flipped both ways
    sample = source.load(0, Draws(3, 0.5, 1, 3, 5, 0.1, 0.1))
    assert sample.meta["frame_numbers"] == [7, 10, 13, 16]
    assert sample.fps == pytest.approx(25 / 3)
    kept = VideoFolder("video", path=str(folder), frames=24, strides=[1, 1], resolutions=[24]).load(0).data["video"]
    assert kept.shape == (24, 3, 24, 32)
    wanted = kept[[16, 13, 10, 7], :, 3:11, 5:13].flip(3)
    assert torch.equal(sample.data["video"], wanted)
    assert sample.data["video"].is_contiguous()


def test_crop_is_cut_first_and_then_shrunk(folder: Path) -> None:
    source = VideoFolder("video", path=str(folder), frames=2, strides=[1, 1], resolutions=[12, 24], size=8)
    # at 12 of 24, 8 pixels are 16 of the frames kept
    sample = source.load(0, Draws(1, 0.0, 0, 8, 16))
    assert sample.data["video"].shape == (2, 3, 8, 8)
    kept = VideoFolder("video", path=str(folder), frames=24, strides=[1, 1], resolutions=[24]).load(0).data["video"]
    coarse = torch.nn.functional.avg_pool2d(kept[:2, :, 8:24, 16:32], 2)
    assert (sample.data["video"] - coarse).abs().mean() < 0.06


def test_shapes_at_the_edges(folder: Path) -> None:
    def shape(**options: object) -> list[int]:
        return list(VideoFolder("video", path=str(folder), **options).load(0).data["video"].shape)

    assert shape(frames=4) == [4, 3, 48, 64]
    assert shape(frames=4, size=56) == [4, 3, 48, 56]  # shorter than the square in one direction
    assert shape(frames=4, resolutions=[480]) == [4, 3, 48, 64]  # never enlarged
    assert shape(frames=4, resolutions=[16, 32]) == [4, 3, 32, 43]
    assert shape(frames=4, resolutions=[1]) == [4, 3, 1, 1]
    assert shape(frames=1) == [1, 3, 48, 64]


def test_short_clips_give_what_they_have(folder: Path) -> None:
    source = VideoFolder("video", path=str(folder / "short.mkv"), frames=16, strides=[4, 12])
    for rng in (None, np.random.default_rng(0)):
        assert torch.equal(source.load(0, rng).data["video"], made([0, 1, 2]))
    source = VideoFolder("video", path=str(folder / "c0.mp4"), frames=16, strides=[4, 12])
    assert source.load(0).meta["frame_numbers"] == list(range(4, 20))  # no stride fits: lowered to 1
    assert source.load(0, np.random.default_rng(0)).fps == 25


def test_uniform_and_by_rate(folder: Path) -> None:
    def numbers(**options: object) -> list[int]:
        return VideoFolder("video", path=str(folder / "c0.mp4"), **options).load(0).meta["frame_numbers"]

    assert numbers(policy="uniform", frames=8) == [i * 23 // 7 for i in range(8)]
    assert numbers(policy="fps", fps=5) == [0, 5, 10, 15, 20]
    assert numbers(policy="fps", fps=5, max_frames=3) == [0, 10, 20]
    assert numbers(policy="fps", fps=1) == [0]
    assert VideoFolder("video", path=str(folder / "c0.mp4"), policy="fps", fps=5).load(0).fps == 5


def test_middle_by_hand() -> None:
    assert middle(10, 3, 2).tolist() == [2, 4, 6]
    assert middle(5, 3, 2).tolist() == [0, 2, 4]
    assert middle(5, 3, 9).tolist() == [0, 2, 4]
    assert middle(2, 3, 1).tolist() == [0, 1]
    assert middle(4, 1, 3).tolist() == [1]


@pytest.mark.parametrize("cache_mb", [0, 256])
@pytest.mark.parametrize("reader", ["decord", "pyav"])
def test_same_generator_same_clip_in_any_order(folder: Path, cache_mb: int, reader: str) -> None:
    options = {"frames": 5, "resolutions": [20, 30], "size": 16, "flips": ["horizontal", "transpose", "time"]}
    plain = VideoFolder("video", path=str(folder), cache_mb=0, **options)
    jobs = [(index, seed) for seed in range(6) for index in range(len(plain))]
    wanted = {}
    for index, seed in jobs:
        plain.store._open.clear()  # the oracle opens every file anew
        wanted[index, seed] = plain.load(index, np.random.default_rng(seed)).data["video"]
    source = VideoFolder("video", path=str(folder), cache_mb=cache_mb, reader=reader, **options)
    for index, seed in np.random.default_rng(1).permutation(jobs).tolist():
        assert torch.equal(source.load(index, np.random.default_rng(seed)).data["video"], wanted[index, seed])


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_same_batches_whatever_the_workers(folder: Path, workers: int) -> None:
    options = {"path": str(folder), "frames": 4, "size": 16, "flips": ["time"], "cache_mb": 0}
    stage = StageConfig(
        steps=6, tasks={"clips": TaskConfig("video/moving", options={"side": 16, "frames": 4}, batch=2)}
    )
    batches = StageBatches(stage, "s", 0, (4, 16, 16))
    batches._sources["clips"] = VideoFolder("video", **options)  # used before and after the fork
    first = batches[0]
    loaded = list(DataLoader(batches, batch_size=None, num_workers=workers))
    assert torch.equal(loaded[0].tokens.feats, first.tokens.feats)
    again = [batches[step] for step in (5, 4, 3, 2, 1, 0)][::-1]
    for one, two in zip(loaded, again, strict=True):
        assert one.keys == two.keys
        assert torch.equal(one.tokens.feats, two.tokens.feats)


def test_files_are_opened_anew_after_a_fork(folder: Path) -> None:
    source = VideoFolder("video", path=str(folder), frames=4, cache_mb=0)
    wanted = [source.load(i).data["video"] for i in range(3)]

    def child(queue: multiprocessing.SimpleQueue) -> None:
        torch.set_num_threads(1)  # a fork has none of its parent's threads to wait for
        before = set(map(id, source.store._open.values()))
        same = all(torch.equal(source.load(i).data["video"], wanted[i]) for i in range(3))
        queue.put((same, bool(before & set(map(id, source.store._open.values())))))

    context = multiprocessing.get_context("fork")
    queue = context.SimpleQueue()
    process = context.Process(target=child, args=(queue,))
    process.start()
    process.join(30)
    assert process.exitcode == 0
    assert queue.get() == (True, False)


def test_clips_are_decoded_once_while_they_fit(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    decoded: list[int] = []
    stream = Clip.stream

    def counting(self: Clip, chunk: int, indices: np.ndarray, resize: object = None) -> object:
        decoded.append(len(indices))
        return stream(self, chunk, indices, resize)

    monkeypatch.setattr(Clip, "stream", counting)
    source = VideoFolder("video", path=str(folder), frames=4)
    one = 24 * 48 * 64 * 3
    source.store.limit = int(one * 1.5)  # room for the first only
    for _ in range(2):
        for index in (0, 1):
            source.load(index)
    assert decoded == [24, 4, 4]
    assert source.store.used == one
    source.load(0).data["video"].zero_()
    assert torch.equal(source.load(0).data["video"], made([10, 11, 12, 13]))
    assert pickle.loads(pickle.dumps(source)).store.used == 0


def test_few_files_stay_open(folder: Path) -> None:
    source = VideoFolder("video", path=str(folder), frames=2, cache_mb=0)
    for index in range(6):
        source.load(index)
    assert [Path(name).name for name in source.store._open] == ["c2.mp4", "c3.mp4", "c4.mp4", "c5.mp4"]


def test_bad_files_raise_and_others_go_on(tmp_path: Path) -> None:
    good = exact(tmp_path / "b.mp4", count=6)
    (tmp_path / "a.mp4").write_bytes(good.read_bytes()[:900])
    (tmp_path / "c.mp4").write_bytes(b"")
    (tmp_path / "d.mp4").write_text("not a clip")
    source = VideoFolder("video", path=str(tmp_path), frames=4, cache_mb=0)
    for index, name in ((0, "a"), (2, "c"), (3, "d")):
        with pytest.raises(DataError, match=rf"{name}\.mp4"):
            source.load(index)
    assert source.load(1).data["video"].shape == (4, 3, 48, 64)
    stage = StageConfig(steps=3, tasks={"clips": TaskConfig("video/moving", batch=4)})
    batches = StageBatches(stage, "s", 0, (4, 16, 16))
    batches._sources["clips"] = source
    assert {key for step in range(3) for key in batches[step].keys} == {str(good)}
    bad = [reason for step in range(3) for reason in batches[step].bad]
    assert {name for name in "acd" if any(f"{name}.mp4" in reason for reason in bad)} == set("acd")


def test_a_file_that_vanishes(tmp_path: Path) -> None:
    path = exact(tmp_path / "a.mp4", count=6)
    exact(tmp_path / "b.mp4", count=6)
    source = VideoFolder("video", path=str(tmp_path), frames=4, cache_mb=0)
    assert len(source) == 2
    path.unlink()
    with pytest.raises(DataError, match=r"a\.mp4: no such file"):
        source.load(0)


def test_a_damaged_frame_elsewhere_spoils_nothing(tmp_path: Path) -> None:
    path = exact(tmp_path / "a.mp4", count=24, group=4)
    source = VideoFolder("video", path=str(path), frames=4)
    failures = [True]

    class Failing(MovingClip):
        def stream(self, chunk: int, indices: np.ndarray, resize: object = None) -> object:
            if 20 in np.asarray(indices) and failures:
                raise DataError("a", "frame 20 is damaged")
            return super().stream(chunk, indices, resize)

    clip = Failing(0, 0, 24, 16)
    for _ in range(2):
        frames, numbers, _ = source.store.take("a", lambda: clip, lambda facts: np.arange(4))
        assert (frames.shape, numbers.tolist()) == ((4, 16, 16, 3), [0, 1, 2, 3])
    assert source.store.used == 0
    with pytest.raises(DataError, match="frame 20"):
        source.store.take("a", lambda: clip, lambda facts: np.arange(18, 22))


def test_nothing_to_give_says_why(tmp_path: Path, folder: Path) -> None:
    with pytest.raises(DataError, match="no such file or folder"):
        len(VideoFolder("video", path=str(tmp_path / "none")))
    with pytest.raises(DataError, match=r"no file with a suffix in .*\.mp4"):
        len(VideoFolder("video", path=str(tmp_path)))
    with pytest.raises(DataError, match="no file on the 'train' side"):
        len(VideoFolder("video", path=str(folder / "c0.mp4"), split="train", folds=5, fold=0))


def test_splits_are_disjoint(folder: Path) -> None:
    train, val = (VideoFolder("video", path=str(folder), split=side, folds=3) for side in ("train", "val"))
    assert len(train) + len(val) == 7
    assert len(val) == 3
    assert not set(train.files) & set(val.files)


@pytest.mark.parametrize("make", [VideoFolder, VideoClips, VideoMoving, VideoShards])
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"policy": "strides"}, "Did you mean 'stride'"),
        ({"flips": ["horizonal"]}, "Did you mean 'horizontal'"),
        ({"strides": [3, 1]}, r"strides .* \[3, 1\]"),
        ({"strides": [1]}, "strides"),
        ({"frames": 0}, "frames"),
        ({"max_frames": 0}, "max_frames"),
        ({"longest": 8}, "longest 8, frames 16"),
        ({"longest": 32, "policy": "fps"}, "longest goes with policy: stride"),
        ({"fps": 0}, "fps"),
        ({"size": -1}, "size"),
        ({"resolutions": [0]}, "resolutions"),
        ({"cache_mb": -1}, "cache_mb"),
        ({"reader": "decor"}, "Did you mean 'decord'"),
        ({"background": "nothing"}, "background"),
        ({"split": "test"}, "split"),
    ],
)
def test_options_out_of_range_are_named(make: type, options: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make("video", **options)


def test_moving_clips_are_a_pure_function_of_seed_and_number() -> None:
    source, again = (VideoMoving("video", count=16, side=32, frames=8, strides=[1, 4]) for _ in range(2))
    for index in (15, 0, 7, 3):
        for rng in (None, 5):
            one, two = (s.load(index, None if rng is None else np.random.default_rng(rng)) for s in (source, again))
            assert torch.equal(one.data["video"], two.data["video"])
            assert one.data["video"].shape == (8, 3, 32, 32)
            assert one.caption == two.caption
    other = VideoMoving("video", count=16, side=32, frames=8, seed=1)
    assert not torch.equal(source.load(0).data["video"], other.load(0).data["video"])
    with pytest.raises(DataError, match="no number 16"):
        source.load(16)
    sides = [VideoMoving("video", count=16, split=side).numbers for side in ("train", "val")]
    assert sorted(sides[0] + sides[1]) == list(range(16))


@pytest.mark.parametrize("number", range(16))
def test_moving_clips_do_what_their_captions_say(number: int) -> None:
    clip = MovingClip(3, number, 9, 96)
    kind = list(MOTIONS)[clip.label]
    assert MOTIONS[kind] in clip.caption
    frames = next(clip.stream(9, range(9))).float()
    ground = torch.from_numpy(clip._ground).float()
    shown = ((frames - ground).abs().amax(-1) > 8).float()  # background colours never equal the shape's
    rows, columns = torch.meshgrid(torch.arange(96.0), torch.arange(96.0), indexing="ij")
    area = shown.sum((1, 2))
    assert (area > 20).all()
    middles = torch.stack([(shown * axis).sum((1, 2)) / area for axis in (rows, columns)], 1)
    way, growth = middles[-1] - middles[0], float(area[-1] / area[0])
    directions = {"left": (0, -1), "right": (0, 1), "up": (-1, 0), "down": (1, 0)}
    if kind in directions:
        assert (way * torch.tensor(directions[kind])).sum() > 0.4 * 96
        assert abs(way[0] if directions[kind][1] else way[1]) < 3
    elif kind in ("grows", "shrinks"):
        assert growth > 8 if kind == "grows" else growth < 1 / 8
    elif kind == "circles":
        assert way.abs().max() < 3
        assert (middles[4] - middles[0]).norm() > 0.3 * 96
    else:
        assert torch.equal(frames[0], frames[-1])
