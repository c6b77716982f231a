"""glTF 2.0 and GLB. The container, its bounds and its materials are read here; what is left for trimesh is one plain
GLB without references: triangles as float32 and uint32, and the nodes' transforms.
"""

from __future__ import annotations

import json
import struct
from typing import Any

import numpy as np

from tok4d.errors import Tok4dError
from tok4d_mesh3d.assets import Assets
from tok4d_mesh3d.gltf_buffers import BIN_CHUNK, GLB_MAGIC, JSON_CHUNK, WIDTHS, Buffers, read_container
from tok4d_mesh3d.gltf_materials import read_materials
from tok4d_mesh3d.parts import Limits, Looks, load_scene

_KNOWN = ("KHR_materials_", "KHR_texture_transform", "KHR_lights_punctual", "EXT_texture_webp", "KHR_mesh_quantization",
          "KHR_texture_basisu", "KHR_animation_pointer", "KHR_xmp")  # fmt: skip
_TRIANGLES, _STRIP, _FAN = 4, 5, 6
_MAX_NODES = 20_000
_POSES = ("matrix", "translation", "rotation", "scale")


def read_gltf(content: bytes, assets: Assets, limits: Limits) -> tuple[Any, Looks]:
    """A trimesh scene and the looks of its materials, of a `.glb` or `.gltf` file's content.

    Raises:
        Tok4dError: when it is damaged, too large, or needs an extension that cannot be read.
    """
    header, embedded = read_container(content)
    version = str(header.get("asset", {}).get("version", ""))
    if not version.startswith("2"):
        raise Tok4dError(f"is glTF version {version or 'unknown'}; only 2 can be read")
    for name in header.get("extensionsRequired", []):
        if not str(name).startswith(_KNOWN):
            raise Tok4dError(f"needs the glTF extension {name}, which cannot be read")
    buffers, looks = Buffers(header, embedded, assets, limits), Looks()
    read_materials(header, buffers.image, limits, looks)
    plain = _PlainFile(buffers, looks)
    nodes, roots = _nodes(header, plain)
    return load_scene(plain.content(nodes, roots), "glb"), looks


class _PlainFile:
    """The GLB that trimesh gets: grows by the meshes that nodes show, each once."""

    def __init__(self, source: Buffers, looks: Looks) -> None:
        self.source, self.header, self.looks = source, source.header, looks
        self.materials = sorted(looks.materials)
        self.written: dict[int, int] = {}
        self.views: list[dict[str, Any]] = []
        self.accessors: list[dict[str, Any]] = []
        self.blob = bytearray()
        self.numbers: dict[int, int | None] = {}
        self.meshes: list[dict[str, Any]] = []

    def triangles(self, index: int) -> int:
        """Triangles of a mesh by the counts in the header."""
        total = 0
        for part in self.header["meshes"][index]["primitives"]:
            source = part["indices"] if "indices" in part else part["attributes"]["POSITION"]
            count = int(self.header["accessors"][source]["count"])
            mode = part.get("mode", _TRIANGLES)
            total += count // 3 if mode == _TRIANGLES else max(count - 2, 0) if mode in (_STRIP, _FAN) else 0
        return total

    def mesh(self, index: int) -> int | None:
        """Number of a mesh in the plain file; None when nothing of it is a surface."""
        if index not in self.numbers:
            found = [self._primitive(part) for part in self.header["meshes"][index]["primitives"]]
            parts = [part for part in found if part is not None]
            self.numbers[index] = len(self.meshes) if parts else None
            if parts:
                self.meshes.append({"name": f"m{index}", "primitives": parts})
        return self.numbers[index]

    def _primitive(self, part: dict[str, Any]) -> dict[str, Any] | None:
        mode, given = part.get("mode", _TRIANGLES), part["attributes"]
        if mode not in (_TRIANGLES, _STRIP, _FAN):
            self.looks.note("points and lines were left out")
            return None
        if "KHR_draco_mesh_compression" in part.get("extensions", {}):
            raise Tok4dError("needs the glTF extension KHR_draco_mesh_compression, which cannot be read")
        material = str(int(part.get("material", -1)))
        attributes = {"POSITION": self.copy(int(given["POSITION"]))}
        texcoord = f"TEXCOORD_{self.header.get('texcoords', {}).get(material, 0)}"
        for source, target in ((texcoord, "TEXCOORD_0"), ("COLOR_0", "COLOR_0")):
            if source in given:
                attributes[target] = self.copy(int(given[source]))
        order = self.source.array(int(part["indices"]))[:, 0] if "indices" in part else None
        if order is None:
            order = np.arange(self.header["accessors"][given["POSITION"]]["count"])
        faces = _faces(order.astype(np.int64), mode)
        if len(faces) and faces.max() >= self.header["accessors"][given["POSITION"]]["count"]:
            raise Tok4dError(f"is damaged: a face refers to vertex {int(faces.max())}, which is not there")
        return {
            "attributes": attributes,
            "indices": self.add(faces.reshape(-1, 1).astype("<u4")),
            "material": self.materials.index(material if material in self.materials else "-1"),
        }

    def copy(self, index: int) -> int:
        """Number of an accessor in the plain file, where it is float32."""
        if index not in self.written:
            self.written[index] = self.add(self.source.array(index).astype("<f4"))
        return self.written[index]

    def add(self, values: np.ndarray) -> int:
        """Append values to the plain file."""
        self.views.append({"buffer": 0, "byteOffset": len(self.blob), "byteLength": values.nbytes})
        kind = {width: name for name, width in WIDTHS.items()}[values.shape[1]]
        code = 5126 if values.dtype.kind == "f" else 5125
        self.accessors.append(
            {"bufferView": len(self.views) - 1, "componentType": code, "count": len(values), "type": kind}
        )
        self.blob += values.tobytes()
        return len(self.accessors) - 1

    def content(self, nodes: list[dict[str, Any]], roots: list[int]) -> bytes:
        """The plain GLB."""
        header = {
            "asset": {"version": "2.0"},
            "scene": 0,
            "scenes": [{"nodes": roots}],
            "nodes": nodes,
            "meshes": self.meshes,
            "materials": [{"name": name} for name in self.materials],
            "accessors": self.accessors,
            "bufferViews": self.views,
            "buffers": [{"byteLength": len(self.blob)}],
        }
        text = json.dumps(header).encode()
        text += b" " * (-len(text) % 4)
        blob = bytes(self.blob) + b"\0" * (-len(self.blob) % 4)
        chunks = struct.pack("<2I", len(text), JSON_CHUNK) + text + struct.pack("<2I", len(blob), BIN_CHUNK) + blob
        return struct.pack("<3I", GLB_MAGIC, 2, 12 + len(chunks)) + chunks


def _faces(order: np.ndarray, mode: int) -> np.ndarray:
    """Triangles `[F, 3]` of an index list."""
    if mode == _TRIANGLES:
        return order[: len(order) // 3 * 3].reshape(-1, 3)
    if len(order) < 3:
        return np.zeros((0, 3), np.int64)
    if mode == _FAN:
        return np.stack([np.full(len(order) - 2, order[0]), order[1:-1], order[2:]], axis=1)
    strip = np.stack([order[:-2], order[1:-1], order[2:]], axis=1)
    strip[1::2] = strip[1::2, [1, 0, 2]]  # every second triangle of a strip is wound the other way
    return strip


def _nodes(header: dict[str, Any], plain: _PlainFile) -> tuple[list[dict[str, Any]], list[int]]:
    """Plain nodes (pose, children, mesh) and the roots of the scene shown."""
    given = header.get("nodes", [])
    if len(given) > _MAX_NODES:
        raise Tok4dError(f"has {len(given):,} nodes, the limit is {_MAX_NODES:,}")
    scenes = header.get("scenes")
    children = {child for node in given for child in node.get("children", [])}
    roots = [i for i in range(len(given)) if i not in children]
    if scenes:
        roots = list(scenes[int(header.get("scene", 0))].get("nodes", []))
    order = _reachable(given, roots)
    plain.source.limits.check(sum(plain.triangles(int(given[i]["mesh"])) for i in order if "mesh" in given[i]))
    nodes: list[dict[str, Any]] = [{} for _ in given]
    for i in order:
        node = given[i]
        nodes[i] = {key: [float(value) for value in node[key]] for key in _POSES if key in node}
        nodes[i]["children"] = [child for child in node.get("children", []) if "skin" not in given[child]]
        number = plain.mesh(int(node["mesh"])) if "mesh" in node else None
        if number is not None:
            nodes[i]["mesh"] = number
        if "skin" in node:  # its joints place a skinned mesh, not its node: in the bind pose, where its vertices are
            nodes[i] = {"mesh": number} if number is not None else {}
            roots = [*roots, i] if i not in roots else roots
            plain.looks.note("a mesh with a skeleton is shown in its bind pose")
    for node in nodes:
        if not node.get("children"):
            node.pop("children", None)
    return nodes, roots


def _reachable(nodes: list[dict[str, Any]], roots: list[int]) -> list[int]:
    """Nodes under the roots; a node that is reached twice would be a knot, not a tree."""
    order, stack, seen = [], list(roots), set[int]()
    while stack:
        index = stack.pop()
        if not isinstance(index, int) or not 0 <= index < len(nodes):
            raise Tok4dError(f"is damaged: node {index!r} is not there")
        if index in seen:
            raise Tok4dError(f"is damaged: node {index} has two parents or is its own ancestor")
        seen.add(index)
        order.append(index)
        stack.extend(nodes[index].get("children", []))
    return order
