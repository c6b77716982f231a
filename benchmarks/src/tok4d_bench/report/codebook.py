"""How a discrete subject uses its codes, from the codes that a run keeps beside its figures.

T = tokens, G = groups of a code.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from tok4d.errors import DataError
from tok4d_bench.compare.runs import Run
from tok4d_bench.fingerprint import machine, sha256
from tok4d_bench.measures.codes import CODES, GROUPS
from tok4d_bench.statistics.codes import from_rows
from tok4d_bench.store import Store, StoreReader


@dataclass(frozen=True)
class CodeUse:
    """Use of the codebooks of one run in one task.

    Attributes:
        tokens: T.
        sizes: codes of every group; empty where the subject does not say.
        seen: different codes among the tokens, by group.
        frequencies: share of every code seen, from the most to the least frequent, by group.
    """

    task: str
    label: str
    tokens: int
    sizes: tuple[int, ...]
    seen: tuple[int, ...]
    frequencies: tuple[np.ndarray, ...]

    @property
    def usage(self) -> list[float]:
        """Share of the codes seen, by group; empty where the number of codes is not known."""
        return [seen / size for seen, size in zip(self.seen, self.sizes, strict=True)] if self.sizes else []

    @property
    def evenness(self) -> list[float]:
        """Perplexity over the number of codes, by group: 1 where all are equally frequent."""
        if not self.sizes:
            return []
        bits = [float(-(shares * np.log2(shares)).sum()) for shares in self.frequencies]
        return [2**entropy / size for entropy, size in zip(bits, self.sizes, strict=True)]


def code_uses(run: Run) -> Iterator[CodeUse]:
    """Use of the codes in every codebook task of a run whose columns are still there."""
    for task in dict.fromkeys(record["task"] for record in run.content["results"]):
        records = [r for r in run.content["results"] if r["task"] == task and r["value"] is not None]
        used = next((r for r in records if str(r["metric"]).startswith("codebook/")), None)
        if used is not None and (found := _use(run, task, used)) is not None:
            yield found


def _use(run: Run, task: str, record: dict[str, Any]) -> CodeUse | None:
    protocol = run.content["protocols"][record["fingerprint"]]
    key = sha256([record["fingerprint"], run.digest, machine()])
    folders = sorted((run.folder / task / "columns").glob(f"*-{key[:16]}"))
    if not folders:
        return None
    reader = StoreReader([Store(folders[0], int(protocol["task"]["inner_batch"]))])
    try:
        codes = _codes(reader, int(protocol["measure"]["tokens"]))
    except (KeyError, DataError):
        return None  # the figures are in results.json; only the bars need the columns
    if not len(codes):
        return None
    counts = [np.sort(np.unique(column, return_counts=True)[1])[::-1] for column in codes.T]
    quantizer = run.facts.get("quantizer")
    sizes: tuple[int, ...] = ()
    if isinstance(quantizer, dict) and int(quantizer["groups"]) == codes.shape[1]:
        sizes = (prod(quantizer["levels"]),) * codes.shape[1]
    seen = tuple(len(count) for count in counts)
    return CodeUse(task, run.label, len(codes), sizes, seen, tuple(count / count.sum() for count in counts))


def _codes(reader: StoreReader, tokens: int) -> np.ndarray:
    """The first codes `[T, G]`, as the measure takes them."""
    parts: list[np.ndarray] = []
    for piece in reader(CODES, GROUPS):
        groups = int(piece[GROUPS][0])
        parts.append(from_rows(piece[CODES], groups))
        if sum(map(len, parts)) >= tokens:
            break
    return np.concatenate(parts)[:tokens] if parts else np.zeros((0, 1), np.int64)
