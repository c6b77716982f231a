"""What colour a mesh has at given points of its faces: texture lookup with mipmaps, vertex colours, materials.

N = points on the surface, F = faces, M = materials, L = levels of a texture. All textures and their levels lie in
one buffer, so that points of any material are looked up together.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from tok4d_mesh3d.mesh import BLEND, CLAMP, MASK, MIRROR, Mesh

_VISIBLE = 1 / 20  # a blended surface below this alpha is not there: glass is, a hidden helper face is not


@dataclass
class Surfaces:
    """Lookup tables of a mesh.

    Attributes:
        texels: int32 `[total]`, RGBA bytes of all levels of all textures, row by row.
        first, width, height: int64 `[M, L]`, where a level starts and its size; levels beyond the last repeat it.
        density: `[F]`, texels of level 0 per world unit on a face.
        color: `[M, 4]`; textured: `[M]`; blend, threshold: `[M]`, how alpha counts.
    """

    mesh: Mesh
    texels: Tensor
    first: Tensor
    width: Tensor
    height: Tensor
    density: Tensor
    color: Tensor
    textured: Tensor
    wraps: Tensor
    blend: Tensor
    threshold: Tensor

    @property
    def opaque(self) -> bool:
        """Whether no ray can pass a face."""
        return bool((self.threshold == 0).all())

    @classmethod
    def of(cls, mesh: Mesh) -> Surfaces:
        """Tables of a mesh; textures are stored once, however many materials use them."""
        known: dict[int, list[tuple[int, int, int]]] = {}
        blocks, total = [], 0
        for material in mesh.materials:
            if material.texture is not None and id(material.texture) not in known:
                entries = []
                for level in _pyramid(material.texture):
                    entries.append((total, level.shape[1], level.shape[0]))
                    blocks.append(level.reshape(-1, 4))
                    total += level.shape[0] * level.shape[1]
                known[id(material.texture)] = entries
        blank = [(0, 1, 1)]
        levels = [blank if m.texture is None else known[id(m.texture)] for m in mesh.materials]
        most = max(len(entries) for entries in levels)
        table = torch.tensor([entries + entries[-1:] * (most - len(entries)) for entries in levels])
        texels = torch.cat(blocks) if blocks else torch.full((1, 4), 255, dtype=torch.uint8)
        modes = {CLAMP: 1, MIRROR: 2}
        limits = {MASK: None, BLEND: _VISIBLE}
        thresholds = [limits.get(m.alpha_mode, 0.0) for m in mesh.materials]
        return cls(
            mesh=mesh,
            texels=texels.contiguous().view(torch.int32).flatten(),
            first=table[..., 0],
            width=table[..., 1],
            height=table[..., 2],
            density=_density(mesh, table[:, 0, 1:]),
            color=torch.tensor([m.color for m in mesh.materials], dtype=torch.float32),
            textured=torch.tensor([m.texture is not None for m in mesh.materials]),
            wraps=torch.tensor([[modes.get(wrap, 0) for wrap in m.wrap] for m in mesh.materials]),
            blend=torch.tensor([m.alpha_mode == BLEND for m in mesh.materials]),
            threshold=torch.tensor(
                [m.cutoff if t is None else t for m, t in zip(mesh.materials, thresholds, strict=True)]
            ),
        )

    def look(self, faces: Tensor, barycentric: Tensor, footprint: Tensor) -> tuple[Tensor, Tensor]:
        """Colour `[N, 3]` and alpha `[N]` in [0, 1]; alpha is 0 where the surface does not count as there.

        Args:
            faces: `[N]`.
            barycentric: `[N, 2]`, weights of the second and third corner.
            footprint: `[N]`, side of a picture's sample on the surface in world units; picks the mipmap level.
        """
        material = self.mesh.face_material[faces]
        second, third = barycentric.unbind(1)
        weights = torch.stack([1 - second - third, second, third], dim=1)
        rgba = self.color[material]
        at = self.textured[material].nonzero()[:, 0]
        if len(at):
            uv = torch.einsum("nk,nkc->nc", weights[at], self.mesh.uvs[faces[at]])
            rgba[at] *= self._texture(material[at], uv, self.density[faces[at]] * footprint[at])
        if self.mesh.colors is not None:
            rgba = rgba * (weights[..., None] * (self.mesh.colors[faces].float() / 255)).sum(1)
        if self.opaque:
            return rgba[:, :3], torch.ones(len(faces))
        alpha, threshold = rgba[:, 3], self.threshold[material]
        solid = torch.where(self.blend[material], alpha, 1.0)
        return rgba[:, :3], torch.where((alpha >= threshold) | (threshold == 0), solid, 0.0)

    def _texture(self, material: Tensor, uv: Tensor, scale: Tensor) -> Tensor:
        """Texel colours `[N, 4]` in [0, 1], bilinear, from the mipmap level that is nearest to `scale` texels."""
        level = scale.clamp(min=1).log2().round().long().clamp(max=self.first.shape[1] - 1)
        first, width, height = self.first[material, level], self.width[material, level], self.height[material, level]
        x, y = uv[:, 0] * width - 0.5, uv[:, 1] * height - 0.5
        left, top = x.floor(), y.floor()
        dx, dy = (x - left)[:, None], (y - top)[:, None]
        wraps = self.wraps[material] if bool(self.wraps.any()) else None
        columns = [_wrap(left.long() + i, width, wraps, 0) for i in (0, 1)]
        rows = [first + _wrap(top.long() + i, height, wraps, 1) * width for i in (0, 1)]
        upper = self._fetch(rows[0] + columns[0]).lerp(self._fetch(rows[0] + columns[1]), dx)
        lower = self._fetch(rows[1] + columns[0]).lerp(self._fetch(rows[1] + columns[1]), dx)
        return upper.lerp(lower, dy) / 255

    def _fetch(self, index: Tensor) -> Tensor:
        return self.texels[index].view(torch.uint8).view(-1, 4).float()


def _wrap(index: Tensor, size: Tensor, wraps: Tensor | None, axis: int) -> Tensor:
    """Texel index inside [0, size): repeated, clamped or mirrored."""
    repeated = index.remainder(size)
    if wraps is None:
        return repeated
    mode = wraps[:, axis]
    clamped = index.clamp(min=0).minimum(size - 1)
    mirrored = index.remainder(2 * size)
    mirrored = torch.where(mirrored < size, mirrored, 2 * size - 1 - mirrored)
    return torch.where(mode == 1, clamped, torch.where(mode == 2, mirrored, repeated))


def _pyramid(texture: Tensor) -> list[Tensor]:
    """Levels `[H, W, 4]` uint8, each half the size of the one before; colours weigh by their alpha."""
    levels = [texture]
    while max(levels[-1].shape[:2]) > 4:
        pixels = levels[-1].permute(2, 0, 1).float()
        kernel = [min(2, side) for side in pixels.shape[1:]]
        color, alpha = pixels[:3], pixels[3:]
        averaged = F.avg_pool2d(pixels[None], kernel, ceil_mode=True)[0]
        if bool((alpha < 255).any()):
            weight = F.avg_pool2d(alpha[None], kernel, ceil_mode=True)[0]
            weighted = F.avg_pool2d((color * alpha)[None], kernel, ceil_mode=True)[0] / weight.clamp(min=1e-6)
            averaged[:3] = torch.where(weight > 0, weighted, averaged[:3])
        levels.append(averaged.round().to(torch.uint8).permute(1, 2, 0).contiguous())
    return levels


def _density(mesh: Mesh, sizes: Tensor) -> Tensor:
    """Texels of level 0 per world unit on every face `[F]`, by the ratio of its areas in the texture and in space."""
    corners, uvs = mesh.vertices[mesh.faces], mesh.uvs
    space = torch.linalg.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]).norm(dim=1)
    a, b = uvs[:, 1] - uvs[:, 0], uvs[:, 2] - uvs[:, 0]
    flat = (a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0]).abs() * sizes.prod(1).float()[mesh.face_material]
    return (flat / space.clamp(min=1e-20)).sqrt().clamp(max=1e9)
