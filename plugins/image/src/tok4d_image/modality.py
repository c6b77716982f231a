"""The image modality: one still picture is one plane of tokens (t = z = 0, x = patch row, y = patch column)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL.Image import Image
from torch import Tensor, nn

from tok4d import patches
from tok4d.errors import DataError, Tok4dError
from tok4d.modality import DEFAULT_PATCH, Modality, PatchSize, Sample
from tok4d.origin import Origin
from tok4d.tokens import TokenSet
from tok4d_image.pixels import to_signed
from tok4d_image.reading import SUFFIXES, ReadOptions, read_pixels
from tok4d_image.writing import to_picture, write_image


@dataclass(frozen=True)
class ImageModality(Modality):
    """PNG, JPEG, WebP, TIFF, BMP and GIF (first frame) of any size from 1x1.

    `Sample.data["image"]` is float32 `[3, H, W]` in [-1, 1].

    Attributes:
        fit: how a picture comes to whole patches: `pad` or `crop`, see `tok4d.patches.patchify`.
    """

    fit: str = "pad"

    name = "image"
    axes = ("x", "y")
    suffixes = SUFFIXES
    field = "image"

    def read(self, path: str | Path, **options: Any) -> Sample:
        """Read one file; see `tok4d_image.reading.ReadOptions` for the options.

        `meta` holds the format and the number of frames in the file.

        Raises:
            DataError: when the file cannot be used, with the path and the reason.
            ConfigError: for an unknown or unusable option.
        """
        pixels, meta = read_pixels(path, ReadOptions.parse(options))
        return Sample(self.name, {self.field: to_signed(pixels)}, key=str(path), meta=meta)

    def __post_init__(self) -> None:
        patches.check_options(self.fit)

    def write(self, sample: Sample, path: str | Path) -> None:
        """Write as PNG, JPEG, WebP, BMP or TIFF by suffix; see `tok4d_image.writing.write_image`."""
        write_image(self._image(sample, path), path)

    def patchify(self, sample: Sample, patch_size: PatchSize = DEFAULT_PATCH) -> TokenSet:
        """Tokens of one image `[3, H, W]`; see `tok4d.patches`."""
        return patches.patchify(self._image(sample, sample.key), self.name, patch_size, fit=self.fit)

    def unpatchify(self, tokens: TokenSet, head: nn.Module | None = None) -> list[Sample]:
        """Images `[3, H, W]` of every sample, without the padding; differentiable, unclamped.

        Raises:
            Tok4dError: when the tokens have no origins, or those of another modality.
        """
        if len(tokens.origins) != len(tokens):
            raise Tok4dError("image tokens need their origins to become images; these have none")
        samples = []
        for part, origin in zip(tokens.unpack(), tokens.origins, strict=True):
            if origin.modality != self.name:
                raise Tok4dError(f"tokens of modality {origin.modality!r} given to {self.name!r}")
            image = patches.unpatchify(part.feats, part.coords, origin)
            samples.append(Sample(self.name, {self.field: image}))
        return samples

    def grid(self, shape: Sequence[int], patch_size: PatchSize = DEFAULT_PATCH) -> tuple[Tensor, Origin]:
        origin = patches.origin_of(self.name, shape, patch_size, fit=self.fit)
        return patches.grid_coords(origin), origin

    def metrics(self) -> dict[str, Callable[[], Any]]:
        from tok4d.metrics import SamplePSNR
        from tok4d_image.metrics import SampleSSIM

        return {"psnr": lambda: SamplePSNR(self.field), "ssim": lambda: SampleSSIM(self.field)}

    def sources(self) -> dict[str, Any]:
        from tok4d_image.manifest import ImageManifest
        from tok4d_image.named import Emoji3dPictures, EmojiPictures, StampPictures
        from tok4d_image.shards import ImageShards
        from tok4d_image.sources import ImageFolder, ImagePhotos, ImageShapes

        named = {"emoji": EmojiPictures, "emoji3d": Emoji3dPictures, "stamps": StampPictures}
        files = {"folder": ImageFolder, "manifest": ImageManifest, "shards": ImageShards}
        return {**files, "photos": ImagePhotos, "shapes": ImageShapes, **named}

    def pictures(self, sample: Sample) -> Tensor:
        """The picture itself, `[1, 3, H, W]`."""
        return self._image(sample, sample.key)[None]

    def preview(self, sample: Sample) -> list[Image]:
        """The picture itself, 8-bit RGB."""
        return [to_picture(self._image(sample, sample.key))]

    def _image(self, sample: Sample, name: str | Path) -> Tensor:
        if self.field not in sample.data:
            raise DataError(name or "sample", f"has no tensor {self.field!r}, only {sorted(sample.data)}")
        image = sample.data[self.field]
        if image.ndim != 3:
            raise DataError(name or "sample", f"an image must be [3, height, width], got {list(image.shape)}")
        return image
