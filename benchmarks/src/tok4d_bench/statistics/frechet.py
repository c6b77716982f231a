"""Fréchet distance of two Gaussians (Dowson & Landau 1982; FID: Heusel et al., arXiv 1706.08500), in two parts.

|mu1 - mu2|^2 + Tr(S1 + S2 - 2 (S1 S2)^(1/2)); N = samples, D = features, G = groups of the jackknife.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tok4d.errors import Tok4dError
from tok4d_bench.statistics.moments import Moments

TRUSTED = 10  # samples a feature from which the two parts are given


@dataclass(frozen=True)
class Frechet:
    """A distance; `mean` and `covariance` add up to `total`."""

    mean: float
    covariance: float

    @property
    def total(self) -> float:
        """The distance itself, which is a squared one."""
        return self.mean + self.covariance


def frechet(one: Moments, other: Moments) -> Frechet:
    """Distance of two sets by their moments; symmetric, 0 for equal ones up to rounding, never below.

    Raises:
        Tok4dError: for features of unequal width, or fewer than two samples.
    """
    if len(one.about) != len(other.about):
        raise Tok4dError(f"a Fréchet distance of {len(one.about)} and {len(other.about)} features")
    apart = one.mean - other.mean
    s1, s2 = one.covariance, other.covariance
    spread = float(np.trace(s1) + np.trace(s2)) - 2 * trace_root(s1, s2)
    return Frechet(float(apart @ apart), max(0.0, spread))


def trace_root(s1: np.ndarray, s2: np.ndarray) -> float:
    """Tr((S1 S2)^(1/2)) of covariances `[D, D]`, also singular ones.

    With S = R^T R it is the sum of the singular values of R1 R2^T, whose squares are the eigenvalues of
    S1^(1/2) S2 S1^(1/2). No root is taken of a number that rounding made of nothing: a root of 1e-16 is 1e-8, and a
    thousand of them show. (`scipy.linalg.sqrtm` does, and wants a small diagonal added where S is singular.)
    """
    r1, r2 = _root(s1), _root(s2)
    if not len(r1) or not len(r2):
        return 0.0
    return float(np.linalg.svd(r1 @ r2.T, compute_uv=False).sum())


def _root(covariance: np.ndarray) -> np.ndarray:
    """R `[rank, D]` with R^T R = S, without the directions in which nothing varies."""
    values, vectors = np.linalg.eigh(covariance)
    kept = values > max(values[-1], 0.0) * len(values) * np.finfo(np.float64).eps
    root: np.ndarray = np.sqrt(values[kept])[:, None] * vectors[:, kept].T
    return root


def jackknife(ones: Sequence[Moments], others: Sequence[Moments]) -> tuple[float, float, float] | None:
    """Standard errors of total, mean part and covariance part by the delete-a-group jackknife.

    A bootstrap draws samples twice, which takes rank from a covariance of few samples and shifts every replicate;
    leaving out one of G groups of different samples does not (Shao & Tu 1995, section 2.3). None where fewer than two
    groups hold samples, or too few would be left.

    Args:
        ones, others: moments of group g on both sides; the two sides of a sample are in one group.
    """
    filled = [(one, other) for one, other in zip(ones, others, strict=True) if one.n and other.n]
    if len(filled) < 2:
        return None
    whole = _total([one for one, _ in filled]), _total([other for _, other in filled])
    if any(whole[0].n - one.n < 2 or whole[1].n - other.n < 2 for one, other in filled):
        return None
    left = [frechet(whole[0] - one, whole[1] - other) for one, other in filled]
    found = np.array([[value.total, value.mean, value.covariance] for value in left])
    errors = np.sqrt((len(left) - 1) * found.var(0))
    return float(errors[0]), float(errors[1]), float(errors[2])


def _total(parts: Sequence[Moments]) -> Moments:
    whole = parts[0]
    for part in parts[1:]:
        whole = whole + part
    return whole
