"""Mean and covariance of features in one pass, and what of them falls to some of the samples.

N = samples, D = features, K = kept directions.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from tok4d.errors import Tok4dError


@dataclass(frozen=True)
class Moments:
    """Sums over samples about a fixed point near their mean, so that sums of parts add up without loss of digits.

    Attributes:
        n: samples.
        about: the fixed point `[D]`; moments add and subtract only about the same one.
        total: sum of x - about, `[D]`.
        products: sum of (x - about)(x - about)^T, `[D, D]`.
    """

    n: int
    about: np.ndarray
    total: np.ndarray
    products: np.ndarray

    @staticmethod
    def none(about: np.ndarray) -> Moments:
        """Of no sample."""
        width = len(about)
        return Moments(0, about, np.zeros(width), np.zeros((width, width)))

    def more(self, rows: np.ndarray) -> Moments:
        """With rows `[N, D]` added, in float64.

        Raises:
            Tok4dError: for a feature that is not finite.
        """
        if not np.isfinite(rows).all():
            raise Tok4dError(f"features {list(rows.shape)} hold {int((~np.isfinite(rows)).sum())} non-finite values")
        moved = rows.astype(np.float64) - self.about
        return Moments(self.n + len(rows), self.about, self.total + moved.sum(0), self.products + moved.T @ moved)

    def __add__(self, other: Moments) -> Moments:
        return Moments(self.n + other.n, self.about, self.total + other.total, self.products + other.products)

    def __sub__(self, other: Moments) -> Moments:
        return Moments(self.n - other.n, self.about, self.total - other.total, self.products - other.products)

    @property
    def mean(self) -> np.ndarray:
        """`[D]`."""
        return self.about + self.total / self.n

    @property
    def covariance(self) -> np.ndarray:
        """Unbiased (N - 1), `[D, D]`."""
        if self.n < 2:
            raise Tok4dError(f"a covariance needs at least 2 samples, got {self.n}")
        found: np.ndarray = (self.products - np.outer(self.total, self.total) / self.n) / (self.n - 1)
        return (found + found.T) / 2

    def projected(self, directions: np.ndarray) -> Moments:
        """Moments of the coordinates along `directions` `[D, K]`, without the samples."""
        return Moments(
            self.n, self.about @ directions, self.total @ directions, directions.T @ self.products @ directions
        )


def moments_of(rows: np.ndarray | Iterable[np.ndarray]) -> Moments:
    """Moments of rows `[N, D]`, or of several such blocks, about the mean of the first."""
    several = [rows] if isinstance(rows, np.ndarray) else rows
    found: Moments | None = None
    for block in several:
        found = (found or Moments.none(block.astype(np.float64).mean(0))).more(block)
    if found is None:
        raise Tok4dError("no features to take moments of")
    return found


def principal(moments: Moments, count: int) -> np.ndarray:
    """The directions `[D, count]` of the largest variance, orthonormal, the largest first.

    Raises:
        Tok4dError: for more directions than features, or none.
    """
    width = len(moments.about)
    if not 1 <= count <= width:
        raise Tok4dError(f"pca: {count} directions of {width} features; give between 1 and {width}")
    vectors: np.ndarray = np.linalg.eigh(moments.covariance)[1]
    return np.ascontiguousarray(vectors[:, ::-1][:, :count])
