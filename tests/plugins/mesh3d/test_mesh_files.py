"""Mesh files of all formats: geometry, up-axis, materials, textures, colours, transforms; files made by hand."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from made_meshes import (
    CORNERS,
    box_obj,
    data_uri,
    glb,
    gltf_header,
    png,
    square_obj,
    square_off,
    square_ply,
    square_stl,
)

from tok4d.errors import ConfigError, Tok4dError
from tok4d_mesh3d.mesh import BLEND, CLAMP, MASK, MIRROR, REPEAT, Mesh
from tok4d_mesh3d.meshes import load_mesh

UPRIGHT = [[-0.5, 0, -0.5], [0.5, 0, -0.5], [0.5, 0, 0.5], [-0.5, 0, 0.5]]  # the square of a y-up file, z up, centred


def write(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def corner_uvs(mesh: Mesh) -> dict[tuple[float, ...], tuple[float, ...]]:
    """Texture coordinates by position."""
    places = mesh.vertices[mesh.faces].view(-1, 3).tolist()
    return {tuple(p): tuple(uv) for p, uv in zip(places, mesh.uvs.view(-1, 2).tolist(), strict=True)}


def same_points(mesh: Mesh, expected: list[list[float]]) -> bool:
    found = {tuple(round(x, 5) + 0.0 for x in row) for row in mesh.vertices[mesh.faces.flatten()].tolist()}
    return found == {tuple(float(x) for x in row) for row in expected}


def test_obj_is_turned_upright_and_normalised_with_its_texture(tmp_path):
    mesh = load_mesh(square_obj(tmp_path, "Kd 0.8 0.2 0.1\nmap_Kd square.png", png(CORNERS)))
    assert len(mesh.faces) == 2
    assert same_points(mesh, UPRIGHT)
    assert mesh.degradations == []
    (material,) = mesh.materials
    assert material.color == (1, 1, 1, 1), "a texture stands in for the colour"
    assert material.texture.tolist() == np.dstack([CORNERS, np.full((2, 2), 255)]).tolist()
    uvs = corner_uvs(mesh)
    assert uvs[-0.5, 0, 0.5] == (0, 0), "v = 0 is the picture's upper row, at the square's upper edge"
    assert uvs[0.5, 0, -0.5] == (1, 1)
    assert (mesh.meta["center"], mesh.meta["scale"]) == ([0.5, 0.0, 0.5], 1.0)


def test_obj_keeps_all_materials_and_transparency(tmp_path):
    path = square_obj(tmp_path, "Kd 1 0.5 0\nmap_Kd square.png\nd 0.25\nnewmtl other\nKd 0 1 0\nTr 0.5", png(CORNERS))
    with path.open("a") as stream:
        stream.write("usemtl other\nf 1 2 3\n")
    mesh = load_mesh(path)
    by_name = {material.name: material for material in mesh.materials}
    assert by_name["look"].color == (1, 1, 1, 0.25)
    assert by_name["look"].alpha_mode == by_name["other"].alpha_mode == BLEND
    assert by_name["other"].color == (0, 1, 0, 0.5)
    names = [mesh.materials[i].name for i in mesh.face_material.tolist()]
    assert sorted(names) == ["look", "look", "other"]


def test_obj_texture_options_spaces_and_masks(tmp_path):
    path = square_obj(tmp_path, "map_Kd -s 2 3 1 -o 0.25 0.5 0 -clamp on my picture.png\nmap_d mask.png")
    (tmp_path / "my picture.png").write_bytes(png(CORNERS, side=4))
    (tmp_path / "mask.png").write_bytes(png(np.array([[0, 255], [255, 255]], np.uint8)))
    mesh = load_mesh(path)
    assert mesh.degradations == []
    (material,) = mesh.materials
    assert material.wrap == (CLAMP, CLAMP)
    assert material.alpha_mode == BLEND
    assert material.texture.shape == (8, 8, 4)
    assert material.texture[0, 0].tolist() == [255, 0, 0, 0]
    assert material.texture[7, 7].tolist() == [255, 255, 255, 255]
    uvs = corner_uvs(mesh)
    assert uvs[-0.5, 0, -0.5] == (0.25, 0.5), "u * 2 + 0.25; v = 0 * 3 + 0.5, seen from the top"
    assert uvs[0.5, 0, 0.5] == (2.25, -2.5)


def test_obj_relative_indices_and_polygons_mean_what_they_should(tmp_path):
    absolute = box_obj(tmp_path / "a")
    text = absolute.read_text().splitlines()
    vertices = sum(line.startswith("v ") for line in text)
    moved = []
    for line in text:
        if line.startswith("f "):
            line = "f " + " ".join(str(int(i) - vertices - 1) for i in line.split()[1:])
        moved.append(line)
    moved.append("v 9 9 9")  # counted from the file's end, every face would be another
    (tmp_path / "a" / "relative.obj").write_text("\n".join(moved))
    expected, found = load_mesh(absolute), load_mesh(tmp_path / "a" / "relative.obj")
    assert torch.equal(found.vertices[found.faces], expected.vertices[expected.faces])
    pentagon = tmp_path / "pentagon.obj"
    pentagon.write_text("v 0 0 0\nv 2 0 0\nv 2 2 0\nv 1 3 0\nv 0 2 0\nf 1 2 3 4 5\n")
    mesh = load_mesh(pentagon, normalize=False)
    corners = mesh.vertices[mesh.faces]
    area = torch.linalg.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]).norm(dim=1).sum() / 2
    assert len(mesh.faces) == 3
    assert float(area) == pytest.approx(5)


def test_obj_faces_without_coordinates_do_not_cost_the_others_theirs(tmp_path):
    path = square_obj(tmp_path, "map_Kd square.png", png(CORNERS))
    with path.open("a") as stream:
        stream.write("v 0 0 1\nf 1 2 5\nvn 0 0 1\nf 1//1 2//1 5//1\n")
    mesh = load_mesh(path, normalize=False)
    assert (len(mesh.faces), mesh.degradations) == (4, [])
    with_coordinates = (mesh.uvs != torch.tensor([0.0, 1.0])).any(2).any(1)
    assert int(with_coordinates.sum()) == 2
    assert corner_uvs(mesh)[1, 0, 1] == (1, 0)


def test_a_textured_material_without_coordinates_has_its_colour(tmp_path):
    path = square_obj(tmp_path, "Kd 1 0.5 0\nmap_Kd square.png", png(CORNERS))
    path.write_text(path.read_text().replace("f 1/1 2/2 3/3 4/4", "f 1 2 3 4"))
    mesh = load_mesh(path)
    assert mesh.degradations == ["material 'look' has a texture but faces without texture coordinates"]
    assert (mesh.materials[0].color, mesh.materials[0].texture) == ((1, 0.5, 0, 1), None)


def test_obj_vertex_colours(tmp_path):
    path = write(tmp_path / "c.obj", b"v 0 0 0 1 0 0\nv 1 0 0 0 1 0\nv 0 1 0 0 0 1\nf 1 2 3\n")
    mesh = load_mesh(path)
    assert mesh.colors.tolist() == [[[255, 0, 0, 255], [0, 255, 0, 255], [0, 0, 255, 255]]]


def test_glb_base_colour_is_linear_light(tmp_path):
    header, blob = gltf_header(materials=[{"pbrMetallicRoughness": {"baseColorFactor": [1, 0.2140411, 0, 0.5]}}])
    header["materials"][0] |= {"alphaMode": "MASK", "alphaCutoff": 0.3}
    mesh = load_mesh(write(tmp_path / "a.glb", glb(header, blob)))
    assert same_points(mesh, UPRIGHT)
    (material,) = mesh.materials
    assert material.color == pytest.approx((1, 0.5, 0, 0.5), abs=1e-5)
    assert (material.alpha_mode, material.cutoff) == (MASK, 0.3)


def test_glb_applies_the_transforms_of_nodes_and_shows_instances(tmp_path):
    nodes = [
        {"children": [1, 2], "translation": [0, 10, 0]},
        {"mesh": 0, "scale": [2, 2, 2]},
        {"mesh": 0, "rotation": [0, 0, 0.70710678, 0.70710678], "translation": [5, 0, 0]},  # 90 degrees round z
    ]
    header, blob = gltf_header(nodes=nodes)
    mesh = load_mesh(write(tmp_path / "a.glb", glb(header, blob)), normalize=False, up="z")
    expected = [[x * 2, 10 + y * 2, 0] for x in (0, 1) for y in (0, 1)] + [
        [5 - y, 10 + x, 0] for x in (0, 1) for y in (0, 1)
    ]
    assert len(mesh.faces) == 4
    assert same_points(mesh, expected)


def test_glb_textures_transforms_sets_and_wrapping(tmp_path):
    header, blob = gltf_header()
    start = len(blob)
    second = np.array([(0.5, 0.5)] * 4, "<f4").tobytes()  # a second set of coordinates
    picture = png(CORNERS)
    blob += second + picture
    header["bufferViews"] += [
        {"buffer": 0, "byteOffset": start, "byteLength": len(second)},
        {"buffer": 0, "byteOffset": start + len(second), "byteLength": len(picture)},
    ]
    header["accessors"].append({"bufferView": 3, "componentType": 5126, "count": 4, "type": "VEC2"})
    header["buffers"] = [{"byteLength": len(blob)}]
    header["meshes"][0]["primitives"][0]["attributes"]["TEXCOORD_1"] = 3
    header["images"] = [{"bufferView": 4, "mimeType": "image/png"}]
    header["samplers"] = [{"wrapS": 33071, "wrapT": 33648}]
    header["textures"] = [{"source": 0, "sampler": 0}]
    info = {"index": 0, "texCoord": 1, "extensions": {"KHR_texture_transform": {"offset": [0.25, 0], "scale": [2, 1]}}}
    header["materials"] = [{"pbrMetallicRoughness": {"baseColorTexture": info}}]
    mesh = load_mesh(write(tmp_path / "a.glb", glb(header, blob)))
    assert mesh.degradations == []
    assert mesh.materials[0].texture[1, 0].tolist() == [0, 0, 255, 255]
    assert mesh.materials[0].wrap == (CLAMP, MIRROR)
    assert mesh.uvs.view(-1, 2).unique(dim=0).tolist() == [[1.25, 0.5]]


def test_glb_normalised_strided_and_sparse_accessors(tmp_path):
    header, _ = gltf_header()
    positions = np.zeros(4, np.dtype([("p", "<f4", 3), ("c", "u1", 4)]))
    positions["p"] = [(0, 0, 0), (1, 0, 0), (1, 9, 0), (0, 1, 0)]
    positions["c"] = [(255, 0, 0, 255), (0, 255, 0, 255), (0, 0, 255, 255), (255, 255, 255, 128)]
    uvs = np.array([(0, 65535), (65535, 65535), (65535, 0), (0, 0)], "<u2")
    fixed = np.array([1, 1, 0], "<f4")  # the third vertex is (1, 1, 0) after all
    blob = (
        positions.tobytes() + uvs.tobytes() + np.array([0, 1, 2, 0, 2, 3], "u1").tobytes() + b"\2\0" + fixed.tobytes()
    )
    header["bufferViews"] = [
        {"buffer": 0, "byteOffset": 0, "byteLength": 64, "byteStride": 16},
        {"buffer": 0, "byteOffset": 64, "byteLength": 16},
        {"buffer": 0, "byteOffset": 80, "byteLength": 6},
        {"buffer": 0, "byteOffset": 86, "byteLength": 1},
        {"buffer": 0, "byteOffset": 88, "byteLength": 12},
    ]
    sparse = {"count": 1, "indices": {"bufferView": 3, "componentType": 5121}, "values": {"bufferView": 4}}
    header["accessors"] = [
        {"bufferView": 0, "componentType": 5126, "count": 4, "type": "VEC3", "sparse": sparse},
        {"bufferView": 1, "componentType": 5123, "count": 4, "type": "VEC2", "normalized": True},
        {"bufferView": 2, "componentType": 5121, "count": 6, "type": "SCALAR"},
        {"bufferView": 0, "byteOffset": 12, "componentType": 5121, "count": 4, "type": "VEC4", "normalized": True},
    ]
    header["buffers"] = [{"byteLength": len(blob)}]
    header["meshes"][0]["primitives"][0]["attributes"]["COLOR_0"] = 3
    mesh = load_mesh(write(tmp_path / "a.glb", glb(header, blob)))
    assert same_points(mesh, UPRIGHT)
    assert corner_uvs(mesh)[0.5, 0, 0.5] == (1, 0)
    colors = {
        tuple(p): c
        for p, c in zip(mesh.vertices[mesh.faces].view(-1, 3).tolist(), mesh.colors.view(-1, 4).tolist(), strict=True)
    }
    assert colors[-0.5, 0, 0.5] == [255, 255, 255, 128]
    assert colors[0.5, 0, -0.5] == [0, 255, 0, 255]


@pytest.mark.parametrize(("mode", "indices", "count"), [(5, [0, 1, 3, 2], 2), (6, [0, 1, 2, 3], 2), (4, None, 1)])
def test_glb_strips_fans_and_meshes_without_indices(tmp_path, mode, indices, count):
    header, blob = gltf_header()
    part = header["meshes"][0]["primitives"][0]
    part["mode"] = mode
    if indices is None:
        del part["indices"]
    else:
        header["accessors"][2]["count"] = len(indices)
        blob = blob[:80] + np.array(indices + [0] * (6 - len(indices)), "<u2").tobytes()
    mesh = load_mesh(write(tmp_path / "a.glb", glb(header, blob)))
    assert len(mesh.faces) == count
    corners = mesh.vertices[mesh.faces]
    normals = torch.linalg.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    assert (normals[:, 1] < 0).all(), "every triangle faces the same way"


def test_a_skinned_mesh_stays_where_its_vertices_are(tmp_path):
    nodes = [{"children": [1], "translation": [5, 5, 5]}, {"mesh": 0, "skin": 0, "scale": [3, 1, 1]}]
    header, blob = gltf_header(nodes=nodes)
    mesh = load_mesh(write(tmp_path / "a.glb", glb(header, blob)), normalize=False, up="z")
    assert same_points(mesh, [[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0]])
    assert mesh.degradations == ["a mesh with a skeleton is shown in its bind pose"]


def test_gltf_reads_its_buffer_and_texture_from_its_folder(tmp_path):
    header, blob = gltf_header(
        images=[{"uri": "tex%20tures/a.png"}, {"uri": data_uri(png(CORNERS), "image/png")}],
        textures=[{"source": 0}, {"source": 1}],
        materials=[{"pbrMetallicRoughness": {"baseColorTexture": {"index": 0}}}],
    )
    header["buffers"][0]["uri"] = "square.bin"
    (tmp_path / "tex tures").mkdir()
    (tmp_path / "tex tures" / "a.png").write_bytes(png(CORNERS))
    (tmp_path / "square.bin").write_bytes(blob)
    mesh = load_mesh(write(tmp_path / "a.gltf", json.dumps(header).encode()))
    assert (len(mesh.faces), mesh.degradations) == (2, [])
    assert mesh.materials[0].texture.shape == (2, 2, 4)
    assert mesh.materials[0].wrap == (REPEAT, REPEAT)


def test_ply_stl_and_off_keep_their_axes(tmp_path):
    flat = [[-0.5, -0.5, 0], [0.5, -0.5, 0], [0.5, 0.5, 0], [-0.5, 0.5, 0]]
    for name, content in (("a.ply", square_ply()), ("a.stl", square_stl()), ("a.off", square_off())):
        mesh = load_mesh(write(tmp_path / name, content))
        assert len(mesh.faces) == 2
        assert same_points(mesh, flat)
        assert same_points(load_mesh(tmp_path / name, up="y"), UPRIGHT)


def test_ply_vertex_colours(tmp_path):
    mesh = load_mesh(write(tmp_path / "a.ply", square_ply()))
    colors = {
        tuple(p): c
        for p, c in zip(mesh.vertices[mesh.faces].view(-1, 3).tolist(), mesh.colors.view(-1, 4).tolist(), strict=True)
    }
    assert colors[-0.5, -0.5, 0] == [255, 0, 0, 255]
    assert colors[-0.5, 0.5, 0] == [255, 255, 255, 255]
    assert load_mesh(write(tmp_path / "b.ply", square_ply(colors=False))).colors is None


def test_normalising_takes_the_longest_side_and_used_vertices_only(tmp_path):
    path = write(tmp_path / "a.obj", b"v 10 0 0\nv 14 0 0\nv 10 1 0\nv 999 999 999\nf 1 2 3\n")
    mesh = load_mesh(path)
    assert mesh.vertices[:3].tolist() == [[-0.5, 0, -0.125], [0.5, 0, -0.125], [-0.5, 0, 0.125]]
    assert mesh.meta["scale"] == 0.25
    assert mesh.meta["center"] == [12, 0, 0.5]


def test_surface_points_cover_every_face_no_coarser_than_asked(tmp_path):
    mesh = load_mesh(box_obj(tmp_path, (1, 0.5, 0.25)))
    points = mesh.surface_points(0.05)
    on_side = (points[:, 0].abs() - 0.5).abs() < 1e-6
    on_top = (points[:, 2].abs() - 0.25).abs() < 1e-6
    on_front = (points[:, 1].abs() - 0.125).abs() < 1e-6
    assert bool((on_side | on_top | on_front).all())
    targets = torch.rand(200, 3, generator=torch.Generator().manual_seed(0)) - 0.5
    targets = torch.stack([targets[:, 0], targets[:, 1] * 0.25, torch.full((200,), 0.25)], dim=1)  # on the top
    assert float(torch.cdist(targets, points).amin(1).max()) < 0.05
    assert len(mesh.surface_points(1e-4, max_points=10_000)) <= 10_000


def test_options_that_are_not_possible_are_named(tmp_path):
    path = box_obj(tmp_path)
    with pytest.raises(ConfigError, match=r"unknown mesh option 'max_face'.*Did you mean 'max_faces'"):
        load_mesh(path, max_face=3)
    with pytest.raises(ConfigError, match="unknown up axis 'x'"):
        load_mesh(path, up="x")
    with pytest.raises(ConfigError, match="max_faces must be at least 1, got 0"):
        load_mesh(path, max_faces=0)
    mesh = load_mesh(path)
    with pytest.raises(Tok4dError, match=r"mesh uvs must have shape \[12, 3, 2\], got \[1, 3, 2\]"):
        Mesh(mesh.vertices, mesh.faces, mesh.uvs[:1], mesh.face_material, mesh.materials)
