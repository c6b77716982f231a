"""Which file of one folder belongs to which of another: by relative path, else by relative path without suffix."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tok4d.errors import DataError, PluginError
from tok4d.plugins.registry import modalities, modality, modality_for


@dataclass(frozen=True)
class Match:
    """One original and its reconstruction.

    Attributes:
        key: relative path of the original, with `/`.
        restored: None: there is none.
        coded: the coded file that it was decoded from, where a folder of those is given.
    """

    key: str
    original: Path
    restored: Path | None
    coded: Path | None = None


@dataclass(frozen=True)
class Matched:
    """What two folders hold.

    Attributes:
        pairs: by modality, in the order of their keys.
        alone: relative paths of reconstructions without an original.
        uncoded: of originals without a coded file, where a folder of those is given.
    """

    pairs: dict[str, tuple[Match, ...]]
    alone: tuple[str, ...]
    uncoded: tuple[str, ...] = ()


def match_folders(originals: Path, restored: Path, name: str | None = None, coded: Path | None = None) -> Matched:
    """Match files of every modality.

    Args:
        name: look at files of this modality alone, and read all of those as it.
        coded: folder of coded files, by the same paths, whatever their suffixes.

    Raises:
        DataError: for a folder that is missing or holds nothing to compare, or names that could mean two files.
    """
    suffixes = tuple(modality(name).suffixes) if name else _all_suffixes()
    sides = [_files(folder, suffixes) for folder in (originals, restored)]
    if not sides[0]:
        raise DataError(originals, f"no file with a suffix in {', '.join(suffixes)}")
    exact = set(sides[0]) & set(sides[1])
    by_stem = [_by_stem([path for path in side if path not in exact]) for side in sides]
    coded_by_stem = {} if coded is None else _by_stem(_files(coded, ()))
    found: dict[str, list[Match]] = {}
    taken: set[Path] = set()
    for path in sides[0]:
        partner: Path | None = path
        if path not in exact:
            _only(by_stem[0][_stem(path)], originals)
            partner = _only(by_stem[1].get(_stem(path), ()), restored)
        taken |= {partner} if partner is not None else set()
        own = None if coded is None else _only(coded_by_stem.get(_stem(path), ()), coded)
        match = Match(
            path.as_posix(),
            originals / path,
            None if partner is None else restored / partner,
            None if own is None or coded is None else coded / own,
        )
        found.setdefault(name or modality_for(path).name, []).append(match)
    if not taken:
        raise DataError(restored, f"no file has the name of one in {originals}, such as {sides[0][0]}")
    alone = tuple(path.as_posix() for path in sides[1] if path not in taken)
    pairs = {owner: tuple(items) for owner, items in sorted(found.items())}
    if coded is None:
        return Matched(pairs, alone)
    uncoded = tuple(item.key for items in pairs.values() for item in items if item.coded is None)
    if len(uncoded) == len(sides[0]):
        raise DataError(coded, f"no file has the name of one in {originals}, such as {sides[0][0]}")
    return Matched(pairs, alone, uncoded)


def _files(folder: Path, suffixes: Sequence[str]) -> list[Path]:
    """Relative paths of files with one of the suffixes (all, where there are none given), sorted; no hidden ones."""
    if not folder.is_dir():
        raise DataError(folder, "no such folder")
    kept = []
    for path in folder.rglob("*"):
        relative = path.relative_to(folder)
        hidden = any(part.startswith(".") for part in relative.parts)
        if path.is_file() and not hidden and (not suffixes or relative.name.lower().endswith(tuple(suffixes))):
            kept.append(relative)
    return sorted(kept, key=lambda path: path.as_posix())


def _stem(path: Path) -> str:
    return path.with_suffix("").as_posix()


def _by_stem(paths: Sequence[Path]) -> dict[str, list[Path]]:
    """Files by relative path without suffix."""
    found: dict[str, list[Path]] = {}
    for path in paths:
        found.setdefault(_stem(path), []).append(path)
    return found


def _only(candidates: Sequence[Path], folder: Path) -> Path | None:
    """The one file of a name without suffix.

    Raises:
        DataError: when there are two.
    """
    if len(candidates) > 1:
        names = " and ".join(path.name for path in candidates[:2])
        raise DataError(folder, f"{names} share a name without suffix; rename one of them")
    return candidates[0] if candidates else None


def _all_suffixes() -> tuple[str, ...]:
    """Suffixes of all modalities that load."""
    found: list[str] = []
    for candidate in modalities():
        try:
            found += modality(candidate).suffixes
        except PluginError:
            continue
    return tuple(dict.fromkeys(found))
