"""Generated solids: boxes, spheres, cylinders, cones and rings with colours and patterns, and captions that name them.

A solid is a pure function of (seed, number). K = points of a profile, F = faces.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tok4d.colours import COLOURS
from tok4d_mesh3d.mesh import Material, Mesh

KINDS = ("box", "sphere", "cylinder", "cone", "ring")
_NAMES = ("red", "orange", "yellow", "green", "cyan", "blue", "purple", "pink", "white")
INKS = {name: COLOURS[name] for name in _NAMES} | {"brown": (130, 85, 50)}  # drawn from by place
PATTERNS = ("plain", "striped", "chequered")
_SEGMENTS = 48
_Points = NDArray[np.float64]


@dataclass(frozen=True)
class Solid:
    """One generated asset.

    Attributes:
        mesh: z up, in the unit cube.
        caption: such as "a red and white striped cone on a blue box".
        label: index of the (upper) solid's kind in `KINDS`.
    """

    mesh: Mesh
    caption: str
    label: int


def make_solid(seed: int, number: int) -> Solid:
    """The solid of a number: one body, or one on top of another."""
    rng = np.random.default_rng([seed, number])
    kind = int(rng.integers(len(KINDS)))
    top, name = _body(rng, KINDS[kind])
    bodies = [top]
    if rng.random() < 0.4:
        lower, lower_name = _body(rng, "box" if rng.random() < 0.5 else "cylinder")
        place = lower.vertices[:, 2].max() - top.vertices[:, 2].min()
        bodies = [lower, _Body(top.vertices + np.array([0.0, 0.0, place]), top.faces, top.colors)]
        name = f"{name} on {lower_name}"
    return Solid(_mesh(bodies), name, kind)


@dataclass(frozen=True)
class _Body:
    vertices: _Points
    faces: NDArray[np.int64]
    colors: NDArray[np.uint8]  # [F, 3, 4], of every corner


def _body(rng: np.random.Generator, kind: str) -> tuple[_Body, str]:
    size = rng.uniform([0.4, 0.4, 0.35], [0.8, 0.8, 1.0])
    vertices, faces = _box() if kind == "box" else _revolved(_PROFILES[kind]())
    vertices = vertices * (size if kind != "sphere" else size[:1])
    first, second = rng.permutation(list(INKS))[:2]
    pattern = PATTERNS[int(rng.integers(len(PATTERNS)))]
    a, b = (np.array([*INKS[name], 255], np.uint8) for name in (first, second))
    middle = vertices[faces].reshape(-1, 6, 3).mean(1).repeat(2, 0)  # of cells, so that patterns have straight edges
    second_there = _SECOND[pattern](middle) if pattern in _SECOND else np.zeros(len(faces), bool)
    colors = np.where(second_there[:, None], b, a)[:, None].repeat(3, 1)
    words = first if pattern == "plain" else f"{first} and {second} {pattern}"
    article = "an" if words[0] in "aeiou" else "a"
    return _Body(vertices, faces, colors), f"{article} {words} {kind}"


# Where the second colour is, by the middles of the cells [F, 3].
_SECOND: dict[str, Callable[[_Points], NDArray[np.bool_]]] = {
    "striped": lambda p: np.floor(p[:, 2] * 8) % 2 == 0,
    "chequered": lambda p: (
        (np.floor(p[:, 2] * 6 + 0.01) + np.floor((np.arctan2(p[:, 1], p[:, 0]) + 1e-6) * 4 / math.pi)) % 2 == 0
    ),
}


def _mesh(bodies: list[_Body]) -> Mesh:
    offsets = np.cumsum([0, *(len(body.vertices) for body in bodies)])
    faces = np.concatenate([body.faces + offset for body, offset in zip(bodies, offsets, strict=False)])
    count = len(faces)
    return Mesh(
        vertices=_tensor(np.concatenate([body.vertices for body in bodies])).float(),
        faces=_tensor(faces),
        uvs=torch.zeros(count, 3, 2),
        face_material=torch.zeros(count, dtype=torch.int64),
        materials=(Material(),),
        colors=_tensor(np.concatenate([body.colors for body in bodies])),
    ).normalized()


def _tensor(values: NDArray[np.generic]) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(values))


def _box(cells: int = 16) -> tuple[_Points, NDArray[np.int64]]:
    """A unit cube of 6 x cells x cells quads, so that patterns have edges to follow."""
    line = np.linspace(-0.5, 0.5, cells + 1)
    u, v = (grid.ravel() for grid in np.meshgrid(line, line, indexing="ij"))
    vertices: list[_Points] = []
    faces: list[NDArray[np.int64]] = []
    for axis in range(3):
        for side in (-0.5, 0.5):
            plane = np.insert(np.stack([u, v], 1), axis, side, axis=1)
            faces.append(_quads(cells, cells) + len(vertices) * len(u))
            vertices.append(plane)
    return np.concatenate(vertices), np.concatenate(faces)


def _revolved(profile: _Points) -> tuple[_Points, NDArray[np.int64]]:
    """The surface that a profile `[K, 2]` of (radius, height) sweeps round the z axis."""
    angles = np.linspace(0, 2 * math.pi, _SEGMENTS + 1)
    radius, height = profile[:, :1], profile[:, 1:].repeat(len(angles), 1)
    points = np.stack([radius * np.cos(angles), radius * np.sin(angles), height], -1)
    return points.reshape(-1, 3), _quads(len(profile) - 1, _SEGMENTS)


def _quads(rows: int, columns: int) -> NDArray[np.int64]:
    """Triangles of a grid of (rows + 1) x (columns + 1) vertices, the two of a cell one after the other."""
    corner = (np.arange(rows)[:, None] * (columns + 1) + np.arange(columns)).ravel()
    a, b, c, d = corner, corner + 1, corner + columns + 2, corner + columns + 1
    return np.stack([a, b, c, a, c, d], 1).reshape(-1, 3)


def _polyline(*corners: tuple[float, float], steps: int = 16) -> _Points:
    """Points along straight lines between corners, `steps` each."""
    points = [np.linspace(a, b, steps, endpoint=False) for a, b in pairwise(corners)]
    return np.concatenate([*points, np.array([corners[-1]])])


def _arc(centre: float, radius: float, start: float, end: float, steps: int = 32) -> _Points:
    angle = np.linspace(start, end, steps + 1)
    return np.stack([centre + radius * np.cos(angle), radius * np.sin(angle)], 1)


_PROFILES: dict[str, Callable[[], _Points]] = {
    "sphere": lambda: _arc(0.0, 0.5, -math.pi / 2, math.pi / 2),
    "cylinder": lambda: _polyline((0, -0.5), (0.5, -0.5), (0.5, 0.5), (0, 0.5)),
    "cone": lambda: _polyline((0, -0.5), (0.5, -0.5), (0, 0.5)),
    "ring": lambda: _arc(0.35, 0.15, -math.pi, math.pi),
}
