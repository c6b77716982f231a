"""PLY meshes: the header is checked and the texture read here, the rest is trimesh's."""

from __future__ import annotations

import re
from typing import Any

from tok4d.errors import Tok4dError
from tok4d_mesh3d.assets import AssetError, Assets
from tok4d_mesh3d.mesh import Material
from tok4d_mesh3d.parts import Limits, Looks, load_scene

_SIZES = {
    "char": 1, "uchar": 1, "int8": 1, "uint8": 1, "short": 2, "ushort": 2, "int16": 2, "uint16": 2,
    "int": 4, "uint": 4, "int32": 4, "uint32": 4, "float": 4, "float32": 4, "double": 8, "float64": 8,
}  # fmt: skip
_MAX_HEADER = 1 << 16
_END = re.compile(rb"\nend_header\s*?\n")


def read_ply(content: bytes, assets: Assets, limits: Limits) -> tuple[Any, Looks]:
    """A trimesh scene and the looks of its one material.

    Raises:
        Tok4dError: when the header names more than the file can hold or the limits allow, or there are no faces.
    """
    looks = Looks()
    end = _END.search(content, 0, _MAX_HEADER)
    if not content.startswith(b"ply") or end is None:
        raise Tok4dError("is no PLY file: its header does not begin with ply or does not end with end_header")
    lines = content[: end.end()].decode("ascii", "replace").splitlines()
    counts, least = _elements(lines)
    limits.check(counts.get("face", 0), counts.get("vertex", 0))
    if counts.get("face", 0) == 0 and counts.get("tristrips", 0) == 0:
        raise Tok4dError(f"has no faces, only {counts.get('vertex', 0):,} points")
    if "tristrips" in counts:
        raise Tok4dError("has triangle strips, which cannot be read")
    if least > len(content) - end.end():
        raise Tok4dError(
            f"is truncated: {len(content) - end.end():,} bytes of data, its header names {least:,} or more"
        )
    for line in lines:
        words = line.split(maxsplit=2)
        if len(words) == 3 and words[0] == "comment" and words[1].lower() == "texturefile":
            try:
                texture = looks.decode(assets.read(words[2], limits.max_bytes), limits)
                looks.materials[""] = Material("", texture=texture)
            except AssetError as error:
                looks.note(f"texture {error}")
    return load_scene(content, "ply"), looks


def _elements(lines: list[str]) -> tuple[dict[str, int], int]:
    """Count of every element, and the fewest bytes that they take."""
    ascii_text = any(line.startswith("format ascii") for line in lines)
    counts: dict[str, int] = {}
    least, current = 0, 0
    for line in lines:
        words = line.split()
        if words[:1] == ["element"] and len(words) == 3 and words[2].isdecimal():
            current = counts[words[1]] = int(words[2])
        elif words[:1] == ["element"]:
            raise Tok4dError(f"has a damaged header: {line!r}")
        elif words[:1] == ["property"] and len(words) > 2:
            least += current * (2 if ascii_text else _SIZES.get(words[2] if words[1] == "list" else words[1], 1))
    return counts, least
