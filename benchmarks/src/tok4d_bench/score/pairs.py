"""Pairs of files as data and as a subject: each original carries its reconstruction, read beside it.

A reconstruction of the original's own size goes through the same preparation; one of the prepared size is taken as it
is, since that is what the tokenizer was given.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from tok4d.errors import DataError
from tok4d.modality import Sample
from tok4d.plugins.registry import modality
from tok4d_bench.contracts import Restored, Subject, UnsuitedError
from tok4d_bench.data.samples import Thinned, clip_options
from tok4d_bench.fingerprint import content, sha256
from tok4d_bench.prepare import Prepare, is_pictures
from tok4d_bench.score.matching import Match

RESTORED, CODED = "restored", "coded_bytes"  # keys of `Sample.meta`


class PairData(Thinned):
    """Originals of one modality, each with its reconstruction in `meta`.

    Args:
        name: what the data is called in results.
        owner: name of the modality.
        pairs: files.
        prepare: sizes.
        limit: at most that many, evenly spread.
        read: options of the modality's reader, for both sides; reconstructions are read as what decoders give.
    """

    def __init__(
        self,
        name: str,
        owner: str,
        pairs: Sequence[Match],
        prepare: Prepare,
        limit: int = 0,
        read: Mapping[str, Any] | None = None,
    ) -> None:
        self._read = {**clip_options(prepare), **(read or {})}
        super().__init__(name, prepare, limit, {"layout": "pairs", "options": self._read}, len(pairs))
        self.modality, self.pairs = owner, tuple(pairs)
        self.apart = sha256([pair.restored and content(pair.restored) for pair in self.pairs])

    def key(self, index: int) -> str:
        return self.pairs[self._places[index]].key

    def identity(self, place: int) -> Any:
        """Name and content of an original: reconstructions are the subject's."""
        return [self.pairs[place].key, content(self.pairs[place].original)]

    def load(self, index: int) -> Sample:
        """The prepared original.

        Raises:
            DataError: when one of the files is missing or broken, or their sizes do not fit.
        """
        pair = self.pairs[self._places[index]]
        if pair.restored is None:
            raise DataError(pair.original, "has no reconstruction of its name")
        host = modality(self.modality)
        original = host.read(pair.original, **self._read)
        restored = host.read(pair.restored, **{**self._read, **host.decoded})
        prepared = self.prepare.apply(original)
        meta = {**prepared.meta, RESTORED: self._fitting(pair, original, prepared, restored)}
        if pair.coded is not None:
            meta[CODED] = _size(pair.coded)
        return replace(prepared, key=pair.key, meta=meta)

    def _fitting(self, pair: Match, original: Sample, prepared: Sample, restored: Sample) -> Sample:
        field = modality(self.modality).field
        whole, wanted, got = (sample.data[field] for sample in (original, prepared, restored))
        if not is_pictures(whole):
            return restored
        if got.shape == wanted.shape:
            return restored
        if got.shape == whole.shape:
            return self.prepare.apply(restored)
        prepared_as = f", prepared {list(wanted.shape)}" if wanted.shape != whole.shape else ""
        raise DataError(
            pair.restored or pair.original,
            f"is {list(got.shape)}, its original {list(whole.shape)}{prepared_as}: neither size can be compared",
        )


class FilesSubject(Subject):
    """Whatever made a folder of reconstructions.

    Args:
        folder: of the reconstructions.
        pairs: all of them, by modality.
        name: as shown in tables; empty: that of the folder.
    """

    no_bits = "files alone do not say what they were coded as; give the folder of the coded files with --coded"

    def __init__(self, folder: Path, pairs: Mapping[str, Sequence[Match]], name: str = "") -> None:
        self.name = name or folder.resolve().name
        self.reconstructs = tuple(pairs)
        self.discrete = any(pair.coded is not None for items in pairs.values() for pair in items)
        sha = hashlib.sha256()
        count = 0
        for items in pairs.values():
            for pair in items:
                for path in (pair.restored, pair.coded):
                    if path is not None:
                        sha.update(f"{pair.key}\0{content(path)}\0".encode())
                count += pair.restored is not None
        self.digest = sha.hexdigest()
        self._facts = {"kind": "files", "folder": str(folder), "files": count, "rate": self.discrete}

    def facts(self) -> dict[str, Any]:
        return dict(self._facts)

    def reconstruct(self, samples: Sequence[Sample]) -> list[Restored]:
        """What `PairData` read beside the originals; bits are those of the coded files.

        Raises:
            UnsuitedError: for samples of other data.
        """
        results = []
        for sample in samples:
            restored = sample.meta.get(RESTORED)
            if not isinstance(restored, Sample):
                raise UnsuitedError(f"{self.name} is a folder of files: it reconstructs nothing else")
            size = sample.meta.get(CODED)
            results.append(Restored(restored, None if size is None else 8.0 * size))
        return results


def _size(path: Path | None) -> int:
    """Bytes of a file; -1 where there is none."""
    try:
        return -1 if path is None else path.stat().st_size
    except OSError:
        return -1
