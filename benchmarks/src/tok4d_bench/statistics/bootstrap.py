"""Means over samples, and how sure they are: the bootstrap (Efron 1979).

N = samples, K = numbers a sample, B = replicates.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from tok4d.errors import Tok4dError

REPLICATES = 1000
SEED = 20_250
DRAWS = 1 << 22  # drawn at once: 32 MB of indices


def mean(values: Sequence[float] | np.ndarray) -> float:
    """Mean of float64 values, their sum rounded once: the same for any order.

    Raises:
        Tok4dError: for none.
    """
    if len(values) == 0:
        raise Tok4dError("no values to average")
    return math.fsum(values) / len(values)


def mean_error(values: np.ndarray, replicates: int = REPLICATES, seed: int = SEED) -> float | None:
    """Bootstrap standard error of the mean of `values` `[N]`; None for fewer than two.

    About sd / sqrt(N) for many samples. The same for any order of the samples: they are sorted before they are drawn.
    """
    return statistic_error(values[:, None], lambda means: means[:, 0], replicates, seed)


def statistic_error(
    rows: np.ndarray, statistic: Callable[[np.ndarray], np.ndarray], replicates: int = REPLICATES, seed: int = SEED
) -> float | None:
    """Bootstrap standard error of a function of the means over samples; None for fewer than two samples.

    Args:
        rows: `[N, K]` float64.
        statistic: `[B, K]` means of resampled rows to `[B]`.
        replicates: B.
        seed: of the draws.

    Raises:
        Tok4dError: for values that are not finite, or fewer than two replicates.
    """
    if rows.ndim != 2 or not np.isfinite(rows).all():
        raise Tok4dError(f"the bootstrap takes finite values [N, K], got {list(rows.shape)} with NaN or infinity")
    if replicates < 2:
        raise Tok4dError(f"a bootstrap of {replicates} replicates has no spread; give at least 2")
    if len(rows) < 2:
        return None
    ordered = rows[np.lexsort(rows.T[::-1])].astype(np.float64)
    rng = np.random.Generator(np.random.PCG64(seed))
    at_once = max(1, DRAWS // len(ordered))
    found = []
    for start in range(0, replicates, at_once):
        drawn = rng.integers(0, len(ordered), (min(at_once, replicates - start), len(ordered)))
        found.append(np.stack([ordered[:, k][drawn].mean(1) for k in range(ordered.shape[1])], 1))
    return float(np.std(statistic(np.concatenate(found)), ddof=1))
