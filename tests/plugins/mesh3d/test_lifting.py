"""Back-projection: the release's packing by hand, our own against a slow reference, occupancy, occlusion, batches."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from made_meshes import CORNERS, box_obj, png, square_obj
from torch import Tensor

from tok4d.errors import ConfigError, Tok4dError
from tok4d_mesh3d.cameras import Cameras, hammersley_sphere, look_at, normalized_intrinsics
from tok4d_mesh3d.lifting import depth_points, lift, nearest_visible
from tok4d_mesh3d.meshes import load_mesh
from tok4d_mesh3d.rendering import Views, render_views
from tok4d_mesh3d.voxels import centers, occupied, voxel_of


def camera_at(*eyes: tuple[float, float, float], fov: float = 40) -> Cameras:
    return look_at(torch.tensor(eyes, dtype=torch.float32), fov=fov)


def numbered(views: int, size: int) -> Tensor:
    """Pictures whose every value is another: `[V, 3, H, W]` in [0, 1)."""
    return torch.arange(views * 3 * size * size).view(views, 3, size, size) / (views * 3 * size * size)


def test_compat_packs_as_the_release_on_a_case_worked_out_by_hand():
    # Two cameras with f = 1 (fov 2 atan 0.5) and pictures of 4 x 4, cut into 2 x 2 patches of 2 x 2 pixels.
    # Camera 0 stands at (0, -2, 0), camera 1 at (0, 3, 0): camera 0 is nearer to everything.
    fov = math.degrees(2 * math.atan(0.5))
    cameras = camera_at((0, -2, 0), (0, 3, 0), fov=fov)
    assert torch.allclose(cameras.intrinsics[0], normalized_intrinsics(fov))
    rgb = numbered(2, 4)
    depth = torch.zeros(2, 4, 4)
    # Camera 0, pixel (row 3, column 0): the release puts it at (u, v) = (0, 3/4); with depth 1.8 the point is
    # x = (0 - 0.5) * 1.8 = -0.9 -> outside of the cube. Column 2, row 3: x = 0, z = -(0.75 - 0.5) * 1.8 = -0.45,
    # y = -0.2. On a grid of 4: floor((0 + .5) 4) = 2, floor((-.2 + .5) 4) = 1, floor((-.45 + .5) 4) = 0.
    depth[0, 3, 0] = depth[0, 3, 2] = 1.8
    # Camera 1 looks along -y, its right is -x. Column 1, row 1, depth 2.8: x = -(0.25 - 0.5) * 2.8 = 0.7 -> outside.
    # Column 3, row 2, depth 3.2: u = 0.75, x = -(0.25) * 3.2 = -0.8 -> outside. Column 2, row 1: x = 0,
    # z = (0.5 - 0.25) * 1.6 = 0.4 with depth 1.6, y = 1.4 -> outside. With depth 2.8: z = 0.7 -> outside.
    # Row 2, column 2, depth 2.8: the point (0, 0.2, 0) -> voxel (2, 2, 2).
    depth[1, 1, 1], depth[1, 2, 3], depth[1, 2, 2] = 2.8, 3.2, 2.8
    lifted = lift(Views(rgb, depth, (depth > 0).float()), cameras, resolution=4, mode="compat", patch=2)
    assert lifted.coords.tolist() == [[2, 1, 0], [2, 2, 2]]
    assert lifted.coords.dtype == torch.int32
    assert lifted.view.tolist() == [0, 0], "nearest by depth, whoever saw it"
    # Voxel (2, 1, 0): middle (0.125, -0.125, -0.375), depth 1.875; u = 0.5 + 0.125 / 1.875 = 0.5667,
    # v = 0.5 + 0.375 / 1.875 = 0.7. Aligned corners on 2 patches: index = round(u * 1) -> column 1, row 1.
    # Voxel (2, 2, 2): middle (0.125, 0.125, 0.125), depth 2.125; u = 0.5588, v = 0.4412 -> column 1, row 0.
    for row, (r, c) in enumerate(((1, 1), (0, 1))):
        patch = [float(rgb[0, channel, 2 * r + i, 2 * c + j]) for i in (0, 1) for j in (0, 1) for channel in (0, 1, 2)]
        assert lifted.features[row].tolist() == pytest.approx(patch, abs=1e-7), "order: row, column, colour"


def test_compat_picks_what_grid_sample_picks():
    cameras = hammersley_sphere(6)
    generator = torch.Generator().manual_seed(0)
    rgb = torch.rand(6, 3, 64, 64, generator=generator)
    depth = 1.2 + 1.6 * torch.rand(6, 64, 64, generator=generator)
    lifted = lift(Views(rgb, depth, torch.ones(6, 64, 64)), cameras, resolution=16, mode="compat")
    uv, z = cameras.project(centers(lifted.coords, 16))
    patches = rgb.view(6, 3, 4, 16, 4, 16).permute(0, 3, 5, 1, 2, 4).reshape(6, 768, 4, 4)
    sampled = F.grid_sample(patches, uv[:, None] * 2 - 1, mode="nearest", padding_mode="zeros", align_corners=True)[
        :, :, 0
    ]
    expected = sampled[z.argmin(0), :, torch.arange(len(lifted.coords))]
    assert len(lifted.coords) > 1000
    assert torch.equal(lifted.features, expected)
    assert torch.equal(lifted.view, z.argmin(0))


def slow_visible(views: Views, cameras: Cameras, coords: Tensor, resolution: int, patch: int) -> tuple[Tensor, Tensor]:
    """Features and views of the default mode, one voxel, view and pixel at a time."""
    count, _, height, width = views.rgb.shape
    features, chosen = [], []
    for coord in coords.tolist():
        middle = torch.tensor([(value + 0.5) / resolution - 0.5 for value in coord] + [1.0])
        best = (1e9, -1, 0.0, 0.0)
        for v in range(count):
            x, y, z = (cameras.world_to_camera[v] @ middle)[:3].tolist()
            focal, center = float(cameras.intrinsics[v, 0, 0]), float(cameras.intrinsics[v, 0, 2])
            u, w = (focal * x / z + center) * width, (focal * y / z + center) * height
            rank = z
            if not (0 <= u < width and 0 <= w < height):
                rank += 1e6
            else:
                front = float(views.depth[v, int(w), int(u)])
                if front > 0 and z > front + 1 / resolution:
                    rank += 1e3
            if rank < best[0]:
                best = (rank, v, u, w)
        _, v, u, w = best
        chosen.append(v)
        values = []
        for i in range(patch):
            for j in range(patch):
                column, row = u + j - (patch - 1) / 2 - 0.5, w + i - (patch - 1) / 2 - 0.5
                left, top = math.floor(column), math.floor(row)
                dx, dy = column - left, row - top
                for channel in range(3):

                    def at(r: int, c: int, channel: int = channel, v: int = v) -> float:
                        return float(views.rgb[v, channel, min(max(r, 0), height - 1), min(max(c, 0), width - 1)])

                    upper = at(top, left) * (1 - dx) + at(top, left + 1) * dx
                    lower = at(top + 1, left) * (1 - dx) + at(top + 1, left + 1) * dx
                    values.append(upper * (1 - dy) + lower * dy)
        features.append(values)
    return torch.tensor(features), torch.tensor(chosen)


def test_visible_agrees_with_a_slow_reference(tmp_path: Path):
    pytest.importorskip("open3d")
    mesh = load_mesh(square_obj(tmp_path, "map_Kd square.png", png(CORNERS, side=16)))
    cameras = hammersley_sphere(5)
    views = render_views(mesh, cameras, 24)
    lifted = lift(views, cameras, resolution=8, patch=4)
    features, chosen = slow_visible(views, cameras, lifted.coords, 8, 4)
    assert len(lifted.coords) >= 60
    assert torch.equal(lifted.view, chosen)
    assert torch.allclose(lifted.features, features, atol=2e-4)
    wide = lift(views, cameras, resolution=8)
    assert wide.features.shape == (len(lifted.coords), 768)
    assert 0 <= float(wide.features.min()) <= float(wide.features.max()) <= 1


def test_the_middle_of_a_patch_is_what_the_voxel_looks_like(tmp_path: Path):
    pytest.importorskip("open3d")
    mesh = load_mesh(box_obj(tmp_path))
    cameras = hammersley_sphere(16)
    lifted = lift(render_views(mesh, cameras, 256), cameras, resolution=16)
    middle = lifted.features.view(-1, 16, 16, 3)[:, 7:9, 7:9].mean((1, 2))
    sides = {
        "left": (0, 0, (1, 0, 0)),
        "right": (0, 15, (0, 1, 0)),
        "bottom": (2, 0, (0, 0, 1)),
        "top": (2, 15, (1, 1, 0)),
    }
    for axis, place, color in sides.values():
        others = [i for i in range(3) if i != axis]
        inner = (lifted.coords[:, axis] == place) & ((lifted.coords[:, others] - 7.5).abs() < 6).all(1)
        assert int(inner.sum()) == 144
        assert torch.allclose(middle[inner], torch.tensor(color).float(), atol=1e-3)
    assert lifted.unseen == 0
    compat = lift(render_views(mesh, cameras, 256), cameras, resolution=16, mode="compat")
    assert len(compat.coords) == pytest.approx(len(lifted.coords), rel=0.1)


def test_a_view_that_is_nearer_but_blocked_is_not_taken():
    # A wall at y = -0.4 hides the point (0, 0, 0) from camera 0 at distance 1.5; camera 1 stands behind, further away.
    cameras = camera_at((0, -1.5, 0), (0, 3, 0))
    depth = torch.stack([torch.full((32, 32), 1.1), torch.full((32, 32), 3.0)])
    uv, z = cameras.project(torch.tensor([[0.0, 0.0, 0.0], [0.0, -0.4, 0.0], [0.0, -0.39, 0.0]]))
    view, unseen = nearest_visible(depth, uv, z, tolerance=1 / 64)
    assert view.tolist() == [1, 0, 0], "the wall itself is seen from the front, within one voxel"
    assert unseen == 0
    closed = torch.stack([torch.full((32, 32), 1.1), torch.full((32, 32), 2.0)])
    view, unseen = nearest_visible(closed, uv[:, :1], z[:, :1], tolerance=1 / 64)
    assert (view.tolist(), unseen) == ([0], 1), "none sees it: the nearest"
    empty = torch.zeros(2, 32, 32)
    assert nearest_visible(empty, uv[:, :1], z[:, :1], tolerance=1 / 64)[0].tolist() == [0], "nothing stands before it"
    outside, z = cameras.project(torch.tensor([[0.0, -1.4, 0.4]]))
    view, unseen = nearest_visible(empty, outside, z, tolerance=1 / 64)
    assert (view.tolist(), unseen) == ([1], 0), "not in the picture of the nearest"


def test_depth_points_lie_at_pixel_centres_or_corners():
    cameras = camera_at((0, -2, 0))
    depth = torch.zeros(1, 4, 4)
    depth[0, 1, 3] = 2.0
    focal = float(cameras.intrinsics[0, 0, 0])
    centred = depth_points(depth, cameras)
    assert centred.tolist()[0] == pytest.approx(
        [2 * (3.5 / 4 - 0.5) / focal, 0, -2 * (1.5 / 4 - 0.5) / focal], abs=1e-6
    )
    corner = depth_points(depth, cameras, half_pixel=False)
    assert corner.tolist()[0] == pytest.approx([2 * (3 / 4 - 0.5) / focal, 0, -2 * (1 / 4 - 0.5) / focal], abs=1e-6)


def test_occupancy_is_sorted_unique_and_closed_at_the_border():
    points = torch.tensor(
        [[0.5, 0.5, 0.5], [-0.5, -0.5, -0.5], [0, 0, 0], [0.01, 0.01, 0.01], [0.503, 0, 0], [0.52, 0, 0], [-0.52, 0, 0]]
    )
    assert occupied(points, 64).tolist() == [[0, 0, 0], [32, 32, 32], [63, 32, 32], [63, 63, 63]]
    assert voxel_of(points[:3], 64).tolist() == [[64, 64, 64], [0, 0, 0], [32, 32, 32]]
    assert torch.allclose(centers(torch.tensor([[0, 32, 63]]), 64), torch.tensor([[-0.4921875, 0.0078125, 0.4921875]]))
    everywhere = torch.rand(20_000, 3, generator=torch.Generator().manual_seed(0)) - 0.5
    slow = sorted({tuple(math.floor((x + 0.5) * 8) for x in point) for point in everywhere.tolist()})
    assert occupied(everywhere, 8).tolist() == [list(voxel) for voxel in slow]


def test_the_surface_fills_in_what_no_camera_sees(tmp_path: Path):
    pytest.importorskip("open3d")
    mesh = load_mesh(box_obj(tmp_path))
    cameras = camera_at((0, -2, 0))
    views = render_views(mesh, cameras, 64)
    one_side = lift(views, cameras, resolution=8)
    assert one_side.coords[:, 1].unique().tolist() == [0]
    whole = lift(views, cameras, resolution=8, surface=mesh.surface_points(1 / 32))
    assert len(whole.coords) == 8**3 - 6**3
    assert whole.unseen == 8**3 - 6**3 - len(one_side.coords)


def test_voxels_do_not_depend_on_chunks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    pytest.importorskip("open3d")
    mesh = load_mesh(box_obj(tmp_path))
    cameras = hammersley_sphere(8)
    views = render_views(mesh, cameras, 64)
    whole = lift(views, cameras, resolution=16)
    monkeypatch.setattr("tok4d_mesh3d.lifting._CHUNK", 7)
    assert torch.equal(lift(views, cameras, resolution=16).features, whole.features)


def test_values_that_are_not_possible_are_named():
    cameras = camera_at((0, -2, 0))
    views = Views(torch.zeros(1, 3, 8, 8), torch.zeros(1, 8, 8), torch.zeros(1, 8, 8))
    with pytest.raises(ConfigError, match=r"unknown back-projection mode 'compatible'.*Did you mean 'compat'"):
        lift(views, cameras, mode="compatible")
    with pytest.raises(ConfigError, match=r"pictures of \[8, 8\] pixels cannot be cut into patches of 16"):
        lift(views, cameras, mode="compat")
    with pytest.raises(ConfigError, match="resolution must be in"):
        lift(views, cameras, resolution=0)
    with pytest.raises(Tok4dError, match="1 pictures need as many cameras, got 2"):
        lift(views, hammersley_sphere(2))
    with pytest.raises(Tok4dError, match="no view shows anything"):
        lift(views, cameras)
