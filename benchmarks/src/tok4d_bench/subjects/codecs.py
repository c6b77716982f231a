"""Picture codecs that need no weights, as floors: a file, its size in bits, and what is decoded from it.

F = frames, H, W = height and width. A clip is coded frame by frame (the codec `av1` knows time).
"""

from __future__ import annotations

import io
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from tok4d.errors import ConfigError, unknown_name
from tok4d.modality import Sample
from tok4d_bench.contracts import Restored, Subject
from tok4d_bench.subjects.common import digest_of, pixels, with_main
from tok4d_bench.subjects.rate import largest_within

Pixels = np.ndarray  # uint8 [H, W, 3], or [F, H, W, 3] for a clip


def to_bytes(signed: Tensor) -> Pixels:
    """`[..., 3, H, W]` in [-1, 1], clamped and rounded -> uint8 `[..., H, W, 3]`."""
    levels = ((signed.detach().float().cpu().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
    return levels.movedim(-3, -1).contiguous().numpy()


def from_bytes(levels: Pixels) -> Tensor:
    """Inverse of `to_bytes`, float32."""
    return torch.from_numpy(np.array(levels)).movedim(-1, -3).float() / 127.5 - 1


class Codec(Subject):
    """A codec with one quality setting; a rate instead of it chooses the setting for every sample.

    The size is that of the whole coded file with its headers, which weigh on small pictures: compare codecs at 256
    pixels and more.

    Class attributes:
        lowest, highest: the range of settings.
        setting: what the option is called.
        low_is_best: whether pictures get worse with higher settings.

    Raises:
        ConfigError: for a setting out of range, a rate that is not positive, or both of them.
    """

    kind: ClassVar[str]
    lowest: ClassVar[int] = 1
    highest: ClassVar[int] = 100
    setting: ClassVar[str] = "quality"
    low_is_best: ClassVar[bool] = False
    discrete = True

    def __init__(self, source: str, quality: int | None, bpp: float | None, default: int, **settings: Any) -> None:
        if source:
            raise ConfigError(f"baseline {self.kind} takes no source, got {source!r}; its options are name=value")
        if quality is not None and bpp is not None:
            raise ConfigError(f"{self.kind}: give either {self.setting} or bpp")
        if bpp is not None and not 0 < bpp < 1000:
            raise ConfigError(f"{self.kind}: bpp must be positive bits per pixel, got {bpp}")
        chosen = default if quality is None else quality
        if isinstance(chosen, bool) or not isinstance(chosen, int) or not self.lowest <= chosen <= self.highest:
            raise ConfigError(
                f"{self.kind}: {self.setting} must be a whole number in [{self.lowest}, {self.highest}], got {chosen!r}"
            )
        self.quality, self.bpp, self.settings = chosen, bpp, settings
        self.name = f"{self.kind}@{bpp:g}bpp" if bpp is not None else f"{self.kind}-{chosen}"
        control = {"bpp": bpp} if bpp is not None else {self.setting: chosen}
        self._facts = {"kind": self.kind, "parameters": 0, **control, **settings, "codec": self.versions()}
        self.digest = digest_of(version=1, **self._facts)
        self.reconstructs = ("image", "video")

    def facts(self) -> dict[str, Any]:
        return dict(self._facts)

    def reconstruct(self, samples: Sequence[Sample]) -> list[Restored]:
        """Encode to a file in memory and decode that; `sample.meta` holds the setting that was used."""
        return [self._through(sample) for sample in samples]

    def _through(self, sample: Sample) -> Restored:
        levels = to_bytes(pixels(sample))
        if self.bpp is None:
            quality, coded = self.quality, self.encode(levels, self.quality)
        else:
            budget = self.bpp * levels.size / 3 / 8
            rank, coded = largest_within(lambda r: self.encode(levels, self._ranked(r)), self._steps, budget)
            quality = self._ranked(rank)
        restored = with_main(sample, from_bytes(self.decode(coded, levels.shape)))
        restored.meta = {self.setting: quality}
        return Restored(restored, bits=8.0 * len(coded))

    @property
    def _steps(self) -> int:
        return self.highest - self.lowest

    def _ranked(self, rank: int) -> int:
        """The setting of a rank in [0, steps], the worst first."""
        return self.highest - rank if self.low_is_best else self.lowest + rank

    @abstractmethod
    def encode(self, levels: Pixels, quality: int) -> bytes:
        """A picture or clip as a file; `quality` is the setting."""

    @abstractmethod
    def decode(self, coded: bytes, shape: tuple[int, ...]) -> Pixels:
        """Inverse of `encode`, of this shape."""

    @abstractmethod
    def versions(self) -> str:
        """The libraries at work: another version may code otherwise."""


class StillCodec(Codec):
    """A format of Pillow. Of a clip every frame is a file of its own, and their sizes add up."""

    format: ClassVar[str]
    feature: ClassVar[str]  # what Pillow calls the library

    def __init__(self, source: str, quality: int | None, bpp: float | None, default: int, **settings: Any) -> None:
        from PIL import features

        if not features.check(self.feature):
            raise ConfigError(
                f"baseline {self.kind}: this Pillow is built without {self.format}; pip install -U pillow"
            )
        super().__init__(source, quality, bpp, default, **settings)

    def versions(self) -> str:
        import PIL
        from PIL import features

        return f"pillow {PIL.__version__}, {self.feature} {features.version(self.feature)}"

    def encode(self, levels: Pixels, quality: int) -> bytes:
        if levels.ndim == 3:
            return self._still(levels, quality)
        stills = [self._still(frame, quality) for frame in levels]
        # Lengths beside the stills are what any container needs; eight bytes a frame are not counted as free.
        return b"".join(len(still).to_bytes(8, "little") + still for still in stills)

    def decode(self, coded: bytes, shape: tuple[int, ...]) -> Pixels:
        if len(shape) == 3:
            return _opened(coded)
        frames, place = [], 0
        for _ in range(shape[0]):
            length = int.from_bytes(coded[place : place + 8], "little")
            frames.append(_opened(coded[place + 8 : place + 8 + length]))
            place += 8 + length
        return np.stack(frames)

    def _still(self, frame: Pixels, quality: int) -> bytes:
        from PIL import Image

        out = io.BytesIO()
        Image.fromarray(frame).save(out, self.format, quality=quality, **self.saving())
        return out.getvalue()

    def saving(self) -> dict[str, Any]:
        """Options of Pillow's `save` besides the quality."""
        return dict(self.settings)


def _subsampling(kind: str, mode: Any) -> str:
    """What Pillow calls it. The option has no colons: YAML reads 4:4:4 as a number of base 60."""
    if str(mode) not in ("420", "422", "444"):
        raise ConfigError(unknown_name(f"{kind} subsampling", str(mode), ("420", "422", "444")))
    return ":".join(str(mode))


def _opened(coded: bytes) -> Pixels:
    from PIL import Image

    with Image.open(io.BytesIO(coded)) as picture:
        return np.asarray(picture.convert("RGB"))


class Jpeg(StillCodec):
    """Baseline JPEG by libjpeg-turbo with optimised Huffman tables.

    Args:
        quality: 1 to 100.
        bpp: bits per pixel; every sample then gets the best quality whose file fits.
        subsampling: of colour, 420, 422 or 444.
    """

    kind, format, feature = "jpeg", "JPEG", "jpg"

    def __init__(
        self,
        source: str = "",
        *,
        device: str = "cpu",
        dtype: str = "float32",
        quality: int | None = None,
        bpp: float | None = None,
        subsampling: int = 420,
    ) -> None:
        super().__init__(source, quality, bpp, 75, subsampling=_subsampling(self.kind, subsampling))

    def saving(self) -> dict[str, Any]:
        return {**self.settings, "optimize": True}


class WebP(StillCodec):
    """Lossy WebP.

    Args:
        quality, bpp: as for JPEG, 0 to 100.
        method: effort, 0 to 6.
    """

    kind, format, feature = "webp", "WEBP", "webp"
    lowest = 0

    def __init__(
        self,
        source: str = "",
        *,
        device: str = "cpu",
        dtype: str = "float32",
        quality: int | None = None,
        bpp: float | None = None,
        method: int = 4,
    ) -> None:
        if method not in range(7):
            raise ConfigError(f"webp: method must be 0 to 6, got {method!r}")
        super().__init__(source, quality, bpp, 80, method=method)


class Avif(StillCodec):
    """AVIF: stills coded by AV1.

    Args:
        quality, bpp: as for JPEG, 0 to 100.
        speed: 0 (slow, small) to 10.
        subsampling: of colour, 420, 422 or 444.
    """

    kind, format, feature = "avif", "AVIF", "avif"
    lowest = 0

    def __init__(
        self,
        source: str = "",
        *,
        device: str = "cpu",
        dtype: str = "float32",
        quality: int | None = None,
        bpp: float | None = None,
        speed: int = 6,
        subsampling: int = 420,
    ) -> None:
        if speed not in range(11):
            raise ConfigError(f"avif: speed must be 0 to 10, got {speed!r}")
        super().__init__(source, quality, bpp, 75, speed=speed, subsampling=_subsampling(self.kind, subsampling))

    def saving(self) -> dict[str, Any]:
        return {**self.settings, "max_threads": 1}
