"""Pictures with names: the table of emoji, groups, splits that agree between sets, stamps; and the real sets."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tok4d.config.schema import TaskConfig
from tok4d.data.build import build_source
from tok4d.data.fetch import is_fetched, location
from tok4d.data.recipes import load_recipe
from tok4d.errors import ConfigError, DataError
from tok4d_image.emoji import CATEGORIES, caption, code_of, group_of, read_table
from tok4d_image.named import (
    PASTELS,
    Emoji3dPictures,
    EmojiPictures,
    Named,
    NamedPictures,
    StampPictures,
    split_classes,
)
from tok4d_image.reading import parse_background
from tok4d_image.stamps import find_stamps
from tok4d_image.stamps import group_of as stamp_group


def entry(code: str, name: str, category: str, subcategory: str = "thing", tones: tuple[str, ...] = ()) -> dict:
    variants = {tone: {"unified": f"{code}-{tone}"} for tone in tones}
    short = name.lower().replace(" ", "_")
    more = {"skin_variations": variants} if variants else {}
    return {
        "unified": code,
        "name": name,
        "short_name": short,
        "category": category,
        "subcategory": subcategory,
        **more,
    }


TABLE = [
    entry("1F40E", "HORSE", "Animals & Nature"),
    entry("1F431", "CAT FACE", "Animals & Nature"),
    entry("1F44B", "WAVING HAND SIGN", "People & Body", tones=("1F3FB", "1F3FF")),
    entry("0023-FE0F-20E3", "HASH KEY", "Symbols"),
    entry("2122-FE0F", "TRADE MARK SIGN", "Symbols"),
    entry("1F1EB-1F1F7", "France Flag", "Flags", "country-flag"),
    entry("1F1E7-1F1F4", "Bolivia Flag", "Flags", "country-flag"),
    *[entry(f"1F6{number}", f"OBJECT {number}", "Objects") for number in range(10, 30)],
]


def cut_out(path: Path, side: int) -> None:
    """A green square in the middle of a transparent picture."""
    pixels = np.zeros((side, side, 4), dtype=np.uint8)
    pixels[side // 4 : -side // 4, side // 4 : -side // 4] = (0, 255, 0, 255)
    Image.fromarray(pixels).save(path, lossless=True)


@pytest.fixture
def sets(tmp_path: Path) -> tuple[Path, Path]:
    """A flat and a 3D set; the second lacks the cat and the first objects, and writes selectors its own way."""
    flat, solid = tmp_path / "flat", tmp_path / "solid"
    for folder in (flat, solid):
        folder.mkdir()
        (folder / "emoji.json").write_text(json.dumps(TABLE))
    for item in TABLE:
        codes = [item["unified"], *(variant["unified"] for variant in item.get("skin_variations", {}).values())]
        for code in codes:
            cut_out(flat / f"{code.lower()}.png", 8)
            if item["name"] not in ("CAT FACE", "OBJECT 10", "OBJECT 13"):
                cut_out(solid / f"{code.lower().removesuffix('-fe0f')}.webp", 16)
    (solid / "1f9ff-unknown.webp").write_bytes((solid / "1f40e.webp").read_bytes())
    return flat, solid


def keys(source: NamedPictures) -> set[str]:
    return {item.key for item in source.items}


def test_captions_labels_and_keys(sets):
    source = EmojiPictures("image", path=str(sets[0]))
    assert len(source) == len(TABLE)
    found = {source.items[i].caption: source.load(i) for i in range(len(source))}
    assert {"horse", "France Flag", "hash key"} < set(found)
    sample = found["horse"]
    assert (sample.caption, sample.label, sample.key) == ("horse", CATEGORIES.index("Animals & Nature"), "emoji/1f40e")
    assert sample.meta == {"category": "Animals & Nature", "group": "1f40e"}
    assert found["hash key"].key == "emoji/0023-20e3"
    assert len(Emoji3dPictures("image", path=str(sets[1]))) == len(TABLE) - 3


def test_transparency_lies_over_the_background_and_over_a_pastel_in_training(sets):
    white = EmojiPictures("image", path=str(sets[0])).load(0).data["image"]
    assert white[:, 0, 0].tolist() == [1, 1, 1]
    assert white[:, 4, 4].tolist() == [-1, 1, -1]
    black = EmojiPictures("image", path=str(sets[0]), background="black", pastel=True)
    assert black.load(0).data["image"][:, 0, 0].tolist() == [-1, -1, -1], "evaluation keeps the background"
    seen = set()
    for seed in range(200):
        image = black.load(0, np.random.default_rng(seed)).data["image"]
        seen.add(tuple(((image[:, 0, 0] + 1) * 127.5).round().int().tolist()))
        assert image[:, 4, 4].tolist() == [-1, 1, -1]
    assert seen == {parse_background(colour) for colour in PASTELS}
    again = [black.load(0, np.random.default_rng(3)).data["image"] for _ in range(2)]
    assert torch.equal(*again)


def test_skin_tones_are_an_option_and_stay_with_their_emoji(sets):
    plain = EmojiPictures("image", path=str(sets[0]))
    toned = EmojiPictures("image", path=str(sets[0]), skin_tones=True)
    assert keys(toned) - keys(plain) == {"1f44b-1f3fb", "1f44b-1f3ff"}
    hands = [item for item in toned.items if item.key.startswith("1f44b")]
    assert len(hands) == 3
    assert {(item.caption, item.group) for item in hands} == {("waving hand sign", "1f44b")}


@pytest.mark.parametrize("fold", [0, 1, 4])
def test_an_emoji_is_on_one_side_in_both_sets(sets, fold):
    sides = {}
    for split in ("train", "val"):
        flat = EmojiPictures("image", split, fold=fold, path=str(sets[0]), skin_tones=True)
        solid = Emoji3dPictures("image", split, fold=fold, path=str(sets[1]), categories=["Objects", "Flags"])
        try:
            sides[split] = keys(flat), keys(solid), {item.category for item in flat.items}
        except DataError:
            sides[split] = keys(flat), set(), {item.category for item in flat.items}
    (train, solid_train, _), (val, solid_val, val_categories) = sides["train"], sides["val"]
    assert not train & val
    assert solid_train <= train
    assert solid_val <= val
    assert len(train | val) == len(TABLE) + 2
    objects = [key for key in val if key.startswith("1f6")]
    assert len(objects) == 4, "a fifth of 20 objects, whatever the other categories are"
    assert "Flags" not in val_categories, "a category of one group has no held-out side"


def test_limit_and_categories(sets):
    whole = EmojiPictures("image", path=str(sets[0]))
    few = EmojiPictures("image", path=str(sets[0]), limit=7)
    fewer = EmojiPictures("image", path=str(sets[0]), limit=3)
    assert (len(few), len(fewer)) == (7, 3)
    assert keys(fewer) < keys(few) < keys(whole)
    assert {item.category for item in EmojiPictures("image", path=str(sets[0]), categories=["Flags"]).items} == {
        "Flags"
    }
    with pytest.raises(ConfigError, match=r"unknown category of emoji 'Flag'\. Did you mean 'Flags'"):
        EmojiPictures("image", categories=["Flag"])
    with pytest.raises(ConfigError, match="limit must be a whole number of at least 0, got -1"):
        EmojiPictures("image", limit=-1)
    with pytest.raises(DataError, match="no picture on the 'val' side"):
        _ = EmojiPictures("image", "val", path=str(sets[0]), categories=["Flags"]).items


@pytest.mark.parametrize(
    ("codes", "subcategories"),
    [
        (("1f9d1-200d-2695", "1f468-200d-2695", "1f469-1f3fd-200d-2695-fe0f"), "person-role"),
        (("1f3c3", "1f3c3-200d-2640", "1f3c3-200d-2642-200d-27a1", "1f3c3-1f3fb"), "person-activity"),
        (("1f550", "1f567", "1f55b"), "time"),
        (("1f466", "1f467", "1f9d2"), "person"),
        (("1f385", "1f936", "1f9d1-200d-1f384"), "person-fantasy"),
        (("2764", "1f499", "1fa77"), "heart"),
    ],
)
def test_near_duplicates_are_one_group(codes, subcategories):
    assert len({group_of(code, subcategories) for code in codes}) == 1


def test_different_things_are_different_groups():
    codes = (
        "1f40e",
        "1f431",
        "1f550",
        "2764",
        "1f468",
        "1f466",
        "1f9d1-200d-2695",
        "1f9d1-200d-1f373",
        "1f3fb",
        "2640",
    )
    assert len({group_of(code, "thing") for code in codes}) == len(codes)
    assert code_of("0023-FE0F-20E3") == code_of("0023-20e3") == "0023-20e3"
    assert (caption("FLAG_SIGN"), caption("Bolivia Flag")) == ("flag sign", "Bolivia Flag")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "cannot be read"),
        ("[{", "cannot be read"),
        ('[{"name": "A"}]', "is no table of emoji: KeyError 'short_name'"),
        ("7", "is no table of emoji"),
        (json.dumps([entry("1F600", "FACE", "Faces")]), "has the unknown categories Faces"),
    ],
)
def test_a_table_that_is_none_is_refused(tmp_path, text, reason):
    (tmp_path / "emoji.json").write_text(text)
    with pytest.raises(DataError, match=reason):
        read_table(tmp_path / "emoji.json")


def test_a_group_of_two_categories_is_not_torn_apart():
    items = [Named(str(n), None, "", "ab"[n % 2], f"g{n % 12}") for n in range(60)]
    items += [Named("x", None, "", "a", "g1"), Named("y", None, "", "b", "g2")]
    sides = [{item.group for item in split_classes(items, split, 3, 1)} for split in ("train", "val")]
    assert not sides[0] & sides[1]
    assert len(sides[0] | sides[1]) == 12
    assert len(sides[1]) == 4


def stamp(folder: Path, name: str, text: str | None) -> None:
    cut_out(folder / f"usr-share-tuxpaint-stamps-{name}.png", 8)
    if text is not None:
        (folder / f"usr-share-tuxpaint-stamps-{name}.txt").write_text(text, encoding="utf-8")


def test_stamps_have_the_first_line_and_the_first_folder(tmp_path):
    stamp(tmp_path, "animals-amphibians-frog-1", "A frog.\nde.utf8=Ein Frosch.\n")
    stamp(tmp_path, "food-fruit-pear", "Une poire à l’eau.\n")
    stamp(tmp_path, "food-fruit-pear_mirror", None)
    stamp(tmp_path, "elsewhere-pear", "Not a category.\n")
    source = StampPictures("image", path=str(tmp_path))
    assert [(item.key, item.caption, item.category) for item in source.items] == [
        ("animals-amphibians-frog-1", "A frog.", "animals"),
        ("food-fruit-pear", "Une poire à l’eau.", "food"),
    ]
    assert (source.load(1).label, source.key(1)) == (2, "stamps/food-fruit-pear")
    stamp(tmp_path, "food-nut", "\nde=Nuss")
    with pytest.raises(DataError, match=r"food-nut\.txt: has no caption"):
        find_stamps(tmp_path)
    (tmp_path / "none").mkdir()
    with pytest.raises(DataError, match="has no stamps"):
        find_stamps(tmp_path / "none")


def test_stamps_of_one_caption_are_one_group():
    assert stamp_group("A frog.") == stamp_group("The frog") == "frog"
    assert stamp_group("The letter A.") != stamp_group("The letter B.")
    assert stamp_group("A!") == "a"


@pytest.mark.parametrize(
    ("name", "count", "size"), [("emoji", 1911, (64, 64)), ("emoji3d", 1852, (256, 256)), ("stamps", 785, None)]
)
def test_the_real_sets(name, count, size):
    recipe = load_recipe(name)
    if not is_fetched(recipe):
        pytest.skip(f"the recipe {name} is not in the cache")
    whole, train, val = (build_source(TaskConfig(f"image/{name}", {"split": s})) for s in ("all", "train", "val"))
    assert len(whole) == len(train) + len(val) == count
    assert 0.17 < len(val) / count < 0.22
    assert {item.group for item in train.items}.isdisjoint(item.group for item in val.items)
    assert {item.category for item in val.items} <= {item.category for item in train.items}
    sample = whole.load(100)
    assert sample.caption
    assert size is None or tuple(sample.data["image"].shape[1:]) == size
    assert (location(recipe) / "LICENSE.txt").is_file()
