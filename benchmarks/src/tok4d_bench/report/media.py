"""Files that a page shows: pictures, clips, viewers, and maps of where a reconstruction errs.

N = pictures, H, W = height and width.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tok4d.errors import Tok4dError
from tok4d.modality import Modality, Sample
from tok4d.plugins.registry import modality
from tok4d_bench.prepare import is_pictures

LONGEST = 1024  # pixels of a side that a page shows
LEAST_SCALE = 4 / 255  # of the full range: below, rounding to 8 bits would fill a map
_RAMP = np.array([[0, 0, 4], [74, 16, 110], [170, 45, 92], [236, 104, 38], [252, 190, 60], [252, 255, 200]], np.float64)


@dataclass(frozen=True)
class Shown:
    """One picture of a page.

    Attributes:
        title, alt: caption, and what it shows for those who do not see it.
        picture: file, relative to the page.
        clip: `.mp4` to play in its place; empty: none.
        viewer: `.html` to turn it; empty: none.
        small: enlarge it without smoothing.
        note: what is to be said of it, such as that a file could not be written.
    """

    title: str
    alt: str
    picture: str = ""
    clip: str = ""
    viewer: str = ""
    small: bool = False
    note: str = ""


def show(sample: Sample, out: Path, stem: str, title: str, alt: str) -> Shown:
    """Write what a page shows of a sample below `out`; what cannot be written is said in `note`."""
    host = modality(sample.modality)
    made: dict[str, Any] = {}
    if host.shows:
        file = out / f"{stem}{host.shows}"
        try:
            host.write(sample, file)
            made["viewer" if host.shows == ".html" else "clip"] = f"{out.name}/{file.name}"
        except Tok4dError as error:
            made["note"] = f"no {host.shows}: {error}"
    if "clip" in made:  # a still would only hide its first frame
        made["small"] = max(sample.data[host.field].shape[-2:]) <= LONGEST // 4
    elif previews := host.preview(sample):
        picture = previews[0]
        made["small"] = max(picture.size) <= LONGEST // 4
        picture.thumbnail((LONGEST, LONGEST))
        picture.save(out / f"{stem}.png")
        made["picture"] = f"{out.name}/{stem}.png"
    return Shown(title, alt, **made)


def error_maps(original: Sample, restored: Mapping[str, Sample]) -> tuple[dict[str, Sample], float]:
    """Mean absolute error over the colours at every pixel, as colours, on one scale for all reconstructions.

    Only of what is pictures pixel by pixel: an asset's previews are drawn from other cameras than its original's.

    Args:
        restored: by subject.

    Returns:
        A sample of colours a subject, none where nothing can be compared; and the error at the end of the scale, as a
        part of the full range: what the middle one of the subjects exceeds at one pixel in a thousand.
    """
    host = modality(original.modality)
    values = original.data[host.field]
    wanted = _pictures(host, original) if is_pictures(values) else None
    errors: dict[str, Tensor] = {}
    for label, sample in restored.items():
        got = None if wanted is None else _pictures(host, sample)
        if wanted is not None and got is not None and got.shape == wanted.shape:
            errors[label] = (got - wanted).abs().mean(-3) / 2
    if not errors:
        return {}, 0.0
    ends = sorted(float(_thinned(error).quantile(0.999)) for error in errors.values())
    scale = max(LEAST_SCALE, ends[len(ends) // 2])
    made = {}
    for label, error in errors.items():
        colours = torch.from_numpy(_coloured(error / scale)).movedim(-1, -3).float() / 127.5 - 1
        made[label] = replace(original, data={host.field: colours.reshape(values.shape)})
    return made, scale


def _pictures(host: Modality, sample: Sample) -> Tensor | None:
    """`[N, 3, H, W]` in [-1, 1]."""
    found = host.pictures(sample)
    return None if found is None else found.detach().float().clamp(-1, 1)


def _thinned(error: Tensor, most: int = 1 << 20) -> Tensor:
    """Every k-th value: a quantile takes only so many."""
    return error.flatten()[:: max(1, error.numel() // most)]


def _coloured(share_NHW: Tensor) -> np.ndarray:
    """uint8 `[N, H, W, 3]` of shares of the scale, from black over red to yellow."""
    place = share_NHW.clamp(0, 1).numpy() * (len(_RAMP) - 1)
    low = np.minimum(place.astype(np.int64), len(_RAMP) - 2)
    part = (place - low)[..., None]
    return np.asarray((_RAMP[low] * (1 - part) + _RAMP[low + 1] * part).round(), dtype=np.uint8)
