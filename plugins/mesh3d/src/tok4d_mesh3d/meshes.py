"""Loading mesh files: GLB, glTF, OBJ, PLY, STL, OFF. Whatever is wrong with a file ends in one DataError.

Materials and all that a file refers to are read from its own folder only. What cannot be used as the file says (a
missing texture, a NaN vertex, ...) is named in `Mesh.degradations`; a file of which nothing would be left is refused.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

from tok4d.errors import ConfigError, DataError, Tok4dError, unknown_name
from tok4d.options import from_options
from tok4d_mesh3d.assets import AssetError, Assets, FolderAssets
from tok4d_mesh3d.gltf import read_gltf
from tok4d_mesh3d.mesh import Mesh, turned_z_up
from tok4d_mesh3d.obj import read_obj
from tok4d_mesh3d.parts import Limits, Looks, assemble, load_scene
from tok4d_mesh3d.ply import read_ply

SUFFIXES = (".glb", ".gltf", ".obj", ".ply", ".stl", ".off")
UPS = ("auto", "y", "z")


@dataclass(frozen=True)
class MeshOptions(Limits):
    """Options of loading a mesh, besides the bounds of `Limits`.

    Attributes:
        up: axis that points up in the file: `y`, `z`, or `auto` (y in glTF, GLB and OBJ; z in PLY, STL and OFF).
        normalize: bring it into the unit cube [-0.5, 0.5]^3.
    """

    up: str = "auto"
    normalize: bool = True

    def __post_init__(self) -> None:
        if self.up not in UPS:
            raise ConfigError(unknown_name("up axis", self.up, UPS))
        for name in ("max_bytes", "max_faces", "max_vertices", "max_texture_pixels"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1, got {getattr(self, name)}")

    @classmethod
    def parse(cls, options: dict[str, Any]) -> MeshOptions:
        """From keyword arguments; raises `ConfigError` that names an unknown option and the known ones."""
        return from_options(cls, options, "mesh option")


def load_mesh(path: str | Path, **options: Any) -> Mesh:
    """The mesh of a file, z up, in the unit cube.

    Args:
        options: fields of `MeshOptions`.

    Raises:
        DataError: when the file cannot be used, with the path and the reason.
        ConfigError: for an unknown option or a value that is not possible.
    """
    parsed = MeshOptions.parse(options)
    file = Path(path)
    try:
        if not file.is_file():
            reason = "is a folder, not a mesh file" if file.is_dir() else "no such file"
            raise DataError(path, "is not a regular file" if file.exists() and not file.is_dir() else reason)
        if file.stat().st_size > parsed.max_bytes:
            raise DataError(path, f"has {file.stat().st_size:,} bytes, the limit is {parsed.max_bytes:,} (max_bytes)")
        content = file.read_bytes()
    except (OSError, ValueError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(path, f"cannot be opened ({error})") from None
    return parse_mesh(content, str(path), FolderAssets(file.parent), parsed)


def parse_mesh(content: bytes, name: str, assets: Assets, options: MeshOptions | None = None) -> Mesh:
    """`load_mesh` from memory; `name` gives the format and stands for the path in errors.

    Raises:
        DataError: as `load_mesh`.
    """
    options = options or MeshOptions()
    suffix = PurePosixPath(name).suffix.lower()
    if suffix not in _READERS:
        raise DataError(name, f"has the suffix {suffix!r}; meshes are {', '.join(SUFFIXES)}")
    if not content:
        raise DataError(name, "is empty (0 bytes)")
    read, y_up = _READERS[suffix]
    try:
        scene, looks = read(content, assets, options)
        mesh = assemble(scene, looks, options)
        if options.up == "y" or (options.up == "auto" and y_up):
            mesh = replace(mesh, vertices=turned_z_up(mesh.vertices))
        mesh = replace(mesh, meta={"format": suffix[1:], "faces": len(mesh.faces), **mesh.meta})
        return mesh.normalized() if options.normalize else mesh
    except AssetError as error:
        raise DataError(name, f"refers to a file that cannot be used: {error}") from None
    except Tok4dError as error:
        raise DataError(name, str(error)) from None
    except Exception as error:  # the parsers raise nearly any type on damaged bytes
        text = " ".join(str(error).split()) or type(error).__name__
        raise DataError(
            name, f"is damaged, or no {suffix[1:].upper()} file ({type(error).__name__}: {text})"
        ) from error


def _read_stl(content: bytes, assets: Assets, limits: Limits) -> tuple[Any, Looks]:
    faces = struct.unpack("<I", content[80:84])[0] if len(content) >= 84 else 0
    if 84 + 50 * faces == len(content):
        limits.check(faces, 3 * faces)
    elif content.lstrip()[:5].lower() == b"solid":
        limits.check(len(re.findall(rb"\bfacet\s+normal", content, re.IGNORECASE)))
    else:
        raise Tok4dError(
            f"is truncated or no STL file: {len(content):,} bytes cannot hold the {faces:,} faces it names"
        )
    return load_scene(content, "stl"), Looks()


def _read_off(content: bytes, assets: Assets, limits: Limits) -> tuple[Any, Looks]:
    counts = re.match(rb"\s*C?OFF\s+(?:#[^\n]*\n\s*)*(\d+)\s+(\d+)", content)
    if counts is None:
        raise Tok4dError("is no OFF file: it does not begin with OFF and two counts")
    vertices, faces = int(counts[1]), int(counts[2])
    limits.check(faces, vertices)
    if 2 * (vertices + faces) > len(content):
        raise Tok4dError(f"is truncated: {len(content):,} bytes cannot hold {vertices:,} vertices and {faces:,} faces")
    last = content.rstrip().split(b"\n")[-1].split()
    if last and last[0].isdigit() and int(last[0]) >= len(last):
        raise Tok4dError(f"is truncated: its last face names {int(last[0])} corners and has {len(last) - 1}")
    return load_scene(content, "off"), Looks()


_Read = Callable[[bytes, Assets, Limits], tuple[Any, Looks]]
_READERS: dict[str, tuple[_Read, bool]] = {
    ".glb": (read_gltf, True),
    ".gltf": (read_gltf, True),
    ".obj": (read_obj, True),
    ".ply": (read_ply, False),
    ".stl": (_read_stl, False),
    ".off": (_read_off, False),
}
