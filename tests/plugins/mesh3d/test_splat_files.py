"""Splat files: every format there and back, bytes written by hand, axes, and the limits that the docs state."""

from __future__ import annotations

import gzip
import struct
from math import log, sqrt
from pathlib import Path

import numpy as np
import pytest
import torch
from gaussian_assets import assert_close, covariances, random_gaussians

from tok4d.errors import ConfigError, DataError
from tok4d.model.gaussians import SH_DC, Gaussians
from tok4d_mesh3d.splatfiles import is_splat_ply, read_splats, write_points, write_splats
from tok4d_mesh3d.splatfiles.plyheader import NEEDED

LIMITS = {
    ".ply": {},
    ".splat": {"opacity": 1 / 509, "rgb": 1 / 509, "rotation": 0.9},
    ".spz": {"position": 2**-16.99, "scale": 0.032, "opacity": 1 / 509, "rgb": 0.0037, "rotation": 0.3},
}
HALF = 1 / sqrt(2)
ONE = Gaussians(
    means=torch.tensor([[0.25, -0.5, 0.125]]),
    scales=torch.tensor([[0.01, 0.02, 0.03]]),
    quaternions=torch.tensor([[HALF, 0.0, 0.0, HALF]]),
    opacities=torch.tensor([0.6]),
    colors=(torch.tensor([[1.0, 0.6, 0.2]]) - 0.5) / SH_DC,
)


@pytest.mark.parametrize("up", ["y", "z", None])
@pytest.mark.parametrize("suffix", LIMITS)
def test_there_and_back_within_the_stated_errors(suffix: str, up: str | None, tmp_path: Path) -> None:
    wanted = random_gaussians(3000)
    path = tmp_path / f"a{suffix}"
    write_splats(wanted, path, up=up)
    assert_close(read_splats(path, up=up), wanted, **LIMITS[suffix])
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("suffix", LIMITS)
def test_what_was_read_is_written_the_same(suffix: str, tmp_path: Path) -> None:
    """All but the rotations of `.splat`, which are brought to length 1 between two roundings."""
    write_splats(random_gaussians(500), tmp_path / f"a{suffix}")
    write_splats(read_splats(tmp_path / f"a{suffix}"), tmp_path / f"b{suffix}")
    first, second = (read_splats(tmp_path / f"{name}{suffix}") for name in "ab")
    assert_close(second, first, **{name: LIMITS[suffix][name] for name in ["rotation"] if suffix == ".splat"})


def test_older_spz_derives_w(tmp_path: Path) -> None:
    wanted = random_gaussians(3000)
    write_splats(wanted, tmp_path / "a.spz", spz_version=2, up="z")
    found = read_splats(tmp_path / "a.spz", up="z")
    assert_close(found, wanted, **{**LIMITS[".spz"], "rotation": 14.0})
    firm = wanted.quaternions[:, 0].abs() > 0.5
    apart = (found.quaternions * wanted.quaternions).sum(1).abs().clamp(max=1)[firm]
    assert torch.rad2deg(2 * torch.acos(apart)).max() < 2


def test_bytes_of_a_ply_written_by_hand(tmp_path: Path) -> None:
    values = [0.25, -0.5, 0.125, 0, 0, 0, *ONE.colors[0].tolist(), log(0.6 / 0.4)]
    values += [log(0.01), log(0.02), log(0.03), HALF, 0, 0, HALF]
    names = ["x", "y", "z", "nx", "ny", "nz", "f_dc_0", "f_dc_1", "f_dc_2", "opacity"]
    names += ["scale_0", "scale_1", "scale_2", "rot_0", "rot_1", "rot_2", "rot_3"]
    lines = ["ply", "format binary_little_endian 1.0", "element vertex 1", *(f"property float {n}" for n in names)]
    content = "\n".join([*lines, "end_header\n"]).encode() + struct.pack("<17f", *values)
    (tmp_path / "hand.ply").write_bytes(content)
    assert_close(read_splats(tmp_path / "hand.ply"), ONE)
    write_splats(ONE, tmp_path / "ours.ply")
    ours = (tmp_path / "ours.ply").read_bytes()
    assert ours[:-68] == content[:-68]
    np.testing.assert_allclose(struct.unpack("<17f", ours[-68:]), values, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("order", ["<", ">", "text", "text with spaces"])
def test_plys_of_other_programs(order: str, tmp_path: Path) -> None:
    """Other column order and types, view-dependent colours, comments, CRLF, a long rotation, faces after the rows."""
    columns = dict(zip(NEEDED, [0.25, -0.5, 0.125, *ONE.colors[0].tolist(), log(1.5)], strict=False))
    columns |= {f"scale_{i}": log(0.01 * (i + 1)) for i in range(3)}
    columns |= {f"rot_{i}": value for i, value in enumerate([3.0, 0.0, 0.0, 3.0])}
    columns |= {f"f_rest_{i}": 9.0 for i in range(45)} | {"label": 7}
    names = sorted(columns)
    types = {name: "double" if name == "x" else "uchar" if name == "label" else "float32" for name in names}
    form = {"<": "binary_little_endian", ">": "binary_big_endian"}.get(order, "ascii")
    lines = ["ply", f"format {form} 1.0", "comment made elsewhere", "element vertex 2"]
    lines += [f"property {types[name]} {name}" for name in names]
    lines += ["element face 0", "property list uchar int vertex_indices", "end_header", ""]
    codes = "".join({"double": "d", "uchar": "B", "float32": "f"}[types[name]] for name in names)
    row = [columns[name] for name in names]
    if form == "ascii":
        gap = "  \t" if "spaces" in order else " "
        body = (gap.join(map(repr, row)) + "\r\n").encode() * 2
    else:
        body = struct.pack(order + codes, *row) * 2
    (tmp_path / "a.ply").write_bytes("\r\n".join(lines).encode() + body)
    found = read_splats(tmp_path / "a.ply")
    twice = Gaussians(*(torch.cat([part, part]) for part in vars(ONE).values()))
    assert_close(found, twice)


def test_bytes_of_a_splat_written_by_hand(tmp_path: Path) -> None:
    content = struct.pack("<6f", 0.25, -0.5, 0.125, 0.01, 0.02, 0.03) + bytes([255, 153, 51, 153, 219, 128, 128, 219])
    (tmp_path / "hand.splat").write_bytes(content)
    assert_close(read_splats(tmp_path / "hand.splat"), ONE)
    write_splats(ONE, tmp_path / "ours.splat")
    assert (tmp_path / "ours.splat").read_bytes()[:28] == content[:28]


@pytest.mark.parametrize(("version", "rotation"), [(2, bytes([128, 128, 218])), (3, struct.pack("<I", 511 | 3 << 30))])
def test_bytes_of_an_spz_written_by_hand(version: int, rotation: bytes, tmp_path: Path) -> None:
    """Version 3: w is the largest (3), then x = y = 0 and z = +511 steps of sqrt(1/2) / 511."""
    head = struct.pack("<IIIBBBB", 0x5053474E, version, 1, 1, 12, 0, 0)
    body = b"".join(value.to_bytes(3, "little", signed=True) for value in (1024, -2048, 512))
    body += bytes([153, 255, 153, 51]) + bytes([86, 97, 104]) + rotation + bytes([200] * 9)
    (tmp_path / "hand.spz").write_bytes(gzip.compress(head + body))
    found = read_splats(tmp_path / "hand.spz", up="z")
    assert found.means.tolist() == [[0.25, -0.5, 0.125]]
    assert torch.allclose(found.scales.log(), torch.tensor([[86, 97, 104]]) / 16 - 10)
    assert torch.allclose(found.colors, (torch.tensor([[1.0, 0.6, 0.2]]) - 0.5) / 0.15)
    assert_close(found, ONE, scale=0.032, opacity=1e-6, rotation=1.0, rgb=1.0)


@pytest.mark.parametrize("suffix", LIMITS)
def test_axes_turn_positions_and_shapes_alike(suffix: str, tmp_path: Path) -> None:
    wanted = random_gaussians(50)
    write_splats(wanted, tmp_path / f"a{suffix}", up="y")
    found = read_splats(tmp_path / f"a{suffix}", up="z")
    turn = torch.tensor([[1.0, 0, 0], [0, 0, 1], [0, -1, 0]])  # (x, y, z) -> (x, z, -y)
    assert torch.allclose(found.means, wanted.means @ turn.T, atol=2e-5)
    expected = turn.double() @ covariances(wanted) @ turn.double().T
    size = expected.diagonal(dim1=1, dim2=2).sum(1)[:, None, None]
    assert ((covariances(found) - expected) / size).abs().max() < (1e-6 if suffix == ".ply" else 0.07)


def test_spz_is_y_up_unless_told_and_says_how_it_was_trained(tmp_path: Path) -> None:
    write_splats(ONE, tmp_path / "a.spz")
    assert torch.allclose(read_splats(tmp_path / "a.spz", up="z").means, torch.tensor([[0.25, 0.125, 0.5]]))
    header = gzip.decompress((tmp_path / "a.spz").read_bytes())[:16]
    assert struct.unpack("<IIIBBBB", header) == (0x5053474E, 3, 1, 0, 16, 1, 0)


def test_spz_gives_up_fraction_for_range(tmp_path: Path) -> None:
    far = Gaussians(ONE.means * 4000, ONE.scales * 1000, ONE.quaternions, ONE.opacities, ONE.colors)
    write_splats(far, tmp_path / "a.spz")
    assert_close(read_splats(tmp_path / "a.spz"), far, **{**LIMITS[".spz"], "position": 2**-13})
    beyond = Gaussians(ONE.means * 1e8, ONE.scales, ONE.quaternions, ONE.opacities, ONE.colors)
    with pytest.raises(DataError, match="beyond the"):
        write_splats(beyond, tmp_path / "a.spz")
    tiny = Gaussians(ONE.means, ONE.scales * 1e-4, ONE.quaternions, ONE.opacities, ONE.colors)
    with pytest.raises(DataError, match="scales of 1 of 1 Gaussians are outside"):
        write_splats(tiny, tmp_path / "a.spz")
    assert_close(read_splats(tmp_path / "a.spz"), far, **{**LIMITS[".spz"], "position": 2**-13})


def test_extreme_opacities_and_colours(tmp_path: Path) -> None:
    rows = [[part[0]] * 4 for part in vars(ONE).values()]
    four = Gaussians(*(torch.stack(part) for part in rows))
    four = Gaussians(
        four.means, four.scales, four.quaternions, torch.tensor([0.0, 1.0, 1e-9, 1 - 2.0**-20]), four.colors * 4
    )
    write_splats(four, tmp_path / "a.ply")
    found = read_splats(tmp_path / "a.ply")
    assert torch.allclose(found.opacities, four.opacities, atol=1e-7)
    assert ((found.opacities > 0) & torch.isfinite(found.colors).all(1)).all()
    write_splats(four, tmp_path / "a.splat")
    assert torch.allclose(read_splats(tmp_path / "a.splat").rgb, four.rgb.clamp(0, 1), atol=1 / 509)


def test_an_asset_without_gaussians(tmp_path: Path) -> None:
    none = Gaussians(*(part[:0] for part in vars(ONE).values()))
    for suffix in (".ply", ".spz"):
        write_splats(none, tmp_path / f"a{suffix}")
        assert len(read_splats(tmp_path / f"a{suffix}")) == 0
    with pytest.raises(DataError, match="cannot hold 0"):
        write_splats(none, tmp_path / "a.splat")


def test_gradients_do_not_hinder_writing(tmp_path: Path) -> None:
    write_splats(Gaussians(*(part.clone().requires_grad_() for part in vars(ONE).values())), tmp_path / "a.ply")
    assert_close(read_splats(tmp_path / "a.ply"), ONE)


def test_header_tells_splats_from_points(tmp_path: Path) -> None:
    write_splats(ONE, tmp_path / "splats.ply")
    write_points(ONE, tmp_path / "points.ply")
    (tmp_path / "text.ply").write_text("plywood")
    assert [is_splat_ply(tmp_path / f"{name}.ply") for name in ("splats", "points", "text")] == [True, False, False]


def test_wrong_options(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="unknown up axis 'x'"):
        write_splats(ONE, tmp_path / "a.ply", up="x")
    with pytest.raises(ConfigError, match="spz_version must be one of 2, 3, got 4"):
        write_splats(ONE, tmp_path / "a.spz", spz_version=4)
    with pytest.raises(DataError, match=r"unknown suffix '.obj' of a splat file; known: .ply, .splat, .spz"):
        write_splats(ONE, tmp_path / "a.obj")
    assert not list(tmp_path.iterdir())
