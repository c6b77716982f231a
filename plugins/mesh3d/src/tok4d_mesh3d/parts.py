"""From a trimesh scene to one `Mesh`: node transforms applied, broken faces dropped by name, parts put together."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tok4d.errors import Tok4dError
from tok4d_mesh3d.assets import AssetError
from tok4d_mesh3d.mesh import Material, Mesh
from tok4d_mesh3d.textures import decode_texture

_MAX_TEXELS = 1 << 27  # half a gigabyte
MISSING = '{} is missing; 3D files need it: pip install "tok4d[mesh3d]"'


@dataclass(frozen=True)
class Limits:
    """Bounds of what is read from a mesh file; checked in headers before anything is decoded where that is possible.

    Attributes:
        max_bytes: size of the file, and of all files that it refers to.
        max_faces: triangles, instances counted one by one.
        max_vertices: vertices in the file.
        max_texture_pixels: width * height of one texture.
    """

    max_bytes: int = 1 << 29
    max_faces: int = 1_000_000
    max_vertices: int = 3_000_000
    max_texture_pixels: int = 1 << 26

    def check(self, faces: int, vertices: int = 0) -> None:
        """Raises Tok4dError that names the bound."""
        for count, limit, name in ((faces, self.max_faces, "faces"), (vertices, self.max_vertices, "vertices")):
            if count > limit:
                raise Tok4dError(f"has {count:,} {name}, the limit is {limit:,} (max_{name})")


@dataclass
class Looks:
    """Materials of a file as its reader found them, by the name that trimesh hands through.

    Attributes:
        materials: by name.
        transforms: what a material does to texture coordinates (v downwards), where it does anything.
        bare: colour of a textured material on faces without texture coordinates, where it differs.
        notes: degradations found so far.
        texels: of all textures decoded so far.
    """

    materials: dict[str, Material] = field(default_factory=dict)
    transforms: dict[str, Callable[[np.ndarray], np.ndarray]] = field(default_factory=dict)
    bare: dict[str, tuple[float, float, float, float]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    texels: int = 0

    def decode(self, content: bytes, limits: Limits) -> Tensor:
        """A texture uint8 `[H, W, 4]`; raises `AssetError` when it, or all of them together, would be too large."""
        texture = decode_texture(content, limits.max_texture_pixels)
        if self.texels + texture.shape[0] * texture.shape[1] > _MAX_TEXELS:
            raise AssetError(f"was left out: the textures have more than {_MAX_TEXELS:,} pixels together")
        self.texels += texture.shape[0] * texture.shape[1]
        return texture

    def note(self, text: str) -> None:
        """Add a degradation once."""
        if text not in self.notes:
            self.notes.append(text)


class OnlyNames:
    """What trimesh gets for a resolver: a material file that holds names alone, and nothing else."""

    def __init__(self, names: Sequence[str] = ()) -> None:
        self.text = "".join(f"newmtl {name}\n" for name in names).encode()

    def get(self, name: str) -> bytes:
        """The names for a material file; no other file is there."""
        if not self.text:
            raise FileNotFoundError(name)
        return self.text

    __getitem__ = get

    def keys(self) -> list[str]:
        """No files to list."""
        return []


def load_scene(content: bytes, kind: str, names: Sequence[str] = ()) -> Any:
    """A `trimesh.Scene` of the file's content; trimesh opens no file itself."""
    try:
        import trimesh
    except ImportError:
        raise Tok4dError(MISSING.format("trimesh")) from None
    load: Any = trimesh.load  # its type for resolvers knows its own classes only
    loaded = load(io.BytesIO(content), file_type=kind, resolver=OnlyNames(names), process=False)
    return loaded if isinstance(loaded, trimesh.Scene) else trimesh.Scene([loaded])


def assemble(scene: Any, looks: Looks, limits: Limits) -> Mesh:
    """One mesh of all triangles of a scene.

    Raises:
        Tok4dError: when there are too many faces or none.
    """
    instances = [(matrix, scene.geometry[name]) for matrix, name in map(scene.graph.get, scene.graph.nodes_geometry)]
    solid = [(matrix, part) for matrix, part in instances if len(getattr(part, "faces", ())) > 0]
    limits.check(sum(len(part.faces) for _, part in solid), sum(len(part.vertices) for _, part in solid))
    materials: dict[tuple[str, bool], tuple[int, Material]] = {}
    rows: list[tuple[Any, ...]] = []
    start = 0
    for matrix, part in solid:
        with np.errstate(invalid="ignore", over="ignore"):  # what is not finite is dropped, by name
            vertices = np.asarray(part.vertices, dtype=np.float64) @ matrix[:3, :3].T + matrix[:3, 3]
        faces = _sound_faces(np.asarray(part.faces, dtype=np.int64), vertices, looks)
        name = str(getattr(getattr(part.visual, "material", None), "name", None) or "")
        material, uvs = _textured(part, faces, name, looks)
        number, _ = materials.setdefault((name, material.texture is None), (len(materials), material))
        rows.append((vertices, faces + start, uvs, _colors(part, faces), number))
        start += len(vertices)
    if not sum(len(row[1]) for row in rows):
        raise Tok4dError("has no faces: nothing can be seen of it" + ("; " + "; ".join(looks.notes) if rows else ""))
    return _join(rows, [material for _, material in materials.values()], looks)


def _join(rows: Sequence[tuple[Any, ...]], materials: Sequence[Material], looks: Looks) -> Mesh:
    colors = None
    if any(row[3] is not None for row in rows):
        white = [np.full((len(row[1]), 3, 4), 255, np.uint8) for row in rows]
        colors = torch.from_numpy(
            np.concatenate([w if r[3] is None else r[3] for r, w in zip(rows, white, strict=True)])
        )
    finite = np.concatenate([np.nan_to_num(row[0], posinf=0.0, neginf=0.0) for row in rows])
    return Mesh(
        vertices=torch.from_numpy(finite.astype(np.float32)),
        faces=torch.from_numpy(np.concatenate([row[1] for row in rows])),
        uvs=torch.from_numpy(np.concatenate([row[2] for row in rows]).astype(np.float32)),
        face_material=torch.from_numpy(np.concatenate([np.full(len(row[1]), row[4], np.int64) for row in rows])),
        materials=tuple(materials),
        colors=colors,
        meta={"degradations": list(looks.notes)},
    )


def _sound_faces(faces: np.ndarray, vertices: np.ndarray, looks: Looks) -> np.ndarray:
    """Faces whose corners are there and finite; the others are named."""
    there = ((faces >= 0) & (faces < len(vertices))).all(1)
    if not there.all():
        looks.note("faces that refer to vertices that do not exist were dropped")
        faces = faces[there]
    with np.errstate(invalid="ignore"):
        sound = np.isfinite(vertices).all(1) & (np.abs(vertices) < 1e30).all(1)
    kept = faces[sound[faces].all(1)]
    if len(kept) < len(faces):
        looks.note("faces with vertices that are NaN or infinite were dropped")
    return kept


def _textured(part: Any, faces: np.ndarray, name: str, looks: Looks) -> tuple[Material, np.ndarray]:
    """Material of a part and its texture coordinates `[F, 3, 2]` with v = 0 at the top; zeros where there are none."""
    uv = getattr(part.visual, "uv", None)
    material = looks.materials.get(name, Material(name))
    if uv is None or len(uv) != len(part.vertices):
        if material.texture is not None:
            looks.note(f"material {name!r} has a texture but faces without texture coordinates")
            material = replace(material, texture=None, color=looks.bare.get(name, material.color))
        return material, np.zeros((len(faces), 3, 2))
    corners = np.asarray(uv, dtype=np.float64)[:, :2][faces]
    with np.errstate(all="ignore"):
        corners = corners * [1, -1] + [0, 1]
        if name in looks.transforms:
            corners = looks.transforms[name](corners)
        usable = np.abs(corners) < 1e9
    if not usable.all():
        looks.note("texture coordinates that are NaN, infinite or huge count as 0")
        corners = np.where(usable, corners, 0.0)
    if "clamp" not in material.wrap:
        # Coordinates far out lose their fraction in float32; the fraction is all that counts of a repeating texture.
        corners = corners - 2 * np.floor(corners.min(axis=1, keepdims=True) / 2)
    return material, corners


def _colors(part: Any, faces: np.ndarray) -> np.ndarray | None:
    """Corner colours `[F, 3, 4]` uint8 of vertex or face colours, or None."""
    attributes = getattr(part.visual, "vertex_attributes", {})
    color = attributes.get("color") if attributes else None
    if color is not None and len(color) == len(part.vertices):
        linear = np.nan_to_num(np.asarray(color, dtype=np.float64)).clip(0, 1)
        alpha = linear[:, 3:4] if linear.shape[1] > 3 else np.ones((len(linear), 1))
        return _bytes(np.concatenate([to_display(linear[:, :3]), alpha], axis=1))[faces]
    kind = getattr(part.visual, "kind", None)
    if kind == "vertex":
        return np.asarray(part.visual.vertex_colors, np.uint8)[faces]
    if kind == "face" and len(part.visual.face_colors) == len(part.faces) == len(faces):
        return np.repeat(np.asarray(part.visual.face_colors, np.uint8)[:, None], 3, axis=1)
    return None


def _bytes(values: np.ndarray) -> np.ndarray:
    return np.round(values * 255).astype(np.uint8)


def to_display(linear: np.ndarray) -> np.ndarray:
    """Linear light in [0, 1] -> sRGB display values (IEC 61966-2-1)."""
    return np.where(linear <= 0.0031308, linear * 12.92, 1.055 * np.maximum(linear, 1e-12) ** (1 / 2.4) - 0.055)
