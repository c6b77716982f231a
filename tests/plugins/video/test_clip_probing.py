"""What is found out about a file: counted, not believed."""

from __future__ import annotations

import struct
from fractions import Fraction
from pathlib import Path

import pytest
from made_clips import COUNT, exact, make, turned, variant

from tok4d_video.indexing import _nal_types
from tok4d_video.probing import examine, probe
from tok4d_video.turns import Turn


def test_facts_about_a_clip(tmp_path: Path) -> None:
    info = probe(variant(tmp_path, "odd.mp4"))
    assert (info.container, info.codec, info.pixel_format) == ("mov", "h264", "yuv444p")
    assert (info.height, info.width, info.bit_depth, info.alpha) == (47, 63, 8, False)
    assert (info.frames, info.fps, info.varying) == (COUNT, 25, False)
    assert info.duration == pytest.approx(COUNT / 25)
    assert (info.pixel_aspect, info.has_audio, info.turn) == (1, False, Turn())


def test_bit_depth_alpha_and_codec_names(tmp_path: Path) -> None:
    assert probe(variant(tmp_path, "ten-bits.mp4")).bit_depth == 10
    assert probe(variant(tmp_path, "png-alpha.mov")).alpha
    hidden = probe(variant(tmp_path, "vp8-alpha.webm"))
    assert (hidden.alpha, hidden.codec, hidden.pixel_format) == (True, "vp8", "yuv420p")
    assert probe(variant(tmp_path, "av1.mp4")).codec == "av1"


def test_turned_clips_have_the_size_that_is_shown(tmp_path: Path) -> None:
    path = exact(tmp_path / "a.mp4", count=2)
    quarter = probe(turned(path, 90))
    assert (quarter.height, quarter.width) == (64, 48)
    assert quarter.turn == Turn(transpose=True, flip_columns=True)
    half = probe(turned(path, 180))
    assert (half.height, half.width) == (48, 64)
    assert half.turn == Turn(flip_rows=True, flip_columns=True)
    assert not half.turn.mirrors
    assert probe(turned(path, 0, mirrored=True)).turn.mirrors


@pytest.mark.parametrize("rate", [Fraction(30000, 1001), Fraction(24000, 1001), 24, 30, 50, Fraction(25, 2)])
@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".webm", ".avi"])
def test_rates_are_exact_though_stamps_are_rounded(suffix: str, rate: Fraction | int, tmp_path: Path) -> None:
    codec, options = ("libvpx-vp9", {"cpu-used": "8"}) if suffix == ".webm" else ("libx264", {"bf": "0"})
    for count in (1, 3, 17):
        info = probe(make(tmp_path / f"a{suffix}", codec, count=count, rate=rate, options=options))
        assert (info.frames, info.fps, info.varying) == (count, rate, False)


def test_a_varying_rate_is_averaged(tmp_path: Path) -> None:
    stamps = [0, 100, 200, 900, 1000]
    info, index = examine(make(tmp_path / "a.mkv", count=5, stamps=stamps))
    assert info.varying
    assert index.times.tolist() == [0, 0.1, 0.2, 0.9, 1.0]
    assert float(info.fps) == pytest.approx(5 / (1.0 + float(index.last * index.unit)), rel=1e-3)


def test_durations_that_lie_are_not_believed(tmp_path: Path) -> None:
    path = exact(tmp_path / "a.mp4")
    data = bytearray(path.read_bytes())
    for name, place in ((b"mvhd", 20), (b"mdhd", 20)):  # 32-bit duration of version 0, after times and scale
        at = data.find(name) + place
        data[at : at + 4] = struct.pack(">I", 1_000_000)
    path.write_bytes(data)
    info = probe(path)
    assert (info.frames, info.fps) == (COUNT, 25)
    assert info.duration == pytest.approx(COUNT / 25)


def test_a_frame_rate_that_lies_is_not_believed(tmp_path: Path) -> None:
    stamps = [100 * i for i in range(10)]  # ten a second, written as 25
    info = probe(make(tmp_path / "a.mkv", count=10, stamps=stamps, rate=25))
    assert float(info.fps) == pytest.approx(10, rel=0.01)


def test_where_decoding_may_start(tmp_path: Path) -> None:
    closed = examine(variant(tmp_path, "plain.mp4"))[1]
    assert closed.starts.tolist() == [0, 8, 16]
    assert [closed.start_before(number) for number in (0, 7, 8, 23)] == [0, 0, 8, 16]
    # frames shown before a key frame but stored after it, pictures that recover bit by bit, guessed times
    for name in ("open-groups.mp4", "intra-refresh.mp4", "h264.avi", "mpeg4-b-frames.avi", "frames.gif"):
        assert examine(variant(tmp_path, name))[1].starts.tolist() == [0], name
    assert examine(variant(tmp_path, "mpeg4.avi"))[1].starts.tolist() == [0, 8, 16]
    assert examine(variant(tmp_path, "mjpeg.avi"))[1].starts.tolist() == list(range(COUNT))


def test_nal_types_by_length_and_by_start_code() -> None:
    lengths = b"\x01\x64\x00\x1f\xff"  # two low bits 3: lengths of four bytes
    data = b"\0\0\0\2\x67\xaa" + b"\0\0\0\3\x65\xbb\xcc"
    assert list(_nal_types(data, lengths)) == [7, 5]
    assert list(_nal_types(b"\0\0\0\1\x67\xaa\0\0\1\x65\xbb\0\0\1", b"")) == [7, 5]
    assert list(_nal_types(b"\0\0", lengths)) == []


def test_audio_beside_the_picture_is_noticed(tmp_path: Path) -> None:
    import av
    import numpy as np
    from made_clips import picture

    with av.open(str(tmp_path / "a.mp4"), "w") as container:
        video, sound = container.add_stream("libx264", rate=25), container.add_stream("aac", rate=8000)
        video.height, video.width, video.pix_fmt = 48, 64, "yuv420p"
        for i in range(3):
            container.mux(video.encode(av.VideoFrame.from_ndarray(picture(i), format="rgb24")))
        silence = av.AudioFrame.from_ndarray(np.zeros((1, 1024), dtype=np.float32), format="fltp", layout="mono")
        silence.sample_rate = 8000
        container.mux(sound.encode(silence))
        for stream in (video, sound):
            container.mux(stream.encode(None))
    info = probe(tmp_path / "a.mp4")
    assert info.has_audio
    assert info.frames == 3
