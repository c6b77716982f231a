"""What the parts of the benchmark harness agree on: subjects, data, measures, values.

A suite has tasks. A task measures one subject (a tokenizer, a codec, an understanding model) on one data set. The unit
of work is a group: `inner_batch` samples that stand next to each other in the data set's own order. A group is always
worked on as a whole, whatever `--batch-size`, order or number of processes, because BLAS makes networks differ in the
last bits with the shape of a batch. What a group gives is a column of values per sample; figures come from columns
in the order of the samples, in float64. So a run can stop and go on anywhere, and its JSON is the same to the last bit.

n = samples of a group, N = samples of a data set, D = width of an embedding or feature.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from tok4d.errors import Tok4dError
from tok4d.modality import Sample

if TYPE_CHECKING:  # lists of suites load no torch
    from torch import Tensor

MEASURE_KINDS = ("pair", "timing", "embedding", "probe")

Columns = dict[str, np.ndarray]  # name -> one row per sample: float64 `[n]`, float32 `[n, D]` or strings `[n]`


class UnsuitedError(Tok4dError):
    """A subject or a measure cannot do what is asked at all: it is left out of the results, and they say why."""


class SubjectError(Tok4dError):
    """A subject failed on given samples: on the first group of a task what needs it is left out, later the run ends."""


class MeasureError(Tok4dError):
    """A measure failed on a sample: it is left out of its task, and the run says so and ends with exit code 1."""


@dataclass(frozen=True)
class Restored:
    """What a subject makes of one sample.

    Attributes:
        sample: the reconstruction, unclamped and unrounded, of the original's shape.
        bits: size of the coded sample in bits; None where there is none, as of continuous latents.
        tokens: how many tokens it became; 0 where the subject has none.
        codes: FSQ indices `[T, G]`, where the subject has codes.
    """

    sample: Sample
    bits: float | None = None
    tokens: int = 0
    codes: Tensor | None = None


@dataclass(frozen=True)
class Timed:
    """What a measure of kind `timing` reads: a reconstruction and what it cost.

    Attributes:
        restored: what came back.
        seconds: wall seconds of the whole group, encoding and decoding, over the samples in it.
        cpu_seconds: the same of the process's CPU time.
        peak_bytes: largest memory meanwhile: of the process, or of its CUDA device where it computes there.
        lifelong: whether it is the largest since the process began, where the system can tell no other.
    """

    restored: Restored
    seconds: float
    cpu_seconds: float
    peak_bytes: int
    lifelong: bool = False


class Subject(ABC):
    """What is measured. Every method takes one group and gives its results in the same order.

    A method that raises a `Tok4dError` or `NotImplementedError` on the first group has what needs it left out: it
    cannot do this task, and the others go on. On a later group the same ends the run, since figures over a part of a
    data set would pass for those of all of it.

    Attributes:
        name: as shown in tables.
        digest: SHA-256 of all that decides its output (weights, settings, library versions where they matter).
        reconstructs, embeds: modalities that it can do this for.
        discrete: whether `Restored.bits` is given.
        no_bits: why not, where it is not.
        spec: what `load_subject` made it from; empty: it was made by hand.
    """

    name: str
    digest: str
    spec: str = ""
    reconstructs: tuple[str, ...] = ()
    embeds: tuple[str, ...] = ()
    discrete: bool = False
    no_bits: str = "continuous latents have no rate"

    def facts(self) -> dict[str, Any]:
        """What a reader wants to know beside the figures: parameters, latent channels, compression, licence."""
        return {}

    def reconstruct(self, samples: Sequence[Sample]) -> list[Restored]:
        """Encode and decode.

        Raises:
            Tok4dError: for samples that it cannot take.
        """
        raise NotImplementedError(f"{self.name} reconstructs nothing")

    def embed(self, samples: Sequence[Sample]) -> Tensor:
        """One L2-normalised float32 vector a sample, `[n, D]`, in the space of `embed_texts`."""
        raise NotImplementedError(f"{self.name} embeds nothing")

    def embed_texts(self, texts: Sequence[str]) -> Tensor:
        """One L2-normalised float32 vector a text, `[len(texts), D]`."""
        raise NotImplementedError(f"{self.name} embeds no texts")

    def features(self, samples: Sequence[Sample], where: str) -> Tensor:
        """Vectors for a linear probe `[n, D]`: `features` (pooled), `latents` or `codes` (mean over tokens)."""
        raise NotImplementedError(f"{self.name} has no features to probe")


class BenchData(ABC):
    """Samples of one modality in a fixed order, as the protocol wants them (resized, cropped, rounded to 8 bits).

    Attributes:
        name: of the data set and its split.
        modality: of all samples.
        classes: class names by label; empty where there are none.
    """

    name: str
    modality: str
    classes: tuple[str, ...] = ()

    @property
    @abstractmethod
    def digest(self) -> str:
        """SHA-256 of what the samples are: keys with digests of the files or their recipe, captions and labels."""

    @abstractmethod
    def __len__(self) -> int:
        """N."""

    @abstractmethod
    def key(self, index: int) -> str:
        """Name of a sample."""

    @abstractmethod
    def load(self, index: int) -> Sample:
        """Sample `index` with caption and label where there are some.

        Raises:
            DataError: when its file cannot be used.
        """

    def captions(self, index: int) -> tuple[str, ...]:
        """All captions of a sample (COCO has five)."""
        caption = self.load(index).caption
        return () if caption is None else (caption,)

    @abstractmethod
    def protocol(self) -> dict[str, Any]:
        """What enters the fingerprint: layout, split, resize filter, antialias, crop, range, rounding, options."""


@dataclass(frozen=True)
class Requirement:
    """Something a task needs that may be missing.

    Attributes:
        what: in words, such as `network inception-v3-fid`.
        missing: why it is not there, where it was looked for; empty: it is there.
        fix: how to get it.
    """

    what: str
    missing: str = ""
    fix: str = ""


@dataclass(frozen=True)
class Value:
    """One figure.

    Attributes:
        metric: such as `psnr`, `fid`, `fid/mean`, `recall@1`.
        value: None only when it could not be computed, and then `note` says why.
        stderr: standard error of the mean over samples (bootstrap, or jackknife for a Fréchet distance); None: none.
        n: samples in it.
        higher_is_better: None: neither.
        unit: `dB`, `nats`, `%`; empty for plain numbers.
        note: warnings, such as too few samples for a Fréchet distance.
    """

    metric: str
    value: float | None
    n: int
    stderr: float | None = None
    higher_is_better: bool | None = True
    unit: str = ""
    note: str = ""


class Measure(ABC):
    """One measure of a task: columns of a group, and figures of all columns.

    Measures are registered by name through the hook `tok4d_register_metrics` as `module:Class`; options in a suite are
    the keyword arguments of the constructor.

    Class attributes:
        kind: what `columns` gets: `pair` reconstructions, `timing` reconstructions with their seconds, `embedding`
            embeddings, `probe` features.
        reproducible: whether equal runs give equal bits; False for seconds and memory, which then stay out of the
            digest by which runs are compared.

    Attributes:
        where: which features a `probe` reads: `features`, `latents` or `codes`.
        device: where its networks compute; set by the runner. Columns are numpy arrays all the same.
    """

    kind: ClassVar[str] = "pair"
    reproducible: ClassVar[bool] = True
    where: str = "features"
    device: str = "cpu"

    @abstractmethod
    def protocol(self) -> dict[str, Any]:
        """What enters the fingerprint: implementation, network and its digest, range, window, seed."""

    def requirements(self) -> list[Requirement]:
        """Networks and packages that it needs."""
        return []

    def suits(self, data: BenchData, subject: Subject) -> list[Requirement]:
        """What it needs of the data and the subject: class names, captions, a text tower."""
        return []

    def reference(self, originals: Sequence[Sample]) -> Columns:
        """Columns that depend on the originals alone: kept in a cache by fingerprint and shared by all subjects."""
        return {}

    @abstractmethod
    def columns(self, originals: Sequence[Sample], results: Sequence[Any]) -> Columns:
        """Columns of one group.

        Args:
            originals: the samples.
            results: one a sample: `Restored` for `pair`, `Timed` for `timing`; a tensor `[n, D]` for `embedding` and
                `probe`.
        """

    @abstractmethod
    def finish(self, chunks: ChunkReader, data: BenchData, subject: Subject) -> list[Value]:
        """Figures of all columns, read in the order of the samples as often as needed."""


class ChunkReader(ABC):
    """Columns of all samples in order, in pieces: memory does not grow with their number."""

    n: int  # samples, without those that could not be used

    @abstractmethod
    def __call__(self, *names: str) -> Iterator[Columns]:
        """Pieces with these columns (of this measure, its reference columns included), aligned row by row.

        Where pieces end depends on nothing but N: sums over pieces are the same to the last bit.
        """

    @abstractmethod
    def indices(self) -> np.ndarray:
        """Index of every row in the data set, `[n]` int64: bad samples are left out."""


@dataclass
class TaskSpec:
    """One task of a suite file.

    Attributes:
        kind: `reconstruction`, `zero_shot`, `retrieval`, `probe`, `codebook`, `speed`.
        data: `{layout: imagenet, split: val, ...}` or `{source: image/photos, options: {...}}`.
        prepare: resize, crop, filter, antialias, round; see `tok4d_bench.prepare`.
        measures: names, or `{name: {option: value}}`.
        inner_batch: samples of a group.
        expect: what `bench validate` checks: `{count: 50000, classes: 1000}`.
        anchors: where published values stand: `{table: ..., columns: {psnr: in_psnr}}`.
        nulls: what is run or given beside, so that a figure can be read; see `tok4d_bench.subjects.nulls`.
    """

    kind: str = "reconstruction"
    data: dict[str, Any] = field(default_factory=dict)
    prepare: dict[str, Any] = field(default_factory=dict)
    measures: list[Any] = field(default_factory=list)
    inner_batch: int = 8
    expect: dict[str, Any] = field(default_factory=dict)
    anchors: dict[str, Any] = field(default_factory=dict)
    nulls: list[str] = field(default_factory=list)


@dataclass
class Suite:
    """A suite file: `suites/NAME.yaml`, stem = name.

    Attributes:
        version: raised whenever a figure could change.
    """

    name: str = ""
    version: int = 1
    summary: str = ""
    tasks: dict[str, TaskSpec] = field(default_factory=dict)


def flat_protocol(protocol: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested keys joined by dots, for comparing two protocols line by line."""
    flat: dict[str, Any] = {}
    for key, value in protocol.items():
        if isinstance(value, Mapping):
            flat.update(flat_protocol(value, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = value
    return flat
