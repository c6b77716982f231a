"""Splat files that cannot be used: one DataError with path and reason, whatever the bytes are, in little memory."""

from __future__ import annotations

import gzip
import os
import struct
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch
from gaussian_assets import random_gaussians
from hypothesis import given, settings
from hypothesis import strategies as st

from tok4d.errors import DataError
from tok4d.model.gaussians import Gaussians
from tok4d_mesh3d.splatfiles import SUFFIXES, read_splats, write_splats
from tok4d_mesh3d.splatfiles.plyheader import NEEDED


def refuse(path: Path, reason: str, **options: int) -> None:
    with pytest.raises(DataError, match=reason) as caught:
        read_splats(path, **options)
    assert caught.value.path == str(path)
    assert "\n" not in str(caught.value)


def outcome(path: Path) -> Gaussians | DataError:
    """Anything but a DataError escapes and fails the test."""
    try:
        return read_splats(path)
    except DataError as error:
        return error


def ply(rows: bytes = b"", count: object = 1, form: str = "binary_little_endian 1.0", names: object = NEEDED) -> bytes:
    lines = ["ply", f"format {form}", f"element vertex {count}", *(f"property float {name}" for name in names)]
    return "\n".join([*lines, "end_header", ""]).encode() + rows


def spz(body: bytes = b"", magic: int = 0x5053474E, version: int = 3, count: int = 1, degree: int = 0) -> bytes:
    return gzip.compress(struct.pack("<IIIBBBB", magic, version, count, degree, 12, 0, 0) + body)


GOOD_ROW = np.array([0, 0, 0, 0.1, 0.1, 0.1, 0, -4, -4, -4, 1, 0, 0, 0], "<f4")


def row(**changes: float) -> bytes:
    values = GOOD_ROW.copy()
    for name, value in changes.items():
        values[NEEDED.index(name)] = value
    return values.tobytes()


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_missing_folder_empty_and_special(suffix: str, tmp_path: Path) -> None:
    refuse(tmp_path / f"none{suffix}", "no such file")
    (tmp_path / f"folder{suffix}").mkdir()
    refuse(tmp_path / f"folder{suffix}", "is a folder")
    (tmp_path / f"empty{suffix}").touch()
    refuse(tmp_path / f"empty{suffix}", "is empty")
    os.mkfifo(tmp_path / f"pipe{suffix}")
    refuse(tmp_path / f"pipe{suffix}", "is not a regular file")


CASES = {
    "text.ply": (b"once upon a time", "does not start with 'ply'"),
    "picture.ply": (b"\x89PNG\r\n\x1a\n" * 99, "does not start with 'ply'"),
    "endless.ply": (b"ply\nformat ascii 1.0\n" + b"comment x\n" * 99_999, "no end_header within"),
    "line.ply": (b"ply\n" + b"x" * 999_999, "no end_header within"),
    "bare.ply": (b"ply\nend_header\n", "without a format"),
    "format.ply": (ply(form="binary_mixed 1.0"), "unknown format 'format binary_mixed 1.0'"),
    "version.ply": (ply(form="ascii 2.0"), "unknown format"),
    "mesh.ply": (ply(names="xyz"), "not one of 3D Gaussians: its vertices lack f_dc_0, f_dc_1"),
    "twice.ply": (ply(names=[*NEEDED, "x"]), "no properties or with one twice"),
    "word.ply": (ply(count="many"), "'many' as the number of vertices"),
    "negative.ply": (ply(count=-1), "'-1' as the number"),
    "digits.ply": (ply(count="9" * 400), "as the number of vertices"),
    "unicode.ply": (ply(count="²"), "as the number of vertices"),
    "huge.ply": (ply(count=10**12), "claims 1,000,000,000,000 Gaussians, more than max_splats"),
    "short.ply": (ply(row()[:-1]), "truncated: 1 Gaussians take 56 bytes, there are 55"),
    "claims.ply": (ply(row(), 9_000_000), "truncated: 9,000,000 Gaussians take 504,000,000 bytes"),
    "claims-text.ply": (ply(b"1 2", 9_000_000, "ascii 1.0"), "truncated: 9,000,000"),
    "short-text.ply": (ply(b"0.125000 " * 14 + b"\n", 2, "ascii 1.0"), "truncated: 2 Gaussians wanted, 1 found"),
    "letters.ply": (ply(b"a " * 14 + b"\n", 1, "ascii 1.0"), "could not convert"),
    "columns.ply": (ply(b"0.1234567 " * 13 + b"\n", 1, "ascii 1.0"), "."),
    "list.ply": (ply().replace(b"float x", b"list uchar int x"), "wanted 'property TYPE NAME'"),
    "faces.ply": (ply().replace(b"vertex", b"face"), "first element is not 'vertex'"),
    "nan.ply": (ply(row(y=float("nan"))), "means of 1 of 1 Gaussians are not finite"),
    "infinite.ply": (ply(row(opacity=float("nan"))), "opacities of 1 of 1 Gaussians are not finite"),
    "wide.ply": (ply(row(scale_1=200.0)), "scales of 1 of 1 Gaussians are not finite"),
    "flat.ply": (ply(row(scale_1=-200.0)), "scales that are not positive"),
    "turn.ply": (ply(row(rot_0=0.0)), "a rotation of length zero"),
    "odd.splat": (b"\0" * 40, "8 bytes more than 1 Gaussians"),
    "zeros.splat": (b"\0" * 64, "2 of 2 Gaussians have scales that are not positive"),
    "renamed.splat": (ply(row()), "not a .splat file but a PLY"),
    "packed.splat": (spz(b"\1" * 20), "not a .splat file but a PLY or compressed one"),
    "still.splat": (struct.pack("<6f", 0, 0, 0, 1, 1, 1) + bytes([0] * 4 + [128] * 4), "a rotation of length zero"),
    "plain.spz": (b"\0" * 64, "not compressed with gzip"),
    "new.spz": (b"NGSP" + b"\4" + b"\0" * 60, "version 4 or later"),
    "other.spz": (spz(magic=1), "starts with 0x00000001"),
    "first.spz": (spz(version=1), "of version 1; versions 2 and 3"),
    "header.spz": (gzip.compress(b"NGSP"), "truncated inside its header"),
    "count.spz": (spz(count=2**32 - 1), "claims 4,294,967,295 Gaussians"),
    "short.spz": (spz(b"\1" * 19), "truncated: 1 Gaussians wanted"),
    "harmonics.spz": (spz(b"\1" * 20, degree=3), "45 bytes of harmonics are missing"),
    "degree.spz": (spz(b"\1" * 99, degree=9), "harmonics of degree 9"),
    "more.spz": (spz(b"\1" * 21), "more data than its header says"),
    "cut.spz": (spz(b"\1" * 20)[:-6], "."),
    "crc.spz": (spz(b"\1" * 20)[:-8] + b"\0" * 8, "CRC"),
    "noise.spz": (b"\x1f\x8b\x08" + b"\0" * 7 + b"\xff" * 50, "broken compressed data"),
}


@pytest.mark.parametrize("name", CASES)
def test_refused_with_its_reason(name: str, tmp_path: Path) -> None:
    content, reason = CASES[name]
    (tmp_path / name).write_bytes(content)
    refuse(tmp_path / name, reason)


def test_a_limit_on_the_count(tmp_path: Path) -> None:
    for suffix in SUFFIXES:
        write_splats(random_gaussians(11), tmp_path / f"a{suffix}")
        refuse(tmp_path / f"a{suffix}", "claims 11 Gaussians, more than max_splats = 10", max_splats=10)
        assert len(read_splats(tmp_path / f"a{suffix}", max_splats=11)) == 11


def test_a_gzip_bomb_is_not_unpacked(tmp_path: Path) -> None:
    bomb = spz(b"\0" * 300_000_000)
    assert len(bomb) < 1_000_000
    (tmp_path / "bomb.spz").write_bytes(bomb)
    tracemalloc.start()
    refuse(tmp_path / "bomb.spz", "more data than its header says")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 5_000_000


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_any_change_of_a_good_file_is_read_or_refused(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"a{suffix}"
    write_splats(random_gaussians(4), path)
    good = path.read_bytes()

    @settings(max_examples=150, deadline=None, database=None)
    @given(st.integers(0, len(good) - 1), st.binary(min_size=0, max_size=4), st.integers(0, 8))
    def check(at: int, new: bytes, removed: int) -> None:
        path.write_bytes(good[:at] + new + good[at + removed :])
        found = outcome(path)
        if isinstance(found, DataError):
            assert found.path == str(path)
            assert "\n" not in str(found)
        else:
            assert len(found) < 1000
            assert all(torch.isfinite(part).all() for part in vars(found).values())

    check()


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_nothing_is_written_for_bad_values_and_the_old_file_stays(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"a{suffix}"
    write_splats(random_gaussians(3), path)
    before = path.read_bytes()
    good = vars(random_gaussians(3))
    wrong = {
        "opacities of 1 of 3 Gaussians are not finite": {"opacities": torch.tensor([0.5, float("inf"), 0.5])},
        "scales that are not positive": {"scales": -good["scales"]},
        "an opacity outside": {"opacities": torch.full((3,), 1.5)},
        "rotation of length zero": {"quaternions": torch.zeros(3, 4)},
    }
    for reason, parts in wrong.items():
        with pytest.raises(DataError, match=f"cannot write: .*{reason}"):
            write_splats(Gaussians(**{**good, **parts}), path)
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]


def test_a_folder_that_takes_no_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot write: No such file or directory"):
        write_splats(random_gaussians(1), tmp_path / "none" / "a.ply")
    (tmp_path / "a.ply").mkdir()
    with pytest.raises(DataError, match="cannot write: Is a directory"):
        write_splats(random_gaussians(1), tmp_path / "a.ply")
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.ply"]
