"""Sources: augmentation by hand-checked geometry, splits, the cache, generated pictures, the photos recipe."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tok4d.errors import ConfigError, DataError
from tok4d_image.augment import PixelCache, jitter_colours, random_crop, random_flips, shrink
from tok4d_image.reading import read_pixels
from tok4d_image.shapes import KINDS
from tok4d_image.sources import ImageFolder, ImagePhotos, ImageShapes


class Draws:
    """A generator that answers with what the test says."""

    def __init__(self, *values: object) -> None:
        self.values = list(values)

    def random(self, size: int | None = None) -> object:
        value = self.values.pop(0)
        return np.full(size, value) if size else value

    def integers(self, high: int) -> object:
        return min(self.values.pop(0), high - 1)

    def permutation(self, count: int) -> object:
        return np.array(self.values.pop(0))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for number in range(10):
        rng = np.random.default_rng(number)
        size = (20 + number, 30, 3)
        Image.fromarray(rng.integers(0, 256, size=size).astype(np.uint8)).save(tmp_path / f"p{number}.png")
    return tmp_path


def test_whole_images_without_a_generator(folder: Path) -> None:
    source = ImageFolder("image", path=str(folder), size=16, jitter=1.0)
    assert len(source) == 10
    sample = source.load(3)
    assert sample.data["image"].shape == (3, 23, 30)
    assert sample.key == source.key(3) == str(folder / "p3.png")
    assert torch.equal(sample.data["image"], read_pixels(folder / "p3.png")[0].float() / 127.5 - 1)


def test_evaluation_is_limited_by_the_longer_side(folder: Path) -> None:
    assert ImageFolder("image", path=str(folder), max_side=15).load(0).data["image"].shape == (3, 10, 15)
    assert ImageFolder("image", path=str(folder), max_side=30).load(0).data["image"].shape == (3, 20, 30)


def test_same_generator_same_crop(folder: Path) -> None:
    options = {
        "size": 8,
        "resolutions": [10, 14],
        "min_scale": 0.7,
        "flips": ["horizontal", "transpose"],
        "jitter": 0.5,
    }
    first, second = (ImageFolder("image", path=str(folder), **options) for _ in range(2))
    for seed in range(20):
        one = first.load(seed % 10, np.random.default_rng(seed)).data["image"]
        two = second.load(seed % 10, np.random.default_rng(seed)).data["image"]
        assert torch.equal(one, two)
        assert one.shape == (3, 8, 8)
        assert one.is_contiguous()
        assert -1 <= one.min() <= one.max() <= 1
    assert not torch.equal(one, first.load(9, np.random.default_rng(99)).data["image"])


def test_crop_by_hand() -> None:
    pixels = torch.arange(3 * 5 * 7, dtype=torch.uint8).reshape(3, 5, 7)
    crop = random_crop(pixels, 2, 1.0, Draws(3, 4))
    assert ((crop + 1) * 127.5).round()[0].tolist() == [[25, 26], [32, 33]]
    assert random_crop(pixels, 6, 1.0, Draws(0, 1)).shape == (3, 5, 6)  # shorter than the crop in one direction


def test_crop_of_a_shrunk_picture_is_a_mean() -> None:
    pixels = torch.zeros(3, 4, 4, dtype=torch.uint8)
    pixels[:, :, ::2] = 200
    crop = random_crop(pixels, 2, 0.5, Draws(0, 0))
    assert crop.shape == (3, 2, 2)
    assert ((crop + 1) * 127.5).mean().item() == pytest.approx(100, abs=15)  # antialiased, not one column in two
    assert shrink(torch.zeros(3, 100, 1), 0.05).shape == (3, 5, 1)


def test_flips_by_hand() -> None:
    image = torch.arange(3 * 2 * 3, dtype=torch.float32).reshape(3, 2, 3)
    assert torch.equal(random_flips(image, ["horizontal"], Draws(0.1)), image.flip(2))
    assert torch.equal(random_flips(image, ["vertical"], Draws(0.1)), image.flip(1))
    assert torch.equal(random_flips(image, ["transpose"], Draws(0.1)), image.transpose(1, 2))
    assert torch.equal(random_flips(image, ["horizontal", "vertical"], Draws(0.9, 0.9)), image)


def test_jitter_by_hand() -> None:
    image = torch.tensor([-1.0, 0.0, 1.0])[:, None, None]
    assert torch.equal(jitter_colours(image, 1.0, Draws(0.7)), image)  # 30% stay as they are
    # 0.5 of the light per channel, 0.6 of that, 0.3 added: (v + 1) * 0.3 + 0.3 - 1
    changed = jitter_colours(image, 1.0, Draws(0.0, [2, 0, 1], 1.0, 1.0, 1.0)).flatten().tolist()
    assert changed == pytest.approx([2 * 0.3 - 0.7, -0.7, 0.3 - 0.7])
    assert torch.equal(jitter_colours(image, 0.0, Draws()), image)


def test_resolution_is_the_short_side_and_never_enlarges(folder: Path) -> None:
    source = ImageFolder("image", path=str(folder), resolutions=[10])
    assert source.load(0, np.random.default_rng(0)).data["image"].shape == (3, 10, 15)
    large = ImageFolder("image", path=str(folder), resolutions=[500])
    assert large.load(0, np.random.default_rng(0)).data["image"].shape == (3, 20, 30)
    small = ImageFolder("image", path=str(folder), size=16, min_scale=0.01)
    shapes = {small.load(0, np.random.default_rng(seed)).data["image"].shape for seed in range(30)}
    assert shapes == {(3, 16, 16)}  # never shrunk below the crop


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"flips": ["horizonal"]}, "Did you mean 'horizontal'"),
        ({"min_scale": 0.0}, "min_scale"),
        ({"jitter": 1.5}, "jitter"),
        ({"size": -1}, "size"),
        ({"resolutions": [0]}, "resolutions"),
        ({"background": "nothing"}, "background"),
        ({"split": "test"}, "split"),
        ({"fold": 5}, "fold"),
    ],
)
def test_options_out_of_range_are_named(options: dict[str, object], message: str) -> None:
    for make in (ImageFolder, ImagePhotos, ImageShapes):
        with pytest.raises(ConfigError, match=message):
            make("image", **options)


def test_split_sides_are_disjoint_and_complete(folder: Path) -> None:
    train = ImageFolder("image", path=str(folder), split="train", folds=5, fold=1)
    val = ImageFolder("image", path=str(folder), split="val", folds=5, fold=1)
    assert (len(train), len(val)) == (8, 2)
    assert not set(train.files) & set(val.files)


def test_a_bad_file_is_named(folder: Path) -> None:
    (folder / "p5.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    with pytest.raises(DataError, match=r"p5\.png"):
        ImageFolder("image", path=str(folder)).load(5)


def test_cache_is_bounded_and_stays_behind_when_pickled(folder: Path) -> None:
    made: list[int] = []

    def make(number: int) -> tuple[torch.Tensor, dict[str, object]]:
        made.append(number)
        return torch.zeros(3, 10, 10, dtype=torch.uint8), {}

    cache = PixelCache(650)
    for number in (1, 2, 1, 3, 1, 2):
        cache.get(number, lambda number=number: make(number))
    assert made == [1, 2, 3, 2]  # two fit; 2 was the one used least recently when 3 came
    assert cache.used == 600
    assert PixelCache(10).get(1, lambda: make(9))[0].shape == (3, 10, 10)
    source = ImageFolder("image", path=str(folder))
    source.load(0)
    (folder / "p0.png").unlink()
    assert source.load(0).data["image"].shape == (3, 20, 30)
    with pytest.raises(DataError, match="no such file"):
        pickle.loads(pickle.dumps(source)).load(0)


def test_augmenting_leaves_the_cached_picture_alone(folder: Path) -> None:
    source = ImageFolder("image", path=str(folder), jitter=1.0, flips=["vertical"])
    before = source.load(0).data["image"].clone()
    for seed in range(5):
        source.load(0, np.random.default_rng(seed)).data["image"].zero_()
    source.load(0).data["image"].zero_()
    assert torch.equal(source.load(0).data["image"], before)


def test_shapes_are_a_pure_function_of_seed_and_number() -> None:
    source, again = ImageShapes("image", count=12, side=32), ImageShapes("image", count=12, side=32)
    images = [source.load(i) for i in range(12)]
    assert all(torch.equal(a.data["image"], again.load(i).data["image"]) for i, a in reversed(list(enumerate(images))))
    assert not torch.equal(images[0].data["image"], ImageShapes("image", seed=1, side=32).load(0).data["image"])
    assert [sample.label for sample in images[:4]] == [0, 1, 2, 3]
    for sample in images:
        assert sample.caption
        assert {"gradient": "gradient", "disc": "disc", "stripes": "stripes", "noise": "texture"}[
            KINDS[sample.label]
        ] in sample.caption
        assert sample.data["image"].shape == (3, 32, 32)
        assert sample.data["image"].std() > 0.02
    assert source.load(1, np.random.default_rng(0)).data["image"].shape == (3, 32, 32)
    assert ImageShapes("image", side=1).load(1).data["image"].shape == (3, 1, 1)
    with pytest.raises(DataError, match="no number 12"):
        source.load(12)


@pytest.fixture
def fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The shipped photos recipe with stand-ins for its pictures already in the cache."""
    from tok4d.data.fetch import location
    from tok4d.data.recipes import load_recipe

    monkeypatch.setenv("TOK4D_CACHE", str(tmp_path))
    recipe = load_recipe("photos")
    folder = location(recipe)
    folder.mkdir(parents=True)
    for item in recipe.items:
        Image.new("RGB", (20, 20)).save(folder / item.file)
    (folder / ".complete").write_text(recipe.digest)
    return folder


def test_photos_are_natural_and_a_stereo_pair_stays_together(fetched: Path) -> None:
    whole = ImagePhotos("image")
    assert len(whole) == 10
    assert "color.png" not in [whole.key(i) for i in range(10)]
    assert len(ImagePhotos("image", natural_only=False)) == 26
    held_out: list[str] = []
    for fold in range(3):
        train, val = (ImagePhotos("image", split=side, folds=3, fold=fold) for side in ("train", "val"))
        names = {path.name for path in train.files}, {path.name for path in val.files}
        assert not names[0] & names[1]
        assert len(val) == 3  # nine groups, one picture each
        pair = {"motorcycle_left.png", "motorcycle_right.png"}
        assert [len(pair & side) for side in names] in ([2, 0], [0, 1])  # only its first is judged
        held_out += [path.name for path in val.files]
    assert sorted(held_out) == sorted(path.name for path in whole.files if path.name != "motorcycle_right.png")


def test_other_kinds_join_the_training_side_only(fetched: Path) -> None:
    options = {"folds": 3, "train_kinds": ["texture", "document"]}
    train = {path.name for path in ImagePhotos("image", split="train", **options).files}
    val = {path.name for path in ImagePhotos("image", split="val", **options).files}
    assert {"brick.png", "grass.png", "gravel.png", "page.png", "text.png"} <= train
    assert val == {path.name for path in ImagePhotos("image", split="val", folds=3).files}
    with pytest.raises(ConfigError, match="Did you mean 'texture'"):
        _ = ImagePhotos("image", train_kinds=["textures"]).files
    assert ImagePhotos("image").load(0).key == "astronaut.png"
