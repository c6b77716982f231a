"""3D assets: Toys4k.

toys4k/airplane/airplane_000/mesh.obj        (or .glb, .ply, ...; or airplane/airplane_000.glb)
"""

from __future__ import annotations

from pathlib import Path

from tok4d_bench.data.listing import Item, Listing, files_of, folders_of, refuse

MESHES = (".glb", ".gltf", ".obj", ".ply", ".off", ".stl")  # the first that an instance has is taken
_EXPECTED = "CATEGORY/INSTANCE/mesh.(glb|obj|ply|...) or CATEGORY/INSTANCE.(glb|obj|ply|...)"


def toys4k(folder: Path, split: str = "all") -> Listing:
    """Toys4k's objects, one mesh each; classes are the categories.

    Args:
        split: `all` only: the set has no split of its own.

    Raises:
        DataError: for another tree; meshes as .blend files must be exported first.
    """
    if split != "all":
        raise refuse(folder, f"the split 'all' of Toys4k, not {split!r}")
    found = {home.name: _instances(home) for home in folders_of(folder)}
    classes = tuple(name for name, instances in found.items() if instances)
    if not classes:
        blend = folder.is_dir() and next(folder.rglob("*.blend"), None)
        hint = "; .blend files can be read by Blender alone: export them as .glb first" if blend else ""
        raise refuse(folder, _EXPECTED + hint)
    items = [
        Item(f"{name}/{key}", path, (name.replace("_", " "),), label)
        for label, name in enumerate(classes)
        for key, path in found[name].items()
    ]
    names = tuple(name.replace("_", " ") for name in classes)
    return Listing("mesh3d", tuple(items), names, source="mesh3d/folder")


def _instances(home: Path) -> dict[str, Path]:
    """Mesh of every instance of a category, by the instance's name."""
    found = {path.stem: path for path in reversed(_preferred(files_of(home, MESHES)))}
    for instance in folders_of(home):
        if meshes := _preferred(
            files_of(instance, MESHES) or [p for f in folders_of(instance) for p in files_of(f, MESHES)]
        ):
            found[instance.name] = meshes[0]
    return dict(sorted(found.items()))


def _preferred(meshes: list[Path]) -> list[Path]:
    return sorted(meshes, key=lambda path: (MESHES.index(path.suffix.lower()), path.name))
