"""The `furniture` recipe: catalogues (`.sh3f` archives of Sweet Home 3D) of named, licensed OBJ models with icons.

A catalogue is a zip with `PluginFurnitureCatalog.properties` (Java properties, Latin-1, `key#number=value`) and the
files that it names. Models are read from inside the zip; nothing is unpacked.
"""

from __future__ import annotations

import re
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

import torch

from tok4d.errors import DataError, Tok4dError
from tok4d_mesh3d.assets import AssetError, ZipAssets, read_member
from tok4d_mesh3d.mesh import Mesh
from tok4d_mesh3d.meshes import MeshOptions, parse_mesh
from tok4d_mesh3d.nouns import noun_class

RECIPE = "furniture"
PROPERTIES = "PluginFurnitureCatalog.properties"
_MAX_PROPERTIES = 1 << 24
_MAX_MEMBERS = 100_000
_ENTRY = re.compile(r"(\w+)#(\d+)\s*[=:]\s*(.*)")
_HEAD = re.compile(r"(\w+)\s*[=:]\s*(.*)")


@dataclass(frozen=True)
class FurnitureItem:
    """One model of a catalogue.

    Attributes:
        archive: the `.sh3f` file.
        identity: its id, unique over all catalogues; splits go by it.
        name: what it is, in English; the caption. Several models may share a name.
        category: the catalogue's own, mostly a room.
        model, icon: paths inside the archive.
        tags: the catalogue's keywords.
        creator: who made it.
        licence: under which terms.
        noun: class by the head noun of the name (`tok4d_mesh3d.nouns`), or None.
        rotation: 3x3 matrix by rows, to be applied to the model's own (y-up) coordinates first.
        size: width, depth and height in centimetres.
    """

    archive: Path
    identity: str
    name: str
    category: str
    model: str
    icon: str
    tags: tuple[str, ...]
    creator: str
    licence: str
    noun: str | None
    rotation: tuple[float, ...] | None = None
    size: tuple[float, float, float] = (0.0, 0.0, 0.0)


Catalogue = list[FurnitureItem]


def load_catalogue(folder: str | Path) -> Catalogue:
    """All items of the `.sh3f` files in a folder, in the order of file names and numbers.

    Raises:
        DataError: when there is none, or one of them cannot be read.
    """
    files = sorted(Path(folder).glob("*.sh3f"))
    if not files:
        raise DataError(folder, f"has no .sh3f file; `tok4d data fetch {RECIPE}` brings some")
    items = [item for file in files for item in read_catalogue(file)]
    seen: set[str] = set()
    for item in items:
        if item.identity in seen:
            raise DataError(item.archive, f"the id {item.identity!r} is taken by another model")
        seen.add(item.identity)
    return items


def read_catalogue(path: str | Path) -> Catalogue:
    """Items of one `.sh3f` file.

    Raises:
        DataError: when it is no zip, or its list of models is missing or damaged.
    """
    with _opened(path) as archive:
        try:
            text = read_member(archive, archive.getinfo(PROPERTIES), _MAX_PROPERTIES).decode("latin-1")
        except KeyError:
            raise DataError(path, f"has no {PROPERTIES}") from None
    head, entries = _parse(text)
    if not entries:
        raise DataError(path, f"{PROPERTIES} names no model")
    return [_item(Path(path), head, number, entry) for number, entry in sorted(entries.items())]


def _parse(text: str) -> tuple[dict[str, str], dict[int, dict[str, str]]]:
    """Keys of the catalogue, and keys of every numbered entry."""
    head: dict[str, str] = {}
    entries: dict[int, dict[str, str]] = {}
    for line in text.splitlines():
        line = re.sub(r"\\u([0-9a-fA-F]{4})", lambda match: chr(int(match[1], 16)), line.strip())
        if line.startswith(("#", "!")):
            continue
        if match := _ENTRY.match(line):
            entries.setdefault(int(match[2]), {})[match[1]] = match[3].strip()
        elif match := _HEAD.match(line):
            head[match[1]] = match[2].strip()
    return head, entries


def _item(path: Path, head: dict[str, str], number: int, entry: dict[str, str]) -> FurnitureItem:
    for key in ("name", "model"):
        if not entry.get(key):
            raise DataError(path, f"entry {number} of {PROPERTIES} has no {key}")
    try:
        rotation = tuple(float(word) for word in entry.get("modelRotation", "").split())
        size = tuple(float(entry.get(key, 0)) for key in ("width", "depth", "height"))
    except ValueError as error:
        raise DataError(path, f"entry {number} of {PROPERTIES}: {error}") from None
    if len(rotation) not in (0, 9):
        raise DataError(path, f"entry {number} of {PROPERTIES}: modelRotation needs 9 numbers, got {len(rotation)}")
    return FurnitureItem(
        archive=path,
        identity=entry.get("id") or f"{path.stem}#{number}",
        name=entry["name"],
        category=entry.get("category", ""),
        model=entry["model"].lstrip("/"),
        icon=entry.get("icon", "").lstrip("/"),
        tags=tuple(tag.strip() for tag in entry.get("tags", "").split(",") if tag.strip()),
        creator=entry.get("creator", ""),
        licence=" ".join((entry.get("license") or head.get("license", "")).split()),
        noun=noun_class(entry["name"]),
        rotation=rotation or None,
        size=(size[0], size[1], size[2]),
    )


def load_furniture(item: FurnitureItem, options: MeshOptions | None = None) -> Mesh:
    """The mesh of an item, z up, turned as the catalogue says, in the unit cube.

    Raises:
        DataError: when the archive or the model cannot be used.
    """
    options = options or MeshOptions()
    label = f"{item.archive}:{item.model}"
    with _opened(item.archive) as archive:
        path = PurePosixPath(item.model)
        assets = ZipAssets(archive, path.parent)
        content = _member(assets, path, label, options.max_bytes)
        mesh = parse_mesh(content, label, assets, replace(options, up="z", normalize=False))
    vertices = mesh.vertices
    if item.rotation is not None:
        vertices = vertices @ torch.tensor(item.rotation, dtype=vertices.dtype).view(3, 3).T
    mesh = replace(mesh, vertices=torch.stack([vertices[:, 0], -vertices[:, 2], vertices[:, 1]], dim=1))
    try:
        return mesh.normalized() if options.normalize else mesh
    except Tok4dError as error:
        raise DataError(label, str(error)) from None


def read_icon(item: FurnitureItem, max_bytes: int = 1 << 24) -> bytes:
    """The item's icon as the encoded bytes of a picture (PNG, 128x128 with alpha in the recipe's catalogues).

    Raises:
        DataError: when there is none.
    """
    label = f"{item.archive}:{item.icon}"
    if not item.icon:
        raise DataError(f"{item.archive}:{item.identity}", "has no icon")
    with _opened(item.archive) as archive:
        path = PurePosixPath(item.icon)
        return _member(ZipAssets(archive, path.parent), path, label, max_bytes)


def _member(assets: ZipAssets, path: PurePosixPath, label: str, max_bytes: int) -> bytes:
    try:
        content = assets.fetch(PurePosixPath(path.name), max_bytes)
    except AssetError as error:
        raise DataError(label, str(error)) from None
    if content is None:
        raise DataError(label, "is not in the archive")
    return content


@contextmanager
def _opened(path: str | Path) -> Iterator[zipfile.ZipFile]:
    try:
        with zipfile.ZipFile(path) as archive:
            if len(archive.infolist()) > _MAX_MEMBERS:
                raise DataError(path, f"has {len(archive.infolist()):,} members, the limit is {_MAX_MEMBERS:,}")
            yield archive
    except FileNotFoundError:
        raise DataError(path, "no such file") from None
    except (zipfile.BadZipFile, OSError, NotImplementedError) as error:
        raise DataError(path, f"is no zip archive, or damaged ({error})") from None
    except AssetError as error:
        raise DataError(path, str(error)) from None
