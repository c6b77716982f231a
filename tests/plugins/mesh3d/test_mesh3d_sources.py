"""Sources of 3D assets and their cache: the same samples from any worker; one split for all modalities."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from made_assets import HOST
from made_meshes import box_obj, catalogue, png, square_obj
from PIL import Image

from tok4d.config.schema import TaskConfig
from tok4d.data.build import build_source
from tok4d.errors import ConfigError, DataError, Tok4dError
from tok4d_mesh3d.cache import TensorCache, digest_of, file_digest
from tok4d_mesh3d.nouns import CLASSES
from tok4d_mesh3d.prepared import target_cameras
from tok4d_mesh3d.solids import KINDS, make_solid
from tok4d_mesh3d.sources import Mesh3dFolder, Mesh3dFurniture, Mesh3dSolids
from tok4d_mesh3d.turning import FurniturePictures

FAST = {"resolution": 8, "views": 4, "size": 32, "supersample": 1, "targets": 6, "target_size": 16}


def same(one, other) -> bool:
    return set(one.data) == set(other.data) and all(torch.equal(one.data[k], other.data[k]) for k in one.data)


@pytest.fixture
def folder(tmp_path) -> Path:
    return tmp_path / "cache"


@pytest.fixture
def solids(folder) -> Mesh3dSolids:
    return Mesh3dSolids("mesh3d", count=6, cache_folder=str(folder), **FAST)


def test_solids_are_what_their_captions_say():
    seen = set()
    for number in range(40):
        solid = make_solid(0, number)
        words = solid.caption.split(" on ")[0].split()
        assert KINDS[solid.label] == words[-1]
        low, high = solid.mesh.vertices.amin(0), solid.mesh.vertices.amax(0)
        assert float((high - low).max()) == pytest.approx(1.0)
        assert float((high + low).abs().max()) < 1e-5
        seen.add(words[-1])
        if len(words) == 3:  # one colour
            upper = solid.mesh.colors[-1, 0]  # the upper body comes last
            assert bool((solid.mesh.colors[-100:] == upper).all())
    assert seen == set(KINDS)
    assert torch.equal(make_solid(3, 5).mesh.vertices, make_solid(3, 5).mesh.vertices)
    assert make_solid(3, 5).caption != make_solid(4, 5).caption


def test_a_sample_is_the_same_cached_or_not(solids, folder):
    first, again = solids.load(2), solids.load(2)
    bare = Mesh3dSolids("mesh3d", count=6, cache_gb=0, **FAST).load(2)
    assert same(first, again)
    assert same(first, bare)
    assert len(list(folder.rglob("*.safetensors"))) == 1
    assert first.caption == make_solid(0, 2).caption
    assert first.data["views"].shape == (6, 3, 16, 16)


def test_the_cache_is_read(solids, monkeypatch):
    first = solids.load(0)
    monkeypatch.setattr(Mesh3dSolids, "_make", lambda *_: pytest.fail("was made a second time"))
    assert same(solids.load(0), first)
    other = Mesh3dSolids("mesh3d", count=6, cache_folder=solids.cache_folder, **{**FAST, "shading": "headlight"})
    with pytest.raises(pytest.fail.Exception):
        other.load(0)  # other options make other tensors


def test_pictures_are_drawn_by_the_generator_passed(solids):
    one, two, three = (solids.load(1, np.random.default_rng(seed)) for seed in (7, 7, 8))
    assert same(one, two)
    assert one.data["views"].shape[0] == 4
    assert not torch.equal(one.data["world_to_camera"], three.data["world_to_camera"])
    whole = solids.load(1).data
    for view, matrix in zip(one.data["views"], one.data["world_to_camera"], strict=True):
        (place,) = [i for i in range(6) if torch.equal(whole["world_to_camera"][i], matrix)]
        assert torch.equal(whole["views"][place], view)


def test_targets_are_pictures_that_were_not_lifted():
    cameras = target_cameras(16)
    lifted = Mesh3dSolids("mesh3d").read_options.cameras
    apart = torch.cdist(cameras.centers, lifted.centers)
    assert float(apart.min()) > 0.02
    assert cameras.centers.norm(dim=1).tolist() == pytest.approx([2.0] * 16, rel=1e-5)
    assert float(cameras.centers.mean(0).norm()) < 0.1  # all round


def test_workers_share_a_cache(folder):
    script = (
        "import sys, torch\nfrom tok4d_mesh3d.sources import Mesh3dSolids\n"
        f"s = Mesh3dSolids('mesh3d', count=6, cache_folder={str(folder)!r}, **{FAST!r})\n"
        "print([float(s.load(i).data['voxels'].double().sum()) for i in range(6)])"
    )
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    started = [
        subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, env=environment) for _ in range(3)
    ]
    said = [process.communicate(timeout=120)[0] for process in started]
    assert [process.returncode for process in started] == [0, 0, 0]
    assert len(set(said)) == 1
    assert len(list(folder.rglob("*.safetensors"))) == 6
    assert list(folder.rglob("*.part")) == []


def test_damaged_and_bounded(tmp_path):
    made = []

    def make(value: int):
        made.append(value)
        return {"x": torch.full((250,), value, dtype=torch.float32)}

    cache = TensorCache(tmp_path, 5000)
    digests = [digest_of({"number": number}) for number in range(8)]
    for number, digest in enumerate(digests):
        assert float(cache.get(digest, lambda number=number: make(number))["x"][0]) == number
        path = tmp_path / digest[:2] / f"{digest}.safetensors"
        os.utime(path, (1e9 + number, 1e9 + number))
    kept = sorted(tmp_path.rglob("*.safetensors"))
    assert sum(path.stat().st_size for path in kept) <= 5000
    assert {path.stem for path in kept} == set(digests[-len(kept) :])  # the oldest went
    newest = tmp_path / digests[-1][:2] / f"{digests[-1]}.safetensors"
    newest.write_bytes(newest.read_bytes()[:50])
    made.clear()
    assert float(cache.get(digests[-1], lambda: make(7))["x"][0]) == 7
    assert made == [7]
    part = newest.with_name("left.part")
    part.write_bytes(b"0")
    os.utime(part, (time.time() - 9000,) * 2)
    cache.get(digests[0], lambda: make(0))
    assert not part.exists()


def test_a_cache_that_cannot_be_written_is_no_error(tmp_path, caplog):
    blocked = tmp_path / "file"
    blocked.write_text("no folder")
    made = TensorCache(blocked, 5000).get("ab12", lambda: {"x": torch.ones(2)})
    assert torch.equal(made["x"], torch.ones(2))
    assert "cannot be kept" in caplog.text


def test_a_changed_texture_is_another_asset(tmp_path):
    path = square_obj(tmp_path, "map_Kd square.png", png(np.full((2, 2, 3), 200, np.uint8)))
    source = Mesh3dFolder("mesh3d", path=str(tmp_path), cache_folder=str(tmp_path / "cache"), **FAST)
    before, light = file_digest(path), source.load(0)
    (tmp_path / "square.png").write_bytes(png(np.full((2, 2, 3), 10, np.uint8), 2))
    assert file_digest(path) != before
    assert float(source.load(0).data["voxels"].max()) < float(light.data["voxels"].max())
    assert light.key == str(path)


def test_a_folder_of_all_kinds(tmp_path):
    box = box_obj(tmp_path)
    sample = HOST.read(box, views=4, size=32)
    HOST.write(sample, tmp_path / "voxels.ply")
    (tmp_path / "broken.glb").write_bytes(b"glTF")
    source = Mesh3dFolder("mesh3d", path=str(tmp_path), cache_gb=0, **FAST)
    assert [path.name for path in source.files] == ["box.obj", "broken.glb", "voxels.ply"]
    assert HOST.patchify(source.load(0)).num_tokens > 0
    with pytest.raises(DataError, match=r"broken\.glb"):
        source.load(1)
    assert "views" not in source.load(2).data


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"targets": -1}, "targets must be a whole number"),
        ({"targets_at_once": 0}, "targets_at_once"),
        ({"cache_gb": -1}, "cache_gb"),
        ({"background": [0, 0]}, "three numbers"),
        ({"resolution": 0}, "resolution"),
        ({"count": 0}, "count must be at least 1"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ConfigError, match=message):
        Mesh3dSolids("mesh3d", **options)


NAMES = ["Red chair", "Small chair", "Chair", "Big table", "Desk", "Table", "Thing", "Odd thing", "Lamp", "Tall chair"]


@pytest.fixture
def furniture(tmp_path) -> dict:
    """Options for a made catalogue of ten boxes with icons."""
    path = box_obj(tmp_path / "box")
    icon = io.BytesIO()
    Image.new("RGBA", (8, 8), (0, 0, 255, 128)).save(icon, "PNG")
    entries, members = "", {"box.mtl": path.with_name("box.mtl").read_bytes()}
    for number, name in enumerate(NAMES, 1):
        entries += (
            f"id#{number}=maker#{number}\nname#{number}={name}\nmodel#{number}=/box.obj\nicon#{number}=/icon.png\n"
        )
    members |= {"box.obj": path.read_bytes(), "icon.png": icon.getvalue()}
    (tmp_path / "catalogues").mkdir()
    catalogue(tmp_path / "catalogues" / "made.sh3f", entries, members)
    return {"path": str(tmp_path / "catalogues"), "cache_folder": str(tmp_path / "cache"), "folds": 3}


def build(name: str, **options):
    return build_source(TaskConfig(name, options))


def test_one_object_has_one_caption_label_and_side_in_all_modalities(furniture):
    sides: dict[str, list[str]] = {}
    for split in ("train", "val"):
        mesh = build("mesh3d/furniture", **furniture, **FAST, split=split)
        image = build("image/furniture", **furniture, size=16, split=split)
        video = build("video/furniture", **furniture, size=16, frames=5, split=split)
        keys = [[source.key(i) for i in range(len(source))] for source in (mesh, image, video)]
        assert keys[0] == keys[1] == keys[2]
        sides[split] = keys[0]
        samples = [source.load(0) for source in (mesh, image, video)]
        assert len({(s.key, s.caption, s.label, s.meta["licence"]) for s in samples}) == 1
        assert samples[1].data["image"].shape == (3, 16, 16)
        assert samples[2].data["video"].shape == (5, 3, 16, 16)
        assert samples[2].fps == 12
        for source, sample in zip((mesh, image, video), samples, strict=True):
            source.host.patchify(sample).validate()
    assert not set(sides["train"]) & set(sides["val"])
    assert len(sides["train"]) + len(sides["val"]) == 10
    chairs, tables = {"maker#1", "maker#2", "maker#3", "maker#10"}, {"maker#4", "maker#5", "maker#6"}
    for split in ("train", "val"):  # every class of three and more is on both sides
        assert chairs & set(sides[split])
        assert tables & set(sides[split])


def test_furniture_by_noun_and_by_number(furniture):
    chairs = Mesh3dFurniture("mesh3d", **furniture, classes=["chair"])
    assert [item.name for item in chairs.items] == ["Red chair", "Small chair", "Chair", "Tall chair"]
    assert chairs.load(0).label == list(CLASSES).index("chair")
    every = Mesh3dFurniture("mesh3d", **furniture)
    assert every.load(6).label is None
    assert len(Mesh3dFurniture("mesh3d", **furniture, limit=3)) == 3
    train, some = (Mesh3dFurniture("mesh3d", **furniture, split="train", classes=c) for c in ([], ["chair"]))
    assert {item.identity for item in some.items} <= {item.identity for item in train.items}  # sides do not move
    with pytest.raises(ConfigError, match=r"unknown nouns \['chari'\]"):
        Mesh3dFurniture("mesh3d", **furniture, classes=["chari"])


def test_icons_and_turns(furniture):
    icon = FurniturePictures("image", **furniture, look_of="icon", size=8)
    # Blue at 128/255 over white: red and green are 127/255, blue is full.
    assert icon.load(0).data["image"][:, 4, 4].tolist() == pytest.approx(
        [127 / 127.5 - 1, 127 / 127.5 - 1, 1.0], abs=0.01
    )
    turning = build("video/furniture", **furniture, size=16, frames=5)
    whole, rolled = turning.load(0).data["video"], turning.load(0, np.random.default_rng(3)).data["video"]
    assert any(torch.equal(whole.roll(-start, 0), rolled) for start in range(5))
    picture = build("image/furniture", **furniture, size=16, frames=5)
    assert torch.equal(picture.load(0).data["image"], whole[2])
    with pytest.raises(ConfigError, match="look_of"):
        FurniturePictures("image", **furniture, look_of="photo")


def test_assets_are_furniture_or_solids_where_there_is_none(furniture, tmp_path, monkeypatch, caplog):
    found = build("mesh3d/assets", **furniture, **FAST)
    assert found.key(0) == build("mesh3d/furniture", **furniture, **FAST).key(0)
    assert same(found.load(0), build("mesh3d/furniture", **furniture, **FAST).load(0))

    def unreachable(*_: object) -> None:
        raise Tok4dError("apt-get is missing")

    monkeypatch.setattr("tok4d_mesh3d.catalogue.ensure", unreachable, raising=False)
    monkeypatch.setattr("tok4d.data.fetch.ensure", unreachable)
    sides = [build("mesh3d/assets", solids=10, split=split, **FAST) for split in ("train", "val")]
    assert [len(side) for side in sides] == [8, 2]
    assert sides[0].key(0).startswith("solids/")
    assert len(sides[0].load(0).data["voxels"])
    assert "apt-get is missing" in caplog.text


def test_a_manifest_gives_captions_and_labels(tmp_path):
    path = box_obj(tmp_path / "box")
    listed = tmp_path / "assets.csv"
    listed.write_text(f"path,caption,label\n{path.relative_to(tmp_path)},a box,furniture\n")
    source = build("mesh3d/manifest", path=str(listed), **FAST)
    sample = source.load(0)
    assert (sample.caption, sample.label, sample.key) == ("a box", 0, str(path.relative_to(tmp_path)))
    (one,) = [build("mesh3d/folder", path=str(tmp_path / "box"), **FAST).load(0)]
    assert torch.equal(sample.data["voxels"], one.data["voxels"])
    listed.write_text("path,start\nbox/box.obj,1.5\n")
    with pytest.raises(DataError, match="line 2: a 3D asset has no time"):
        build("mesh3d/manifest", path=str(listed), **FAST).load(0)
    listed.write_text("path\n../box.obj\n")
    with pytest.raises(DataError, match="outside of the manifest's folder"):
        build("mesh3d/manifest", path=str(listed), **FAST).load(0)
