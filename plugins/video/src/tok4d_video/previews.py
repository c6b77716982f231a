"""Pictures of videos for reports and logs: contact sheets, animated WebP and GIF, original beside reconstruction.

F = frames, H = height, W = width. Videos are float `[F, 3, H, W]` in [-1, 1]; values outside are clamped, and
rounded to 8 bits. Frames are made smaller to fit, never larger.
"""

from __future__ import annotations

import math
from itertools import pairwise
from pathlib import Path
from typing import Any
from uuid import uuid4

import torch
from PIL import Image
from torch import Tensor

from tok4d.errors import DataError, Tok4dError
from tok4d.modality import Sample

__all__ = ["animation", "contact_sheet", "preview", "side_by_side"]

GAP, WHITE = 2, (255, 255, 255)  # pixels between the frames of a sheet
MAX_FRAMES, MAX_SIDE = 300, 512  # of an animation: 10 seconds at 30 frames per second, in a few MB
MIN_DELAY = 20  # ms; browsers play shorter ones ten times too slow
MAX_SECONDS = 600  # of an animation; a GIF holds 655 seconds a frame, and equal frames become one
DEFAULT_FPS = 8.0  # of videos that do not say
_FORMATS: dict[str, tuple[str, int, dict[str, Any]]] = {  # by suffix: Pillow's name, unit of delay in ms, options
    ".webp": ("WEBP", 1, {"quality": 90, "method": 2}),
    ".gif": ("GIF", 10, {}),
}


def preview(sample: Sample, field: str = "video") -> list[Image.Image]:
    """Pictures that show a video: its contact sheet.

    Raises:
        DataError: when the sample has no such tensor.
        Tok4dError: as `contact_sheet` does.
    """
    if field not in sample.data:
        raise DataError(sample.key or "sample", f"has no tensor {field!r}, only {sorted(sample.data)}")
    return [contact_sheet(sample.data[field])]


def contact_sheet(video: Tensor, columns: int = 4, max_frames: int = 16, width: int = 1024) -> Image.Image:
    """Evenly spaced frames in reading order on white, the first and the last among them.

    Args:
        video: `[F, 3, H, W]` in [-1, 1].
        columns: frames in a row; fewer when there are fewer frames.
        max_frames: all frames are shown when there are no more. Of several, 1 shows the middle one.
        width: of a full row at most, in pixels; a frame is at most as high as a column is wide, so that the sheet has
            at most about `width**2 / columns * ceil(max_frames / columns)` pixels.

    Raises:
        Tok4dError: for another shape, values that are not finite, or sizes that leave no room.
    """
    _check_video(video)
    if columns < 1 or max_frames < 1:
        raise Tok4dError(f"columns is {columns} and max_frames is {max_frames}; both must be at least 1")
    side = (width - GAP * (columns - 1)) // columns
    if side < 1:
        raise Tok4dError(f"a width of {width} pixels has no room for {columns} columns; make it larger")
    frames = _pictures(video[_spread(len(video), max_frames)], side)
    across, down = min(columns, len(frames)), -(-len(frames) // columns)
    step_x, step_y = frames[0].width + GAP, frames[0].height + GAP
    sheet = Image.new("RGB", (across * step_x - GAP, down * step_y - GAP), WHITE)
    for i, frame in enumerate(frames):
        sheet.paste(frame, (i % columns * step_x, i // columns * step_y))
    return sheet


def side_by_side(original: Tensor, reconstruction: Tensor) -> Tensor:
    """Frames of both with a thin white line between: `[F, 3, H, 2 W + gap]` in [-1, 1], clamped.

    Args:
        original, reconstruction: `[F, 3, H, W]` in [-1, 1], of one shape.

    Raises:
        Tok4dError: for other shapes, or shapes that differ.
    """
    _check_video(original)
    if original.shape != reconstruction.shape:
        raise Tok4dError(f"frames {list(original.shape)} and {list(reconstruction.shape)} do not go side by side")
    line = original.new_ones(*original.shape[:3], max(GAP, original.shape[3] // 64))
    both = [original.detach(), line, reconstruction.detach().to(original)]
    return torch.cat(both, dim=3).clamp(-1, 1)


def animation(video: Tensor, fps: float | None, path: str | Path) -> None:
    """Write an endlessly looped animated WebP or GIF, by suffix, that plays at the video's own speed.

    At most `MAX_FRAMES` frames of at most `MAX_SIDE` pixels a side. Of longer or faster videos every k-th frame is
    shown, k times as long: browsers do not play frames shorter than 20 ms. Delays are whole milliseconds (WebP) or
    hundredths of a second (GIF), rounded so that the whole lasts as long as the video. WebP is lossy at quality 90 and
    stores neighbours that differ by at most 3 grey levels as one frame; GIF has 256 colours a frame.

    Args:
        video: `[F, 3, H, W]` in [-1, 1].
        fps: frames per second; None is taken as `DEFAULT_FPS`.

    Raises:
        Tok4dError: for another shape, values that are not finite, an fps that is not positive, or a video of more than
            `MAX_SECONDS`.
        DataError: for an unknown suffix or a folder that takes no file. A file that was there before stays as it was.
    """
    target = Path(path)
    if target.suffix.lower() not in _FORMATS:
        raise DataError(path, f"unknown animation suffix {target.suffix!r}; known: {', '.join(_FORMATS)}")
    kind, unit, options = _FORMATS[target.suffix.lower()]
    _check_video(video)
    step, delays = _timing(len(video), DEFAULT_FPS if fps is None else fps, unit)
    first, *others = _pictures(video[::step][: len(delays)], MAX_SIDE)
    options = {**options, "save_all": True, "append_images": others, "duration": delays, "loop": 0}
    unfinished = target.with_name(f".{uuid4().hex}.part")
    try:
        with unfinished.open("xb") as stream:
            first.save(stream, format=kind, **options)
        unfinished.replace(target)
    except OSError as error:
        raise DataError(path, f"cannot write: {error.strerror or error}") from None
    finally:
        unfinished.unlink(missing_ok=True)


def _timing(frames: int, fps: float, unit: int) -> tuple[int, list[int]]:
    """Every which frame is shown, and the delay of each in ms, whole units: ends are rounded, not lengths."""
    if not (math.isfinite(fps) and fps > 0):
        raise Tok4dError(f"fps is {fps}; it must be a positive number")
    if frames > MAX_SECONDS * fps:
        seconds = f"{frames} frames at {fps:g} a second"
        raise Tok4dError(f"{seconds} last longer than {MAX_SECONDS} seconds, the most an animation shows; give a part")
    step = max(1, math.ceil(MIN_DELAY * fps / 1000 - 1e-9), -(-frames // MAX_FRAMES))
    ends = [math.floor(1000 * start / fps / unit + 0.5) * unit for start in (*range(0, frames, step), frames)]
    delays = [after - before for before, after in pairwise(ends)]
    if len(delays) > 1 and delays[-1] < MIN_DELAY:  # what is left after a whole number of steps
        delays[-2:] = [delays[-2] + delays[-1]]
    return step, [max(unit, delay) for delay in delays]


def _spread(frames: int, most: int) -> list[int]:
    """Indices of at most `most` evenly spaced frames, from the first to the last."""
    if frames <= most:
        return list(range(frames))
    if most == 1:
        return [(frames - 1) // 2]
    return [i * (frames - 1) // (most - 1) for i in range(most)]


def _pictures(video: Tensor, side: int) -> list[Image.Image]:
    """8-bit RGB frames, none wider or higher than `side`."""
    height, width = video.shape[2:]
    scale = min(1.0, side / max(height, width))
    size = max(1, round(width * scale)), max(1, round(height * scale))
    return [_picture(frame).resize(size, Image.Resampling.BICUBIC) for frame in video]


def _picture(frame_CHW: Tensor) -> Image.Image:
    if bad := int((~torch.isfinite(frame_CHW)).sum()):
        raise Tok4dError(f"{bad} of {frame_CHW.numel()} values of a frame are not finite; it cannot be shown")
    pixels = ((frame_CHW.detach().float().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
    return Image.fromarray(pixels.permute(1, 2, 0).contiguous().cpu().numpy())


def _check_video(video: Tensor) -> None:
    if video.ndim != 4 or video.shape[1] != 3 or video.numel() == 0:
        raise Tok4dError(f"a video must be [frames, 3, height, width] with at least one pixel, got {list(video.shape)}")
