"""Splat and point files against Open3D's and trimesh's own readers and writers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from gaussian_assets import assert_close, random_gaussians

from tok4d.errors import ConfigError, DataError
from tok4d.model.gaussians import SH_DC, Gaussians
from tok4d_mesh3d.splatfiles import read_splats, write_points, write_splats

o3d = pytest.importorskip("open3d")
trimesh = pytest.importorskip("trimesh")


def open3d_splats(path: Path) -> Gaussians:
    parts = {name: torch.from_numpy(value.numpy()) for name, value in o3d.t.io.read_point_cloud(path).point.items()}
    rotation = parts["rot"] / parts["rot"].norm(dim=1, keepdim=True)
    return Gaussians(parts["positions"], parts["scale"], rotation, torch.sigmoid(parts["opacity"])[:, 0], parts["f_dc"])


def by_position(gaussians: Gaussians) -> Gaussians:
    order = gaussians.means[:, 0].argsort()
    return Gaussians(*(part[order] for part in vars(gaussians).values()))


@pytest.mark.parametrize(("name", "version"), [("a.ply", 3), ("a.splat", 3), ("a.spz", 3), ("a.spz", 2)])
def test_open3d_reads_what_we_write(name: str, version: int, tmp_path: Path) -> None:
    write_splats(random_gaussians(400), tmp_path / name, spz_version=version, up="z")
    # Open3D derives version 2's w in float32 from a difference, hence the looser rotation.
    assert_close(open3d_splats(tmp_path / name), read_splats(tmp_path / name, up="z"), rotation=2e-2)


@pytest.mark.parametrize("suffix", [".ply", ".splat"])
def test_we_read_what_open3d_writes(suffix: str, tmp_path: Path) -> None:
    wanted = random_gaussians(400)
    cloud = o3d.t.geometry.PointCloud()
    cloud.point.positions = o3d.core.Tensor(wanted.means.numpy())
    cloud.point["scale"] = o3d.core.Tensor(wanted.scales.numpy())
    cloud.point["rot"] = o3d.core.Tensor(wanted.quaternions.numpy())
    cloud.point["opacity"] = o3d.core.Tensor(torch.logit(wanted.opacities)[:, None].numpy())
    cloud.point["f_dc"] = o3d.core.Tensor(wanted.colors.numpy())
    path = tmp_path / f"a{suffix}"
    assert o3d.t.io.write_point_cloud(path, cloud)
    if suffix == ".ply":
        assert_close(read_splats(path), wanted)
    else:  # written in an order of its own
        assert_close(by_position(read_splats(path)), by_position(open3d_splats(path)))


def test_points_as_ply_for_both(tmp_path: Path) -> None:
    wanted = random_gaussians(200)
    write_points(wanted, tmp_path / "a.ply", min_opacity=0.4)
    kept = wanted.opacities >= 0.4
    xyz, rgb = wanted.means[kept].numpy(), (wanted.rgb[kept].clamp(0, 1) * 255).round().numpy()
    cloud = o3d.io.read_point_cloud(str(tmp_path / "a.ply"))
    np.testing.assert_array_equal(np.asarray(cloud.points, np.float32), xyz)
    np.testing.assert_allclose(np.asarray(cloud.colors) * 255, rgb, atol=1e-4)
    mesh = trimesh.load(tmp_path / "a.ply")
    np.testing.assert_array_equal(mesh.vertices.astype(np.float32), xyz)
    np.testing.assert_array_equal(mesh.colors[:, :3], rgb)


def test_points_as_glb_are_linear_and_y_up(tmp_path: Path) -> None:
    wanted = random_gaussians(200)
    write_points(wanted, tmp_path / "a.glb", min_opacity=0.4)
    kept = wanted.opacities >= 0.4
    scene = trimesh.load(tmp_path / "a.glb")
    (cloud,) = scene.geometry.values()
    assert isinstance(cloud, trimesh.PointCloud)
    turned = wanted.means[kept][:, [0, 2, 1]].numpy() * np.array([1, 1, -1], np.float32)
    np.testing.assert_allclose(scene.bounds, [turned.min(0), turned.max(0)], atol=1e-6)
    np.testing.assert_allclose(cloud.vertices, turned, atol=1e-6)
    linear = np.asarray(cloud.colors[:, :3], np.float64) / 255
    shown = np.where(linear <= 0.0031308, linear * 12.92, 1.055 * linear ** (1 / 2.4) - 0.055)
    # Eight bits of linear light are coarse for dark colours: a step is 0.05 at black, 0.002 at white.
    np.testing.assert_allclose(shown, wanted.rgb[kept].clamp(0, 1).numpy(), atol=0.026)
    bright = wanted.rgb[kept].numpy() > 0.5
    np.testing.assert_allclose(shown[bright], wanted.rgb[kept].numpy()[bright], atol=0.005)


def test_points_that_cannot_be_written(tmp_path: Path) -> None:
    some = random_gaussians(5)
    with pytest.raises(DataError, match="none of 5 Gaussians has an opacity of at least 1"):
        write_points(some, tmp_path / "a.ply", min_opacity=1.0)
    with pytest.raises(ConfigError, match=r"min_opacity must be in \[0, 1\], got 2"):
        write_points(some, tmp_path / "a.ply", min_opacity=2)
    with pytest.raises(DataError, match=r"unknown suffix '.obj' of a point cloud; known: .ply, .glb"):
        write_points(some, tmp_path / "a.obj")
    with pytest.raises(DataError, match="cannot write: No such file or directory"):
        write_points(some, tmp_path / "none" / "a.glb")
    bad = Gaussians(some.means * float("nan"), some.scales, some.quaternions, some.opacities, some.colors / SH_DC)
    with pytest.raises(DataError, match="means of 5 of 5 Gaussians are not finite"):
        write_points(bad, tmp_path / "a.glb")
    assert not list(tmp_path.iterdir())
