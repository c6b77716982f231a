"""Charts as inline SVG: they follow the page's colours, light or dark, and scale with its width."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

import numpy as np

WIDTH, HEIGHT = 480, 220
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 12, 10, 36
COLOURS = 6  # classes c0 to c5 of the page's style
BINS = 24


@dataclass(frozen=True)
class Series:
    """Values of one subject: of samples for a histogram `[n]`, points `[n, 2]` for a plot."""

    label: str
    values: np.ndarray


class Frame:
    """Axes: from data to the coordinates of the drawing, with ticks at round numbers."""

    def __init__(self, x: tuple[float, float], y: tuple[float, float]) -> None:
        self.x, self.y = _wide(*x), _wide(*y)

    def at(self, x: float, y: float) -> tuple[float, float]:
        """Place of a point."""
        across = (x - self.x[0]) / (self.x[1] - self.x[0])
        up = (y - self.y[0]) / (self.y[1] - self.y[0])
        return (
            _LEFT + across * (WIDTH - _LEFT - _RIGHT),
            HEIGHT - _BOTTOM - up * (HEIGHT - _TOP - _BOTTOM),
        )

    def drawn(self, x_name: str, y_name: str, whole: bool = False, shift: float = 0.0) -> str:
        """Lines, ticks and names of both axes.

        Args:
            whole: only whole numbers on the y axis: it counts.
            shift: of the x axis's numbers, which then are whole and below its end: they name bars.
        """
        parts = []
        for value in ticks(*self.y):
            if whole and value != int(value):
                continue
            y = self.at(self.x[0], value)[1]
            parts.append(f'<line class="grid" x1="{_LEFT}" x2="{WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
            parts.append(f'<text x="{_LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{value:g}</text>')
        for value in ticks(*self.x):
            if shift and (value != int(value) or value >= self.x[1]):
                continue
            x = self.at(value + shift, self.y[0])[0]
            parts.append(f'<text x="{x:.1f}" y="{HEIGHT - _BOTTOM + 15}" text-anchor="middle">{value:g}</text>')
        parts.append(f'<text x="{WIDTH - _RIGHT}" y="{HEIGHT - 5}" text-anchor="end">{escape(x_name)}</text>')
        parts.append(f'<text x="4" y="{HEIGHT - 5}">{escape(y_name)}</text>')
        return "".join(parts)


def histogram(series: Sequence[Series], name: str) -> str:
    """Distributions over samples on common bins, one outline a subject; values that are not finite are left out."""
    kept = [Series(one.label, one.values[np.isfinite(one.values)]) for one in series]
    kept = [one for one in kept if len(one.values)]
    if not kept:
        return ""
    low, high = min(float(s.values.min()) for s in kept), max(float(s.values.max()) for s in kept)
    edges = np.linspace(*_wide(low, high), BINS + 1)
    counts = [np.histogram(one.values, edges)[0] for one in kept]
    frame = Frame((edges[0], edges[-1]), (0, max(int(c.max()) for c in counts)))
    parts = [frame.drawn(name, "samples", whole=True)]
    for place, (one, count) in enumerate(zip(kept, counts, strict=True)):
        corners = [frame.at(edges[0], 0)]
        for left, right, number in zip(edges[:-1], edges[1:], count, strict=True):
            corners += [frame.at(left, number), frame.at(right, number)]
        corners.append(frame.at(edges[-1], 0))
        middle = frame.at(float(np.median(one.values)), 0)[0]
        colour = f"c{place % COLOURS}"
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in corners)
        parts.append(f'<polygon class="area {colour}" points="{path}"/>')
        parts.append(
            f'<line class="median {colour}" x1="{middle:.1f}" x2="{middle:.1f}" y1="{_TOP}" y2="{HEIGHT - _BOTTOM}"/>'
        )
    told = "; ".join(
        f"{one.label}: {len(one.values)} samples, median {np.median(one.values):.4g}, "
        f"{one.values.min():.4g} to {one.values.max():.4g}"
        for one in kept
    )
    return _svg("".join(parts), f"Histogram of {name}. {told}")


def plot(series: Sequence[Series], x_name: str, y_name: str) -> str:
    """Points joined in the order of x, one line a family of subjects."""
    points = np.concatenate([one.values for one in series])
    low, high = _wide(float(points[:, 1].min()), float(points[:, 1].max()))
    margin = 0.06 * (high - low)
    frame = Frame((0.0, 1.04 * float(points[:, 0].max())), (low - margin, high + margin))
    parts = [frame.drawn(x_name, y_name)]
    for place, one in enumerate(series):
        places = [frame.at(float(x), float(y)) for x, y in sorted(map(tuple, one.values))]
        colour = f"c{place % COLOURS}"
        if len(places) > 1:
            path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
            parts.append(f'<polyline class="line {colour}" points="{path}"/>')
        parts += [f'<circle class="dot {colour}" cx="{x:.1f}" cy="{y:.1f}" r="4"/>' for x, y in places]
    told = "; ".join(f"{one.label}: " + ", ".join(f"({x:.4g}, {y:.4g})" for x, y in one.values) for one in series)
    return _svg("".join(parts), f"{y_name} against {x_name}. {told}")


def bars(shares: Sequence[float], x_name: str, y_name: str) -> str:
    """One bar each, in order; shares in [0, 1]."""
    frame = Frame((0, len(shares)), (0, 1))
    parts = [frame.drawn(x_name, y_name, shift=0.5)]
    for place, share in enumerate(shares):
        left, top = frame.at(place + 0.1, share)
        right, bottom = frame.at(place + 0.9, 0)
        size = f'width="{right - left:.1f}" height="{bottom - top:.1f}"'
        parts.append(f'<rect class="bar c0" x="{left:.1f}" y="{top:.1f}" {size}/>')
    return _svg("".join(parts), f"{y_name} by {x_name}: {', '.join(f'{share:.3f}' for share in shares)}")


def legend(labels: Sequence[str]) -> str:
    """Colours of the series, as HTML."""
    items = (f'<span><i class="key c{n % COLOURS}"></i>{escape(label)}</span>' for n, label in enumerate(labels))
    return f'<p class="legend">{" ".join(items)}</p>'


def ticks(low: float, high: float, most: int = 6) -> list[float]:
    """At most `most` round numbers in [low, high]."""
    rough = (high - low) / (most - 1)
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough * (1 - 1e-9))
    first = math.ceil(low / step - 1e-9)
    return [round(number * step, 12) + 0.0 for number in range(first, math.floor(high / step + 1e-9) + 1)]


def _wide(low: float, high: float) -> tuple[float, float]:
    """A range that is not empty."""
    if high > low:
        return low, high
    half = abs(low) * 0.05 or 0.5
    return low - half, high + half


def _svg(content: str, told: str) -> str:
    return f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(told, quote=True)}">{content}</svg>'
