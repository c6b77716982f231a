"""Images that a manifest names: the same as from a folder, with caption and label."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tok4d.config.schema import StageConfig, TaskConfig
from tok4d.data.batches import StageBatches
from tok4d.errors import DataError
from tok4d_image.manifest import ImageManifest
from tok4d_image.sources import ImageFolder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for number in range(4):
        pixels = np.random.default_rng(number).integers(0, 256, (20, 24 + number, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"p{number}.png")
    rows = [f"p{number}.png,picture {number},{'cat' if number % 2 else 'dog'}" for number in range(4)]
    (tmp_path / "list.csv").write_text("\n".join(["path,caption,label", *rows]) + "\n")
    return tmp_path


def test_the_same_pictures_as_from_the_folder(folder: Path):
    options = {"size": 16, "flips": ["transpose"], "resolutions": [16, 20]}
    listed = ImageManifest("image", path=str(folder / "list.csv"), **options)
    plain = ImageFolder("image", path=str(folder), **options)
    assert len(listed) == 4
    for index in (3, 0):
        ours, theirs = (source.load(index, np.random.default_rng(7)) for source in (listed, plain))
        assert torch.equal(ours.data["image"], theirs.data["image"])
        assert ours.caption == f"picture {index}"
        assert ours.label == 1 - index % 2, "classes are numbered by the alphabet"
        assert ours.key == listed.key(index) == f"p{index}.png"
        assert listed.shape(index, np.random.default_rng(7)) == tuple(ours.data["image"].shape)


def test_packed_by_tokens(folder: Path):
    task = TaskConfig("image/manifest", {"path": str(folder / "list.csv")}, tokens=8)
    batch = StageBatches(StageConfig(steps=2, tasks={"one": task}), "images", 0, (4, 16, 16))[1]
    assert (batch.tokens.num_tokens, len(batch.captions)) == (8, 2)  # 2 x 2 patches each


def test_a_span_of_time_is_refused(folder: Path):
    (folder / "list.csv").write_text("path,start\np0.png,1\n")
    with pytest.raises(DataError, match=r"list\.csv: line 2: a picture has no time"):
        ImageManifest("image", path=str(folder / "list.csv")).load(0)
