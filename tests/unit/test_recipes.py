"""Recipes and fetching: pinned, verified, atomic; the clients are stood in for, the archives are real."""

from __future__ import annotations

import hashlib
import io
import json
import stat
import subprocess
import sys
import tarfile
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tok4d.data import clients, fetch
from tok4d.data.archives import unpack
from tok4d.data.recipes import Item, Package, Recipe, list_recipes, load_recipe, read_recipe
from tok4d.errors import ConfigError, DataError, Tok4dError

WHEEL = "toy-1.0-py3-none-any.whl"


def make_zip(path: Path, members: dict[str, bytes], link: str = "") -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
        if link:
            info = zipfile.ZipInfo(link)
            info.external_attr = (stat.S_IFLNK | 0o777) << 16
            archive.writestr(info, "/etc/passwd")
    return path


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture
def wheel(tmp_path: Path) -> Path:
    return make_zip(tmp_path / WHEEL, {"toy/a.png": b"A", "toy/b.png": b"B", "toy/code.py": b"C", "toy/c.txt": b"D"})


@pytest.fixture
def recipe(wheel: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Recipe:
    """A recipe of one wheel, whose client copies it; the cache is empty."""
    monkeypatch.setenv("TOK4D_CACHE", str(tmp_path / "cache"))
    calls: list[str] = []

    def download(package: Package, folder: Path) -> Path:
        calls.append(package.name)
        (folder / WHEEL).write_bytes(wheel.read_bytes())
        return folder / WHEEL

    monkeypatch.setattr(fetch, "download", download)
    monkeypatch.setattr(fetch, "calls", calls, raising=False)
    package = Package("pypi", "toy", "1.0", WHEEL, sha256(wheel), ("toy/*.png",))
    return Recipe("toy", "two letters", "CC0", 0.1, (package,), (Item("a.png", licence="mine"), Item("b.png")))


def test_fetch_brings_the_named_files_a_licence_and_nothing_else(recipe: Recipe) -> None:
    said: list[str] = []
    folder = fetch.fetch(recipe, report=said.append)
    assert folder == fetch.location(recipe)
    assert sorted(path.name for path in folder.iterdir()) == [".complete", "LICENSE.txt", "a.png", "b.png"]
    assert (folder / "b.png").read_bytes() == b"B"
    assert "CC0" in (folder / "LICENSE.txt").read_text()
    assert "a.png: mine" in (folder / "LICENSE.txt").read_text()
    assert any("CC0" in line for line in said)
    assert fetch.is_fetched(recipe)
    assert [path.name for path in (fetch.cache_root() / "downloads").iterdir()] == []
    assert [path.name for path in folder.parent.iterdir()] == ["toy"]


def test_a_second_fetch_downloads_nothing_and_force_does(recipe: Recipe) -> None:
    folder = fetch.fetch(recipe)
    (folder / "a.png").write_bytes(b"spoiled")
    fetch.fetch(recipe)
    assert (folder / "a.png").read_bytes() == b"spoiled"
    fetch.fetch(recipe, force=True)
    assert (folder / "a.png").read_bytes() == b"A"
    assert fetch.calls == ["toy", "toy"]


def test_a_changed_recipe_is_fetched_anew(recipe: Recipe) -> None:
    folder = fetch.fetch(recipe)
    less = replace(recipe, items=(Item("a.png"),))
    assert not fetch.is_fetched(less)
    fetch.fetch(less)
    assert not (folder / "b.png").exists()
    assert (folder / "a.png").exists()


def test_a_wrong_hash_is_refused_and_removed(recipe: Recipe, wheel: Path) -> None:
    true = sha256(wheel)
    wrong = replace(recipe, packages=(replace(recipe.packages[0], sha256="0" * 64),))
    with pytest.raises(Tok4dError, match=f"has SHA-256 {true}, expected {'0' * 64}; it was removed"):
        fetch.fetch(wrong)
    assert [path for path in fetch.cache_root().rglob("*") if path.is_file()] == []
    assert not fetch.location(wrong).exists()


def test_a_file_put_there_by_hand_is_verified_and_used(recipe: Recipe, wheel: Path) -> None:
    downloads = fetch.cache_root() / "downloads"
    downloads.mkdir(parents=True)
    (downloads / WHEEL).write_bytes(b"something else")
    with pytest.raises(Tok4dError, match="it was removed"):
        fetch.fetch(recipe)
    assert not (downloads / WHEEL).exists()
    (downloads / WHEEL).write_bytes(wheel.read_bytes())
    fetch.fetch(recipe)
    assert fetch.calls == []


def test_a_fetch_goes_on_where_it_failed(recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = make_zip(tmp_path / "more-1.0.whl", {"more/c.png": b"C"})
    second = Package("npm", "more", "1.0", other.name, sha256(other), ("more/c.png",))
    both = replace(recipe, packages=(*recipe.packages, second), items=(*recipe.items, Item("c.png")))
    first_client = fetch.download

    def offline(package: Package, folder: Path) -> Path:
        if package.name == "more":
            raise Tok4dError("download failed (no route)")
        return first_client(package, folder)

    monkeypatch.setattr(fetch, "download", offline)
    with pytest.raises(Tok4dError, match=r"recipe 'toy': npm more 1\.0: download failed .* put more-1\.0\.whl into"):
        fetch.fetch(both)
    assert not fetch.location(both).exists()

    def online(package: Package, folder: Path) -> Path:
        assert package.name == "more", "what was verified is not downloaded again"
        return other.rename(folder / other.name)

    monkeypatch.setattr(fetch, "download", online)
    assert (fetch.fetch(both) / "c.png").read_bytes() == b"C"


def test_a_missing_item_is_named(recipe: Recipe) -> None:
    with pytest.raises(Tok4dError, match=r"do not hold z\.png"):
        fetch.fetch(replace(recipe, items=(Item("z.png"),)))
    assert list(fetch.location(recipe).parent.iterdir()) == []


def test_whoever_comes_second_keeps_what_is_there(recipe: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    finish = fetch._finish

    def overtaken(again: Recipe, folder: Path) -> None:
        monkeypatch.setattr(fetch, "_finish", finish)
        finish(again, folder)
        fetch.fetch(recipe)  # another process does it all meanwhile
        (fetch.location(recipe) / "theirs").touch()

    monkeypatch.setattr(fetch, "_finish", overtaken)
    folder = fetch.fetch(recipe)
    assert (folder / "theirs").exists()
    assert [path.name for path in folder.parent.iterdir()] == ["toy"]


def test_an_unusable_cache_is_one_line(recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("TOK4D_CACHE", str(tmp_path / "file"))
    with pytest.raises(Tok4dError, match="recipe 'toy'"):
        fetch.fetch(recipe)


# --- archives ---


def make_tar(path: Path, name: str, **attributes: object) -> Path:
    with tarfile.open(path, "w:gz") as tar:
        info = tarfile.TarInfo(name)
        info.size = 0 if attributes else 1
        for key, value in attributes.items():
            setattr(info, key, value)
        tar.addfile(info, io.BytesIO(b"x"))
    return path


@pytest.mark.parametrize("name", ["../a.png", "/tmp/a.png", "x/../../a.png", "x\\a.png"])
def test_unsafe_paths_are_refused(name: str, tmp_path: Path) -> None:
    for archive in (make_zip(tmp_path / "a.whl", {name: b"x"}), make_tar(tmp_path / "a.tgz", name)):
        (tmp_path / "out").mkdir(exist_ok=True)
        with pytest.raises(DataError, match="unsafe path"):
            unpack(archive, ["*.png"], tmp_path / "out")
        assert list((tmp_path / "out").iterdir()) == []


def test_links_and_devices_are_refused(tmp_path: Path) -> None:
    archives = [
        make_zip(tmp_path / "a.whl", {}, link="a.png"),
        make_tar(tmp_path / "a.tgz", "a.png", type=tarfile.SYMTYPE, linkname="/etc/passwd"),
        make_tar(tmp_path / "b.tgz", "a.png", type=tarfile.FIFOTYPE),
    ]
    for archive in archives:
        with pytest.raises(DataError, match="link or a device"):
            unpack(archive, ["*.png"], tmp_path)


def test_bounds_doubles_damage_and_nothing_found(tmp_path: Path, wheel: Path) -> None:
    big = make_zip(tmp_path / "big.whl", {"a.png": bytes(1000)})
    with pytest.raises(DataError, match="more than the 999 bytes"):
        unpack(big, ["*.png"], tmp_path, max_bytes=999)
    twice = make_zip(tmp_path / "twice.whl", {"x/c.png": b"1", "y/c.png": b"2"})
    with pytest.raises(DataError, match=r"two members would become 'c\.png'"):
        unpack(twice, ["*.png"], tmp_path)
    with pytest.raises(DataError, match=r"no member like none/\*"):
        unpack(wheel, ["toy/b.png", "none/*"], tmp_path)
    wheel.write_bytes(wheel.read_bytes()[:50])
    with pytest.raises(DataError, match="is damaged"):
        unpack(wheel, ["toy/c.txt"], tmp_path)


@pytest.mark.skipif(not Path("/usr/bin/dpkg-deb").exists(), reason="dpkg-deb is not installed")
def test_a_debian_package(tmp_path: Path) -> None:
    (tmp_path / "pkg" / "DEBIAN").mkdir(parents=True)
    (tmp_path / "pkg" / "DEBIAN" / "control").write_text(
        "Package: toy\nVersion: 1\nArchitecture: all\nMaintainer: me <me@example.org>\nDescription: toy\n"
    )
    (tmp_path / "pkg" / "usr" / "share").mkdir(parents=True)
    (tmp_path / "pkg" / "usr" / "share" / "a.png").write_bytes(b"A")
    command = ["dpkg-deb", "--root-owner-group", "-b", str(tmp_path / "pkg"), str(tmp_path / "toy.deb")]
    subprocess.run(command, check=True, capture_output=True)
    assert unpack(tmp_path / "toy.deb", ["usr/share/*.png"], tmp_path) == [tmp_path / "a.png"]
    assert (tmp_path / "a.png").read_bytes() == b"A"
    (tmp_path / "bad.deb").write_bytes(b"!<arch>\nnonsense")
    with pytest.raises(DataError):
        unpack(tmp_path / "bad.deb", ["*.png"], tmp_path)


# --- clients ---


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Commands that would have been run; each leaves one file."""
    commands: list[list[str]] = []

    def run(command: list[str], cwd: Path, **_: object) -> subprocess.CompletedProcess[str]:
        commands.append(command)
        (cwd / "arrived").touch()
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(clients.subprocess, "run", run)
    monkeypatch.setattr(clients.shutil, "which", lambda name: f"/bin/{name}")
    return commands


def test_every_registry_is_asked_through_its_client(asked: list[list[str]], tmp_path: Path) -> None:
    for registry in ("pypi", "npm", "apt"):
        package = Package(registry, "toy", "1.0", "f", "0" * 64, ("*",))
        folder = tmp_path / registry
        folder.mkdir()
        assert clients.download(package, folder) == folder / "arrived"
    pip, npm, apt = asked
    assert pip[:4] == [sys.executable, "-m", "pip", "download"]
    assert {"--no-deps", "--only-binary=:all:", "toy==1.0", "cp311"} <= set(pip)
    assert npm[:2] == ["/bin/npm", "pack"]
    assert npm[-1] == "toy@1.0"
    assert "--ignore-scripts" in npm
    assert apt == ["/bin/apt-get", "download", "toy=1.0"]


def test_missing_clients_say_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(clients.shutil, "which", lambda name: None)
    monkeypatch.setattr(clients.importlib.util, "find_spec", lambda name: None)
    for registry, program in (("pypi", "pip"), ("npm", "npm"), ("apt", "dpkg-deb")):
        with pytest.raises(Tok4dError, match=f"{program}.* is missing"):
            clients.download(Package(registry, "toy", "1", "f", "0" * 64, ("*",)), tmp_path)


def test_a_failing_client_gives_its_last_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    said = "WARNING: retrying\nERROR: Could not find a version\nERROR: No matching distribution for toy==1\n\nnotice: x"
    failed = subprocess.CompletedProcess([], 1, "", said)
    monkeypatch.setattr(clients.subprocess, "run", lambda *a, **k: failed)
    with pytest.raises(Tok4dError, match=r"download failed \(ERROR: No matching distribution for toy==1\); is the net"):
        clients.download(Package("pypi", "toy", "1", "f", "0" * 64, ("*",)), tmp_path)


# --- recipe files ---


def test_shipped_recipes_are_valid() -> None:
    photos = load_recipe("photos")
    assert photos in list_recipes()
    natural = [item for item in photos.items if item.natural]
    assert len(photos.items) == 26
    assert len({item.side for item in natural}) == 9
    assert {item.file for item in natural if item.group == "motorcycle"} == {
        "motorcycle_left.png",
        "motorcycle_right.png",
    }
    assert all(item.reason and item.kind for item in photos.items)
    assert all((item.kind == "photo") == item.natural for item in photos.items)
    synthetic = {item.file for item in photos.items if item.kind == "synthetic"}
    assert synthetic == {"color.png", "logo.png", "phantom.png", "horse.png"}


GOOD = {
    "summary": "s",
    "licence": "CC0",
    "size_mb": 1,
    "packages": [
        {"registry": "pypi", "name": "toy", "version": "1.0", "file": WHEEL, "sha256": "0" * 64, "members": ["*.png"]}
    ],
}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sumary": "x"}, "Did you mean 'summary'"),
        ({"summary": None}, r"recipe\.summary must be a str, got None"),
        ({"packages": []}, "names no package"),
        ({"packages": {}}, "packages must be a list"),
        ({"packages": [{**GOOD["packages"][0], "registry": "pip"}]}, "Did you mean 'pypi'"),
        ({"packages": [{**GOOD["packages"][0], "sha256": "abc"}]}, "64 lower-case hex digits, got 'abc'"),
        ({"packages": [{**GOOD["packages"][0], "name": "--index-url=x"}]}, "no plain name"),
        ({"packages": [{**GOOD["packages"][0], "file": "../x"}]}, "bare file name"),
        ({"packages": [{**GOOD["packages"][0], "members": []}]}, "at least one file"),
        ({"packages": [{**GOOD["packages"][0], "version": 1.5}]}, r"packages\.version must be a str, got 1\.5"),
        ({"packages": [{"name": "toy"}]}, "lacks the field 'registry'"),
        ({"items": [{"file": "a"}, {"file": "a"}]}, r"\['a'\] twice"),
        ({"name": "other"}, "must be the file's stem 'toy'"),
    ],
)
def test_mistakes_in_a_recipe_are_named(change: dict[str, object], message: str, tmp_path: Path) -> None:
    path = tmp_path / "toy.yaml"
    path.write_text(json.dumps(GOOD))
    assert read_recipe(path).size_mb == 1.0
    path.write_text(json.dumps({**GOOD, **change}))
    with pytest.raises(ConfigError, match=message) as caught:
        read_recipe(path)
    assert str(path) in str(caught.value)


def test_a_file_that_is_no_recipe(tmp_path: Path) -> None:
    (tmp_path / "toy.yaml").write_text("a: [1")
    with pytest.raises(ConfigError, match="cannot be read as YAML"):
        read_recipe(tmp_path / "toy.yaml")
    (tmp_path / "toy.yaml").write_text("- 1")
    with pytest.raises(ConfigError, match="must be a mapping, got list"):
        read_recipe(tmp_path / "toy.yaml")
    with pytest.raises(ConfigError, match="Did you mean 'photos'"):
        load_recipe("photo")


# --- command line ---


def test_list_and_fetch_on_the_command_line(recipe: Recipe, wheel: Path, tmp_path: Path) -> None:
    from tok4d.cli.main import app

    listed = CliRunner().invoke(app, ["data", "list", "--json"])
    assert listed.exit_code == 0
    (photos,) = [entry for entry in json.loads(listed.stdout) if entry["name"] == "photos"]
    assert photos["fetched"] is False
    assert photos["packages"][0].startswith("pypi scikit-image ")
    assert "photos" in CliRunner().invoke(app, ["data", "list"]).stdout

    path = tmp_path / "toy.yaml"
    package = {**GOOD["packages"][0], "sha256": sha256(wheel), "members": ["toy/*.png"]}
    path.write_text(json.dumps({**GOOD, "packages": [package]}))
    done = CliRunner().invoke(app, ["data", "fetch", str(path), "--json"])
    assert done.exit_code == 0, done.output
    entry = json.loads(done.stdout)
    assert (entry["fetched"], entry["files"]) == (True, 2)
    assert CliRunner().invoke(app, ["data", "fetch", str(path)]).stdout.startswith(entry["folder"])

    unknown = CliRunner().invoke(app, ["data", "fetch", "photo"])
    assert unknown.exit_code == 1
    assert "Did you mean 'photos'" in unknown.output
