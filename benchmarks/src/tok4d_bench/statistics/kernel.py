"""Kernel distance of two sets (KID: Binkowski et al., arXiv 1801.01401): unbiased at any number of samples.

k(x, y) = (x.y / D + 1)^3; N, M = samples of the two sides, D = features, G = groups of the jackknife.
"""

from __future__ import annotations

import numpy as np

from tok4d.errors import Tok4dError

STEP = 1024  # rows of a kernel matrix at once
DEGREE = 3


def kernel_distance(x: np.ndarray, y: np.ndarray) -> float:
    """Unbiased squared maximum mean discrepancy of two independent sets `[N, D]` and `[M, D]`.

    May be negative near 0. Gretton et al. 2012, lemma 6, equation 3.

    Raises:
        Tok4dError: for unequal widths, fewer than two rows a side, or rows that are not finite.
    """
    x, y = _checked(x, y)
    n, m = len(x), len(y)
    within = _sum(x, x, same=True) / (n * (n - 1)) + _sum(y, y, same=True) / (m * (m - 1))
    return within - 2 * _sum(x, y, same=False) / (n * m)


def paired_distance(x: np.ndarray, y: np.ndarray, groups: int = 10) -> tuple[float, float | None]:
    """The same where row i of `y` was made from row i of `x`, and its standard error.

    Such a pair is no draw from two independent sets: k(x_i, y_i) is left out as k(x_i, x_i) and k(y_i, y_i) are (the
    U-statistic of Gretton et al. 2012, lemma 6, equation 4). A set against itself is then 0; with these pairs it would
    be off by about -2/N times the mean of k(x, x), more than the distance of many a good reconstruction.

    Args:
        x, y: `[N, D]` each.
        groups: G of the delete-a-group jackknife; group g holds rows g, g + G, g + 2 G ...

    Returns:
        The distance, and its standard error: None where fewer than two groups, or a row, would be left.

    Raises:
        Tok4dError: as `kernel_distance`, and for sides of unequal length.
    """
    x, y = _checked(x, y)
    if len(x) != len(y):
        raise Tok4dError(f"paired features: {len(x)} rows against {len(y)}")
    order, starts = _by_group(len(x), groups)
    table = _pair_sums(x[order], y[order], starts)
    counts = np.diff([*starts, len(x)])
    value = table.sum() / (len(x) * (len(x) - 1))
    left = len(x) - counts
    if len(counts) < 2 or left.min() < 2:
        return float(value), None
    without = table.sum() - table.sum(0) - table.sum(1) + np.diag(table)
    errors = without / (left * (left - 1))
    return float(value), float(np.sqrt((len(counts) - 1) * errors.var()))


def subset_distances(x: np.ndarray, y: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """`paired_distance` of the rows of each subset; `chosen` `[S, n]` are places in `x` and `y`. Gives `[S]`."""
    return np.array([paired_distance(x[rows], y[rows], groups=1)[0] for rows in chosen])


def _checked(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    if x.ndim != 2 or y.ndim != 2 or x.shape[1] != y.shape[1] or min(len(x), len(y)) < 2:
        raise Tok4dError(f"a kernel distance takes [N, D] and [M, D] of 2 rows or more, got {x.shape} and {y.shape}")
    if not (np.isfinite(x).all() and np.isfinite(y).all()):
        raise Tok4dError("features hold values that are not finite")
    return x.astype(np.float64), y.astype(np.float64)


def _by_group(n: int, groups: int) -> tuple[np.ndarray, list[int]]:
    """The rows group after group, and where each group begins."""
    groups = max(1, min(groups, n))
    parts = [np.arange(group, n, groups) for group in range(groups)]
    return np.concatenate(parts), [0, *np.cumsum([len(part) for part in parts])[:-1].tolist()]


def _pair_sums(x: np.ndarray, y: np.ndarray, starts: list[int]) -> np.ndarray:
    """Sums over pairs i != j of k(x_i, x_j) + k(y_i, y_j) - k(x_i, y_j) - k(x_j, y_i), by group of i and of j."""
    rows = []
    for first in range(0, len(x), STEP):
        part = slice(first, first + STEP)
        h = _kernel(x[part], x) + _kernel(y[part], y) - _kernel(x[part], y) - _kernel(y[part], x)
        h[np.arange(len(h)), np.arange(first, first + len(h))] = 0
        rows.append(np.add.reduceat(h, starts, axis=1))
    return np.add.reduceat(np.concatenate(rows), starts, axis=0)


def _sum(x: np.ndarray, y: np.ndarray, *, same: bool) -> float:
    """Sum of all kernels, without those of a row and itself."""
    total = 0.0
    for first in range(0, len(x), STEP):
        k = _kernel(x[first : first + STEP], y)
        if same:
            k[np.arange(len(k)), np.arange(first, first + len(k))] = 0
        total += float(k.sum())
    return total


def _kernel(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    found: np.ndarray = (x @ y.T / x.shape[1] + 1) ** DEGREE
    return found
