"""Fréchet distance, its parts and errors; kernel distance: against scipy, closed forms and simulation."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.linalg import sqrtm

from tok4d.errors import Tok4dError
from tok4d_bench.statistics.frechet import frechet, jackknife, trace_root
from tok4d_bench.statistics.kernel import kernel_distance, paired_distance, subset_distances
from tok4d_bench.statistics.moments import Moments, moments_of, principal


def rows(n: int, d: int, seed: int, shift: float = 0.0, scale: float = 1.0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return (rng.normal(size=(n, d)) @ np.diag(np.linspace(1, 2, d)) * scale + shift).astype(np.float32)


def by_scipy(x: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    """Mean and covariance part from numpy's own statistics and scipy's matrix root."""
    x, y = x.astype(np.float64), y.astype(np.float64)
    s1, s2 = np.atleast_2d(np.cov(x.T)), np.atleast_2d(np.cov(y.T))
    mean = float(((x.mean(0) - y.mean(0)) ** 2).sum())
    return mean, float(np.trace(s1 + s2 - 2 * sqrtm(s1 @ s2).real))


@settings(deadline=None, max_examples=15)
@given(st.integers(1, 6), st.integers(8, 60), st.integers(8, 60), st.integers(0, 1000))
def test_distance_is_that_of_scipy(d: int, n: int, m: int, seed: int) -> None:
    x, y = rows(n, d, seed), rows(m, d, seed + 1, shift=0.5, scale=1.5)
    found = frechet(moments_of(x), moments_of(y))
    mean, covariance = by_scipy(x, y)
    assert found.mean == pytest.approx(mean, rel=1e-9, abs=1e-12)
    assert found.covariance == pytest.approx(covariance, rel=1e-7, abs=1e-9)
    assert found.total == found.mean + found.covariance
    assert frechet(moments_of(y), moments_of(x)).total == pytest.approx(found.total, rel=1e-9, abs=1e-9)


def test_known_gaussians() -> None:
    """Commuting covariances have a closed form: sum of (sd1 - sd2)^2."""
    one = Moments(3, np.zeros(2), np.zeros(2), 2 * np.diag([4.0, 9.0]))
    other = Moments(3, np.zeros(2), 3 * np.array([3.0, 4.0]), 2 * np.diag([1.0, 16.0]) + 3 * np.outer([3, 4], [3, 4]))
    found = frechet(one, other)
    assert found.mean == pytest.approx(25)
    assert found.covariance == pytest.approx((2 - 1) ** 2 + (3 - 4) ** 2)


def test_singular_covariances_keep_their_digits() -> None:
    """Fewer samples than features: rank 9 of 300; scipy's root leaves noise of about 1e-5 there."""
    x = rows(10, 300, 0)
    y = x + rows(10, 300, 1, scale=0.1)
    a, b = (one.astype(np.float64) - one.astype(np.float64).mean(0) for one in (x, y))
    exact = float(np.linalg.svd(a @ b.T / 9, compute_uv=False).sum())  # nuclear norm on the side of the samples
    assert trace_root(moments_of(x).covariance, moments_of(y).covariance) == pytest.approx(exact, rel=1e-11)
    assert frechet(moments_of(x), moments_of(x)).total == pytest.approx(0, abs=1e-10)


def test_constant_features_have_no_spread() -> None:
    x = np.ones((5, 3))
    assert frechet(moments_of(x), moments_of(x + 2)).total == pytest.approx(12)
    assert frechet(moments_of(x), moments_of(x + 2)).covariance == 0


@settings(deadline=None, max_examples=15)
@given(st.integers(0, 1000), st.integers(1, 20))
def test_moments_add_up(seed: int, cut: int) -> None:
    x = rows(24, 4, seed, shift=100)
    whole = Moments.none(x[0].astype(np.float64)).more(x)
    part = Moments.none(x[0].astype(np.float64)).more(x[:cut])
    for found in (
        part + (whole - part),
        part.more(x[cut:]),
        moments_of(x[np.random.default_rng(seed).permutation(24)]),
    ):
        np.testing.assert_allclose(found.mean, x.astype(np.float64).mean(0), rtol=1e-12)
        np.testing.assert_allclose(found.covariance, np.cov(x.astype(np.float64).T), rtol=1e-9, atol=1e-9)


def test_projected_moments_are_those_of_projected_rows() -> None:
    x = rows(50, 6, 3, shift=2)
    directions = principal(moments_of(x), 2)
    np.testing.assert_allclose(directions.T @ directions, np.eye(2), atol=1e-12)
    small = moments_of(x.astype(np.float64) @ directions)
    found = moments_of(x).projected(directions)
    np.testing.assert_allclose(found.mean, small.mean, rtol=1e-10)
    np.testing.assert_allclose(found.covariance, small.covariance, rtol=1e-9, atol=1e-9)
    values = np.linalg.eigvalsh(np.cov(x.astype(np.float64).T))
    np.testing.assert_allclose(np.diag(found.covariance), values[::-1][:2], rtol=1e-9)
    with pytest.raises(Tok4dError, match="7 directions of 6"):
        principal(moments_of(x), 7)


def test_jackknife_is_leaving_out_by_hand() -> None:
    x, y = rows(20, 3, 0), rows(20, 3, 1, shift=0.3)
    about = x[0].astype(np.float64)
    groups = [np.arange(g, 20, 4) for g in range(4)]
    parts = [[Moments.none(about).more(side[g]) for g in groups] for side in (x, y)]
    found = jackknife(*parts)
    kept = [np.setdiff1d(np.arange(20), g) for g in groups]
    left = np.array([by_scipy(x[k], y[k]) for k in kept])
    wanted = [np.sqrt(3 / 4 * ((v - v.mean()) ** 2).sum()) for v in (left.sum(1), left[:, 0], left[:, 1])]
    np.testing.assert_allclose(found, wanted, rtol=1e-7)
    assert jackknife(parts[0][:1], parts[1][:1]) is None


def test_jackknife_error_is_that_of_repeated_experiments() -> None:
    values, errors = [], []
    for seed in range(60):
        x, y = rows(200, 2, 1000 + seed), rows(200, 2, 5000 + seed, shift=1.0)
        parts = [[Moments.none(np.zeros(2)).more(s[g::20]) for g in range(20)] for s in (x, y)]
        values.append(frechet(moments_of(x), moments_of(y)).total)
        errors.append(jackknife(*parts)[0])  # type: ignore[index]
    assert np.mean(errors) == pytest.approx(np.std(values), rel=0.3)


def test_bad_features_are_refused() -> None:
    with pytest.raises(Tok4dError, match="2 non-finite"):
        moments_of(np.array([[0, np.nan], [np.inf, 1]]))
    with pytest.raises(Tok4dError, match="at least 2 samples, got 1"):
        frechet(moments_of(np.zeros((1, 2))), moments_of(np.zeros((3, 2))))
    with pytest.raises(Tok4dError, match="2 and 3 features"):
        frechet(moments_of(np.zeros((3, 2))), moments_of(np.zeros((3, 3))))
    with pytest.raises(Tok4dError, match="no features"):
        moments_of([])


def naive(x: np.ndarray, y: np.ndarray, own: bool) -> float:
    """Kernel distance by two loops; `own`: pairs (i, i) across count."""

    def k(a: np.ndarray, b: np.ndarray) -> float:
        return float((a.astype(np.float64) @ b.astype(np.float64) / len(a) + 1) ** 3)

    n, m = len(x), len(y)
    xx = sum(k(x[i], x[j]) for i in range(n) for j in range(n) if i != j) / (n * (n - 1))
    yy = sum(k(y[i], y[j]) for i in range(m) for j in range(m) if i != j) / (m * (m - 1))
    pairs = [(i, j) for i in range(n) for j in range(m) if own or i != j]
    return xx + yy - 2 * sum(k(x[i], y[j]) for i, j in pairs) / len(pairs)


def test_kernel_distance_by_loops() -> None:
    x, y = rows(9, 4, 0), rows(12, 4, 1, shift=0.2)
    assert kernel_distance(x, y) == pytest.approx(naive(x, y, own=True), rel=1e-10)
    value, error = paired_distance(x, y[:9], groups=3)
    assert value == pytest.approx(naive(x, y[:9], own=False), rel=1e-10)
    left = [np.setdiff1d(np.arange(9), np.arange(g, 9, 3)) for g in range(3)]
    again = np.array([naive(x[k], y[:9][k], own=False) for k in left])
    assert error == pytest.approx(np.sqrt(2 / 3 * ((again - again.mean()) ** 2).sum()), rel=1e-9)
    np.testing.assert_allclose(
        subset_distances(x, y, np.array([[0, 3, 5], [1, 2, 8]])),
        [naive(x[c], y[c], own=False) for c in ([0, 3, 5], [1, 2, 8])],
        rtol=1e-10,
    )


def test_kernel_distance_is_that_of_torchmetrics() -> None:
    import torch
    from torchmetrics.image.kid import poly_mmd

    x, y = rows(30, 8, 2), rows(30, 8, 3, shift=0.1)
    theirs = poly_mmd(torch.from_numpy(x).double(), torch.from_numpy(y).double(), degree=3, gamma=None, coef=1.0)
    assert kernel_distance(x, y) == pytest.approx(float(theirs), rel=1e-9)


def test_a_set_against_itself() -> None:
    x = rows(40, 5, 4)
    assert paired_distance(x, x)[0] == 0
    assert kernel_distance(x, x) < -1  # why pairs are left out
    order = np.random.default_rng(0).permutation(40)
    y = x + rows(40, 5, 5, scale=0.2)
    assert paired_distance(x[order], y[order])[0] == pytest.approx(paired_distance(x, y)[0], rel=1e-10)


def test_bad_sets_are_refused() -> None:
    with pytest.raises(Tok4dError, match="2 rows or more"):
        kernel_distance(np.zeros((1, 2)), np.zeros((3, 2)))
    with pytest.raises(Tok4dError, match="3 rows against 4"):
        paired_distance(np.zeros((3, 2)), np.zeros((4, 2)))
    with pytest.raises(Tok4dError, match="not finite"):
        kernel_distance(np.full((3, 2), np.nan), np.zeros((3, 2)))
