"""The harness streams: four times the samples need no more memory, neither for pictures nor for columns."""

from __future__ import annotations

import gc
import tracemalloc
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor

from tok4d.modality import Sample
from tok4d.plugins import registry
from tok4d.plugins.loader import Entry
from tok4d_bench import store
from tok4d_bench.contracts import BenchData, ChunkReader, Columns, Measure, Restored, Subject, Suite, TaskSpec, Value
from tok4d_bench.data.samples import SourceData
from tok4d_bench.runner import Work, run_suite
from tok4d_bench.statistics import bootstrap

WIDTH = 4000  # float32 values of a sample in a column: 16 kB
PIECE = 64  # rows that a reader gives at once, instead of 512
FEW, MANY = 2 * PIECE, 8 * PIECE
GROUP = 8


class Wide(Measure):
    """A wide column of what comes back and one of the originals; their sums, piece by piece."""

    kind: ClassVar[str] = "pair"

    def protocol(self) -> dict[str, Any]:
        return {"implementation": "wide"}

    def reference(self, originals: Sequence[Sample]) -> Columns:
        return {"wanted": np.stack([_row(sample) for sample in originals])}

    def columns(self, originals: Sequence[Sample], results: Sequence[Restored]) -> Columns:
        return {"got": np.stack([_row(one.sample) for one in results])}

    def finish(self, chunks: ChunkReader, data: BenchData, subject: Subject) -> list[Value]:
        total = sum(float((piece["got"] - piece["wanted"]).sum(dtype=np.float64)) for piece in chunks("got", "wanted"))
        return [Value("difference", total, chunks.n)]


def _row(sample: Sample) -> np.ndarray:
    return np.resize(sample.data["image"].numpy(), WIDTH)


class Live:
    """How many pictures are alive, and how many there were at most."""

    def __init__(self) -> None:
        self.now = self.most = self.seen = 0

    def watch(self, picture: Tensor) -> None:
        self.now, self.seen = self.now + 1, self.seen + 1
        self.most = max(self.most, self.now)
        weakref.finalize(picture, self._gone)

    def _gone(self) -> None:
        self.now -= 1


class Halved(Subject):
    """Makes new pictures, watched as well."""

    name, digest, reconstructs = "halved", "0" * 64, ("image",)

    def __init__(self, live: Live) -> None:
        self.live = live

    def reconstruct(self, samples: Sequence[Sample]) -> list[Restored]:
        made = [sample.data["image"] / 2 for sample in samples]
        for picture in made:
            self.live.watch(picture)
        return [Restored(Sample("image", {"image": picture})) for picture in made]


@pytest.fixture
def live(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Live:
    """Watches all pictures that are loaded; the measure `wide` has a name, and nothing is kept of other runs."""
    monkeypatch.setenv("TOK4D_CACHE", str(tmp_path / "cache"))
    monkeypatch.setitem(registry._host().tables["metrics"], "wide", Entry("made:Wide", "bench"))
    real = registry.resolve
    monkeypatch.setattr(registry, "resolve", lambda target: Wide if target == "made:Wide" else real(target))
    monkeypatch.setattr(store, "PIECE", PIECE)  # bounds that do not depend on the number of samples, made small so
    monkeypatch.setattr(bootstrap, "DRAWS", 1 << 16)  # that few samples reach them
    found, random = Live(), torch.Generator()

    def load(data: SourceData, index: int) -> Sample:
        picture = torch.rand(3, 8, 8, generator=random.manual_seed(index)) * 2 - 1
        found.watch(picture)
        return Sample("image", {"image": picture}, key=data.key(index))

    monkeypatch.setattr(SourceData, "load", load)  # generated anew each time, in microseconds
    return found


def run(live: Live, out: Path, count: int) -> None:
    data = {"source": "image/shapes", "options": {"count": count, "side": 8}}
    task = TaskSpec(data=data, measures=["wide", "psnr"], inner_batch=GROUP)
    document = run_suite(Suite("made", 1, "", {"one": task}), Halved(live), Work(out, batch_size=4 * GROUP))
    assert document is not None
    assert {record.n for record in document.results} == {count}


def peaks(live: Live, out: Path, count: int) -> tuple[int, int]:
    """Pictures alive at once, and bytes that Python and numpy held at once, in a run over `count` samples."""
    live.most = live.seen = 0
    gc.collect()
    tracemalloc.start()
    try:
        run(live, out, count)
        bytes_held = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert live.seen >= 2 * count  # originals and what was made of them: none went unseen
    return live.most, bytes_held


def test_memory_does_not_grow_with_the_number_of_samples(live: Live, tmp_path: Path) -> None:
    run(live, tmp_path / "first", GROUP)  # what is imported and loaded once
    few, few_bytes = peaks(live, tmp_path / "few", FEW)
    many, many_bytes = peaks(live, tmp_path / "many", MANY)
    # The group at work with what was made of it, the groups read ahead, and one that a reader holds.
    assert max(few, many) <= (2 + 2 + 4 + 1) * GROUP
    columns = 2 * (MANY - FEW) * WIDTH * 4  # 12 MB that a run would hold if it kept them
    assert many_bytes - few_bytes < columns / 5


def test_a_run_that_keeps_its_columns_would_be_seen(
    live: Live, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The bound above is one that matters: whole columns at the end go far over it."""

    def hoards(self: Wide, chunks: ChunkReader, data: BenchData, subject: Subject) -> list[Value]:
        whole = [piece["got"] - piece["wanted"] for piece in chunks("got", "wanted")]
        return [Value("difference", float(sum(one.sum(dtype=np.float64) for one in whole)), chunks.n)]

    monkeypatch.setattr(Wide, "finish", hoards)
    peaks(live, tmp_path / "first", GROUP)
    few, many = (peaks(live, tmp_path / str(count), count)[1] for count in (FEW, MANY))
    assert many - few > (MANY - FEW) * WIDTH * 4 / 2
