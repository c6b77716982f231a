"""Linear probe of what a model's features, latents or codes know of the classes.

N = samples, D = width of the features, C = classes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

import numpy as np

from tok4d.errors import ConfigError, Tok4dError
from tok4d.modality import Sample
from tok4d_bench.contracts import BenchData, ChunkReader, Columns, Measure, Subject, Value
from tok4d_bench.measures.base import BOOTSTRAP, mean_value, nothing, one_of
from tok4d_bench.statistics.blocks import blocks, column
from tok4d_bench.statistics.probe import PENALTIES, Rows, cross_validate, fold_of

WHERE = ("features", "latents", "codes")
FEATURES, LABEL = "features", "label"
NO_LABEL = -1.0


class LinearProbe(Measure):
    """Cross-validated accuracy of ridge regression onto the classes, in percent: `probe/WHERE`, and the majority's.

    Folds are by the hash of a sample's key. Each fold is classified by a probe of the others, whose penalty was chosen
    among these alone. Deterministic, in float64; memory is that of D x D sums.

    Args:
        where: `features` (pooled), `latents` or `codes` (means over tokens): the runner asks `Subject.features` there.
        folds: at least 3.

    Raises:
        ConfigError: for another place, or fewer folds.
    """

    kind: ClassVar[str] = "probe"

    def __init__(self, where: str = "features", folds: int = 5) -> None:
        self.where = one_of("place of a probe", where, WHERE)
        if folds < 3:
            raise ConfigError(f"linear_probe: folds {folds} must be at least 3")
        self.folds = folds

    def protocol(self) -> dict[str, Any]:
        return {
            "implementation": "tok4d_bench.statistics.probe",
            "version": 1,
            "where": self.where,
            "folds": f"{self.folds}, by SHA-256 of the key",
            "penalties": list(PENALTIES),
            "error": BOOTSTRAP,
        }

    def columns(self, originals: Sequence[Sample], results: Sequence[Any]) -> Columns:
        labels = [NO_LABEL if sample.label is None else float(sample.label) for sample in originals]
        rows = np.stack([np.asarray(row, dtype=np.float32) for row in results])
        return {FEATURES: rows, LABEL: np.array(labels, dtype=np.float64)}

    def finish(self, chunks: ChunkReader, data: BenchData, subject: Subject) -> list[Value]:
        name = f"probe/{self.where}"
        labels = column(chunks(LABEL), LABEL).astype(np.int64)
        present = np.unique(labels[labels >= 0])
        if len(present) < 2:
            return [nothing(name, f"{data.name} has {len(present)} classes with samples", n=len(labels), unit="%")]
        folds = np.array([fold_of(data.key(int(index)), self.folds) for index in chunks.indices()])
        try:
            found = cross_validate(lambda: _labelled(chunks, labels, folds, present), len(present), self.folds)
        except Tok4dError as error:
            return [nothing(name, str(error), n=len(labels), unit="%")]
        truth = np.searchsorted(present, labels[labels >= 0])
        right = (found.predicted == truth).astype(np.float64)
        note = f"{len(present)} classes, penalties {', '.join(f'{penalty:g}' for penalty in found.penalties)}"
        value = mean_value(name, right, scale=100, unit="%")
        majority = 100 * float((found.majority == truth).mean())
        return [
            Value(name, value.value, value.n, value.stderr, True, "%", note),
            Value(f"{name}/majority", majority, value.n, None, None, "%"),
        ]


def _labelled(chunks: ChunkReader, labels: np.ndarray, folds: np.ndarray, present: np.ndarray) -> Iterator[Rows]:
    """Samples with a label: features, class by its place among those present, fold."""
    start = 0
    for block in blocks(chunks(FEATURES)):
        here = slice(start, start + len(block[FEATURES]))
        kept = labels[here] >= 0
        if kept.any():
            yield block[FEATURES][kept], np.searchsorted(present, labels[here][kept]), folds[here][kept]
        start = here.stop
