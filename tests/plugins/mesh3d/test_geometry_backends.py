"""Geometry backends: octrees by hand, the plane formula against rays, and Kaolin where it is installed."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from made_meshes import box_obj

from tok4d.errors import Tok4dError
from tok4d_mesh3d.backends import backends, geometry, kaolin_installed
from tok4d_mesh3d.cameras import hammersley_sphere
from tok4d_mesh3d.meshes import load_mesh
from tok4d_mesh3d.octree import decode_octree, encode_octree, morton
from tok4d_mesh3d.rays import meet_planes, picture_bounds, window_rays
from tok4d_mesh3d.rendering import render_views

needs_kaolin = pytest.mark.skipif(not kaolin_installed(), reason="NVIDIA Kaolin is not installed")
needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


def random_voxels(levels: int, count: int = 500) -> torch.Tensor:
    generator = torch.Generator().manual_seed(levels)
    return torch.randint(0, 1 << levels, (count, 3), generator=generator).unique(dim=0).int()


def test_an_octree_worked_out_by_hand():
    # 4 x 4 x 4 voxels: (0, 0, 0) and (1, 0, 1) share the root's child 0; (3, 3, 2) is in child 7.
    coords = torch.tensor([[0, 0, 0], [1, 0, 1], [3, 3, 2]])
    # Root: children 0 and 7. Child 0: its children 0 (0, 0, 0) and 5 = 4x + z. Child 7: (1, 1, 0) -> 6.
    assert encode_octree(coords, 2).tolist() == [0b10000001, 0b00100001, 0b01000000]
    assert (
        decode_octree(torch.tensor([0b10000001, 0b00100001, 0b01000000], dtype=torch.uint8), 2).tolist()
        == coords.tolist()
    )
    assert morton(torch.tensor([[0, 0, 1], [0, 1, 0], [1, 0, 0], [0, 0, 2]]), 2).tolist() == [1, 2, 4, 8]


@pytest.mark.parametrize("levels", [1, 3, 6, 10])
def test_octrees_keep_every_voxel_in_any_order(levels: int):
    coords = random_voxels(levels)
    octree = encode_octree(coords[torch.randperm(len(coords), generator=torch.Generator().manual_seed(0))], levels)
    assert torch.equal(decode_octree(octree, levels), coords), "unique() sorts by x, y, z"


def test_damaged_octrees_and_voxels_outside_are_refused():
    octree = encode_octree(random_voxels(4), 4)
    for broken in (octree[:-1], torch.cat([octree, octree[:1]]), torch.zeros_like(octree)):
        with pytest.raises(Tok4dError, match="are no octree of 4 levels"):
            decode_octree(broken, 4)
    with pytest.raises(Tok4dError, match=r"holds 1 or more voxels in \[0, 4\)"):
        encode_octree(torch.tensor([[0, 0, 4]]), 2)
    with pytest.raises(Tok4dError, match=r"has 1\.\.15 levels, got 16"):
        encode_octree(torch.zeros(1, 3), 16)


def test_planes_are_met_where_rays_meet_faces(tmp_path: Path):
    pytest.importorskip("open3d")
    mesh = load_mesh(box_obj(tmp_path, (1, 0.6, 0.3)))
    camera = hammersley_sphere(7)[[3]]
    rays = window_rays(camera, picture_bounds(mesh, camera, 40, 40), (40, 40), 2)
    hits = geometry("torch").caster(mesh)(rays)
    met = hits.depth.isfinite()
    again = meet_planes(mesh, rays, torch.where(met, hits.face, -1))
    assert int(met.sum()) > 500
    assert torch.equal(again.depth.isfinite(), met)
    assert torch.allclose(again.depth[met], hits.depth[met], atol=1e-5)
    assert torch.allclose(again.barycentric[met], hits.barycentric[met], atol=1e-4)
    outside = window_rays(camera, (0, 0, 40, 40), (40, 40), 2)
    assert int(geometry("torch").caster(mesh)(outside).depth.isfinite().sum()) == int(met.sum()), "nothing is cut off"


def test_the_backend_is_chosen_by_name_and_reported():
    assert geometry().name == geometry("auto").name == geometry("torch").name == "torch"
    assert set(backends()) == {"torch", "kaolin"}
    with pytest.raises(Tok4dError, match=r"unknown geometry backend 'kaolinn'. Did you mean 'kaolin'"):
        geometry("kaolinn")


@pytest.mark.skipif(kaolin_installed(), reason="Kaolin is installed")
def test_asking_for_a_missing_kaolin_gives_the_line_that_installs_it():
    with pytest.raises(Tok4dError, match=r"pip install kaolin -f https://\S+/torch-\d[\d.]+_cu\d+\.html .*placeholder"):
        geometry("kaolin")
    assert backends()["kaolin"] == "not installed"


def test_a_missing_open3d_gives_the_line_that_installs_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    mesh = load_mesh(box_obj(tmp_path))
    monkeypatch.setitem(__import__("sys").modules, "open3d", None)
    with pytest.raises(Tok4dError, match=r'open3d is missing.*pip install "tok4d\[mesh3d\]"'):
        render_views(mesh, hammersley_sphere(1), 8)


@needs_kaolin
def test_kaolin_cameras_are_ours():
    ours, kaolins = geometry("torch"), geometry("kaolin")
    eyes = hammersley_sphere(16).centers
    assert torch.allclose(kaolins.look_at(eyes, 40).world_to_camera, ours.look_at(eyes, 40).world_to_camera, atol=1e-5)


@needs_kaolin
@needs_cuda
@pytest.mark.parametrize("levels", [3, 6])
def test_kaolin_octrees_are_ours(levels: int):
    coords = random_voxels(levels)
    ours, kaolins = geometry("torch"), geometry("kaolin")
    assert torch.equal(kaolins.octree(coords, levels), ours.octree(coords, levels))
    assert torch.equal(kaolins.voxels(ours.octree(coords, levels), levels), coords)


@needs_kaolin
@needs_cuda
def test_kaolin_pictures_are_ours(tmp_path: Path):
    mesh = load_mesh(box_obj(tmp_path, (1, 0.6, 0.3)))
    ours, theirs = (render_views(mesh, hammersley_sphere(5), 64, backend=name) for name in ("torch", "kaolin"))
    edges = 0.02  # the two may differ on which side of an edge a sample lies
    assert float(((ours.depth - theirs.depth).abs() > 1e-4).float().mean()) < edges
    assert float((ours.rgb - theirs.rgb).abs().mean()) < edges
