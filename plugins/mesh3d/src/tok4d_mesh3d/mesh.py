"""A triangle mesh with everything that a picture of it needs, in plain tensors.

V = vertices, F = faces (triangles), M = materials, H, W = height and width of a texture.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from tok4d.errors import Tok4dError

OPAQUE, MASK, BLEND = "opaque", "mask", "blend"
REPEAT, CLAMP, MIRROR = "repeat", "clamp", "mirror"


@dataclass(frozen=True, eq=False)
class Material:
    """What a surface looks like without light. Colours are display (sRGB) values.

    Attributes:
        name: as the file calls it.
        color: red, green, blue, alpha in [0, 1]; multiplies the texture.
        texture: uint8 `[H, W, 4]`, first row at the top, or None.
        wrap: what lies beyond the texture's border along u and v: `repeat`, `clamp` or `mirror`.
        alpha_mode: `opaque` (alpha is ignored), `mask` (there or not, by `cutoff`) or `blend`.
        cutoff: alpha from which a `mask` surface is there.
    """

    name: str = ""
    color: tuple[float, float, float, float] = (1.0, 1.0, 1.0, 1.0)
    texture: Tensor | None = None
    wrap: tuple[str, str] = (REPEAT, REPEAT)
    alpha_mode: str = OPAQUE
    cutoff: float = 0.5


@dataclass(frozen=True)
class Mesh:
    """A triangle mesh. World axes are right-handed with z up.

    Attributes:
        vertices: float32 `[V, 3]`, in the file's unit until `normalized`.
        faces: int64 `[F, 3]`, rows of `vertices`.
        uvs: float32 `[F, 3, 2]`, texture coordinates of every corner; v = 0 is the texture's first row (top).
        face_material: int64 `[F]`, index into `materials`.
        materials: at least one.
        colors: uint8 `[F, 3, 4]`, colours of every corner that multiply the material's, or None.
        meta: format, counts and `degradations`: one line for everything that could not be used as the file says.
    """

    vertices: Tensor
    faces: Tensor
    uvs: Tensor
    face_material: Tensor
    materials: tuple[Material, ...]
    colors: Tensor | None = None
    meta: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        count = len(self.faces)
        for name, tensor, shape in (
            ("vertices", self.vertices, (len(self.vertices), 3)),
            ("faces", self.faces, (count, 3)),
            ("uvs", self.uvs, (count, 3, 2)),
            ("face_material", self.face_material, (count,)),
            ("colors", self.colors, (count, 3, 4)),
        ):
            if tensor is not None and tuple(tensor.shape) != shape:
                raise Tok4dError(f"mesh {name} must have shape {list(shape)}, got {list(tensor.shape)}")
        if not self.materials:
            raise Tok4dError("a mesh needs at least one material")

    @property
    def degradations(self) -> list[str]:
        """What could not be used as the file says; empty when all of it was."""
        return list(self.meta.get("degradations", ()))

    def normalized(self) -> Mesh:
        """The mesh in the unit cube: the middle of its bounds at the origin, its longest side from -0.5 to 0.5.

        `meta` keeps `center` (3 numbers) and `scale`: normalised = (original - center) * scale.

        Raises:
            Tok4dError: when it has no extent, or one that float32 cannot hold.
        """
        used = self.vertices[self.faces.flatten().unique()].double()
        low, high = used.amin(0), used.amax(0)
        extent, center = float((high - low).max()), (low + high) / 2
        if not 1e-30 < extent < 1e30:
            raise Tok4dError(f"the mesh has an extent of {extent:g}; nothing can be seen of it")
        vertices = ((self.vertices.double() - center) / extent).float()
        meta = {**self.meta, "center": center.tolist(), "scale": 1 / extent}
        return replace(self, vertices=vertices, meta=meta)

    def surface_points(self, spacing: float, max_points: int = 4_000_000) -> Tensor:
        """Points `[P, 3]` on a regular lattice inside every triangle, at most `spacing` apart along its sides.

        The lattice is coarser where it would take more than `max_points`.
        """
        corners = self.vertices[self.faces]
        longest = (corners - corners.roll(1, dims=1)).norm(dim=2).amax(1)
        steps = (longest / spacing).ceil().clamp(1, 512).long()
        while int(((steps + 1) * (steps + 2) // 2).sum()) > max_points and int(steps.max()) > 1:
            steps = (steps + 1) // 2
        return torch.cat([_lattice(corners[steps == n], int(n)) for n in steps.unique()])


def _lattice(corners: Tensor, steps: int) -> Tensor:
    """All points of `corners [F, 3, 3]` whose barycentric coordinates are multiples of 1 / steps."""
    first, second = torch.meshgrid(torch.arange(steps + 1), torch.arange(steps + 1), indexing="ij")
    inside = first + second <= steps
    a, b = first[inside] / steps, second[inside] / steps
    weights = torch.stack([1 - a - b, a, b], dim=1)
    return torch.einsum("pk,fkd->fpd", weights, corners).reshape(-1, 3)


def turned_z_up(vertices: Tensor) -> Tensor:
    """Vertices of a y-up file in z-up axes: (x, y, z) -> (x, -z, y)."""
    x, y, z = vertices.unbind(-1)
    return torch.stack([x, -z, y], dim=-1)
