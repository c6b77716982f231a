"""The `furniture` objects for other modalities: as pictures and as clips of a turntable.

F = frames, H, W = height and width. Caption, label and side of the split are those of the mesh (`catalogue`).
"""

from __future__ import annotations

import io
import math
import warnings
from abc import abstractmethod
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from tok4d.errors import ConfigError, DataError, unknown_name
from tok4d.modality import Sample
from tok4d_mesh3d.cache import TensorCache, digest_of
from tok4d_mesh3d.cameras import turntable
from tok4d_mesh3d.catalogue import FurnitureOptions
from tok4d_mesh3d.furniture import FurnitureItem, load_furniture, read_icon
from tok4d_mesh3d.prepared import GIGABYTE, from_bytes, to_bytes
from tok4d_mesh3d.reading import MAX_PIXELS, ReadOptions
from tok4d_mesh3d.rendering import render_views

LOOKS = ("render", "icon")
FRONT = 2  # of the frames of a turn, the one that pictures show without augmentation: a little from the side
MAX_ICON = 1 << 20  # pixels


@dataclass
class TurntableOptions(FurnitureOptions):
    """How an object turns before the camera.

    Attributes:
        size: side of a picture in pixels.
        frames: pictures of one whole turn.
        elevation: degrees above the ground.
        shading: `unlit` or `headlight`.
        background: display colour in [0, 1].
        cache_gb, cache_folder: as in `tok4d_mesh3d.prepared.AssetOptions`.
    """

    size: int = 128
    frames: int = 24
    elevation: float = 20.0
    shading: str = "headlight"
    background: list[float] = field(default_factory=lambda: [1.0, 1.0, 1.0])
    cache_gb: float = 8.0
    cache_folder: str = ""

    def __post_init__(self) -> None:
        super().__post_init__()
        _ = self.look
        if isinstance(self.frames, bool) or not isinstance(self.frames, int) or self.frames < 1:
            raise ConfigError(f"frames must be a whole number of at least 1, got {self.frames!r}")
        if self.frames * self.size**2 > MAX_PIXELS:
            raise ConfigError(f"{self.frames} frames of {self.size} pixels are too many: at most {MAX_PIXELS:,} pixels")
        if not -90 < self.elevation < 90 or not 0 <= self.cache_gb < math.inf:
            raise ConfigError(
                f"elevation must be in (-90, 90) degrees and cache_gb at least 0, got {self.elevation}, {self.cache_gb}"
            )

    @cached_property
    def look(self) -> ReadOptions:
        """Size, shading and background, checked."""
        return ReadOptions(size=self.size, shading=self.shading, background=tuple(self.background))  # type: ignore[arg-type]

    @cached_property
    def store(self) -> TensorCache:
        """The cache on disk."""
        folder = Path(self.cache_folder).expanduser() if self.cache_folder else None
        return TensorCache(folder, int(self.cache_gb * GIGABYTE))

    def turn(self, item: FurnitureItem) -> Tensor:
        """One turn of an object as bytes, uint8 `[F, 3, H, W]`."""
        asked = [self.frames, self.size, self.elevation, self.shading, list(self.look.background)]
        digest = digest_of({"turntable": self.identity(item), "options": asked})
        return self.store.get(digest, lambda: {"frames": self._draw(item)})["frames"]

    def _draw(self, item: FurnitureItem) -> Tensor:
        mesh = load_furniture(item)
        cameras = turntable(self.frames, self.elevation)
        views = render_views(mesh, cameras, self.size, shading=self.shading, background=self.look.background)
        return to_bytes(views.rgb * 2 - 1)

    def load(self, index: int, rng: np.random.Generator | None = None) -> Sample:
        """One object; its key is its id in the catalogue."""
        values = self.show(self.items[index], rng)
        return self.told(Sample(self.modality, {self.host.field: values}, fps=self.rate), index)

    @property
    def rate(self) -> float | None:
        """Frames a second, for clips."""
        return None

    @abstractmethod
    def show(self, item: FurnitureItem, rng: np.random.Generator | None) -> Tensor:
        """The main tensor of the object's sample, in [-1, 1]."""


@dataclass
class FurniturePictures(TurntableOptions):
    """One picture of each object: drawn from the side, with augmentation from any, or the catalogue's icon.

    Attributes:
        look_of: `render` or `icon`.
    """

    look_of: str = "render"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.look_of not in LOOKS:
            raise ConfigError(unknown_name("look_of", self.look_of, LOOKS))

    def show(self, item: FurnitureItem, rng: np.random.Generator | None) -> Tensor:
        """`[3, H, W]`."""
        if self.look_of == "icon":
            return self._icon(item)
        frame = FRONT % self.frames if rng is None else int(rng.integers(self.frames))
        return from_bytes(self.turn(item)[frame])

    def _icon(self, item: FurnitureItem) -> Tensor:
        """The icon over the background, at the size asked for."""
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error", Image.DecompressionBombWarning)
                with Image.open(io.BytesIO(read_icon(item)), formats=["PNG", "JPEG", "GIF"]) as opened:
                    if opened.width * opened.height > MAX_ICON:
                        raise ValueError(f"icon has {opened.width} x {opened.height} pixels")
                    picture = opened.convert("RGBA")
        except DataError:
            raise
        except Exception as error:  # decoders raise nearly any type on damaged bytes
            raise DataError(f"{item.archive}:{item.icon}", f"is no picture ({error})") from None
        ground = tuple(round(value * 255) for value in self.look.background)
        sheet = Image.new("RGBA", picture.size, (*ground, 255))
        sheet.alpha_composite(picture)
        pixels = np.asarray(sheet.convert("RGB").resize((self.size, self.size), Image.Resampling.LANCZOS))
        return from_bytes(torch.from_numpy(pixels.copy()).permute(2, 0, 1))


@dataclass
class FurnitureTurntables(TurntableOptions):
    """One turn of each object as a clip; with augmentation it begins at any side.

    Attributes:
        fps: frames a second.
    """

    fps: float = 12.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.fps < math.inf:
            raise ConfigError(f"fps must be above 0, got {self.fps!r}")

    @property
    def rate(self) -> float:
        return self.fps

    def show(self, item: FurnitureItem, rng: np.random.Generator | None) -> Tensor:
        """`[F, 3, H, W]`."""
        start = 0 if rng is None else int(rng.integers(self.frames))
        return from_bytes(self.turn(item).roll(-start, 0))
