"""Recipes of packages that tell their files apart by folder: names keep some of the folders above."""

from __future__ import annotations

import hashlib
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

from tok4d.data import fetch
from tok4d.data.recipes import Item, Package, Recipe, load_recipe, read_recipe
from tok4d.errors import ConfigError, Tok4dError

WHEEL = "toy-1.0-py3-none-any.whl"


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Recipe:
    """A package with two files of one name; its client copies it, the cache is empty."""
    wheel = tmp_path / WHEEL
    with zipfile.ZipFile(wheel, "w") as archive:
        for name in ("toy/one/a.bin", "toy/two/a.bin", "a.bin"):
            archive.writestr(name, name)
    monkeypatch.setenv("TOK4D_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(fetch, "download", lambda package, folder: Path(folder, WHEEL).write_bytes(wheel.read_bytes()))
    monkeypatch.setattr(fetch, "_verified", lambda recipe, package, report: wheel)
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    return Recipe("toy", "twins", "CC0", 0.1, (Package("pypi", "toy", "1.0", WHEEL, digest, ("*a.bin",), parents=1),))


def test_names_keep_the_folders_above(recipe: Recipe):
    folder = fetch.fetch(recipe)
    names = {path.name: path.read_text() for path in folder.iterdir() if path.suffix == ".bin"}
    assert names == {"one-a.bin": "toy/one/a.bin", "two-a.bin": "toy/two/a.bin", "a.bin": "a.bin"}


def test_items_go_by_the_names_that_come_out(recipe: Recipe):
    folder = fetch.fetch(replace(recipe, items=(Item("two-a.bin"),)))
    assert [path.name for path in folder.glob("*.bin")] == ["two-a.bin"]


def test_without_parents_twins_collide(recipe: Recipe):
    flat = replace(recipe, packages=(replace(recipe.packages[0], parents=0),))
    with pytest.raises(Tok4dError, match=r"two members would become 'a\.bin'"):
        fetch.fetch(flat)
    assert flat.digest != recipe.digest


def test_the_number_is_checked(recipe: Recipe, tmp_path: Path):
    with pytest.raises(ConfigError, match="parents must be at least 0, got -1"):
        replace(recipe.packages[0], parents=-1)
    lines = [
        "summary: s",
        "licence: l",
        "size_mb: 1",
        "packages:",
        "  - registry: npm",
        "    name: a",
        "    version: '1'",
    ]
    lines += ["    file: a.tgz", f"    sha256: {'a' * 64}", "    members: ['*']", "    parents: true"]
    (tmp_path / "toy.yaml").write_text("\n".join(lines))
    with pytest.raises(ConfigError, match=r"packages\.parents must be a int, got True"):
        read_recipe(tmp_path / "toy.yaml")


def test_the_recipes_that_rest_on_it():
    assert [package.parents for package in load_recipe("controllers").packages] == [1]
    assert len(load_recipe("furniture").items) == 6
