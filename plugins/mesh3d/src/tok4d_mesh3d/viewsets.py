"""Assets given as pictures: a `transforms.json` with cameras, and a picture and a depth map for each (as TRELLIS,
instant-ngp and Blender exports have them).

V = views, H, W = height and width. The world is z up with the asset in the unit cube; depth runs along the view axis.
A depth map is `depth_file_path` or `depth_path` of a frame, else `NAME_depth.png` beside the picture: a 16-bit PNG.
Its unit is `depth: {min, max}` of the frame or the file (65,535 is `max` and means nothing there), or the file's
`integer_depth_scale` in world units (0 means nothing there).
"""

from __future__ import annotations

import io
import json
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from tok4d.errors import DataError, Tok4dError
from tok4d.modality import Sample
from tok4d_mesh3d.assets import AssetError, FolderAssets
from tok4d_mesh3d.cameras import Cameras, read_transforms
from tok4d_mesh3d.reading import ReadOptions, lifted_sample
from tok4d_mesh3d.rendering import Views
from tok4d_mesh3d.renders import evenly

MAX_BYTES = 1 << 28  # of one picture, encoded
MAX_PIXELS = 1 << 24  # of one picture
_ENDINGS = ("", ".png", ".webp", ".jpg", ".jpeg")


def read_viewset(path: str | Path, options: ReadOptions) -> Sample:
    """The sample of a `transforms.json`: at most `options.views` of its frames, evenly spaced, at `options.size`.

    Raises:
        DataError: when the file, a picture or a depth map is missing, damaged or outside of its folder.
    """
    cameras, names = read_transforms(path)
    if not names:
        raise DataError(path, "has no frames")
    content = json.loads(Path(path).read_text(encoding="utf-8"))
    chosen = evenly(len(names), options.views)
    loader = _Loader(Path(path), FolderAssets(Path(path).parent), content)
    frames = [loader.frame(i, names[i], options) for i in chosen]
    views = Views(*(torch.stack(parts) for parts in zip(*frames, strict=True)))
    kept = Cameras(cameras.world_to_camera[chosen], cameras.intrinsics[chosen])
    meta = {"format": "transforms.json", "frames": len(names)}
    return lifted_sample(views, kept, options, str(path), meta)


@dataclass(frozen=True)
class _Loader:
    path: Path
    assets: FolderAssets
    content: Mapping[str, Any]

    def frame(self, index: int, name: str, options: ReadOptions) -> tuple[Tensor, Tensor, Tensor]:
        """rgb `[3, H, W]` over the background, depth and alpha `[H, W]` of one frame."""
        try:
            picture = self._open(*(name + ending for ending in _ENDINGS))
            rgba = torch.from_numpy(np.asarray(picture.convert("RGBA"), np.float32) / 255).permute(2, 0, 1)
            depth, there = self._depth(self.content["frames"][index], name)
        except Tok4dError as error:
            raise DataError(self.path, f"frame {index}: {error}") from None
        if depth.shape != rgba.shape[1:] or depth.shape[0] != depth.shape[1]:
            sizes = f"{list(rgba.shape[1:])} and {list(depth.shape)}"
            raise DataError(self.path, f"frame {index}: picture and depth must be square and of one size, got {sizes}")
        alpha = rgba[3] if "A" in picture.getbands() else there.float()
        depth = depth * (there & (alpha >= 0.5))
        return _resized(rgba[:3] * alpha, alpha, depth, options)

    def _open(self, *names: str) -> Image.Image:
        """The first of the pictures that is there, decoded; raises `AssetError`."""
        for number, name in enumerate(names, 1):
            try:
                encoded = self.assets.read(name, MAX_BYTES)
            except AssetError:
                if number == len(names):
                    raise AssetError(f"{names[0]!r} is not there") from None
                continue
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("error", Image.DecompressionBombWarning)
                    opened = Image.open(io.BytesIO(encoded), formats=["PNG", "WEBP", "JPEG"])
                    if opened.width * opened.height > MAX_PIXELS:
                        raise ValueError(f"{opened.width} x {opened.height} pixels are too many")
                    opened.load()
                    return opened
            except Exception as error:  # decoders raise nearly any type on damaged bytes
                raise AssetError(f"{name!r} is no picture ({error})") from None
        raise AssetError("names no picture")

    def _depth(self, frame: Mapping[str, Any], name: str) -> tuple[Tensor, Tensor]:
        """Depth `[H, W]` and where there is any; raises `AssetError`."""
        place = PurePosixPath(name)
        stem = str(place.with_suffix("") if place.suffix.lower() in _ENDINGS else place)
        file = frame.get("depth_file_path") or frame.get("depth_path") or f"{stem}_depth.png"
        raw = torch.from_numpy(np.asarray(self._open(str(file)), np.float64))
        if raw.ndim != 2:
            raise AssetError(f"{file!r} must be a grey picture of 16 bits, has {raw.ndim} axes")
        unit = frame.get("depth", self.content.get("depth"))
        scale = self.content.get("integer_depth_scale")
        try:
            if unit is not None:
                low, high = float(unit["min"]), float(unit["max"])
                return (low + raw / 65535 * (high - low)).float(), raw < 65535
            if scale is not None:
                return (raw * float(scale)).float(), raw > 0
        except (TypeError, KeyError, ValueError) as error:
            raise AssetError(f"the unit of depth is damaged ({type(error).__name__}: {error})") from None
        raise AssetError("depth has no unit: neither depth: {min, max} nor integer_depth_scale is given")


def _resized(colour: Tensor, alpha: Tensor, depth: Tensor, options: ReadOptions) -> tuple[Tensor, Tensor, Tensor]:
    """At the size asked for, over the background; `colour` is multiplied by `alpha`."""
    size = (options.size, options.size)
    if depth.shape != size:
        mixed = torch.cat([colour, alpha[None]])[None]
        mode: dict[str, Any] = {"mode": "bilinear", "antialias": True, "align_corners": False}
        colour, alpha = F.interpolate(mixed, size, **mode)[0].clamp(0, 1).split([3, 1])
        alpha = alpha[0]
        depth = F.interpolate(depth[None, None], size, mode="nearest-exact")[0, 0]
    ground = torch.tensor(options.background)[:, None, None]
    return (colour + (1 - alpha) * ground).clamp(0, 1), depth.float(), alpha
