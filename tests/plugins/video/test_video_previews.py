"""Previews: what is seen where, for how long, and nothing half-written."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from tok4d.errors import DataError, Tok4dError
from tok4d.modality import Sample
from tok4d_video.previews import GAP, MAX_FRAMES, MAX_SIDE, animation, contact_sheet, preview, side_by_side


def greys(frames: int, height: int = 6, width: int = 8, step: int = 2) -> Tensor:
    """A video whose frame i is flat, of 8-bit grey `step` i (then again from 0)."""
    values = (torch.arange(frames) * step % 256).float() / 127.5 - 1
    return values[:, None, None, None].expand(-1, 3, height, width).clone()


def played(path: Path) -> tuple[list[int], list[int]]:
    """Grey of the middle of every stored frame, and delays in ms."""
    shades, delays = [], []
    with Image.open(path) as image:
        for i in range(getattr(image, "n_frames", 1)):
            image.seek(i)
            image.load()
            delays.append(image.info["duration"])
            shades.append(image.convert("RGB").getpixel((image.width // 2, image.height // 2))[0])
    return shades, delays


def test_a_sheet_has_the_frames_in_reading_order() -> None:
    sheet = contact_sheet(greys(5), columns=3)
    pixels = np.asarray(sheet)
    assert (sheet.mode, sheet.size) == ("RGB", (3 * 8 + 2 * GAP, 2 * 6 + GAP))
    for i in range(5):
        top, left = i // 3 * (6 + GAP), i % 3 * (8 + GAP)
        assert (pixels[top : top + 6, left : left + 8] == 2 * i).all()
    white = np.ones(pixels.shape[:2], dtype=bool)
    for i in range(5):
        white[i // 3 * (6 + GAP) :, i % 3 * (8 + GAP) :][:6, :8] = False
    assert (pixels[white] == 255).all()


@pytest.mark.parametrize(
    ("frames", "most", "shown"),
    [(3, 16, [0, 1, 2]), (17, 5, [0, 4, 8, 12, 16]), (100, 2, [0, 99]), (10, 4, [0, 3, 6, 9]), (9, 1, [4])],
)
def test_frames_of_a_sheet_are_evenly_spaced(frames: int, most: int, shown: list[int]) -> None:
    pixels = np.asarray(contact_sheet(greys(frames), columns=100, max_frames=most))
    assert [int(pixels[0, i * (8 + GAP), 0]) // 2 for i in range(len(shown))] == shown
    assert pixels.shape[1] == len(shown) * (8 + GAP) - GAP


@pytest.mark.parametrize(
    ("height", "width", "size"),
    [(720, 1280, (4 * 254 + 3 * GAP, 4 * 143 + 3 * GAP)), (1000, 1, (4 + 3 * GAP, 4 * 254 + 3 * GAP))],
)
def test_a_sheet_is_bounded(height: int, width: int, size: tuple[int, int]) -> None:
    assert contact_sheet(torch.zeros(1, 3, height, width).expand(40, -1, -1, -1)).size == size


def test_shrinking_averages() -> None:
    fine = torch.ones(1, 3, 64, 64)
    fine[..., ::2] = -1
    pixels = np.asarray(contact_sheet(fine, columns=1, width=8))
    assert pixels.shape == (8, 8, 3)
    assert np.abs(pixels.astype(int) - 127).max() <= 8


def test_values_are_clamped_and_rounded_and_the_video_is_not_changed() -> None:
    video = torch.tensor([-7.0, 0.7 / 127.5, 7.0])[:, None, None, None].expand(-1, 3, 2, 2).clone().requires_grad_()
    before = video.detach().clone()
    pixels = np.asarray(contact_sheet(video))
    assert [int(pixels[0, i * (2 + GAP), 0]) for i in range(3)] == [0, 128, 255]
    assert torch.equal(video.detach(), before)


@pytest.mark.parametrize(
    ("video", "options", "message"),
    [
        (torch.zeros(3, 4, 4), {}, r"\[frames, 3, height, width\].* got \[3, 4, 4\]"),
        (torch.zeros(0, 3, 4, 4), {}, "at least one pixel"),
        (torch.zeros(2, 1, 4, 4), {}, r"got \[2, 1, 4, 4\]"),
        (torch.full((2, 3, 4, 4), torch.nan), {}, "48 of 48 values of a frame are not finite"),
        (torch.zeros(2, 3, 4, 4), {"columns": 0}, "columns is 0"),
        (torch.zeros(2, 3, 4, 4), {"max_frames": 0}, "max_frames is 0"),
        (torch.zeros(2, 3, 4, 4), {"columns": 50, "width": 100}, "no room for 50 columns"),
    ],
)
def test_what_no_sheet_can_show(video: Tensor, options: dict[str, int], message: str) -> None:
    with pytest.raises(Tok4dError, match=message):
        contact_sheet(video, **options)


def test_preview_is_the_sheet() -> None:
    video = greys(7)
    (sheet,) = preview(Sample("video", {"video": video}))
    assert np.array_equal(np.asarray(sheet), np.asarray(contact_sheet(video)))
    with pytest.raises(DataError, match=r"clip\.mp4: has no tensor 'video', only \['x'\]"):
        preview(Sample("video", {"x": video}, key="clip.mp4"))


def test_side_by_side() -> None:
    left, right = greys(3), -greys(3) * 9
    both = side_by_side(left, right)
    assert both.shape == (3, 3, 6, 8 + 2 + 8)
    assert torch.equal(both[..., :8], left)
    assert (both[..., 8:10] == 1).all()
    assert torch.equal(both[..., 10:], right.clamp(-1, 1))
    with pytest.raises(Tok4dError, match=r"\[3, 3, 6, 8\] and \[2, 3, 6, 8\]"):
        side_by_side(left, right[:2])


@pytest.mark.parametrize("suffix", [".webp", ".gif", ".GIF"])
@pytest.mark.parametrize("fps", [24, 30000 / 1001, 12.5, 7, Fraction(25, 1)])
def test_an_animation_lasts_as_long_as_the_video(tmp_path: Path, suffix: str, fps: float) -> None:
    path = tmp_path / f"clip{suffix}"
    animation(greys(40, step=6), fps, path)  # WebP merges frames that hardly differ
    shades, delays = played(path)
    unit = 1 if suffix == ".webp" else 10
    assert np.abs(np.array(shades) - 6 * np.arange(40)).max() <= (2 if unit == 1 else 0)
    assert abs(sum(delays) - 40_000 / fps) <= unit / 2
    assert max(abs(delay - 1000 / fps) for delay in delays) <= unit
    with Image.open(path) as image:
        assert image.info["loop"] == 0
        assert image.format == ("WEBP" if unit == 1 else "GIF")
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("frames", "fps", "step", "shown", "total"),
    [
        (60, 60, 2, 30, 1000),  # 16.7 ms are too short for browsers
        (61, 120, 3, 20, 508),  # what is left of the last, 8 ms, goes to the one before
        (720, 24, 3, 240, 30_000),  # more than MAX_FRAMES
        (5, None, 1, 5, 625),  # 8 a second
        (1, 1e6, 1, 1, 1),
    ],
)
def test_every_kth_frame_k_times_as_long(
    tmp_path: Path, frames: int, fps: float | None, step: int, shown: int, total: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved: dict[str, list[int]] = {}
    save = Image.Image.save

    def spy(self: Image.Image, *args: object, **options: object) -> None:
        pictures = [self, *options["append_images"]]  # type: ignore[misc]
        saved["shades"] = [picture.getpixel((0, 0))[0] for picture in pictures]
        saved["delays"] = options["duration"]  # type: ignore[assignment]
        save(self, *args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(Image.Image, "save", spy)
    animation(greys(frames), fps, tmp_path / "clip.webp")
    assert saved["shades"] == [2 * i % 256 for i in range(0, frames, step)][:shown]
    assert len(saved["shades"]) == len(saved["delays"]) == shown <= MAX_FRAMES
    assert sum(saved["delays"]) == total
    if shown > 1:
        assert min(saved["delays"]) >= 20
        assert sum(played(tmp_path / "clip.webp")[1]) == total


def test_frames_of_an_animation_are_bounded_and_small_ones_kept(tmp_path: Path) -> None:
    for shape, size in [((90, 2000), (MAX_SIDE, 23)), ((5, 7), (7, 5)), ((1, 1), (1, 1))]:
        for suffix in (".webp", ".gif"):
            animation(greys(2, *shape), 10, tmp_path / f"clip{suffix}")
            with Image.open(tmp_path / f"clip{suffix}") as image:
                assert image.size == size


def test_a_still_video_keeps_its_time_in_a_gif(tmp_path: Path) -> None:
    animation(torch.zeros(1, 3, 4, 4).expand(5000, -1, -1, -1), 10, tmp_path / "still.gif")
    assert sum(played(tmp_path / "still.gif")[1]) == 500_000


@pytest.mark.parametrize(
    ("video", "fps", "name", "message"),
    [
        (greys(3), 10, "clip.mp4", r"clip\.mp4: unknown animation suffix '\.mp4'; known: \.webp, \.gif"),
        (greys(3), 0, "clip.gif", "fps is 0; it must be a positive number"),
        (greys(3), float("nan"), "clip.gif", "fps is nan"),
        (greys(3), float("inf"), "clip.gif", "fps is inf"),
        (greys(3), 1e-320, "clip.gif", "longer than 600 seconds"),
        (greys(7), 0.01, "clip.gif", "7 frames at 0.01 a second last longer than 600 seconds"),
        (greys(3) * torch.nan, 10, "clip.webp", "not finite"),
        (greys(3), 10, "folder.gif", r"folder\.gif: cannot write: "),
        (greys(3), 10, "none/clip.gif", r"clip\.gif: cannot write: No such file"),
    ],
)
def test_what_cannot_be_written_leaves_everything_as_it_was(
    tmp_path: Path, video: Tensor, fps: float, name: str, message: str
) -> None:
    (tmp_path / "folder.gif").mkdir()
    before = tmp_path / "clip.gif"
    before.write_bytes(b"old")
    with pytest.raises(Tok4dError, match=message):
        animation(video, fps, tmp_path / name)
    assert before.read_bytes() == b"old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["clip.gif", "folder.gif"]
