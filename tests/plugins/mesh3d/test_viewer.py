"""The splat viewer: what its pages hold, and what a browser draws of them straight from the disk."""

from __future__ import annotations

import base64
import io
import json
import math
import re
import struct
from html import unescape
from pathlib import Path

import numpy as np
import pytest
import torch
from gaussian_assets import assert_close, random_gaussians
from PIL import Image

from tok4d.errors import ConfigError, DataError, Tok4dError
from tok4d.model.gaussians import SH_DC, Gaussians
from tok4d_mesh3d.viewer import View, viewer_assets, viewer_fragment, write_viewer
from tok4d_mesh3d.viewer.packing import Packed, pack

POSTER = Image.new("RGBA", (4, 4), (200, 30, 60, 255))


def unpack(packed: Packed) -> Gaussians:
    """Packed splats decoded from the documented layout, bit by bit."""
    rows = []
    for words in struct.iter_unpack("<4I", packed.content):
        bits = sum(word << (32 * i) for i, word in enumerate(words))
        fields = []
        for width in (16, 16, 16, 8, 8, 8, 2, 7, 7, 7, 1, 8, 8, 8, 8):
            fields.append(bits & ((1 << width) - 1))
            bits >>= width
        place = [low + f / 65535 * side for low, f, side in zip(packed.origin, fields, packed.extent, strict=False)]
        scale = [math.exp(packed.scale[0] + f * packed.scale[1]) for f in fields[3:6]]
        rest = [(f / 63 - 1) / math.sqrt(2) for f in fields[7:10]]
        rest.insert(fields[6], math.sqrt(max(0, 1 - sum(r * r for r in rest))))
        rows.append([*place, *scale, *rest, *(f / 255 for f in fields[11:])])
    table = torch.tensor(rows)
    q = table[:, 6:10] / table[:, 6:10].norm(dim=1, keepdim=True)
    return Gaussians(table[:, :3], table[:, 3:6], q, table[:, 13], (table[:, 10:13] - 0.5) / SH_DC)


def test_packing_errs_as_little_as_it_says() -> None:
    wanted = random_gaussians(2000)
    packed = pack(wanted, 10**6)
    assert len(packed.content) == 16 * 2000
    steps = math.log(wanted.scales.max() / wanted.scales.min()) / 510
    assert_close(
        unpack(packed), wanted, position=1 / 131_000, scale=math.expm1(steps) * 1.001, rotation=2.3,
        opacity=1 / 509, rgb=1 / 509,
    )  # fmt: skip


def test_packing_one_gaussian_and_no_turn() -> None:
    one = Gaussians(*(part[:1] for part in vars(random_gaussians(1)).values()))
    one = Gaussians(
        one.means, one.scales[:, :1].expand(1, 3), torch.tensor([[1.0, 0, 0, 0]]), one.opacities, one.colors
    )
    assert_close(unpack(pack(one, 5)), one, opacity=1 / 509, rgb=1 / 509)


def test_of_too_many_those_are_kept_that_hide_most() -> None:
    some = random_gaussians(100)
    opacities = torch.linspace(0.01, 0.9, 100)[torch.randperm(100, generator=torch.Generator().manual_seed(1))]
    even = Gaussians(some.means, torch.full((100, 3), 0.01), some.quaternions, opacities, some.colors)
    packed = pack(even, 30)
    assert (packed.count, packed.total) == (30, 100)
    assert torch.allclose(unpack(packed).opacities, opacities[opacities > 0.632], atol=1 / 500)
    assert "30 of 100 Gaussians" in viewer_fragment(even, poster=POSTER, max_splats=30)


def test_cameras_look_at_the_target_from_where_they_say() -> None:
    view = View(yaw=0, pitch=0, radius=3, fov=90, target=(1.0, 2.0, 3.0))
    matrix = view.world_to_camera()
    points = torch.tensor([[4.0, 2, 3, 1], [1, 2, 3, 1], [1, 3, 3, 1], [1, 2, 4, 1]])  # the eye; target; +y; +z
    seen = torch.tensor([[0.0, 0, 0], [0, 0, 3], [1, 0, 3], [0, -1, 3]])
    assert torch.allclose((points @ matrix.T)[:, :3], seen, atol=1e-6)
    assert torch.allclose(view.intrinsics(200, 100), torch.tensor([[50.0, 0, 100], [0, 50, 50], [0, 0, 1]]))
    for pitch in (-90.0, 90.0):
        rotation = View(yaw=30, pitch=pitch).world_to_camera()[:3, :3]
        assert torch.allclose(rotation @ rotation.T, torch.eye(3), atol=1e-6)
        assert torch.det(rotation) > 0.99


def test_a_page_holds_all_it_needs_and_nothing_else(tmp_path: Path) -> None:
    title = "</script><img onerror=x> \"quoted\" & 'so' {title} ä"
    asset = random_gaussians(50)
    write_viewer(asset, tmp_path / "a.html", title=title, view=View(10, 20, 3), poster=POSTER)
    page = (tmp_path / "a.html").read_text("utf-8")
    assert "default-src 'none'" in page
    assert re.findall(r"<[^>]*\b(?:src|href)\s*=\s*[\"']?(\S{5})", page) == ["data:"]
    assert not re.search(r"https?:|\bimport\b|\bfetch\b|XMLHttpRequest", page)
    assert title not in page
    assert unescape(re.search("<title>(.*)</title>", page)[1]) == title
    settings = json.loads(unescape(re.search('data-settings="([^"]*)"', page)[1]))
    assert (settings["yaw"], settings["pitch"], settings["radius"], settings["count"]) == (10, 20, 3, 50)
    data = base64.b64decode(re.search('<script type="application/octet-stream">(.*?)</script>', page)[1])
    assert data == pack(asset, 50).content
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.html"]


def test_pages_have_the_stated_size(tmp_path: Path) -> None:
    sizes = []
    for count in (1000, 21_000):
        write_viewer(random_gaussians(count), tmp_path / "a.html", poster=POSTER)
        sizes.append((tmp_path / "a.html").stat().st_size)
    assert sizes[1] - sizes[0] == pytest.approx(20_000 * 16 * 4 / 3, abs=100)  # 2.13 MB per 100,000
    assert len(viewer_assets()) < 25_000


def test_a_poster_is_drawn_when_none_is_given() -> None:
    pytest.importorskip("numba")
    red = Gaussians(
        torch.zeros(1, 3), torch.full((1, 3), 0.2), torch.tensor([[1.0, 0, 0, 0]]), torch.ones(1),
        (torch.tensor([[1.0, 0.0, 0.0]]) - 0.5) / SH_DC,
    )  # fmt: skip
    inlined = re.search(r'<img alt="3D asset" src="data:image/png;base64,([^"]*)">', viewer_fragment(red))[1]
    picture = np.asarray(Image.open(io.BytesIO(base64.b64decode(inlined))).convert("RGBA"))
    assert picture.shape == (512, 512, 4)
    assert picture[256, 256].tolist() == [255, 0, 0, 255]
    assert picture[2, 2, 3] == 0


def test_what_cannot_be_shown(tmp_path: Path) -> None:
    some = random_gaussians(3)
    none = Gaussians(*(part[:0] for part in vars(some).values()))
    with pytest.raises(DataError, match="there are no Gaussians to show"):
        write_viewer(none, tmp_path / "a.html")
    nan = Gaussians(some.means / 0, some.scales, some.quaternions, some.opacities, some.colors)
    with pytest.raises(Tok4dError, match="cannot show 'chair': means of 3 of 3 Gaussians are not finite"):
        viewer_fragment(nan, title="chair")
    with pytest.raises(Tok4dError, match=r"max_splats must be in \[1, 2,097,152\], got 0"):
        viewer_fragment(some, max_splats=0)
    with pytest.raises(ConfigError, match=r"pitch in \[-90, 90\].* got 91"):
        View(pitch=91)
    with pytest.raises(ConfigError, match="must be finite"):
        View(yaw=math.nan)
    assert not list(tmp_path.iterdir())
