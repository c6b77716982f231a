"""What the arms say of the paper's claims (Figure 4b and section 4): whatever the answer is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import sqrt
from statistics import mean, stdev
from typing import Any

from scipy.stats import t as student

DISTANCE = "FD-EffNetLite0-pca-20"
PARTS = ("mean", "covariance")
FIGURES = {  # what is compared, and how it is written
    "mean": "+.2f",
    "covariance": "+.2f",
    "psnr": "+.2f",
    "icon accuracy": "+.3f",
    "unseen_icon accuracy": "+.3f",
}
PAIRS = (  # what is asked, the arm, the one it is compared with
    ("Gram beside LPIPS", "c L1 + LPIPS + Gram", "b L1 + LPIPS"),
    ("LPIPS beside L1", "b L1 + LPIPS", "a L1"),
    ("FSQ beside KL", "f L1, FSQ", "a L1"),
    ("the sigmoid term beside none", "e L1 + sigmoid", "a L1"),
    ("the sigmoid term beside none, FSQ", "f L1 + sigmoid, FSQ", "f L1, FSQ"),
    ("FSQ beside KL, with the sigmoid term", "f L1 + sigmoid, FSQ", "e L1 + sigmoid"),
)


def interval(values: Sequence[float]) -> tuple[float, float, float]:
    """Mean and 95 % interval over seeds, by Student's t; of one seed the interval is infinite."""
    if len(values) < 2:
        return values[0], float("-inf"), float("inf")
    half = float(student.ppf(0.975, len(values) - 1)) * stdev(values) / sqrt(len(values))
    return mean(values), mean(values) - half, mean(values) + half


def claims(arms: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Lines of the page: the covariance's share of every arm, and differences over seeds, with intervals."""
    lines = [f"Parts of {DISTANCE} over seeds: the covariance's share, and differences [95 % interval over seeds].", ""]
    lines += ["| arm | covariance's share |", "|---|---|"]
    for name, row in arms.items():
        mine, other = (_by_seed(row, part) for part in reversed(PARTS))
        shares = [covariance / (covariance + centre) for covariance, centre in zip(mine, other, strict=True)]
        lines.append(f"| {name} | {_with_interval(interval(shares), '.2f')} |")
    lines += ["", "| question | mean part | covariance part | PSNR | seen nouns | unseen nouns |", "|---" * 6 + "|"]
    for question, one, base in PAIRS:
        if one not in arms or base not in arms:
            continue
        cells = [_less(_figure(arms[one], name), _figure(arms[base], name), form) for name, form in FIGURES.items()]
        lines.append(f"| {question} | {' | '.join(cells)} |")
    return [*lines, "", "A run of this size neither confirms nor refutes the paper's claims, which are about scale."]


def _by_seed(row: Mapping[str, Any], part: str) -> list[float]:
    return [float(value["value"]) for value in row[f"{DISTANCE}/{part}"]]


def _figure(row: Mapping[str, Any], name: str) -> list[float]:
    """Values by seed; none where it was not measured."""
    if name in PARTS:
        return _by_seed(row, name)
    return list(row[name]["by_seed"]) if name in row else []


def _less(one: Sequence[float], base: Sequence[float], form: str) -> str:
    if not one or not base:
        return "-"
    return _with_interval(interval([a - b for a, b in zip(one, base, strict=True)]), form)


def _with_interval(values: tuple[float, float, float], form: str) -> str:
    value, low, high = values
    return f"{value:{form}} [{low:{form}}, {high:{form}}]"
