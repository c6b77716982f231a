"""Cameras: where they stand, what they see where, and `transforms.json`; against numbers worked out by hand."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch

from tok4d.errors import ConfigError, DataError, Tok4dError
from tok4d_mesh3d.cameras import Cameras, hammersley_sphere, look_at, read_transforms, turntable, write_transforms

FOCAL = 0.5 / math.tan(math.radians(20))


def test_a_camera_in_front_sees_right_on_the_right_and_up_above():
    camera = look_at(torch.tensor([[0.0, -2.0, 0.0]]))
    points = torch.tensor([[0.0, 0, 0], [0.5, 0, 0], [0, 0, 0.5], [0, 1, 0]])
    uv, depth = camera.project(points)
    assert torch.allclose(depth, torch.tensor([[2.0, 2, 2, 3]]))
    half = 0.5 * FOCAL / 2
    expected = torch.tensor([[[0.5, 0.5], [0.5 + half, 0.5], [0.5, 0.5 - half], [0.5, 0.5]]])
    assert torch.allclose(uv, expected, atol=1e-6)
    assert torch.allclose(camera.centers, torch.tensor([[0.0, -2, 0]]), atol=1e-6)


@pytest.mark.parametrize("height", [-2.0, 2.0])
def test_looking_along_z_does_not_degenerate(height):
    camera = look_at(torch.tensor([[0.0, 0.0, height]]))
    rotation = camera.world_to_camera[0, :3, :3]
    assert torch.allclose(rotation @ rotation.T, torch.eye(3), atol=1e-6)
    assert float(torch.linalg.det(rotation)) == pytest.approx(1)
    uv, depth = camera.project(torch.tensor([[0.0, 0.0, 0.0], [0.0, 0.5, 0.0]]))
    assert torch.allclose(depth, torch.tensor([[2.0, 2.0]]))
    assert float(uv[0, 1, 1]) < 0.5, "the world's y axis is up in the picture"
    nearly = look_at(torch.tensor([[1e-4, 0.0, height]])).world_to_camera
    assert bool(nearly.isfinite().all())


def test_an_eye_at_the_target_and_a_flat_field_of_view_are_refused():
    with pytest.raises(Tok4dError, match="stands at the point"):
        look_at(torch.zeros(1, 3))
    with pytest.raises(ConfigError, match="fov must be in"):
        look_at(torch.ones(1, 3), fov=180)
    with pytest.raises(ConfigError, match="views must be at least 1, got 0"):
        hammersley_sphere(0)


def test_hammersley_views_are_those_of_the_training_data():
    cameras = hammersley_sphere(16)
    # i = 0: u = 0, pitch = -pi/2. i = 1: u = 1/16 -> 1/8, v = 1/2. i = 3: u = 3/16 -> 3/8, v = 3/4.
    # i = 8: u = 1/2 -> 2/3, v = 1/16. i = 15: u = 15/16 -> 23/24, v = 15/16.
    expected = {}
    for i, (u, v) in {
        0: (0, 0),
        1: (1 / 8, 1 / 2),
        3: (3 / 8, 3 / 4),
        8: (2 / 3, 1 / 16),
        15: (23 / 24, 15 / 16),
    }.items():
        pitch, yaw = math.acos(1 - 2 * u) - math.pi / 2, 2 * math.pi * v
        expected[i] = [2 * math.cos(yaw) * math.cos(pitch), 2 * math.sin(yaw) * math.cos(pitch), 2 * math.sin(pitch)]
    assert expected[0] == pytest.approx([0, 0, -2], abs=1e-9)
    for i, eye in expected.items():
        assert cameras.centers[i].tolist() == pytest.approx(eye, abs=1e-5)
    uv, depth = cameras.project(torch.zeros(1, 3))
    assert torch.allclose(uv, torch.full((16, 1, 2), 0.5), atol=1e-6)
    assert torch.allclose(depth, torch.full((16, 1), 2.0), atol=1e-6)
    assert torch.allclose(cameras.intrinsics[3], torch.tensor([[FOCAL, 0, 0.5], [0, FOCAL, 0.5], [0, 0, 1]]))


def test_pixel_intrinsics_and_back():
    cameras = hammersley_sphere(5)
    pixels = cameras.pixel_intrinsics(320, 200)
    assert pixels[0, 0].tolist() == pytest.approx([320 * FOCAL, 0, 160])
    assert pixels[0, 1].tolist() == pytest.approx([0, 200 * FOCAL, 100])
    points = torch.rand(7, 3, generator=torch.Generator().manual_seed(0)) - 0.5
    uv, depth = cameras.project(points)
    for i in range(5):
        back = cameras[[i]].unproject(uv[i], depth[[i]])[0]
        assert torch.allclose(back, points, atol=1e-5)


def test_a_turntable_goes_round_once_against_the_clock():
    cameras = turntable(4, elevation=30)
    side, height = 2 * math.cos(math.radians(30)), 1.0
    expected = torch.tensor([[0, -side, height], [side, 0, height], [0, side, height], [-side, 0, height]])
    assert torch.allclose(cameras.centers, expected, atol=1e-5)


def test_transforms_are_blenders(tmp_path: Path):
    cameras = look_at(torch.tensor([[0.0, -2.0, 0.0], [2.0, 0.0, 0.0]]))
    write_transforms(cameras, ["000.png", "001.png"], tmp_path / "transforms.json")
    frame = json.loads((tmp_path / "transforms.json").read_text())["frames"][0]
    # Blender: x right, y up, z backwards; from (0, -2, 0) looking along +y that is x, z and -y of the world.
    expected = [[1, 0, 0, 0], [0, 0, -1, -2], [0, 1, 0, 0], [0, 0, 0, 1]]
    assert torch.allclose(torch.tensor(frame["transform_matrix"]), torch.tensor(expected).float(), atol=1e-6)
    assert frame["camera_angle_x"] == pytest.approx(math.radians(40))
    found, names = read_transforms(tmp_path / "transforms.json")
    assert names == ["000.png", "001.png"]
    assert torch.allclose(found.world_to_camera, cameras.world_to_camera, atol=1e-6)
    assert torch.allclose(found.intrinsics, cameras.intrinsics, atol=1e-6)
    with pytest.raises(Tok4dError, match="2 cameras need as many file names, got 1"):
        write_transforms(cameras, ["a"], tmp_path / "t.json")


def test_a_field_of_view_of_the_whole_file(tmp_path: Path):
    pose = torch.eye(4).tolist()
    path = tmp_path / "t.json"
    path.write_text(
        json.dumps({"camera_angle_x": math.pi / 2, "frames": [{"file_path": "a", "transform_matrix": pose}]})
    )
    cameras, _ = read_transforms(path)
    assert float(cameras.intrinsics[0, 0, 0]) == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("content", "match"),
    [
        ("{}", "is no transforms.json .*frames"),
        ("[1", "is no transforms.json"),
        ('{"frames": [{"file_path": "a", "transform_matrix": [[1, 2], [3, 4]]}]}', r"matrices of 4x4, got \[1, 2, 2\]"),
        (
            '{"frames": [{"file_path": "a", "transform_matrix": [[2,0,0,0],[0,1,0,0],[0,0,1,0],[0,0,0,1]]}]}',
            "frame 0 .* no rigid",
        ),
        (
            '{"frames": [{"file_path": "a", "transform_matrix": [[1,0,0,0],[0,1,0,0],[0,0,1,NaN],[0,0,0,1]]}]}',
            "no rigid",
        ),
        (
            '{"frames": [{"file_path": "a", "transform_matrix": [[1,0,0,0],[0,1,0,0],[0,0,1,0],[0,0,0,1]]}]}',
            "camera_angle_x",
        ),
        ('{"frames": []}', "4x4"),
    ],
)
def test_damaged_transforms_are_refused(tmp_path: Path, content: str, match: str):
    path = tmp_path / "transforms.json"
    path.write_text(content)
    with pytest.raises(DataError, match=match):
        read_transforms(path)
    with pytest.raises(DataError, match="no such file"):
        read_transforms(tmp_path / "none.json")


def test_shapes_are_checked():
    with pytest.raises(Tok4dError, match=r"cameras need matrices \[V, 4, 4\]"):
        Cameras(torch.eye(4), torch.eye(3)[None])
