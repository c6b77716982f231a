"""Checks of read and write: there and back, and one clear error for every broken file."""

from __future__ import annotations

import random
from pathlib import Path

import torch

from tok4d.errors import DataError
from tok4d.modality import Modality, Sample
from tok4d.testing.conformance.base import Case, describe, fail, same_values, scaled

_ADVICE = "raise tok4d.errors.DataError(path, reason)"
CUTS = (0.02, 0.25, 0.5, 0.9)


def write_all(modality: Modality, samples: list[Sample], folder: Path) -> list[Path]:
    """Write every sample with the modality's first suffix."""
    paths = [folder / f"sample-{index}{modality.suffixes[0]}" for index in range(len(samples))]
    for sample, path in zip(samples, paths, strict=True):
        modality.write(sample, path)
        if not path.is_file():
            fail(f"write did not make the file it was asked for: {path.name}; do not change the name")
    return paths


def refuses(modality: Modality, path: Path, what: str) -> None:
    """Fail unless reading gives a DataError of one line that names the path."""
    try:
        sample = modality.read(path)
    except DataError as error:
        if str(path) not in str(error):
            fail(f"{what}: the error must name the path, got: {error}")
        if not error.reason.strip() or "\n" in str(error):
            fail(f"{what}: the error must give its reason on one line, got: {error!s}")
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            raise
        fail(f"{what}: read raised {type(error).__name__}: {error}; {_ADVICE}")
    else:
        fail(f"{what}: read gave a sample of shape {list(sample.data[modality.field].shape)}; {_ADVICE}")


class FileChecks(Case):
    """Good files."""

    def test_write_and_read(self, modality: Modality, samples: list[Sample], tmp_path: Path) -> None:
        for index, path in enumerate(write_all(modality, samples, tmp_path)):
            where = f"{describe(index, samples[index])} after write, read"
            again = modality.read(path)
            if again.modality != modality.name:
                fail(f"{where}: read gave modality {again.modality!r}, expected {modality.name!r}")
            if again.data[modality.field].dtype != torch.float32:
                fail(f"{where}: read gave {again.data[modality.field].dtype}, expected torch.float32")
            self.assert_same(again, samples[index], self.tolerance, f"{where} (class attribute `tolerance`)")
            self.assert_same(modality.read(str(path)), again, 0.0, f"{where}: reading a second time, path as text")

    def test_write_leaves_nothing_else(self, modality: Modality, samples: list[Sample], tmp_path: Path) -> None:
        paths = write_all(modality, samples, tmp_path)
        modality.write(samples[0], paths[0])  # over an existing file
        if extra := sorted({p.name for p in tmp_path.iterdir()} - {p.name for p in paths}):
            fail(f"write left {extra} behind; remove temporary files")

    def test_write_clamps(self, modality: Modality, samples: list[Sample], tmp_path: Path) -> None:
        """A reconstruction overshoots; the file must hold the nearest value, not one that wrapped around."""
        for index, sample in enumerate(samples):
            path = tmp_path / f"loud-{index}{modality.suffixes[0]}"
            try:
                modality.write(scaled(sample, modality.field, 3.0), path)
            except Exception as error:
                fail(f"{describe(index, sample)}: write of values out of range raised {type(error).__name__}: {error}")
            again, values = modality.read(path).data[modality.field], sample.data[modality.field]
            if again.shape != values.shape:
                fail(f"{describe(index, sample)}: values out of range changed the shape to {list(again.shape)}")
            if bool((again * values.sign() < -self.tolerance).any()):
                fail(f"{describe(index, sample)}: values out of range changed sign in the file; clamp in write()")

    def test_tokens_of_a_file(self, modality: Modality, samples: list[Sample], tmp_path: Path) -> None:
        """What `tok4d encode` and `decode` do, without the model between."""
        for index, path in enumerate(write_all(modality, samples, tmp_path)):
            sample = modality.read(path)
            restored = modality.unpatchify(modality.patchify(sample, self.patch_size))[0]
            copy = tmp_path / f"again-{index}{modality.suffixes[0]}"
            modality.write(restored, copy)
            what = f"{describe(index, sample)}: written, read, through tokens, written"
            same_values(
                modality.read(copy).data[modality.field], sample.data[modality.field], max(self.tolerance, 0.0), what
            )


class BrokenFileChecks(Case):
    """Files that nobody should trust."""

    def test_missing_file(self, modality: Modality, tmp_path: Path) -> None:
        refuses(modality, tmp_path / f"missing{modality.suffixes[0]}", "a missing file")

    def test_directory(self, modality: Modality, tmp_path: Path) -> None:
        path = tmp_path / f"folder{modality.suffixes[0]}"
        path.mkdir()
        refuses(modality, path, "a directory")

    def test_empty_file(self, modality: Modality, tmp_path: Path) -> None:
        for suffix in modality.suffixes:
            path = tmp_path / f"empty{suffix}"
            path.touch()
            refuses(modality, path, f"an empty {suffix} file")

    def test_foreign_content(self, modality: Modality, tmp_path: Path) -> None:
        for suffix in modality.suffixes:
            path = tmp_path / f"foreign{suffix}"
            for length in (1, 50, 5000):
                path.write_bytes(random.Random(length).randbytes(length))
                refuses(modality, path, f"a {suffix} file of {length} random bytes")
            path.write_text("This is a letter, not data.\n" * 20)
            refuses(modality, path, f"a {suffix} file that holds a letter")

    def test_truncated_file(self, modality: Modality, samples: list[Sample], tmp_path: Path) -> None:
        if not self.detects_truncation:
            return
        largest = max(samples, key=lambda sample: sample.data[modality.field].numel())
        content = write_all(modality, [largest], tmp_path)[0].read_bytes()
        for cut in CUTS:
            path = tmp_path / f"cut{modality.suffixes[0]}"
            path.write_bytes(content[: int(len(content) * cut)])
            refuses(modality, path, f"a file cut to {cut:.0%} of its bytes (or set detects_truncation = False)")
