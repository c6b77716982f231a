"""Files that cannot be used: one DataError with path and reason, by both readers, whatever the bytes are."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest
import torch
from made_clips import COUNT, exact, variant

from tok4d.errors import DataError
from tok4d_video.containers import check_whole
from tok4d_video.probing import probe
from tok4d_video.reading import open_clip

READERS = ("auto", "pyav", "decord")


def refuse(path: Path, reason: str, **options) -> None:
    for reader in READERS:
        with pytest.raises(DataError, match=reason) as caught, open_clip(path, reader=reader, **options) as clip:
            list(clip.stream())
        assert caught.value.path == str(path)
        assert len(str(caught.value).splitlines()) == 1


def test_missing_folder_empty_and_pipe(tmp_path: Path) -> None:
    refuse(tmp_path / "none.mp4", "no such file")
    refuse(tmp_path, "is a folder")
    (tmp_path / "empty.mp4").touch()
    refuse(tmp_path / "empty.mp4", "is empty")
    os.mkfifo(tmp_path / "pipe.mp4")
    refuse(tmp_path / "pipe.mp4", "not a regular file")
    with pytest.raises(DataError, match=r"cannot be opened|no such file"):
        open_clip("a\0b.mp4")


def test_other_things_named_like_a_video(tmp_path: Path) -> None:
    from PIL import Image

    Image.new("RGB", (64, 64)).save(tmp_path / "picture.png")
    (tmp_path / "picture.png").rename(tmp_path / "picture.mp4")
    refuse(tmp_path / "picture.mp4", "is not a readable video")
    (tmp_path / "text.mp4").write_text("once upon a time there was a clip\n" * 50)
    refuse(tmp_path / "text.mp4", "is not a readable video")
    (tmp_path / "noise.mkv").write_bytes(random.Random(0).randbytes(5000))
    refuse(tmp_path / "noise.mkv", "is not a readable video")
    # a playlist would make the library open other files
    exact(tmp_path / "true.mp4")
    (tmp_path / "list.mp4").write_text("ffconcat version 1.0\nfile true.mp4\n")
    refuse(tmp_path / "list.mp4", "is not a readable video")
    (tmp_path / "list.m3u8").write_text("#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\ntrue.mp4\n#EXT-X-ENDLIST\n")
    refuse(tmp_path / "list.m3u8", "is not a readable video")


def test_names_that_look_like_protocols(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    exact(tmp_path / "a.mp4").rename(tmp_path / "concat:a.mp4")
    for reader in READERS:
        with open_clip("concat:a.mp4", reader=reader) as clip:
            assert len(clip) == COUNT


def test_a_true_video_under_a_wrong_suffix_is_read(tmp_path: Path) -> None:
    exact(tmp_path / "a.mp4").rename(tmp_path / "a.png")
    assert probe(tmp_path / "a.png").container == "mov"


def test_audio_only_and_cover_pictures(tmp_path: Path) -> None:
    import av
    import numpy as np

    with av.open(str(tmp_path / "a.mp4"), "w") as container:
        sound = container.add_stream("aac", rate=8000)
        silence = av.AudioFrame.from_ndarray(np.zeros((1, 1024), dtype=np.float32), format="fltp", layout="mono")
        silence.sample_rate = 8000
        container.mux(sound.encode(silence))
        container.mux(sound.encode(None))
    refuse(tmp_path / "a.mp4", "has no video stream, only audio")


@pytest.mark.parametrize("name", ["plain.mp4", "fragments.mp4", "h264.mov", "ffv1.mkv", "vp9.webm", "raw.avi"])
@pytest.mark.parametrize("share", [0.02, 0.5, 0.95])
def test_truncated_files_are_refused(name: str, share: float, tmp_path: Path) -> None:
    path = variant(tmp_path, name)
    data = path.read_bytes()
    path.write_bytes(data[: int(share * len(data))])
    refuse(path, r"is truncated|is not a readable video")


@pytest.mark.parametrize("name", ["frames.gif", "h264.flv"])
def test_truncated_files_without_lengths_are_refused(name: str, tmp_path: Path) -> None:
    path = variant(tmp_path, name)
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(DataError, match="is truncated"):
        open_clip(path)


@pytest.mark.parametrize("name", ["plain.mp4", "h264.mkv", "vp9.webm", "raw.avi", "frames.gif", "prores.mov"])
def test_whole_files_pass_and_one_missing_byte_shows(name: str, tmp_path: Path) -> None:
    path = variant(tmp_path, name)
    check_whole(path)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(DataError, match=r"is truncated: it has [\d,]+ bytes, its container says at least [\d,]+"):
        check_whole(path)


def test_lengths_left_open_pass(tmp_path: Path) -> None:
    data = bytearray(variant(tmp_path, "h264.mkv").read_bytes())
    place = data.find(b"\x18\x53\x80\x67") + 4
    data[place : place + 8] = b"\x01" + b"\xff" * 7  # of unknown length, as live recordings are
    (tmp_path / "live.mkv").write_bytes(data[:-200])
    check_whole(tmp_path / "live.mkv")


@pytest.mark.parametrize("header", [b"GIF89a\xff\xff\xff\xff", b"YUV4MPEG2 W60000 H60000 F25:1 C420jpeg\nFRAME\n"])
def test_absurd_sizes_are_refused_before_decoding(header: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.gif").write_bytes(header + bytes(2000) + b"\x3b")
    refuse(tmp_path / "a.gif", r"no usable frame size|is not a readable video|exceed the limit")


def test_the_limit_of_pixels(tmp_path: Path) -> None:
    path = exact(tmp_path / "a.mp4")
    refuse(path, r"frames of 64x48 = 3,072 pixels exceed the limit of 3,071 \(max_pixels\)", max_pixels=3071)
    assert len(open_clip(path, max_pixels=3072)) == COUNT


def test_no_frames_at_all(tmp_path: Path) -> None:
    path = variant(tmp_path, "raw.y4m")
    path.write_bytes(path.read_bytes().split(b"\n")[0] + b"\n")
    with pytest.raises(DataError, match=r"no frame that can be decoded|is not a readable video"):
        open_clip(path)


@pytest.mark.parametrize("reader", ["pyav", "decord"])
def test_damage_in_the_middle_is_an_error_not_a_copy_of_the_frame_before(reader: str, tmp_path: Path) -> None:
    import av

    path = variant(tmp_path, "plain.mp4")
    with av.open(str(path)) as container:
        place = [packet.pos for packet in container.demux(video=0) if packet.size][COUNT // 2]
    data = bytearray(path.read_bytes())
    data[place : place + 4] = b"\xff" * 4  # the length of a NAL unit
    path.write_bytes(data)
    with pytest.raises(DataError, match=r"damaged|decoded|decord|missing|ends after"):
        list(open_clip(path, reader=reader).stream())


def test_a_length_that_lies_keeps_decord_away(tmp_path: Path) -> None:
    path = variant(tmp_path, "mpeg4.avi")
    data = bytearray(path.read_bytes())
    place = data.find(b"strh") + 8 + 32  # dwLength of the stream header; decord reserves a table of that many frames
    data[place : place + 4] = (2_399_141_918).to_bytes(4, "little")
    path.write_bytes(data)
    with open_clip(path) as clip:
        assert clip.reader == "pyav"
        assert "wrong length" in clip.fallback
        assert len(torch.cat(list(clip.stream()))) == len(clip) == COUNT
        assert clip.fps == 25
    with pytest.raises(DataError, match="states a wrong length"):
        open_clip(path, reader="decord")


@pytest.mark.parametrize("reader", ["pyav", "decord"])
def test_a_file_that_vanishes(reader: str, tmp_path: Path) -> None:
    path = exact(tmp_path / "a.mp4")
    with open_clip(path, reader=reader) as clip:
        clip.frames([20])
        path.unlink()
        with pytest.raises(DataError, match=r"no such file|vanished"):
            clip.frames([0])


def test_flipped_bytes_give_frames_or_one_error_and_nothing_on_the_terminal(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    outcomes = {"read": 0, "refused": 0}
    for name in ("plain.mp4", "vp9.webm", "ffv1.mkv", "mpeg4.avi", "frames.gif"):
        whole = variant(tmp_path, name).read_bytes()
        capfd.readouterr()  # encoders may talk
        for seed in range(12):
            rng, data = random.Random(seed), bytearray(whole)
            for _ in range(rng.choice([1, 4, 30])):
                data[rng.randrange(rng.choice([100, len(data)]))] ^= rng.randrange(1, 256)
            (tmp_path / name).write_bytes(data)
            try:
                with open_clip(tmp_path / name) as clip:
                    for chunk in clip.stream():
                        assert chunk.dtype == torch.uint8
                outcomes["read"] += 1
            except DataError as error:
                outcomes["refused"] += len(str(error).splitlines())
    assert min(outcomes.values()) > 5, outcomes
    assert sum(outcomes.values()) == 60, "every error is one line"
    assert capfd.readouterr() == ("", "")
