"""Sources whose samples a file lists: CSV, TSV, JSONL or Parquet, with captions and labels."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from tok4d.data.rows import Row, class_names, read_rows
from tok4d.data.source import Source, split_groups
from tok4d.errors import ConfigError, DataError


@dataclass
class ManifestSource(Source):
    """Files that a manifest names, one row a sample; see `tok4d.data.rows` for its columns. A base class for plugins.

    Rows of one file land on one side of a split, and so do rows with the same value in the column `group`.

    Attributes:
        path: the manifest: `.csv`, `.tsv`, `.jsonl` or `.parquet`.
        outside: whether it may name files by absolute paths and outside of its own folder. Others could otherwise have
            any file of this machine read by writing a manifest.
    """

    path: str = ""
    outside: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.path:
            raise ConfigError(f"{self.modality}/manifest needs the option path")

    @cached_property
    def folder(self) -> Path:
        """Where relative paths begin."""
        return Path(self.path).expanduser().parent

    @cached_property
    def all_rows(self) -> list[Row]:
        """Rows on every side, in order; errors as `rows`."""
        return read_rows(Path(self.path).expanduser())

    @property
    def class_names(self) -> tuple[str, ...]:
        return class_names(self.all_rows)

    @cached_property
    def rows(self) -> list[Row]:
        """Rows on this side of the split, in order.

        Raises:
            DataError: when the manifest cannot be used, naming line and column, or when nothing is left.
        """
        found = self.all_rows
        if not self.outside:
            for row in found:
                self._refuse_outside(row)
        kept = [found[i] for i in split_groups([row.side for row in found], self.split, self.folds, self.fold)]
        if not kept:
            raise DataError(self.path, f"no row on the {self.split!r} side of the split ({len(found)} in all)")
        return kept

    def __len__(self) -> int:
        return len(self.rows)

    def key(self, index: int) -> str:
        row = self.rows[index]
        return row.path if row.start is None and row.end is None else f"{row.path}@{row.spelt}"

    def file(self, index: int) -> Path:
        """The file of a row.

        Raises:
            DataError: for a link that leaves the manifest's folder.
        """
        path = self.folder / self.rows[index].path
        if not self.outside and not path.resolve().is_relative_to(self.folder.resolve()):
            raise DataError(path, "is a link to outside of the manifest's folder; set outside: true to follow it")
        return path

    def _refuse_outside(self, row: Row) -> None:
        path = Path(os.path.normpath(row.path))
        if path.is_absolute() or path.parts[:1] == (os.pardir,):
            raise DataError(
                self.path,
                f"{row.where}: {row.path!r} is outside of the manifest's folder; set outside: true if that is right",
            )
