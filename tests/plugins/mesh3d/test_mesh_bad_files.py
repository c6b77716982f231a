"""Broken and hostile mesh files: one DataError with the path and the reason, or a named degradation; never a crash."""

from __future__ import annotations

import json
import os
import struct
import time
import warnings
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from made_meshes import (
    CORNERS,
    box_obj,
    catalogue,
    data_uri,
    glb,
    gltf_header,
    png,
    square_obj,
    square_off,
    square_ply,
    square_stl,
)

from tok4d.errors import DataError
from tok4d_mesh3d.assets import AssetError, FolderAssets
from tok4d_mesh3d.furniture import load_furniture, read_catalogue, read_icon
from tok4d_mesh3d.mesh import Mesh
from tok4d_mesh3d.meshes import SUFFIXES, MeshOptions, load_mesh

SECRET = "the content of a file outside"


def write(path: Path, content: bytes | str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def refuse(path: Path, match: str, **options) -> None:
    with pytest.raises(DataError, match=match) as caught:
        load_mesh(path, **options)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


def load_or_refuse(path: Path) -> Mesh | None:
    """The mesh, or None when it is refused; anything else but a DataError fails the test."""
    try:
        return load_mesh(path)
    except DataError:
        return None


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_empty_missing_and_foreign_files(tmp_path, suffix):
    refuse(tmp_path / f"no{suffix}", "no such file")
    refuse(write(tmp_path / f"empty{suffix}", b""), "is empty")
    refuse(write(tmp_path / f"noise{suffix}", np.random.default_rng(0).bytes(3000)), "damaged|no |truncated|readable")
    refuse(write(tmp_path / f"html{suffix}", "<html><body>not found</body></html>" * 20), "damaged|no |truncated")
    (tmp_path / f"folder{suffix}").mkdir()
    refuse(tmp_path / f"folder{suffix}", "is a folder")
    refuse(
        write(tmp_path / f"big{suffix}", b"x" * 2000),
        r"has 2,000 bytes, the limit is 1,000 \(max_bytes\)",
        max_bytes=1000,
    )


def test_a_foreign_suffix_and_a_pipe(tmp_path):
    refuse(write(tmp_path / "a.fbx", b"Kaydara"), "has the suffix '.fbx'; meshes are .glb")
    os.mkfifo(tmp_path / "a.obj")
    refuse(tmp_path / "a.obj", "is not a regular file")


@pytest.mark.parametrize("kind", ["glb", "ply", "stl", "off", "obj"])
def test_files_cut_short_anywhere_are_refused_or_smaller(tmp_path, kind):
    header, blob = gltf_header()
    content = {"glb": glb(header, blob), "ply": square_ply(), "stl": square_stl(), "off": square_off()}.get(kind)
    content = content or box_obj(tmp_path / "whole").read_bytes()
    for end in range(0, len(content) - 2, max(1, len(content) // 40)):
        path = write(tmp_path / f"cut.{kind}", content[:end])
        mesh = load_or_refuse(path)
        if mesh is not None:
            assert kind == "obj", f"{end} of {len(content)} bytes"
            assert len(mesh.faces) < 12 or mesh.degradations


def test_bytes_changed_at_random_never_crash(tmp_path):
    header, blob = gltf_header()
    rng = np.random.default_rng(0)
    for suffix, content in (
        ("glb", glb(header, blob)),
        ("ply", square_ply()),
        ("stl", square_stl()),
        ("off", square_off()),
    ):
        for _ in range(60):
            changed = bytearray(content)
            for place in rng.integers(0, len(content), 3):
                changed[place] = rng.integers(256)
            path = write(tmp_path / f"changed.{suffix}", bytes(changed))
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                mesh = load_or_refuse(path)
            if mesh is not None:
                assert bool(mesh.vertices.isfinite().all())
                assert int(mesh.faces.max()) < len(mesh.vertices)


def test_headers_changed_at_random_never_crash(tmp_path):
    rng = np.random.default_rng(0)
    odd = [None, -1, 2**63, 1e308, float("nan"), "x", [], {}, True, [0, 0, 0], "data:;base64,AAAA"]
    loaded = 0
    for _ in range(200):
        header, blob = gltf_header()
        where, place = header, rng.choice(list(header))
        while isinstance(where[place], (dict, list)) and where[place] and rng.random() < 0.8:
            where = where[place]
            place = rng.choice(list(where)) if isinstance(where, dict) else int(rng.integers(len(where)))
        where[place] = odd[rng.integers(len(odd))]
        loaded += load_or_refuse(write(tmp_path / "changed.glb", glb(header, blob))) is not None
    assert 5 < loaded < 150, "some changes do not matter, most do"


def test_no_faces_and_no_extent(tmp_path):
    refuse(write(tmp_path / "a.obj", "v 0 0 0\nv 1 0 0\n"), "has no faces")
    refuse(write(tmp_path / "b.obj", "# nothing\n"), "has no faces|damaged")
    refuse(write(tmp_path / "c.obj", "v 1 1 1\nv 1 1 1\nv 1 1 1\nf 1 2 3\n"), "has an extent of 0; nothing can be seen")
    axes = "".join(f"property float {axis}\n" for axis in "xyz")
    points = f"ply\nformat ascii 1.0\nelement vertex 1\n{axes}end_header\n0 0 0\n"
    refuse(write(tmp_path / "d.ply", points), "has no faces, only 1 points")
    refuse(write(tmp_path / "e.stl", b"\0" * 84), "has no faces")
    header, blob = gltf_header(scenes=[{"nodes": []}])
    refuse(write(tmp_path / "f.glb", glb(header, blob)), "has no faces")


def test_nan_and_infinite_vertices_are_dropped_by_name(tmp_path):
    text = "v 0 0 0\nv 1 0 0\nv 0 1 0\nv nan 0 0\nv inf 1 1\nf 1 2 3\nf 1 2 4\nf 2 3 5\n"
    mesh = load_mesh(write(tmp_path / "a.obj", text))
    assert len(mesh.faces) == 1
    assert bool(mesh.vertices.isfinite().all())
    assert mesh.degradations == ["faces with vertices that are NaN or infinite were dropped"]
    text = "v nan 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 3\n"
    refuse(write(tmp_path / "b.obj", text), "has no faces.*NaN or infinite were dropped")
    header, blob = gltf_header()
    blob = struct.pack("<f", float("nan")) + blob[4:]
    refuse(write(tmp_path / "c.glb", glb(header, blob)), "NaN or infinite were dropped")


def test_missing_and_damaged_textures_are_named(tmp_path):
    mesh = load_mesh(square_obj(tmp_path / "a", "Kd 1 0 0\nmap_Kd square.png"))
    assert mesh.degradations == ["texture 'square.png' is not there"]
    assert mesh.materials[0].color == (1, 0, 0, 1)
    mesh = load_mesh(square_obj(tmp_path / "b", "map_Kd square.png", png(CORNERS)[:-30]))
    assert "texture 'square.png' is a damaged picture" in mesh.degradations[0]
    mesh = load_mesh(square_obj(tmp_path / "c", "map_Kd square.png", b"no picture"))
    assert "texture 'square.png' is no picture in any of PNG" in mesh.degradations[0]
    path = square_obj(tmp_path / "d", "Kd 1 0 0")
    (tmp_path / "d" / "square.mtl").unlink()
    assert load_mesh(path).degradations == [
        "material file 'square.mtl' is not there",
        "material 'look' is not defined; it is white",
    ]


def test_a_texture_bomb_is_not_decoded(tmp_path):
    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    head = struct.pack(">2I5B", 60_000, 60_000, 8, 2, 0, 0, 0)
    bomb = (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"\0" * 10**6)) + chunk(b"IEND", b"")
    )
    start = time.perf_counter()
    mesh = load_mesh(square_obj(tmp_path, "map_Kd square.png", bomb))
    assert time.perf_counter() - start < 2
    assert "texture 'square.png' has too many pixels (Image size (3600000000 pixels)" in mesh.degradations[0]
    mesh = load_mesh(square_obj(tmp_path, "map_Kd square.png", png(CORNERS, 50)), max_texture_pixels=9_999)
    assert mesh.degradations == ["texture 'square.png' has 100x100 pixels, the limit is 9,999"]


def test_many_textures_share_one_bound(tmp_path, monkeypatch):
    monkeypatch.setattr("tok4d_mesh3d.parts._MAX_TEXELS", 10_000)
    path = square_obj(tmp_path, "map_Kd square.png\nnewmtl other\nmap_Kd again.png", png(CORNERS, 40))
    (tmp_path / "again.png").write_bytes(png(CORNERS, 40))
    with path.open("a") as stream:
        stream.write("usemtl other\nf 1/1 2/2 3/3\n")
    mesh = load_mesh(path)
    assert mesh.degradations == ["texture 'again.png' was left out: the textures have more than 10,000 pixels together"]
    assert sorted(material.texture is None for material in mesh.materials) == [False, True]


@pytest.mark.parametrize(
    "name",
    ["../secret.png", "{outside}", "C:\\\\secret.png", "sub/../../secret.png", "http://example.org/secret.png",
     "file://{outside}", "link.png", "..\\\\secret.png", "%2e%2e/secret.png"],
)  # fmt: skip
def test_nothing_outside_of_the_folder_is_read(tmp_path, name):
    outside = write(tmp_path / "secret.png", png(CORNERS))
    folder = tmp_path / "asset"
    name = name.format(outside=outside)
    path = square_obj(folder, f"map_Kd {name}")
    (folder / "link.png").symlink_to(outside)
    mesh = load_mesh(path)
    assert mesh.materials[0].texture is None
    assert len(mesh.degradations) == 1
    assert "outside" in mesh.degradations[0] or "address" in mesh.degradations[0]
    header, blob = gltf_header()
    header["buffers"][0]["uri"] = name
    refuse(
        write(folder / "a.gltf", json.dumps(header)), "refers to a file that cannot be used.*(outside|address|secret)"
    )
    header, blob = gltf_header(images=[{"uri": name}], textures=[{"source": 0}])
    header["materials"] = [{"pbrMetallicRoughness": {"baseColorTexture": {"index": 0}}}]
    mesh = load_mesh(write(folder / "a.glb", glb(header, blob)))
    assert mesh.materials[0].texture is None
    assert len(mesh.degradations) == 1


def test_an_mtl_outside_of_the_folder_is_not_read(tmp_path):
    write(tmp_path / "square.mtl", "newmtl look\nKd 1 0 0\n")
    path = square_obj(tmp_path / "asset", "")
    path.write_text(path.read_text().replace("mtllib square.mtl", "mtllib ../square.mtl"))
    (tmp_path / "asset" / "square.mtl").unlink()
    mesh = load_mesh(path)
    assert mesh.materials[0].color == (1, 1, 1, 1)
    assert "material file '../square.mtl' lies outside of the asset's folder" in mesh.degradations


def test_a_path_from_another_machine_is_found_by_its_base_name(tmp_path):
    mesh = load_mesh(square_obj(tmp_path, "map_Kd C:\\Users\\me\\square.png", png(CORNERS)))
    assert mesh.degradations == []
    assert mesh.materials[0].texture is not None


def test_a_pipe_or_device_is_no_asset(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(AssetError, match=r"'pipe\.png' is not there"):
        FolderAssets(tmp_path).read("pipe.png")
    write(tmp_path / "big.png", b"x" * 100)
    with pytest.raises(AssetError, match=r"'big\.png' has 100 bytes, the limit is 99"):
        FolderAssets(tmp_path).read("big.png", 99)


def test_face_bombs_are_refused_before_they_are_built(tmp_path):
    many = 1_000_001
    start = time.perf_counter()
    refuse(
        write(tmp_path / "a.obj", "v 0 0 0\nv 1 0 0\nv 0 1 0\n" + "f 1 2 3\n" * many), "faces, the limit is 1,000,000"
    )
    refuse(write(tmp_path / "b.obj", "v 0 0 0\nf" + " 1" * (many + 2) + "\n"), "has 1,000,001 faces, the limit is")
    head = "ply\nformat binary_little_endian 1.0\nelement vertex 3\nproperty float x\n"
    head += f"element face {2**31}\nproperty list uchar int v\nend_header\n"
    refuse(write(tmp_path / "c.ply", head), r"has 2,147,483,648 faces, the limit is 1,000,000 \(max_faces\)")
    refuse(write(tmp_path / "d.ply", head.replace(str(2**31), "900000")), "is truncated: 0 bytes of data")
    refuse(
        write(tmp_path / "e.stl", b"\0" * 80 + struct.pack("<I", 2**32 - 1) + b"\0" * 50),
        "cannot hold the 4,294,967,295 faces",
    )
    refuse(write(tmp_path / "f.off", f"OFF\n3 {10**12} 0\n"), "has 1,000,000,000,000 faces")
    refuse(write(tmp_path / "g.off", "OFF\n900000 900000 0\n"), "is truncated: .* cannot hold")
    refuse(box_obj(tmp_path / "h"), r"has 12 faces, the limit is 11 \(max_faces\)", max_faces=11)
    assert time.perf_counter() - start < 10


def test_gltf_bombs_are_refused_before_they_are_built(tmp_path):
    header, blob = gltf_header()
    header["nodes"] = [{"mesh": 0}] * 600
    header["scenes"] = [{"nodes": list(range(600))}]
    refuse(write(tmp_path / "instances.glb", glb(header, blob)), "has 1,200 faces, the limit is 1,000", max_faces=1000)
    header, blob = gltf_header()
    header["accessors"][0] = {"componentType": 5126, "count": 2**40, "type": "VEC3", "sparse": {"count": 0}}
    refuse(write(tmp_path / "sparse.glb", glb(header, blob)), "has 1,099,511,627,776 vertices")
    header, blob = gltf_header(nodes=[{}] * 20_001)
    refuse(write(tmp_path / "nodes.glb", glb(header, blob)), "has 20,001 nodes, the limit is 20,000")
    refuse(write(tmp_path / "deep.gltf", "[" * 100_000), "has no readable JSON header")


def test_gltf_knots_and_lies_are_refused(tmp_path):
    def refused(match: str, **changes) -> None:
        header, blob = gltf_header(**changes)
        refuse(write(tmp_path / "a.glb", glb(header, blob)), match)

    refused("node 0 has two parents or is its own ancestor", nodes=[{"mesh": 0, "children": [0]}])
    refused("node 1 has two parents", nodes=[{"children": [1, 1]}, {"mesh": 0}])
    refused("node 7 is not there", nodes=[{"children": [7]}])
    refused("needs the glTF extension KHR_draco_mesh_compression", extensionsRequired=["KHR_draco_mesh_compression"])
    refused("is glTF version 1.0", asset={"version": "1.0"})
    refused("damaged", meshes=[{}])
    refused("damaged", nodes=["x"])
    header, blob = gltf_header()
    header["accessors"][0]["count"] = 400
    refuse(write(tmp_path / "a.glb", glb(header, blob)), "400 values do not fit into buffer view 0 of 48 bytes")
    header, blob = gltf_header()
    header["accessors"][0]["byteOffset"] = -12
    refuse(write(tmp_path / "a.glb", glb(header, blob)), "do not fit into buffer view 0")
    header, blob = gltf_header()
    refuse(
        write(tmp_path / "a.glb", glb(header, blob[:80] + b"\x09\0" * 6)),
        "a face refers to vertex 9, which is not there",
    )
    header["buffers"][0]["uri"] = data_uri(blob)
    assert len(load_mesh(write(tmp_path / "b.gltf", json.dumps(header))).faces) == 2


CHAIR = "id#1=a#chair\nname#1=Chair\nmodel#1=/m/chair/square.obj\nicon#1=/m/chair.png\n"


def test_archives_with_tricks(tmp_path):
    refuse_catalogue(write(tmp_path / "a.sh3f", b"no zip"), "is no zip archive")
    with zipfile.ZipFile(tmp_path / "b.sh3f", "w") as archive:
        archive.writestr("other.txt", "")
    refuse_catalogue(tmp_path / "b.sh3f", "has no PluginFurnitureCatalog.properties")
    refuse_catalogue(catalogue(tmp_path / "c.sh3f", "", {}), "names no model")
    refuse_catalogue(catalogue(tmp_path / "d.sh3f", "name#1=Chair\n", {}), "entry 1 .* has no model")
    item = read_catalogue(catalogue(tmp_path / "e.sh3f", CHAIR, {}))[0]
    with pytest.raises(DataError, match=r"e\.sh3f:m/chair/square\.obj: is not in the archive"):
        load_furniture(item)
    with pytest.raises(DataError, match=r"m/chair\.png: is not in the archive"):
        read_icon(item)


def refuse_catalogue(path: Path, match: str) -> None:
    with pytest.raises(DataError, match=match):
        read_catalogue(path)


def test_a_model_in_an_archive_reads_nothing_outside_of_its_folder(tmp_path):
    square = square_obj(tmp_path / "m", "map_Kd ../secret.png")
    members = {
        "m/chair/square.obj": square.read_bytes(),
        "m/chair/square.mtl": (tmp_path / "m/square.mtl").read_bytes(),
    }
    members |= {"m/secret.png": png(CORNERS), "../secret.png": png(CORNERS)}
    (item,) = read_catalogue(catalogue(tmp_path / "a.sh3f", CHAIR, members))
    mesh = load_furniture(item)
    assert mesh.materials[0].texture is None
    assert mesh.degradations == ["texture '../secret.png' lies outside of the asset's folder"]


def test_a_zip_bomb_is_cut_off(tmp_path):
    obj = b"v 0 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 3\n"
    members = {"m/chair/square.obj": obj + b"#" * (1 << 25)}
    path = catalogue(tmp_path / "a.sh3f", CHAIR, members)
    assert path.stat().st_size < 1 << 17
    with pytest.raises(DataError, match=r"unpacks to more than the limit of 1,000,000 bytes"):
        load_furniture(read_catalogue(path)[0], MeshOptions(max_bytes=1_000_000))
    content = path.read_bytes()
    crc = content.find(b"square.obj") - len("m/chair/") - 30 + 14  # of the local header; the index keeps another
    broken = bytearray(content)
    broken[crc + 30 + len("m/chair/square.obj") + 40] ^= 0xFF
    path.write_bytes(bytes(broken))
    with pytest.raises(DataError, match="damaged"):
        load_furniture(read_catalogue(path)[0])


def test_threads_and_warnings_stay_as_they_are(tmp_path):
    before = torch.get_num_threads()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_mesh(square_obj(tmp_path, "map_Kd square.png", png(CORNERS)))
    assert torch.get_num_threads() == before
