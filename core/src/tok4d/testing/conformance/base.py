"""What all checks share: the attributes and fixtures that an author may set, and comparisons that explain themselves.

T = tokens, C = patch width.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar, NoReturn

import pytest
import torch
from torch import Tensor

from tok4d.errors import PluginError, Tok4dError
from tok4d.modality import DEFAULT_PATCH, Modality, PatchSize, Sample
from tok4d.tokens import TokenSet


class Case:
    """Attributes and fixtures of a modality under test. Only `samples` has to be written.

    Attributes:
        plugin_module: the module that the entry point names; found by itself when the plugin is installed.
        patch_size: patch size used in the checks.
        patch_tolerance: largest difference after patchify and unpatchify; 0 unless the modality cannot be exact.
        tolerance: largest difference after write and read, by the precision of the file format.
        detects_truncation: False for formats whose files carry no length, so that a cut file is a valid one.
    """

    plugin_module: ClassVar[str] = ""
    patch_size: ClassVar[PatchSize] = DEFAULT_PATCH
    patch_tolerance: ClassVar[float] = 0.0
    tolerance: ClassVar[float] = 0.0
    detects_truncation: ClassVar[bool] = True

    @pytest.fixture
    def samples(self) -> list[Sample]:
        """At least three samples of awkward sizes, among them the smallest possible. Write this one."""
        fail("write a fixture `samples` in your test class that returns a list of Sample objects")

    @pytest.fixture
    def modality(self, samples: list[Sample]) -> Modality:
        """The registered modality that the samples name; override to test one that is not registered."""
        from tok4d.plugins.registry import modality

        try:
            return modality(samples[0].modality)
        except PluginError as error:
            fail(f"{error} Is the plugin installed (pip install -e .)? `tok4d plugins` tells why one is not loaded.")

    @pytest.fixture
    def tokens(self, modality: Modality, samples: list[Sample]) -> list[TokenSet]:
        """Every sample, patchified."""
        return [modality.patchify(sample, self.patch_size) for sample in samples]

    def source_options(self, name: str, folder: Path) -> dict[str, object] | None:
        """Options for building the source `name`; None leaves it unchecked (one that needs a network, say).

        Args:
            folder: holds the samples, written by the modality.
        """
        return {}

    def assert_same(self, restored: Sample, original: Sample, tolerance: float, what: str) -> None:
        """Fail unless two samples agree in their main tensor and fps; override for data without a fixed order."""
        fields = [key for key in original.data if key in restored.data]
        if len(fields) < len(original.data):
            fail(f"{what}: the sample has {sorted(restored.data)}, the original {sorted(original.data)}")
        for key in fields:
            same_values(restored.data[key], original.data[key], tolerance, f"{what}: data[{key!r}]")
        if original.fps is not None and restored.fps != original.fps:
            fail(f"{what}: fps is {restored.fps}, was {original.fps}; keep it in Origin.fps and in the file")


def fail(message: str) -> NoReturn:
    """Fail the test with a message for the author alone, without a traceback through the kit."""
    raise pytest.fail.Exception(message, pytrace=False) from None


def describe(index: int, sample: Sample) -> str:
    """Name a sample in a message."""
    shapes = ", ".join(f"{key} {list(value.shape)}" for key, value in sample.data.items())
    return f"sample {index} ({shapes})"


def same_values(got: Tensor, expected: Tensor, tolerance: float, what: str) -> None:
    """Fail unless two tensors agree in shape and, within an absolute tolerance, in every value."""
    if got.shape != expected.shape:
        fail(f"{what} has shape {list(got.shape)}, expected {list(expected.shape)}; record the shape in the Origin")
    if got.numel() == 0:
        return
    difference = (got.detach().double() - expected.detach().double()).abs()
    if not bool((difference <= tolerance).all()):  # also when the difference is NaN
        worst = int(difference.nan_to_num(float("inf")).argmax())
        values = f"{got.flatten()[worst].item()!r} instead of {expected.flatten()[worst].item()!r}"
        fail(f"{what} differs by up to {difference.max().item():.3g} (allowed: {tolerance:g}), e.g. {values}")


@contextlib.contextmanager
def only_tok4d_errors(what: str, advice: str) -> Iterator[None]:
    """Let Tok4dError pass, turn any other exception into a failure that tells what to raise instead."""
    try:
        yield
    except Tok4dError:
        raise
    except Exception as error:
        fail(f"{what} raised {type(error).__name__}: {error}; {advice}")


def copy_of(sample: Sample) -> Sample:
    """A sample with its own tensors."""
    data = {key: value.clone() for key, value in sample.data.items()}
    return Sample(sample.modality, data, sample.fps, sample.caption, sample.label, sample.key, dict(sample.meta))


def scaled(sample: Sample, field: str, factor: float) -> Sample:
    """A copy with the main tensor multiplied, e.g. out of the range that a file can hold."""
    copy = copy_of(sample)
    copy.data[field] = copy.data[field] * factor
    return copy


def perturbed(sample: Sample, field: str, amount: float = 0.3) -> Sample:
    """A copy with noise on the main tensor, the same every time."""
    copy = copy_of(sample)
    values = copy.data[field]
    noise = torch.randn(values.shape, generator=torch.Generator().manual_seed(7))
    copy.data[field] = values + amount * noise.to(values.dtype)
    return copy
