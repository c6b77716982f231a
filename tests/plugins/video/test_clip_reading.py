"""Both readers over every container and codec: the same frames, in the order shown, from wherever they are asked."""

from __future__ import annotations

import sys
from pathlib import Path

import made_clips
import numpy as np
import pytest
import torch
from made_clips import COUNT, VARIANTS, exact, make, picture, turned, variant

from tok4d.errors import ConfigError, DataError, Tok4dError
from tok4d_video.reading import Clip, open_clip
from tok4d_video.resizing import Resize

DECORD = (  # what decord must be able to read: if it stops, PyAV takes over silently and this list says so
    "plain.mp4", "odd.mp4", "narrow.mp4", "fragments.mp4", "open-groups.mp4", "intra-refresh.mp4", "ten-bits.mp4",
    "full-range.mp4", "bt709.mp4", "bt709-full.mp4", "bt601.mp4", "rgb.mp4", "hevc.mp4", "hevc-ten-bits.mp4",
    "h264.mov", "prores.mov", "h264.mkv", "h264-422.mkv", "ffv1.mkv", "late.mkv", "vp9.webm", "vp9-odd.webm",
    "mpeg4.avi", "mpeg4-b-frames.avi", "h264.avi", "mjpeg.avi", "raw.avi", "h264.flv", "av1.mp4",
)  # fmt: skip


def expected(count: int = COUNT, height: int = 48, width: int = 64) -> torch.Tensor:
    return torch.from_numpy(np.stack([picture(i, height, width) for i in range(count)]))


def everything(clip: Clip) -> torch.Tensor:
    with clip:
        return torch.cat(list(clip.stream(7)))


def distance(a: torch.Tensor, b: torch.Tensor) -> int:
    assert a.shape == b.shape
    return int((a.int() - b.int()).abs().max())


@pytest.mark.parametrize("reader", ["decord", "pyav"])
def test_lossless_frames_are_exact_and_in_order(reader: str, tmp_path: Path) -> None:
    path = exact(tmp_path / "a.mp4", group=8)
    with open_clip(path, reader=reader) as clip:
        assert (len(clip), clip.height, clip.width, clip.fps, clip.reader) == (COUNT, 48, 64, 25, reader)
        assert torch.equal(torch.cat(list(clip.stream(5))), expected())
        wanted = [20, 3, 3, 23, 0, 11]
        assert torch.equal(clip.frames(wanted), expected()[wanted])
        assert torch.equal(clip.frames(np.array([8, 9, 10])), expected()[8:11])
        assert clip.frames([]).shape == (0, 48, 64, 3)


@pytest.mark.parametrize("name", sorted(VARIANTS))
def test_both_readers_agree_and_any_way_to_a_frame_gives_it(name: str, tmp_path: Path) -> None:
    path = variant(tmp_path, name)
    frames = everything(open_clip(path, reader="pyav"))
    assert len(frames) == COUNT
    chosen = open_clip(path)
    assert chosen.reader == ("decord" if name in DECORD else "pyav")
    assert bool(chosen.fallback) == (name not in DECORD)
    rng = np.random.default_rng(0)
    clips = [chosen] if chosen.reader == "pyav" else [chosen, open_clip(path, reader="pyav")]
    for clip in clips:
        assert distance(everything(clip), frames) <= 1
        with open_clip(path, reader=clip.reader) as again:
            for _ in range(12):
                wanted = rng.integers(0, COUNT, size=rng.integers(1, 5))
                assert distance(again.frames(wanted), frames[wanted]) <= 1, (clip.reader, wanted)


@pytest.mark.parametrize("name", [name for name, made in VARIANTS.items() if "a" not in made.get("pixels", "")])
def test_frames_look_like_what_was_written(name: str, tmp_path: Path) -> None:
    frames = everything(open_clip(variant(tmp_path, name))).float()
    height, width = frames.shape[1:3]
    pictures = expected(COUNT, height, width).float()
    errors = torch.stack([(frames[i] - pictures).abs().mean(dim=(1, 2, 3)) for i in range(COUNT)])
    assert torch.equal(errors.argmin(dim=1), torch.arange(COUNT)), "frame i must be nearest to picture i"


@pytest.mark.parametrize("reader", ["decord", "pyav"])
@pytest.mark.parametrize(("degrees", "quarters"), [(90, -1), (180, 2), (270, 1)])
def test_turned_clips_stand_upright(reader: str, degrees: int, quarters: int, tmp_path: Path) -> None:
    path = turned(exact(tmp_path / "a.mp4", count=3), degrees)
    upright = torch.rot90(expected(3), quarters, (1, 2))
    with open_clip(path, reader=reader) as clip:
        assert (clip.height, clip.width) == tuple(upright.shape[1:3])
        assert torch.equal(clip.frames([0, 1, 2]), upright)


def test_mirrored_clips_are_for_pyav(tmp_path: Path) -> None:
    path = turned(exact(tmp_path / "a.mp4", count=3), 0, mirrored=True)
    with open_clip(path) as clip:
        assert clip.reader == "pyav"
        assert "mirrored" in clip.fallback
        assert torch.equal(clip.frames([0, 1, 2]), expected(3).flip(2))
    both = turned(exact(tmp_path / "b.mp4", count=3), 90, mirrored=True)
    with open_clip(both) as clip:
        assert torch.equal(clip.frames([0, 1, 2]), torch.rot90(expected(3).flip(2), -1, (1, 2)))
    with pytest.raises(DataError, match="use reader='auto' or 'pyav'"):
        open_clip(path, reader="decord")


@pytest.mark.parametrize(("name", "codec", "pixels"), [("a.mkv", "ffv1", "bgra"), ("a.mov", "png", "rgba")])
def test_alpha_over_the_background(name: str, codec: str, pixels: str, tmp_path: Path) -> None:
    frame = np.zeros((4, 6, 4), dtype=np.uint8)
    frame[0, 0] = [255, 0, 0, 51]  # one fifth red
    frame[1, 1] = [10, 20, 30, 255]
    path = make(tmp_path / name, codec, pixels, frames=[frame, frame])
    found = open_clip(path).frames([1])[0]
    assert found[0, 0].tolist() == [255, 204, 204]
    assert found[1, 1].tolist() == [10, 20, 30]
    assert found[2, 2].tolist() == [255, 255, 255]
    assert open_clip(path, background="#0000ff").frames([0])[0, 2, 2].tolist() == [0, 0, 255]
    assert open_clip(path, background="black").frames([0])[0, 0, 0].tolist() == [51, 0, 0]


@pytest.mark.parametrize("codec", ["libvpx", "libvpx-vp9"])
def test_the_hidden_alpha_of_webm(codec: str, tmp_path: Path) -> None:
    frame = np.full((32, 32, 4), 200, dtype=np.uint8)
    frame[:, :16, 3], frame[:, 16:, 3] = 0, 255
    options = {"auto-alt-ref": "0", "crf": "4", "b": "2M"}
    path = make(tmp_path / "a.webm", codec, "yuva420p", frames=[frame] * 3, options=options)
    found = open_clip(path, background="black")
    assert found.info.alpha
    assert found.reader == "pyav"
    assert found.frames([1])[0, :, :12].max() < 8
    assert found.frames([1])[0, :, 20:].min() > 190


def test_frames_of_varying_rate_come_in_the_order_shown(tmp_path: Path) -> None:
    stamps = [0, 40, 80, 200, 240, 600, 640, 700, 1000, 1001, 1040, 1100]
    path = make(tmp_path / "a.mkv", "libx264rgb", "rgb24", count=12, stamps=stamps, options={"qp": "0"})
    for reader in ("decord", "pyav"):
        with open_clip(path, reader=reader) as clip:
            assert torch.equal(clip.frames(range(12)), expected(12))
            assert clip.info.varying
            assert clip.times.tolist() == pytest.approx([stamp / 1000 for stamp in stamps])
            assert float(clip.fps) == pytest.approx(12 / clip.info.duration, rel=1e-3)


def test_resizing_while_reading_equals_resizing_after(tmp_path: Path) -> None:
    path = exact(tmp_path / "a.mp4")
    resize = Resize(short=20, crop=(16, 16))
    with open_clip(path) as clip:
        whole = resize(clip.frames(range(COUNT)))
        assert whole.shape == (COUNT, 16, 16, 3)
        assert torch.equal(torch.cat(list(clip.stream(10, resize=resize))), whole)
        assert torch.equal(clip.frames([5, 2], resize), whole[[5, 2]])


@pytest.mark.parametrize("reader", ["decord", "pyav"])
def test_a_stream_reads_no_further_than_it_gives(reader: str, tmp_path: Path) -> None:
    with open_clip(exact(tmp_path / "a.mp4"), reader=reader) as clip:
        chunks = clip.stream(4)
        assert len(next(chunks)) == 4
        assert clip._frames._position == 4
        assert [len(chunk) for chunk in chunks] == [4, 4, 4, 4, 4]
        assert [len(chunk) for chunk in clip.stream(4, [1, 5, 6, 20, 22])] == [4, 1]
        with pytest.raises(ConfigError, match="rising"):
            next(clip.stream(4, [3, 3]))
        with pytest.raises(ConfigError, match="chunk must be at least 1"):
            next(clip.stream(0))


@pytest.mark.parametrize("number", [-1, COUNT])
def test_a_frame_that_there_is_not(number: int, tmp_path: Path) -> None:
    with (
        open_clip(exact(tmp_path / "a.mp4")) as clip,
        pytest.raises(DataError, match=rf"no frame {number}, only 0..23"),
    ):
        clip.frames([0, number])


def test_threads_do_not_change_pixels(tmp_path: Path) -> None:
    path = variant(tmp_path, "plain.mp4")
    for reader in ("decord", "pyav"):
        one, many = (everything(open_clip(path, reader=reader, threads=threads)) for threads in (1, 3))
        assert torch.equal(one, many)


def test_unknown_and_unusable_options(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="Did you mean 'reader'"):
        open_clip(tmp_path, raeder="pyav")
    with pytest.raises(ConfigError, match="Did you mean 'decord'"):
        open_clip(tmp_path, reader="decort")
    with pytest.raises(ConfigError, match=r"background.*'reddish'"):
        open_clip(tmp_path, background="reddish")


def test_without_decord_pyav_reads_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "decord", None)
    path = exact(tmp_path / "a.mp4")
    with open_clip(path) as clip:
        assert clip.reader == "pyav"
        assert "decord is not installed" in clip.fallback
        assert torch.equal(clip.frames([7]), expected()[[7]])
    with pytest.raises(Tok4dError, match=r'decord is not installed.*pip install "tok4d\[video\]"'):
        open_clip(path, reader="decord")


def test_without_pyav_the_error_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = exact(tmp_path / "a.mp4")
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(Tok4dError, match=r'video files need PyAV.*pip install "tok4d\[video\]"'):
        open_clip(path)


def test_every_codec_of_the_variants_is_in_this_build() -> None:
    assert {v.get("codec", "libx264") for v in VARIANTS.values()} <= set(made_clips.av.codecs_available)


def test_a_clip_that_decord_would_hold_whole_goes_to_pyav(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = exact(tmp_path / "a.mp4")
    with open_clip(path) as clip:
        assert clip.reader == "decord"
        size = len(clip) * clip.height * clip.width * 3
    monkeypatch.setattr("tok4d_video.reading.MAX_AHEAD", size - 1)
    with open_clip(path) as clip:
        assert clip.reader == "pyav"
        assert "decodes ahead" in clip.fallback
    with open_clip(path, reader="decord") as clip:
        assert clip.reader == "decord", "who asks for it gets it"
