"""The modality contract: what a plugin implements to turn its files into tokens and back.

A plugin author writes four methods, `read`, `write`, `patchify` and `unpatchify`; everything else has a default that
suits dense data. `tok4d.testing.ModalityConformance` checks the contract.
"""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar

from tok4d.errors import ConfigError, unknown_name
from tok4d.options import check_fields
from tok4d.origin import Origin

if TYPE_CHECKING:  # torch and Pillow load only when a modality is used
    from PIL.Image import Image
    from torch import Tensor, nn
    from typing_extensions import Self

    from tok4d.losses.objective import Objective
    from tok4d.tokens import TokenSet

__all__ = ["DEFAULT_PATCH", "Modality", "Origin", "PatchSize", "Sample", "SampleStream", "SampleWriter", "patch_width"]

PatchSize = tuple[int, int, int]
DEFAULT_PATCH: PatchSize = (4, 16, 16)
CHANNELS = 3  # a patch holds RGB values; other data fills the same width its own way


def patch_width(patch_size: PatchSize = DEFAULT_PATCH) -> int:
    """Feature width of a token: frames * height * width * 3 (3072 for the default patch)."""
    return prod(patch_size) * CHANNELS


@dataclass
class Sample:
    """One image, clip, asset, ... in memory.

    Attributes:
        modality: name of the modality it belongs to.
        data: tensors by name; `data[modality.field]` is the main one. Pictures are float32 in [-1, 1].
        fps: frames (or samples) per second, where time exists.
        caption, label: text and class, where known.
        key: what names the sample in logs and results, usually its path.
        meta: anything else worth keeping, such as the number of frames left out.
    """

    modality: str
    data: dict[str, Tensor]
    fps: float | None = None
    caption: str | None = None
    label: int | None = None
    key: str = ""
    meta: dict[str, Any] = field(default_factory=dict)


class SampleStream(ABC):
    """One file in consecutive pieces along time, for files that are too long for memory. A context manager.

    Attributes:
        path: the file, for errors.
        frames: how many are expected, for progress; None when unknown. What the iteration gives is what counts.
        fps, meta: as in `Sample`.
    """

    path: str
    frames: int | None = None
    fps: float | None = None
    meta: dict[str, Any]

    @abstractmethod
    def __iter__(self) -> Iterator[Sample]:
        """Pieces in order, all of the length asked for but the last.

        Raises:
            DataError: when the file cannot be used, with the path and the reason.
        """

    @abstractmethod
    def close(self) -> None:
        """Release the file."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class SampleWriter(ABC):
    """Writes one sample piece by piece. A context manager: the file is complete when it ends well, else not there."""

    @abstractmethod
    def add(self, piece: Sample) -> None:
        """Append a piece; clamping and rounding belong here.

        Raises:
            DataError: when it cannot be written.
        """

    @abstractmethod
    def finish(self, complete: bool) -> None:
        """Close the file; when not `complete`, leave nothing behind."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        self.finish(kind is None)


class Modality(ABC):
    """One kind of data. Stateless and picklable; the host makes one object per plugin.

    Class attributes:
        name: the modality's name, also the prefix of its sources and metrics (`image/psnr`).
        axes: grid axes in use, out of `("t", "x", "y", "z")`.
        suffixes: file suffixes that `read` takes, lower case with the dot; the first is the default of `write`.
        field: key of the main tensor in `Sample.data`; its shape is what `Origin.shape` records.
        streams: whether files may be read and written in pieces: `stream` and `writer` are there.
        shows: suffix in which `write` makes what a web page plays or lets people turn (`.mp4`, `.html`); empty: none.
        decoded: options with which `read` takes files that hold what `unpatchify` gives, where that is another kind of
            thing than what `patchify` takes (Gaussians instead of surfaces); empty: files are read as originals are.
    """

    name: ClassVar[str]
    axes: ClassVar[tuple[str, ...]]
    suffixes: ClassVar[tuple[str, ...]]
    field: ClassVar[str]
    streams: ClassVar[bool] = False
    shows: ClassVar[str] = ""
    decoded: ClassVar[Mapping[str, Any]] = MappingProxyType({})

    @abstractmethod
    def read(self, path: str | Path, **options: Any) -> Sample:
        """Read one file.

        Raises:
            DataError: when the file cannot be used, with the path and the reason. Bound the decoded size from the
                header before decoding.
        """

    @abstractmethod
    def write(self, sample: Sample, path: str | Path) -> None:
        """Write one sample; clamping and rounding belong here. Nothing half-written may stay behind."""

    @abstractmethod
    def patchify(self, sample: Sample, patch_size: PatchSize = DEFAULT_PATCH) -> TokenSet:
        """Cut a sample into tokens of width `patch_width(patch_size)`, zero-padded, with one Origin.

        The Origin must suffice to restore the sample exactly: original shape, padding, channels in use.
        """

    @abstractmethod
    def unpatchify(self, tokens: TokenSet, head: nn.Module | None = None) -> list[Sample]:
        """Inverse of `patchify` for every sample of a batch: differentiable, unclamped, unrounded.

        Args:
            tokens: TokenSet with origins, features `[T, patch width]`.
            head: the tokenizer's extra decoder for this modality, when it has one.
        """

    def pictures(self, sample: Sample) -> Tensor | None:
        """The sample as pictures `[N, 3, H, W]` in [-1, 1], differentiable: what losses and metrics of pictures see.

        None (the default) for data that is no picture: such terms then have nothing to compare.
        """
        return None

    def extras(self, sample: Sample) -> dict[str, Tensor]:
        """What training and evaluation compare with besides what the tokens hold (pictures of an asset, say).

        It travels beside the tokens and joins `Sample.data` of the target. The default is nothing.
        """
        return {}

    def stream(
        self,
        path: str | Path,
        frames: int,
        patch_size: PatchSize = DEFAULT_PATCH,
        options: Mapping[str, Any] | None = None,
    ) -> SampleStream | None:
        """One file in pieces of `frames` frames, or None (the default) where files are read whole.

        For data whose main tensor has time as its first axis and may be too long for memory. `frames` is a multiple
        of the patch's. `options` are those of `read`. Goes with `writer`.
        """
        return None

    def writer(self, path: str | Path, fps: float | None = None) -> SampleWriter:
        """A file to write piece by piece; asked for only where `stream` gives one."""
        raise NotImplementedError(f"modality {self.name!r} writes samples whole")

    def configured(self, options: Mapping[str, Any]) -> Modality:
        """This modality with options of its own, as a model's `inputs` asks for them (`{fit: crop}`, say).

        Options are the fields of a modality that is a frozen dataclass; any other modality has none.

        Raises:
            ConfigError: for an option that it does not have, with the nearest, or a value that it refuses.
        """
        if not options:
            return self
        kind = f"option of modality {self.name}"
        if not dataclasses.is_dataclass(self):
            raise ConfigError(unknown_name(kind, str(next(iter(options))), ()))
        check_fields(type(self), options, kind)
        made: Modality = dataclasses.replace(self, **options)
        return made

    def fitting(self, head: nn.Module) -> Modality:
        """This modality set to what a head that `make_head` built takes (the side of its grid, say).

        It is how the command line reads files for a model, where the model's `inputs` do not say otherwise. The default
        is the modality as it is.
        """
        return self

    def grid(self, shape: Sequence[int], patch_size: PatchSize = DEFAULT_PATCH) -> tuple[Tensor, Origin]:
        """Coordinates `[T, 4]` and Origin of a sample that does not exist yet, by the shape of its main tensor.

        What a generator of latents needs. The default patchifies zeros; override it where that is costly or where
        coordinates depend on the content.
        """
        import torch

        blank = Sample(self.name, {self.field: torch.zeros(tuple(shape))})
        tokens = self.patchify(blank, patch_size)
        return tokens.coords, tokens.origins[0]

    def head(self, config: Mapping[str, Any]) -> nn.Module | None:
        """An extra decoder (Gaussian splats, say) that lives in `tokenizer.heads[name]`, or None."""
        return None

    def objective(self, config: Mapping[str, Any]) -> Objective:
        """Training objective from config, `{term: weight}` or `{term: {weight: w, option: value}}`."""
        from tok4d.losses.objective import Objective

        return Objective.from_config(config)

    def metrics(self) -> dict[str, Callable[[], Any]]:
        """Metric factories by short name; each makes a fresh torchmetrics Metric over lists of samples."""
        from tok4d.metrics import SamplePSNR

        return {"psnr": lambda: SamplePSNR(self.field)}

    def sources(self) -> dict[str, Any]:
        """Training-data sources by short name: dataclasses whose fields are their options (see `tok4d.data`)."""
        from tok4d.data.source import FolderSource

        return {"folder": FolderSource}

    def preview(self, sample: Sample) -> list[Image]:
        """Pictures that show the sample in reports and logs; empty when there is nothing to see."""
        return []
