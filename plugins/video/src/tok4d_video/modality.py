"""The video modality: a clip is a block of tokens (t = latent step, x = patch row, y = patch column, z = 0).

F = frames, H = height, W = width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL.Image import Image
from torch import Tensor, nn

from tok4d import patches
from tok4d.errors import DataError, Tok4dError
from tok4d.modality import DEFAULT_PATCH, Modality, PatchSize, Sample, SampleStream, SampleWriter
from tok4d.origin import Origin
from tok4d.tokens import TokenSet
from tok4d_video.ffmpeg import SUFFIXES
from tok4d_video.pixels import to_signed
from tok4d_video.reading import Clip
from tok4d_video.sampling import Indices
from tok4d_video.view import ReadOptions
from tok4d_video.writing import VideoWriter

MAX_VALUES = 2**31  # of a clip read whole: 8 GiB of float32
DEFAULT_FPS = 25.0  # for a clip that does not know its own


@dataclass(frozen=True)
class VideoModality(Modality):
    """MP4, MOV, Matroska, WebM, AVI, animated GIF and what else FFmpeg reads, of any length and size.

    `Sample.data["video"]` is float32 `[F, 3, H, W]` in [-1, 1]; a picture is a clip of one frame.

    Attributes:
        fit: how frames come to whole patches: `pad` or `crop`, see `tok4d.patches.patchify`.
        frames: how a clip comes to whole latent steps: `pad` or `floor`.
    """

    fit: str = "pad"
    frames: str = "pad"

    name = "video"
    axes = ("t", "x", "y")
    suffixes = SUFFIXES
    field = "video"
    streams = True
    shows = ".mp4"

    def __post_init__(self) -> None:
        patches.check_options(self.fit, self.frames)

    def read(self, path: str | Path, **options: Any) -> Sample:
        """Read one file whole; see `tok4d_video.view.ReadOptions` for the options.

        `meta` holds what was found out about the file, and which reader read it.

        Raises:
            DataError: when the file cannot be used, or its frames do not fit into memory.
            ConfigError: for an unknown or unusable option.
        """
        asked = ReadOptions.parse(options)
        with asked.open(path) as clip:
            chosen = asked.choose(clip)
            height, width = asked.resize().result(clip.height, clip.width)
            if (values := len(chosen) * 3 * height * width) > MAX_VALUES:
                raise DataError(
                    path,
                    f"{len(chosen)} frames of {height} x {width} pixels are {values:,} values, the limit is "
                    f"{MAX_VALUES:,}; read fewer or smaller ones (frames=, end=, stride=, size=)",
                )
            chunks = [to_signed(chunk) for chunk in clip.stream(indices=chosen, resize=asked.resize())]
            video = chunks[0] if len(chunks) == 1 else _joined(chunks)
            return Sample(self.name, {self.field: video}, asked.fps(clip, chosen), key=str(path), meta=_meta(clip))

    def write(self, sample: Sample, path: str | Path) -> None:
        """Write as MP4, MOV, MKV, WebM, AVI or GIF by suffix, or as a folder of PNG files without one.

        Raises:
            DataError: when it cannot be written.
        """
        with VideoWriter(path, sample.fps or DEFAULT_FPS) as writer:
            writer.write(self._video(sample, path))

    def stream(
        self,
        path: str | Path,
        frames: int,
        patch_size: PatchSize = DEFAULT_PATCH,
        options: Mapping[str, Any] | None = None,
    ) -> SampleStream:
        """The file in pieces of `frames` frames; options and errors as in `read`."""
        asked = ReadOptions.parse(options or {})
        clip = asked.open(path)
        chosen = asked.choose(clip)
        if self.frames == "floor" and len(chosen) > patch_size[0]:
            chosen = chosen[: len(chosen) // patch_size[0] * patch_size[0]]
        return _ClipStream(clip, asked, chosen, frames, self)

    def writer(self, path: str | Path, fps: float | None = None) -> SampleWriter:
        """A file to write piece by piece, in the formats of `write`."""
        return _ClipWriter(VideoWriter(path, fps or DEFAULT_FPS), self)

    def patchify(self, sample: Sample, patch_size: PatchSize = DEFAULT_PATCH) -> TokenSet:
        """Tokens of one clip; see `tok4d.patches`."""
        video = self._video(sample, sample.key)
        return patches.patchify(video, self.name, patch_size, fit=self.fit, frames=self.frames, fps=sample.fps)

    def unpatchify(self, tokens: TokenSet, head: nn.Module | None = None) -> list[Sample]:
        """Clips `[F, 3, H, W]` of every sample, without the padding; differentiable, unclamped.

        Raises:
            Tok4dError: when the tokens have no origins, or those of another modality.
        """
        if len(tokens.origins) != len(tokens):
            raise Tok4dError("video tokens need their origins to become clips; these have none")
        samples = []
        for part, origin in zip(tokens.unpack(), tokens.origins, strict=True):
            if origin.modality != self.name or len(origin.shape) != 4:
                raise Tok4dError(
                    f"tokens of modality {origin.modality!r}, shape {origin.shape}, given to {self.name!r}"
                )
            video = patches.unpatchify(part.feats, part.coords, origin)
            samples.append(Sample(self.name, {self.field: video}, origin.fps))
        return samples

    def grid(self, shape: Sequence[int], patch_size: PatchSize = DEFAULT_PATCH) -> tuple[Tensor, Origin]:
        origin = patches.origin_of(self.name, shape, patch_size, fit=self.fit, frames=self.frames)
        return patches.grid_coords(origin), origin

    def metrics(self) -> dict[str, Callable[[], Any]]:
        from tok4d.metrics import SamplePSNR
        from tok4d_video import metrics

        return {
            "psnr": lambda: SamplePSNR(self.field),
            "frame_psnr": lambda: metrics.VideoFramePSNR(self.field),
            "ssim": lambda: metrics.VideoSSIM(self.field),
            "temporal": lambda: metrics.VideoTemporal(self.field),
            "seam_flicker": lambda: metrics.VideoSeamFlicker(self.field),
        }

    def sources(self) -> dict[str, Any]:
        from tok4d_video.clips import VideoClips
        from tok4d_video.manifest import VideoManifest
        from tok4d_video.moving import VideoMoving
        from tok4d_video.pans import VideoPans
        from tok4d_video.shards import VideoShards
        from tok4d_video.sources import VideoFolder

        return {
            "folder": VideoFolder,
            "manifest": VideoManifest,
            "shards": VideoShards,
            "clips": VideoClips,
            "moving": VideoMoving,
            "pans": VideoPans,
        }

    def pictures(self, sample: Sample) -> Tensor:
        """The frames, `[F, 3, H, W]`."""
        return self._video(sample, sample.key)

    def preview(self, sample: Sample) -> list[Image]:
        """A contact sheet of evenly spaced frames."""
        from tok4d_video.previews import preview

        return preview(sample)

    def _video(self, sample: Sample, name: str | Path) -> Tensor:
        if self.field not in sample.data:
            raise DataError(name or "sample", f"has no tensor {self.field!r}, only {sorted(sample.data)}")
        video = sample.data[self.field]
        if video.ndim != 4:
            raise DataError(name or "sample", f"a clip must be [frames, 3, height, width], got {list(video.shape)}")
        return video


class _ClipStream(SampleStream):
    """An open clip in pieces."""

    def __init__(self, clip: Clip, asked: ReadOptions, chosen: Indices, size: int, owner: VideoModality) -> None:
        self.path, self.frames = str(clip.path), len(chosen)
        self.fps, self.meta = asked.fps(clip, chosen), _meta(clip)
        self._clip, self._asked, self._chosen, self._size, self._owner = clip, asked, chosen, size, owner

    def __iter__(self) -> Iterator[Sample]:
        for chunk in self._clip.stream(self._size, self._chosen, self._asked.resize()):
            video = to_signed(chunk)
            yield Sample(self._owner.name, {self._owner.field: video}, self.fps, key=self.path, meta=self.meta)

    def close(self) -> None:
        self._clip.close()


class _ClipWriter(SampleWriter):
    """A file that grows piece by piece."""

    def __init__(self, writer: VideoWriter, owner: VideoModality) -> None:
        self._writer, self._owner = writer, owner

    def add(self, piece: Sample) -> None:
        self._writer.write(self._owner._video(piece, self._writer.path))

    def finish(self, complete: bool) -> None:
        if complete:
            self._writer.close()
        else:
            self._writer.abandon()


def _joined(chunks: list[Tensor]) -> Tensor:
    """Chunks one after the other, each freed as soon as it is copied."""
    total = chunks[0].new_empty(sum(len(chunk) for chunk in chunks), *chunks[0].shape[1:])
    place = 0
    while chunks:
        chunk = chunks.pop(0)
        total[place : place + len(chunk)] = chunk
        place += len(chunk)
    return total


def _meta(clip: Clip) -> dict[str, Any]:
    info = clip.info
    facts = {
        "reader": clip.reader,
        "container": info.container,
        "codec": info.codec,
        "pixel_format": info.pixel_format,
        "frames": info.frames,
        "native_size": [info.height, info.width],
        "native_fps": round(float(info.fps), 6),
        "duration": round(info.duration, 6),
        "varying_rate": info.varying,
    }
    return facts | ({"fallback": clip.fallback} if clip.fallback else {})
