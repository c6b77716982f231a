"""Catalogues of furniture: entries, licences, noun classes, models read from inside the archive; and the real ones."""

from __future__ import annotations

import io
from collections import Counter
from pathlib import Path

import pytest
import torch
from made_meshes import CORNERS, box_obj, catalogue, png, square_obj
from PIL import Image

from tok4d.data.fetch import is_fetched, location
from tok4d.data.recipes import load_recipe
from tok4d.errors import DataError
from tok4d_mesh3d.furniture import load_catalogue, load_furniture, read_catalogue, read_icon
from tok4d_mesh3d.meshes import MeshOptions, load_mesh
from tok4d_mesh3d.nouns import CLASSES, noun_class

ENTRIES = """# a comment
id=Some#Catalogue
id#2=some#lamp
name#2=Bill 10\\u20ac lamp
model#2=/b/box.obj
modelRotation#2=1 0 0 0 0 1 0 -1 0
id#1=some#chair
name#1=Garden chair
tags#1=Seat, Gard\xe9n
category#1=Exterior
creator#1=Someone
icon#1=/icons/chair.png
model#1=/m/square.obj
width#1=59.4
depth#1=62.7
height#1=105
"""


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    square = square_obj(tmp_path / "m", "map_Kd square.png", png(CORNERS))
    box = box_obj(tmp_path / "b", (1, 0.5, 0.25))
    members = {
        "m/square.obj": square.read_bytes(),
        "m/square.mtl": (tmp_path / "m/square.mtl").read_bytes(),
        "m/square.png": png(CORNERS),
        "icons/chair.png": png(CORNERS, side=8),
        "b/box.obj": box.read_bytes(),
        "b/box.mtl": (tmp_path / "b/box.mtl").read_bytes(),
    }
    return catalogue(tmp_path / "some.sh3f", ENTRIES, members, head="license=CC-BY \xa9 Someone\n")


def test_entries_come_in_order_with_everything_that_is_known(archive: Path):
    chair, lamp = load_catalogue(archive.parent)
    assert (chair.identity, chair.name, chair.category, chair.creator) == (
        "some#chair",
        "Garden chair",
        "Exterior",
        "Someone",
    )
    assert chair.tags == ("Seat", "Gard\xe9n")
    assert chair.licence == "CC-BY \xa9 Someone"
    assert (chair.model, chair.icon, chair.size) == ("m/square.obj", "icons/chair.png", (59.4, 62.7, 105.0))
    assert (chair.noun, lamp.noun) == ("chair", None)
    assert lamp.name == "Bill 10\u20ac lamp"
    assert lamp.rotation == (1, 0, 0, 0, 0, 1, 0, -1, 0)


def test_a_model_is_read_from_inside_the_archive(archive: Path, tmp_path: Path):
    chair, lamp = read_catalogue(archive)
    mesh = load_furniture(chair)
    beside = load_mesh(tmp_path / "m" / "square.obj")
    assert torch.equal(mesh.vertices, beside.vertices)
    assert torch.equal(mesh.materials[0].texture, beside.materials[0].texture)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["b", "m", "some.sh3f"], "nothing is unpacked"
    # The catalogue's rotation (x, y, z) -> (x, z, -y) comes first, then y up becomes z up: (x, y, z) of the file ends
    # at (x, y, z). The box of 1 x 0.5 x 0.25 keeps its sides; without the rotation they would be 1 x 0.25 x 0.5.
    turned = load_furniture(lamp, MeshOptions(normalize=False)).vertices
    assert (turned.amax(0) - turned.amin(0)).tolist() == pytest.approx([1, 0.5, 0.25])
    assert Image.open(io.BytesIO(read_icon(chair))).size == (16, 16)
    with pytest.raises(DataError, match="has no icon"):
        read_icon(lamp)


def test_an_id_that_is_taken_and_an_empty_folder_are_named(archive: Path, tmp_path: Path):
    (tmp_path / "again.sh3f").write_bytes(archive.read_bytes())
    with pytest.raises(DataError, match="the id 'some#chair' is taken by another model"):
        load_catalogue(tmp_path)
    with pytest.raises(DataError, match=r"has no \.sh3f file; `tok4d data fetch furniture`"):
        load_catalogue(tmp_path / "m")
    broken = ENTRIES.replace("0 -1 0", "0 -1")
    with pytest.raises(DataError, match="modelRotation needs 9 numbers, got 8"):
        read_catalogue(catalogue(tmp_path / "b.sh3f", broken, {}))
    with pytest.raises(DataError, match=r"entry 1 of .*could not convert"):
        read_catalogue(catalogue(tmp_path / "c.sh3f", ENTRIES.replace("59.4", "wide"), {}))


@pytest.mark.parametrize(
    ("name", "noun"),
    [("Chair", "chair"), ("Winchester armchair", "chair"), ("Baby high chair", "chair"), ("Bookcase", "shelves"),
     ("Glass table", "table"), ("Table with tablecloth", "table"), ("Table on trestles", "table"), ("", None),
     ("Double window 3 panes", "window"), ("Induction cooker 2 zones", "cooker"), ("TV 16:9", "screen"),
     ("Glass door", "door"), ("Glass door cabinet", "cabinet"), ("Wall lamp artwork", None), ("Window blind", None),
     ("Blue pine under snow", "tree"), ("Flowers", "plant"), ("Bus", "vehicle"), ("Glass", "cup"),
     ("Plate, glass and cutlery", None), ("Rocking horse", None), ("Hot dog", None), ("Clothes horse", None),
     ("Sofa 2 seats", "sofa"), ("TV stand", None), ("Shelves", "shelves"), ("Wall RJ45 plug", "plug"),
     ("Table tennis", None), ("Concept Sedan 02 Sport", "vehicle")],
)  # fmt: skip
def test_noun_classes_go_by_the_head_noun(name: str, noun: str | None):
    assert noun_class(name) == noun


@pytest.mark.skipif(not is_fetched(load_recipe("furniture")), reason="recipe furniture is not fetched")
def test_the_real_catalogues_and_a_model_of_each():
    items = load_catalogue(location(load_recipe("furniture")))
    assert len(items) == 820
    assert len({item.identity for item in items}) == 820
    licences = Counter(item.licence.split("Copyright")[0].split("\xa9")[0].strip() for item in items)
    assert licences["Public domain"] == 175
    nouns = Counter(item.noun for item in items if item.noun)
    assert set(nouns) == set(CLASSES)
    assert min(nouns["chair"], nouns["table"], nouns["lamp"]) > 30
    first = {item.archive: item for item in reversed(items)}
    for item in first.values():
        mesh = load_furniture(item)
        assert mesh.degradations == []
        low, high = mesh.vertices[mesh.faces.flatten()].amin(0), mesh.vertices[mesh.faces.flatten()].amax(0)
        assert float((high - low).max()) == pytest.approx(1, abs=1e-5)
        # Width, depth and height in the catalogue are those of the upright model.
        sides, known = (high - low) / (high - low).max(), torch.tensor(item.size) / max(item.size)
        assert torch.allclose(sides, known, atol=0.02), item.identity
        assert Image.open(io.BytesIO(read_icon(item))).size[0] >= 64


@pytest.mark.skipif(not is_fetched(load_recipe("controllers")), reason="recipe controllers is not fetched")
def test_real_glb_files_are_read_whole():
    files = sorted(location(load_recipe("controllers")).glob("*.glb"))
    assert len(files) == 82
    textured = 0
    for path in files[::9]:
        mesh = load_mesh(path)
        textured += any(material.texture is not None for material in mesh.materials)
        assert len(mesh.faces) > 100
        assert set(mesh.degradations) <= {"a mesh with a skeleton is shown in its bind pose"}
    assert textured == 9, "one of these ten has colours only"
