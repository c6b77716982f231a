"""Writing: the frame count, size and rate that come back; never half a file."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from made_clips import picture
from PIL import Image

from tok4d.errors import ConfigError, DataError
from tok4d_video.pixels import to_signed
from tok4d_video.reading import open_clip
from tok4d_video.writing import VideoWriter, exact_rate, write_clip

VIDEO = [".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi"]


def frames(count: int, height: int = 48, width: int = 64) -> torch.Tensor:
    return torch.from_numpy(np.stack([picture(i, height, width) for i in range(count)]))


@pytest.mark.parametrize("size", [(48, 64), (47, 63), (47, 64), (1, 1)])
@pytest.mark.parametrize("count", [1, 3, 4, 5, 16, 17, 33])
def test_count_size_and_rate_come_back_by_both_readers(count: int, size: tuple[int, int], tmp_path: Path) -> None:
    clip = frames(count, *size)
    if count > 3:
        clip[3] = clip[2]  # equal frames stay two
    path = tmp_path / "a.mp4"
    assert write_clip(clip.split(4), path, Fraction(30000, 1001)) == count
    for reader in ("decord", "pyav"):
        with open_clip(path, reader=reader) as read:
            assert (len(read), read.height, read.width, read.fps) == (count, *size, Fraction(30000, 1001))
            assert read.frames(range(count)).shape == clip.shape


@pytest.mark.parametrize("suffix", VIDEO)
@pytest.mark.parametrize("size", [(48, 64), (47, 63)])
def test_every_container_keeps_count_size_rate_and_order(suffix: str, size: tuple[int, int], tmp_path: Path) -> None:
    clip = frames(17, *size)
    write_clip(clip, tmp_path / f"a{suffix}", 24, crf=12)
    for reader in ("auto", "pyav"):
        with open_clip(tmp_path / f"a{suffix}", reader=reader) as read:
            assert (len(read), read.fps, read.info.varying) == (17, 24, False)
            found = read.frames(range(17))
    assert found.shape == clip.shape
    errors = torch.stack([(clip.float() - frame.float()).abs().mean((1, 2, 3)) for frame in found])
    assert torch.equal(errors.argmin(1), torch.arange(17))


@pytest.mark.parametrize("suffix", [".mp4", ".webm", ".mkv"])
@pytest.mark.parametrize("size", [(48, 64), (47, 63)])
@pytest.mark.parametrize("colour", [(250, 20, 30), (10, 200, 40), (20, 30, 240), (128, 128, 128), (0, 0, 0)])
def test_colours_come_back(suffix: str, size: tuple[int, int], colour: tuple[int, ...], tmp_path: Path) -> None:
    clip = torch.tensor(colour, dtype=torch.uint8).expand(2, *size, 3)
    write_clip(clip, tmp_path / f"a{suffix}", 10)
    for reader in ("decord", "pyav"):
        with open_clip(tmp_path / f"a{suffix}", reader=reader) as read:
            assert (read.frames([0, 1]).int() - clip.int()).abs().max() <= 3


def test_the_file_says_how_its_colours_are_stored(tmp_path: Path) -> None:
    import av

    write_clip(frames(2), tmp_path / "a.mp4", 10)
    with av.open(str(tmp_path / "a.mp4")) as container:
        context = container.streams.video[0].codec_context
        assert (int(context.colorspace), int(context.color_range), context.pix_fmt) == (1, 1, "yuv420p")


def test_quality_is_a_choice(tmp_path: Path) -> None:
    clip = frames(8)
    sizes = [write_clip(clip, tmp_path / f"{crf}.mp4", 25, crf=crf) and (tmp_path / f"{crf}.mp4").stat().st_size
             for crf in (5, 20, 40)]  # fmt: skip
    assert sizes[0] > sizes[1] > sizes[2]
    with pytest.raises(ConfigError, match=r"crf must be in 0\.\.51, got 52"):
        VideoWriter(tmp_path / "a.mp4", 25, crf=52)


def test_floats_are_clamped_and_rounded(tmp_path: Path) -> None:
    values = torch.tensor([-5.0, 5.0, 0.0, 0.005, -0.005])[None, None, None].repeat(1, 3, 1, 1)
    write_clip(values, tmp_path / "a", 1)
    with Image.open(tmp_path / "a" / "000000.png") as shown:
        assert [shown.getpixel((x, 0))[0] for x in range(5)] == [0, 255, 128, 128, 127]
    signed = to_signed(frames(3))
    write_clip(signed, tmp_path / "floats.mkv", 5)
    write_clip(frames(3), tmp_path / "bytes.mkv", 5)
    assert torch.equal(*(open_clip(tmp_path / f"{n}.mkv").frames([0, 1, 2]) for n in ("floats", "bytes")))


def test_chunks_do_not_matter(tmp_path: Path) -> None:
    clip = frames(9)
    for name, chunk in (("a", 1), ("b", 4), ("c", 9)):
        write_clip(clip.split(chunk), tmp_path / f"{name}.mkv", 25)
    found = [open_clip(tmp_path / f"{name}.mkv").frames(range(9)) for name in "abc"]
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])


@pytest.mark.parametrize("count", [1, 2, 5, 17])
def test_gif_keeps_every_frame_and_its_time(count: int, tmp_path: Path) -> None:
    clip = frames(count, 47, 63)
    if count > 3:
        clip[3] = clip[2]
    write_clip(clip, tmp_path / "a.gif", 20)
    with open_clip(tmp_path / "a.gif") as read:
        assert (len(read), read.height, read.width, read.fps) == (count, 47, 63, 20)
        assert (read.frames(range(count)).float() - clip.float()).abs().mean() < 8
    with Image.open(tmp_path / "a.gif") as shown:
        assert shown.n_frames == count
        assert shown.info["duration"] == 50
    with pytest.raises(ConfigError, match="at most 100 frames per second, got 120"):
        VideoWriter(tmp_path / "a.gif", 120)


def test_gif_of_few_colours_is_exact(tmp_path: Path) -> None:
    clip = torch.zeros(3, 20, 20, 3, dtype=torch.uint8)
    clip[:, 5:9, 5:9] = torch.tensor([255, 0, 10], dtype=torch.uint8)
    clip[1, 10:] = torch.tensor([3, 200, 77], dtype=torch.uint8)
    write_clip(clip, tmp_path / "a.gif", 10)
    assert torch.equal(open_clip(tmp_path / "a.gif").frames([0, 1, 2]), clip)


def test_a_folder_of_pictures(tmp_path: Path) -> None:
    clip = frames(3)
    assert write_clip(clip.split(2), tmp_path / "pictures", 25) == 3
    assert sorted(path.name for path in (tmp_path / "pictures").iterdir()) == [f"00000{i}.png" for i in range(3)]
    for i in range(3):
        assert np.array_equal(np.asarray(Image.open(tmp_path / "pictures" / f"00000{i}.png")), picture(i))
    with pytest.raises(DataError, match="there is a folder of this name"):
        write_clip(clip, tmp_path / "pictures", 25)
    assert [path.name for path in tmp_path.iterdir()] == ["pictures"]


@pytest.mark.parametrize("name", ["a.mp4", "a.gif", "a"])
def test_nothing_half_written_and_the_old_file_stays(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    if path.suffix:
        write_clip(frames(2), path, 25)
    before = {entry.name: entry.read_bytes() for entry in tmp_path.iterdir()}

    def broken():
        yield to_signed(frames(3))
        yield torch.full((1, 3, 48, 64), torch.nan)

    def failing():
        yield frames(2)
        raise RuntimeError("the model failed")

    with pytest.raises(DataError, match="cannot write: 9216 of 9216 values are not finite"):
        write_clip(broken(), path, 25)
    with pytest.raises(RuntimeError, match="the model failed"):
        write_clip(failing(), path, 25)
    with pytest.raises(DataError, match=r"frames change from \(48, 64\) to \(10, 64\) pixels"):
        write_clip([frames(2), frames(2)[:, :10]], path, 25)
    with pytest.raises(DataError, match="there are no frames"):
        write_clip([], path, 25)
    assert {entry.name: entry.read_bytes() for entry in tmp_path.iterdir()} == before


def test_unusable_targets_shapes_and_rates(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"unknown video suffix '\.xyz'; known: \.mp4, \.m4v"):
        VideoWriter(tmp_path / "a.xyz", 25)
    with pytest.raises(DataError, match="cannot write: No such file or directory"):
        VideoWriter(tmp_path / "none" / "a.mp4", 25)
    (tmp_path / "folder.mp4").mkdir()
    with pytest.raises(DataError, match="there is a folder of this name"):
        VideoWriter(tmp_path / "folder.mp4", 25)
    for bad in (torch.zeros(2, 48, 64, dtype=torch.uint8), torch.zeros(0, 4, 4, 3, dtype=torch.uint8)):
        with pytest.raises(DataError, match=r"frames must be \[n, height, width, 3\] in uint8"):
            write_clip(bad, tmp_path / "a.mp4", 25)
    with pytest.raises(DataError, match=r"a clip must be \[frames, 3, height, width\]"):
        write_clip(torch.zeros(1, 4, 4), tmp_path / "a.mp4", 25)
    for fps in (0, -1, 1001, float("nan"), float("inf")):
        with pytest.raises(ConfigError, match="fps must be above 0"):
            VideoWriter(tmp_path / "a.mp4", fps)
    assert [entry.name for entry in tmp_path.iterdir()] == ["folder.mp4"]


def test_rates_become_exact_ratios() -> None:
    assert exact_rate(30000 / 1001) == Fraction(30000, 1001)
    assert exact_rate(23.976023976) == Fraction(24000, 1001)
    assert exact_rate(25.0) == 25
    assert exact_rate(12.5) == Fraction(25, 2)
    assert exact_rate(Fraction(7, 3)) == Fraction(7, 3)
    assert 0 < exact_rate(0.0001) < 0.00011


@pytest.mark.parametrize("fps", [0.5, 1, 12.5, 59.94005994, 240])
def test_unusual_rates_come_back(fps: float, tmp_path: Path) -> None:
    write_clip(frames(6), tmp_path / "a.mp4", fps)
    with open_clip(tmp_path / "a.mp4") as read:
        assert read.fps == exact_rate(fps)
