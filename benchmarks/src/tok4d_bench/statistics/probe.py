"""Linear probe: ridge regression onto classes in closed form, from sums alone, cross-validated.

N = samples, D = features, C = classes, K = folds.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from tok4d.errors import Tok4dError

PENALTIES = tuple(10.0**power for power in range(-5, 4))  # of standardised features, per training sample


def fold_of(key: str, folds: int) -> int:
    """The fold of a sample, by the hash of its name: the same in any order and beside any other samples."""
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "little") % folds


@dataclass
class Sums:
    """What ridge regression needs of some samples: counts, sums and products of features and classes in float64.

    Attributes:
        features: D.
        classes: C.
    """

    features: int
    classes: int

    def __post_init__(self) -> None:
        self.n = 0
        self.x = np.zeros(self.features)
        self.xx = np.zeros((self.features, self.features))
        self.xy = np.zeros((self.features, self.classes))
        self.y = np.zeros(self.classes)

    def add(self, rows: np.ndarray, labels: np.ndarray) -> None:
        """Rows `[N, D]` with their classes `[N]` in [0, C)."""
        wide = rows.astype(np.float64)
        onehot = np.eye(self.classes)[labels]
        self.n += len(wide)
        self.x, self.y = self.x + wide.sum(0), self.y + onehot.sum(0)
        self.xx, self.xy = self.xx + wide.T @ wide, self.xy + wide.T @ onehot

    def __add__(self, other: Sums) -> Sums:
        both = Sums(self.features, self.classes)
        for name in ("n", "x", "xx", "xy", "y"):
            setattr(both, name, getattr(self, name) + getattr(other, name))
        return both


@dataclass(frozen=True)
class Probe:
    """A linear classifier: the largest of `rows @ weights + bias`; `weights` `[D, C]`, `bias` `[C]`."""

    weights: np.ndarray
    bias: np.ndarray

    def classify(self, rows: np.ndarray) -> np.ndarray:
        """Class of every row `[N, D]`, `[N]` int64; of equal scores the first."""
        found: np.ndarray = (rows.astype(np.float64) @ self.weights + self.bias).argmax(1)
        return found


def ridge(sums: Sums, penalties: Sequence[float] = PENALTIES) -> list[Probe]:
    """One probe a penalty, of features standardised by the same samples; the intercept is not penalised.

    Minimises |Y - X W - b|^2 / N + penalty |W|^2 with one-hot Y. Features that do not vary get no weight.

    Raises:
        Tok4dError: for no samples.
    """
    if not sums.n:
        raise Tok4dError("a linear probe has no samples to learn from")
    mean_x, mean_y = sums.x / sums.n, sums.y / sums.n
    covariance = sums.xx / sums.n - np.outer(mean_x, mean_x)
    variance = np.diag(covariance).clip(0)
    varies = variance > 1e-12 * (variance + mean_x**2)  # less is rounding of the sums
    scale = np.where(varies, 1 / np.sqrt(np.where(varies, variance, 1)), 0)
    values, vectors = np.linalg.eigh(covariance * scale[:, None] * scale)
    target = vectors.T @ ((sums.xy / sums.n - np.outer(mean_x, mean_y)) * scale[:, None])
    probes = []
    for penalty in penalties:
        weights = scale[:, None] * (vectors @ (target / (values.clip(0) + penalty)[:, None]))
        probes.append(Probe(weights, mean_y - mean_x @ weights))
    return probes


Rows = tuple[np.ndarray, np.ndarray, np.ndarray]  # features `[n, D]`, classes `[n]`, folds `[n]`


@dataclass(frozen=True)
class Validated:
    """What cross-validation found.

    Attributes:
        predicted: class of every sample by the probe that has not seen it, `[N]`.
        majority: class that its training samples have most often, `[N]`.
        penalties: chosen one of every fold.
    """

    predicted: np.ndarray
    majority: np.ndarray
    penalties: tuple[float, ...]


def cross_validate(
    read: Callable[[], Iterable[Rows]], classes: int, folds: int, penalties: Sequence[float] = PENALTIES
) -> Validated:
    """Classify every fold by a probe of the others; its penalty is the one that did best on the next of these.

    The probe that chooses the penalty has seen neither fold; the one that classifies learns from all other folds with
    that penalty. Of equally good penalties the largest is taken. Memory is that of D x D sums a fold.

    Args:
        read: gives all samples in their order, in blocks, as often as it is called.
        classes: C.
        folds: K, at least 3; those without samples are left out.

    Raises:
        Tok4dError: for too few folds with samples, or features that are not finite.
    """
    sums = _fold_sums(read, classes, folds)
    filled = [fold for fold in range(folds) if fold in sums]
    if len(filled) < 3:
        raise Tok4dError(f"a linear probe needs samples in 3 folds, got {len(filled)} of {folds}; give more samples")
    chosen: dict[int, Probe] = {}
    kept: dict[int, float] = {}
    for place, fold in enumerate(filled):
        inner = filled[(place + 1) % len(filled)]
        probes = ridge(_joined(sums, {fold, inner}), penalties)
        right = np.zeros(len(probes), dtype=np.int64)
        for rows, labels, where in read():
            if (mine := where == inner).any():
                right += [int((probe.classify(rows[mine]) == labels[mine]).sum()) for probe in probes]
        best = max(range(len(probes)), key=lambda i: (right[i], penalties[i]))
        kept[fold] = penalties[best]
        chosen[fold] = ridge(_joined(sums, {fold}), [penalties[best]])[0]
    common = {fold: int(_joined(sums, {fold}).y.argmax()) for fold in filled}
    predicted, majority = [], []
    for rows, _, where in read():
        found = np.zeros(len(rows), dtype=np.int64)
        for fold in np.unique(where).tolist():
            found[where == fold] = chosen[fold].classify(rows[where == fold])
        predicted.append(found)
        majority.append(np.array([common[fold] for fold in where.tolist()], dtype=np.int64))
    return Validated(np.concatenate(predicted), np.concatenate(majority), tuple(kept[fold] for fold in filled))


def _fold_sums(read: Callable[[], Iterable[Rows]], classes: int, folds: int) -> dict[int, Sums]:
    found: dict[int, Sums] = {}
    for rows, labels, where in read():
        if not np.isfinite(rows).all():
            raise Tok4dError(f"features {list(rows.shape)} hold values that are not finite")
        for fold in range(folds):
            if (mine := where == fold).any():
                found.setdefault(fold, Sums(rows.shape[1], classes)).add(rows[mine], labels[mine])
    return found


def _joined(sums: dict[int, Sums], without: set[int]) -> Sums:
    kept = [sums[fold] for fold in sorted(sums) if fold not in without]
    whole = kept[0]
    for one in kept[1:]:
        whole = whole + one
    return whole
