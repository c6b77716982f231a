"""Files that cannot be used: one DataError with path and reason, whatever the bytes are."""

from __future__ import annotations

import io
import os
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from tests_image_files import VARIANTS, png_header

from tok4d.errors import DataError
from tok4d_image.modality import ImageModality
from tok4d_image.reading import ReadOptions, decode

IMAGE = ImageModality()
FILES = {name: make() for name, make in VARIANTS.items()}
WHOLE = {name: decode(io.BytesIO(content), name, ReadOptions())[0] for name, content in FILES.items()}


def refuse(path: Path, reason: str, **options) -> None:
    with pytest.raises(DataError, match=reason) as caught:
        IMAGE.read(path, **options)
    assert caught.value.path == str(path)
    assert "\n" not in str(caught.value)


def outcome(content: bytes, name: str) -> torch.Tensor | DataError:
    try:
        return decode(io.BytesIO(content), name, ReadOptions())[0]
    except DataError as error:
        return error


def assert_picture_or_one_line(content: bytes, name: str) -> None:
    """Anything but a DataError escapes and fails the test."""
    found = outcome(content, name)
    if isinstance(found, DataError):
        assert str(found).startswith(f"{name}: ")
        assert len(str(found).splitlines()) == 1
        assert found.reason
    else:
        assert found.shape[0] == 3
        assert min(found.shape) >= 1


def test_missing_folder_empty_and_mislabelled(tmp_path: Path) -> None:
    refuse(tmp_path / "none.png", "no such file")
    refuse(tmp_path, "is a folder")
    (tmp_path / "empty.png").touch()
    refuse(tmp_path / "empty.png", "is empty")
    (tmp_path / "text.png").write_text("once upon a time there was a picture")
    refuse(tmp_path / "text.png", "is not a readable image")
    (tmp_path / "page.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n")
    refuse(tmp_path / "page.png", "is not a readable image")
    os.mkfifo(tmp_path / "pipe.png")
    refuse(tmp_path / "pipe.png", "not a regular file")
    with pytest.raises(DataError, match=r"cannot be opened|no such file"):
        IMAGE.read("a\0b.png")


def test_a_true_image_under_a_wrong_suffix_is_read(tmp_path: Path) -> None:
    (tmp_path / "really.jpg").write_bytes(FILES["png"])
    assert IMAGE.read(tmp_path / "really.jpg").meta["format"] == "PNG"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_permission(tmp_path: Path) -> None:
    path = tmp_path / "mine.png"
    path.write_bytes(FILES["png"])
    path.chmod(0)
    refuse(path, "permission denied")


def test_permission_error_of_the_system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "mine.png"
    path.write_bytes(FILES["png"])

    def forbid(*args: object, **kwargs: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", forbid)
    refuse(path, "permission denied")


@pytest.mark.parametrize(("width", "height"), [(10_000, 10_000), (50_000, 50_000)])
def test_too_many_pixels_are_refused_by_the_header(width: int, height: int, tmp_path: Path) -> None:
    path = tmp_path / "huge.png"
    path.write_bytes(png_header(width, height))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        refuse(path, f"{width * height:,} pixels exceed the limit of 64,000,000|{width * height} pixels")


def test_the_bound_is_an_option(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(FILES["png"])
    refuse(path, r"37x23 = 851 pixels exceed the limit of 850", max_pixels=850)
    assert IMAGE.read(path, max_pixels=851).data["image"].shape == (3, 23, 37)


def test_zero_area(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png_header(0, 5))
    refuse(tmp_path / "a.png", "is not a readable image: .* no area")
    bmp = bytearray(FILES["bmp"])
    bmp[18:22] = bytes(4)  # the width
    (tmp_path / "a.bmp").write_bytes(bytes(bmp))
    refuse(tmp_path / "a.bmp", "is not a readable image: .* no area")


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_values_that_are_not_finite(bad: float, tmp_path: Path) -> None:
    values = np.full((4, 4), 0.5, dtype=np.float32)
    values[1, 2] = bad
    Image.fromarray(values).save(tmp_path / "a.tiff")
    refuse(tmp_path / "a.tiff", "1 of 16 pixel values are not finite")


@pytest.mark.parametrize("name", sorted(FILES))
def test_a_truncated_file_is_refused_unless_nothing_is_lost(name: str) -> None:
    content = FILES[name]
    refused = 0
    for cut in range(1, len(content), max(1, len(content) // 60)):
        found = outcome(content[:cut], name)
        if isinstance(found, DataError):
            refused += 1
        else:
            assert torch.equal(found, WHOLE[name]), f"{name} cut at {cut} of {len(content)} lost rows silently"
    assert refused > 20


@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from(sorted(FILES)),
    st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(1, 255)), min_size=1, max_size=6),
    st.floats(0.2, 1),
)
def test_flipped_bytes_give_a_picture_or_one_error(name: str, flips: list[tuple[float, int]], keep: float) -> None:
    content = bytearray(FILES[name])
    for place, change in flips:
        content[int(place * len(content))] ^= change
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert_picture_or_one_line(bytes(content[: int(keep * len(content))]), name)


@settings(max_examples=60, deadline=None)
@given(st.binary(min_size=1, max_size=200), st.sampled_from(sorted(FILES)))
def test_garbage_behind_a_true_beginning(tail: bytes, name: str) -> None:
    assert_picture_or_one_line(FILES[name][:40] + tail, name)


def test_a_damaged_tiff_says_nothing_on_the_terminal(capfd: pytest.CaptureFixture[str]) -> None:
    content = bytearray(FILES["tiff-deflate"])
    content[40:60] = bytes(20)
    assert isinstance(outcome(bytes(content), "a.tiff"), DataError)
    os.write(2, b"still there")
    assert capfd.readouterr() == ("", "still there")


def test_a_reader_in_another_thread_keeps_the_filters() -> None:
    from concurrent.futures import ThreadPoolExecutor

    before = list(warnings.filters)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: decode(io.BytesIO(FILES["png"]), "a", ReadOptions()), range(40)))
    assert warnings.filters == before
