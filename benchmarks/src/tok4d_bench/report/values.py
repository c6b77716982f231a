"""Values per sample of a run, as samples.parquet keeps them, and which samples are worth a look.

n = samples of a task.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tok4d.errors import DataError, Tok4dError
from tok4d_bench.compare.runs import Run

FILE = "samples.parquet"
_MEANS = 1e-6  # relative: a column whose mean is not its figure is not what the figure is the mean of


@dataclass(frozen=True)
class PerSample:
    """One figure of a run with the values that it is the mean of.

    Attributes:
        record: of results.json.
        measure: label of the measure.
        column: of the measure's columns.
        indices: of the samples in their data set `[n]`.
        keys: their names.
        values: float64 `[n]`.
    """

    record: dict[str, Any]
    measure: str
    column: str
    indices: np.ndarray
    keys: list[str]
    values: np.ndarray

    @property
    def metric(self) -> str:
        return str(self.record["metric"])

    @property
    def name(self) -> str:
        """The metric with its unit."""
        unit = self.record["unit"]
        return f"{self.metric}, {unit}" if unit else self.metric


def per_sample(run: Run, task: str) -> list[PerSample]:
    """Figures of a task that are means over samples; empty where no values per sample were kept.

    Raises:
        DataError: for a file that cannot be read.
        Tok4dError: when pyarrow is not installed.
    """
    path = run.folder / task / FILE
    if not path.is_file():
        if any(r["task"] == task and r["n"] for r in run.content["results"]):
            raise DataError(path, "is not there any more; the command of the run makes it again")
        return []
    table = _read(path)
    records = [r for r in run.content["results"] if r["task"] == task and r["value"] is not None]
    labels = Counter(run.measure(record) for record in records)
    found = []
    for record in records:
        label = run.measure(record)
        own = [name for name in table if name.startswith(f"{label}.") and table[name].dtype.kind == "f"]
        if labels[label] != 1 or len(own) != 1:
            continue
        values = table[own[0]].astype(np.float64)
        counted = values[np.isfinite(values)]
        if len(counted) and abs(counted.mean() - record["value"]) <= _MEANS * max(1.0, abs(record["value"])):
            column = own[0][len(label) + 1 :]
            keys = [str(key) for key in table["key"]]
            found.append(PerSample(record, label, column, table["index"].astype(np.int64), keys, values))
    return found


def chosen(values: PerSample, count: int = 1) -> dict[str, int]:
    """Rows of the best, the middle and the worst samples: `{best: row, median: row, worst: row}`, each row once.

    Args:
        count: how many of each; further ones are `best 2`, `worst 2`, ...
    """
    rows = np.flatnonzero(np.isfinite(values.values))
    order = rows[np.argsort(values.values[rows], kind="stable")]
    if values.record["higher_is_better"]:
        order = order[::-1]
    middle = np.argsort(np.abs(np.arange(len(order)) - (len(order) - 1) / 2), kind="stable")
    found: dict[str, int] = {}
    for name, picks in (("best", order), ("worst", order[::-1]), ("median", order[middle])):
        free = [int(row) for row in picks if int(row) not in found.values()][:count]
        found |= {name if not place else f"{name} {place + 1}": row for place, row in enumerate(free)}
    ranks = ("best", "median", "worst")
    return dict(sorted(found.items(), key=lambda item: ranks.index(item[0].split()[0])))


def _read(path: Path) -> dict[str, np.ndarray]:
    try:
        import pyarrow as pa
        from pyarrow import parquet
    except ImportError:
        raise Tok4dError("values per sample need pyarrow; install it with pip install 'tok4d[bench]'") from None
    try:
        table = parquet.read_table(path)
        found = {name: table[name].to_numpy() for name in table.column_names}
        for name in ("key", "index"):
            if name not in found:
                raise KeyError(name)
    except (OSError, pa.ArrowException, KeyError) as error:
        raise DataError(path, f"cannot be read ({error}); remove it and run again") from error
    return found
