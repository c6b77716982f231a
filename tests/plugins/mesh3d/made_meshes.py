"""Mesh files written by hand, byte by byte: nothing here goes through the library that reads them."""

from __future__ import annotations

import base64
import io
import json
import struct
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

# A 2x2 picture: red, green in the upper row; blue, white in the lower.
CORNERS = np.array([[[255, 0, 0], [0, 255, 0]], [[0, 0, 255], [255, 255, 255]]], np.uint8)
# A unit square in the plane z = 0 of a y-up file (it stands upright), its texture coordinates in OBJ's sense (v up).
SQUARE = [(0, 0, 0), (1, 0, 0), (1, 1, 0), (0, 1, 0)]
SQUARE_UV = [(0, 0), (1, 0), (1, 1), (0, 1)]


def png(pixels: np.ndarray, side: int = 1) -> bytes:
    """An encoded picture, every pixel repeated `side` times along both axes."""
    stream = io.BytesIO()
    Image.fromarray(pixels.repeat(side, 0).repeat(side, 1)).save(stream, "PNG")
    return stream.getvalue()


def square_obj(folder: Path, mtl: str, texture: bytes | None = None, name: str = "square.obj") -> Path:
    """The square as an OBJ with one material, `look`."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = ["mtllib square.mtl", *(f"v {x} {y} {z}" for x, y, z in SQUARE), *(f"vt {u} {v}" for u, v in SQUARE_UV)]
    lines += ["usemtl look", "f 1/1 2/2 3/3 4/4", ""]
    (folder / name).write_text("\n".join(lines))
    (folder / "square.mtl").write_text(f"newmtl look\n{mtl}\n")
    if texture is not None:
        (folder / "square.png").write_bytes(texture)
    return folder / name


def gltf_header(**changes: Any) -> tuple[dict[str, Any], bytes]:
    """Header and buffer of the square as one glTF mesh; `changes` replace top-level keys of the header."""
    positions = np.array(SQUARE, "<f4")
    uvs = np.array([(u, 1 - v) for u, v in SQUARE_UV], "<f4")  # glTF's v grows downwards
    indices = np.array([0, 1, 2, 0, 2, 3], "<u2")
    blob = positions.tobytes() + uvs.tobytes() + indices.tobytes()
    header: dict[str, Any] = {
        "asset": {"version": "2.0"},
        "scene": 0,
        "scenes": [{"nodes": [0]}],
        "nodes": [{"mesh": 0}],
        "meshes": [{"primitives": [{"attributes": {"POSITION": 0, "TEXCOORD_0": 1}, "indices": 2, "material": 0}]}],
        "materials": [{"pbrMetallicRoughness": {"baseColorFactor": [1, 0, 0, 1]}}],
        "accessors": [
            {"bufferView": 0, "componentType": 5126, "count": 4, "type": "VEC3"},
            {"bufferView": 1, "componentType": 5126, "count": 4, "type": "VEC2"},
            {"bufferView": 2, "componentType": 5123, "count": 6, "type": "SCALAR"},
        ],
        "bufferViews": [
            {"buffer": 0, "byteOffset": 0, "byteLength": 48},
            {"buffer": 0, "byteOffset": 48, "byteLength": 32},
            {"buffer": 0, "byteOffset": 80, "byteLength": 12},
        ],
        "buffers": [{"byteLength": len(blob)}],
    }
    return {**header, **changes}, blob


def glb(header: dict[str, Any], blob: bytes) -> bytes:
    """A GLB of a header and its one buffer."""
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 4)
    blob += b"\0" * (-len(blob) % 4)
    chunks = struct.pack("<2I", len(text), 0x4E4F534A) + text + struct.pack("<2I", len(blob), 0x004E4942) + blob
    return struct.pack("<3I", 0x46546C67, 2, 12 + len(chunks)) + chunks


def data_uri(content: bytes, kind: str = "application/octet-stream") -> str:
    """Content as an address of its own."""
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def square_ply(colors: bool = True) -> bytes:
    """The square as an ASCII PLY, its vertices red, green, blue and white."""
    rows = [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)]
    kinds = ["property uchar red", "property uchar green", "property uchar blue"] if colors else []
    head = ["ply", "format ascii 1.0", "element vertex 4", "property float x", "property float y", "property float z"]
    head += [*kinds, "element face 1", "property list uchar int vertex_indices", "end_header"]
    body = [" ".join(map(str, (*p, *(c if colors else ())))) for p, c in zip(SQUARE, rows, strict=True)]
    return ("\n".join([*head, *body, "4 0 1 2 3", ""])).encode()


def square_stl() -> bytes:
    """The square as a binary STL."""
    out = b"\0" * 80 + struct.pack("<I", 2)
    for corners in ((0, 1, 2), (0, 2, 3)):
        out += struct.pack("<3f", 0, 0, 1) + b"".join(struct.pack("<3f", *SQUARE[i]) for i in corners) + b"\0\0"
    return out


def square_off() -> bytes:
    """The square as an OFF."""
    points = "\n".join(" ".join(map(str, p)) for p in SQUARE)
    return f"OFF\n4 1 0\n{points}\n4 0 1 2 3\n".encode()


def box_obj(folder: Path, size: tuple[float, float, float] = (1, 1, 1)) -> Path:
    """A box centred at the origin, every side of its own colour; returns the OBJ."""
    folder.mkdir(parents=True, exist_ok=True)
    w, h, d = (side / 2 for side in size)
    corners = [(x, y, z) for x in (-w, w) for y in (-h, h) for z in (-d, d)]
    sides = {
        "left": (1, 2, 4, 3), "right": (5, 7, 8, 6), "bottom": (1, 5, 6, 2),
        "top": (3, 4, 8, 7), "back": (1, 3, 7, 5), "front": (2, 6, 8, 4),
    }  # fmt: skip
    colors = {"left": "1 0 0", "right": "0 1 0", "bottom": "0 0 1", "top": "1 1 0", "back": "0 1 1", "front": "1 0 1"}
    lines = ["mtllib box.mtl", *(f"v {x} {y} {z}" for x, y, z in corners)]
    for name, face in sides.items():
        lines += [f"usemtl {name}", "f " + " ".join(map(str, face))]
    (folder / "box.obj").write_text("\n".join(lines) + "\n")
    (folder / "box.mtl").write_text("".join(f"newmtl {name}\nKd {color}\n" for name, color in colors.items()))
    return folder / "box.obj"


def catalogue(path: Path, entries: str, members: dict[str, bytes], head: str = "license=CC0\n") -> Path:
    """A `.sh3f` archive."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("PluginFurnitureCatalog.properties", (head + entries).encode("latin-1"))
        for name, content in members.items():
            archive.writestr(name, content)
    return path
