"""Rendered pictures: colours, depth, coverage, textures, transparency; against geometry worked out by hand."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from made_meshes import CORNERS, box_obj, png, square_obj

from tok4d.errors import ConfigError, Tok4dError
from tok4d_mesh3d.cameras import hammersley_sphere, look_at
from tok4d_mesh3d.mesh import BLEND, CLAMP, MASK, MIRROR, REPEAT, Material, Mesh
from tok4d_mesh3d.meshes import load_mesh
from tok4d_mesh3d.rendering import render_views
from tok4d_mesh3d.surfaces import Surfaces

pytest.importorskip("open3d")
FOCAL = 0.5 / math.tan(math.radians(20))
FRONT = look_at(torch.tensor([[0.0, -2.0, 0.0]]))
EYES = {
    "front": (0, -2, 0),
    "back": (0, 2, 0),
    "right": (2, 0, 0),
    "left": (-2, 0, 0),
    "top": (0, 0, 2),
    "bottom": (0, 0, -2),
}
COLORS = {
    "left": (1, 0, 0),
    "right": (0, 1, 0),
    "bottom": (0, 0, 1),
    "top": (1, 1, 0),
    "back": (0, 1, 1),
    "front": (1, 0, 1),
}


def quad(y: float = 0.0, side: float = 1.0, **material) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, Material]:
    """A square that faces -y: vertices, faces, texture coordinates (v down), material."""
    h = side / 2
    vertices = torch.tensor([[-h, y, -h], [h, y, -h], [h, y, h], [-h, y, h]])
    uv = torch.tensor([[0.0, 1], [1, 1], [1, 0], [0, 0]])
    faces = torch.tensor([[0, 1, 2], [0, 2, 3]])
    return vertices, faces, uv[faces], Material(**material)


def mesh_of(*quads) -> Mesh:
    vertices = torch.cat([q[0] for q in quads])
    faces = torch.cat([q[1] + 4 * i for i, q in enumerate(quads)])
    material = torch.arange(len(quads)).repeat_interleave(2)
    return Mesh(vertices, faces, torch.cat([q[2] for q in quads]), material, tuple(q[3] for q in quads))


def texture(pixels: np.ndarray) -> torch.Tensor:
    alpha = np.full((*pixels.shape[:2], 1), 255, np.uint8)
    return torch.from_numpy(pixels if pixels.shape[2] == 4 else np.concatenate([pixels, alpha], 2))


def test_every_side_of_a_box_shows_its_colour_where_it_should(tmp_path: Path):
    mesh = load_mesh(box_obj(tmp_path))
    cameras = look_at(torch.tensor(list(EYES.values()), dtype=torch.float32))
    views = render_views(mesh, cameras, 32)
    for i, side in enumerate(EYES):
        assert views.rgb[i, :, 16, 16].tolist() == list(COLORS[side]), side
        assert float(views.depth[i, 16, 16]) == pytest.approx(1.5, abs=1e-5)


def test_depth_is_along_the_axis_and_coverage_is_exact():
    # The square spans 0.5 +- 0.5 * FOCAL / 2 of the picture: 0.686869 of 64 pixels.
    views = render_views(mesh_of(quad(color=(0.2, 0.4, 0.6, 1))), FRONT, 64, supersample=8)
    covered = float(views.alpha.sum())
    assert covered == pytest.approx((0.5 * FOCAL * 64) ** 2, rel=0.01)
    inside = views.depth[0] > 0
    assert torch.allclose(views.depth[0][inside], torch.tensor(2.0), atol=1e-5)
    assert torch.equal(views.mask[0], inside)
    assert torch.allclose(views.rgb[0, :, 32, 32], torch.tensor([0.2, 0.4, 0.6]), atol=1e-6)
    assert views.rgb[0, :, 0, 0].tolist() == [0, 0, 0]
    assert float(views.depth[0, 0, 0]) == 0


def test_the_background_is_under_partly_covered_pixels():
    mesh = mesh_of(quad(color=(1, 0, 0, 1)))
    on_green = render_views(mesh, FRONT, 30, supersample=3, background=(0, 1, 0))
    alpha = on_green.alpha[0]
    partly = (alpha > 0.01) & (alpha < 0.99)
    assert bool(partly.any())
    assert torch.allclose(on_green.rgb[0, 0], alpha)
    assert torch.allclose(on_green.rgb[0, 1], 1 - alpha)


def test_wide_pictures_and_views_that_cut_the_object(tmp_path: Path):
    mesh = load_mesh(box_obj(tmp_path))
    wide = render_views(mesh, FRONT, (16, 48))
    assert wide.rgb.shape == (1, 3, 16, 48)
    near = look_at(torch.tensor([[0.0, -0.8, 0.0]]))
    assert bool(render_views(mesh, near, 16).mask.all())
    inside = replace(near, world_to_camera=look_at(torch.tensor([[0.0, -0.4, 0.0]])).world_to_camera)
    seen = render_views(mesh, inside, 16)
    assert torch.allclose(seen.depth[0, 8, 8], torch.tensor(0.9), atol=1e-5), "the far wall, from the inside"


def test_a_texture_stands_upright_and_is_not_mirrored(tmp_path: Path):
    mesh = load_mesh(square_obj(tmp_path, "map_Kd square.png", png(CORNERS, side=64)))
    rgb = render_views(mesh, FRONT, 64).rgb[0]
    places = {(20, 20): (1, 0, 0), (20, 44): (0, 1, 0), (44, 20): (0, 0, 1), (44, 44): (1, 1, 1)}
    for (row, column), color in places.items():
        assert rgb[:, row, column].tolist() == pytest.approx(color)


def test_bilinear_lookup_wraps_as_the_material_says():
    pixels = texture(np.array([[[0, 0, 0], [255, 255, 255]]], np.uint8))
    for wrap, expected in (
        (REPEAT, [0.5, 0.0, 0.5, 1.0, 0.5, 0.0]),
        (CLAMP, [0.0, 0.0, 0.5, 1.0, 1.0, 1.0]),
        (MIRROR, [0.0, 0.0, 0.5, 1.0, 1.0, 1.0]),
    ):
        vertices, faces, _, _ = quad()
        us = torch.tensor([0.0, 0.25, 0.5, 0.75, 1.0, 1.25])
        uvs = torch.stack([us, torch.full_like(us, 0.5)], 1)[:, None].expand(6, 3, 2)
        mesh = Mesh(
            vertices, faces[[0] * 6], uvs, torch.zeros(6).long(), (Material(texture=pixels, wrap=(wrap, wrap)),)
        )
        rgb, _ = Surfaces.of(mesh).look(torch.arange(6), torch.full((6, 2), 0.25), torch.zeros(6))
        assert rgb[:, 0].tolist() == pytest.approx(expected), wrap
    far = torch.tensor([[1.75, 0.5]])[:, None].expand(1, 3, 2)
    for wrap, value in ((REPEAT, 1.0), (CLAMP, 1.0), (MIRROR, 0.0)):
        mesh = Mesh(vertices, faces[:1], far, torch.zeros(1).long(), (Material(texture=pixels, wrap=(wrap, wrap)),))
        assert (
            float(Surfaces.of(mesh).look(torch.zeros(1).long(), torch.full((1, 2), 0.25), torch.zeros(1))[0][0, 0])
            == value
        )


def test_a_fine_texture_becomes_its_mean_from_afar():
    checks = (np.indices((512, 512)).sum(0) % 2 * 255).astype(np.uint8)[..., None].repeat(3, 2)
    rgb = render_views(mesh_of(quad(texture=texture(checks))), FRONT, 24, supersample=1).rgb[0, :, 8:16, 8:16]
    assert torch.allclose(rgb, torch.tensor(0.5), atol=0.01), "single texels would be black or white"


def test_colour_vertex_colours_and_texture_multiply():
    one = mesh_of(quad(color=(0.5, 1, 1, 1), texture=texture(np.full((4, 4, 3), 204, np.uint8))))
    colors = torch.full((2, 3, 4), 255, dtype=torch.uint8)
    colors[..., 1] = 51
    rgb = render_views(replace(one, colors=colors), FRONT, 16).rgb[0, :, 8, 8]
    assert rgb.tolist() == pytest.approx([0.4, 0.16, 0.8], abs=1e-6)


def test_cut_outs_let_the_ray_through():
    holes = np.full((2, 2, 4), 255, np.uint8)
    holes[0, :, 3] = 0  # the upper half is not there
    front = quad(-0.25, texture=texture(holes.repeat(16, 0).repeat(16, 1)), alpha_mode=MASK, color=(1, 0, 0, 1))
    mesh = mesh_of(front, quad(0.25, color=(0, 0, 1, 1)))
    views = render_views(mesh, FRONT, 32)
    assert views.rgb[0, :, 10, 16].tolist() == pytest.approx([0, 0, 1])
    assert views.rgb[0, :, 22, 16].tolist() == pytest.approx([1, 0, 0])
    assert float(views.depth[0, 10, 16]) == pytest.approx(2.25, abs=1e-4)
    assert float(views.depth[0, 22, 16]) == pytest.approx(1.75, abs=1e-4)
    opaque = replace(mesh, materials=(replace(mesh.materials[0], alpha_mode="opaque"), mesh.materials[1]))
    assert render_views(opaque, FRONT, 32).rgb[0, :, 10, 16].tolist() == pytest.approx([1, 0, 0])


def test_glass_shines_through_and_has_a_depth_of_its_own():
    glass = {"color": (0.0, 1.0, 0.0, 0.25), "alpha_mode": BLEND}
    mesh = mesh_of(quad(-0.25, **glass), quad(0.0, **glass), quad(0.25, color=(1, 0, 0, 1)))
    views = render_views(mesh, FRONT, 16)
    assert views.rgb[0, :, 8, 8].tolist() == pytest.approx([0.75**2, 1 - 0.75**2, 0], abs=1e-5)
    assert float(views.depth[0, 8, 8]) == pytest.approx(1.75, abs=1e-4)
    assert float(views.alpha[0, 8, 8]) == 1
    alone = render_views(mesh_of(quad(**glass)), FRONT, 16, background=(0, 0, 1))
    assert alone.rgb[0, :, 8, 8].tolist() == pytest.approx([0, 0.25, 0.75])
    assert float(alone.alpha[0, 8, 8]) == pytest.approx(0.25)
    assert bool(alone.mask[0, 8, 8])
    hidden = render_views(mesh_of(quad(color=(1, 1, 1, 0.02), alpha_mode=BLEND)), FRONT, 16)
    assert not bool(hidden.mask.any())


def test_a_head_light_dims_with_the_angle():
    mesh = mesh_of(quad())
    flat = render_views(mesh, FRONT, 17, shading="headlight").rgb[0, 0, 8, 8]
    tilted = look_at(torch.tensor([[0.0, -2 * math.cos(math.pi / 3), 2 * math.sin(math.pi / 3)]]))
    assert float(flat) == pytest.approx(1, abs=1e-4)
    assert float(render_views(mesh, tilted, 17, shading="headlight").rgb[0, 0, 8, 8]) == pytest.approx(
        0.45 + 0.55 / 2, abs=1e-3
    )
    behind = look_at(torch.tensor([[0.0, 2.0, 0.0]]))
    assert float(render_views(mesh, behind, 17, shading="headlight").rgb[0, 0, 8, 8]) == pytest.approx(1, abs=1e-4)


def test_the_same_picture_whatever_the_threads_rows_or_other_views(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    mesh = load_mesh(square_obj(tmp_path, "map_Kd square.png", png(CORNERS, side=64)))
    cameras = hammersley_sphere(4)
    whole = render_views(mesh, cameras, 40, shading="headlight")
    alone = render_views(mesh, cameras[[2]], 40, shading="headlight")
    assert torch.equal(whole.rgb[2], alone.rgb[0])
    monkeypatch.setattr("tok4d_mesh3d.rendering._RAYS", 300)
    chunked = render_views(mesh, cameras, 40, shading="headlight")
    assert torch.equal(chunked.depth, whole.depth)
    assert torch.allclose(chunked.rgb, whole.rgb, atol=1e-6)


def test_a_sphere_of_many_faces_has_the_depth_of_a_sphere():
    trimesh = pytest.importorskip("trimesh")
    ball = trimesh.creation.icosphere(subdivisions=5, radius=0.5)
    faces = torch.from_numpy(np.asarray(ball.faces)).long()
    vertices = torch.from_numpy(np.asarray(ball.vertices)).float()
    mesh = Mesh(vertices, faces, torch.zeros(len(faces), 3, 2), torch.zeros(len(faces)).long(), (Material(),))
    views = render_views(mesh, hammersley_sphere(6), 64, supersample=1)
    center = (torch.arange(64) + 0.5) / 64 - 0.5
    slope = center / FOCAL
    squared = slope[None] ** 2 + slope[:, None] ** 2 + 1  # |direction|^2 of the ray through (x, y)
    inside = 4 - squared * (4 - 0.25)
    depth = (2 - inside.clamp(min=0).sqrt()) / squared
    safe = inside > 0.05
    for view in views.depth:
        assert torch.allclose(view[safe], depth[safe], atol=2e-3)
        assert not bool((view[inside < -0.05] > 0).any())


def test_values_that_are_not_possible_are_named():
    mesh = mesh_of(quad())
    with pytest.raises(ConfigError, match="unknown shading 'phong'"):
        render_views(mesh, FRONT, 8, shading="phong")
    with pytest.raises(ConfigError, match="size and supersample must be at least 1"):
        render_views(mesh, FRONT, 0)
    with pytest.raises(ConfigError, match=r"background must be in \[0, 1\]"):
        render_views(mesh, FRONT, 8, background=(255, 0, 0))
    with pytest.raises(Tok4dError, match="unknown geometry backend 'cuda'"):
        render_views(mesh, FRONT, 8, backend="cuda")
