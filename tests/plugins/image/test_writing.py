"""Writing: exact where the format is, clamped, and never half a file."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image

from tok4d.errors import DataError
from tok4d.modality import Sample
from tok4d_image.modality import ImageModality
from tok4d_image.pixels import to_bytes, to_signed

IMAGE = ImageModality()


def sample(image: torch.Tensor) -> Sample:
    return Sample("image", {"image": image}, key="made")


def test_every_byte_survives() -> None:
    values = torch.arange(256, dtype=torch.uint8)
    assert torch.equal(to_bytes(to_signed(values)), values)


@pytest.mark.parametrize("suffix", [".png", ".webp", ".bmp", ".tif", ".tiff", ".PNG"])
def test_lossless_round_trip(suffix: str, tmp_path: Path) -> None:
    image = to_signed(torch.randint(0, 256, (3, 9, 14), dtype=torch.uint8))
    path = tmp_path / f"a{suffix}"
    IMAGE.write(sample(image), path)
    assert torch.equal(IMAGE.read(path).data["image"], image)
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("suffix", [".jpg", ".jpeg"])
def test_jpeg_is_close(suffix: str, tmp_path: Path) -> None:
    image = torch.linspace(-1, 1, 3 * 16 * 16).reshape(3, 16, 16)
    IMAGE.write(sample(image), tmp_path / f"a{suffix}")
    assert (IMAGE.read(tmp_path / f"a{suffix}").data["image"] - image).abs().max() < 0.06


def test_values_are_clamped_and_rounded(tmp_path: Path) -> None:
    image = torch.tensor([-5.0, 5.0, 0.0, 0.005, -0.005])[None, None].repeat(3, 1, 1)
    IMAGE.write(sample(image), tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as picture:
        assert [picture.getpixel((x, 0))[0] for x in range(5)] == [0, 255, 128, 128, 127]


def test_unknown_suffix_lists_the_known(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"unknown image suffix '\.xyz'; known: \.png, \.jpg"):
        IMAGE.write(sample(torch.zeros(3, 2, 2)), tmp_path / "a.xyz")


def test_nothing_half_written_and_the_old_file_stays(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    IMAGE.write(sample(torch.zeros(3, 2, 2)), path)
    before = path.read_bytes()
    broken = torch.zeros(3, 2, 2)
    broken[0, 0, 0] = torch.nan
    with pytest.raises(DataError, match="1 of 12 values are not finite"):
        IMAGE.write(sample(broken), path)
    with pytest.raises(DataError, match=r"a\.webp: cannot write"):  # WebP ends at 16383 pixels
        IMAGE.write(sample(torch.zeros(3, 1, 16384)), tmp_path / "a.webp")
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.png"]


def test_unusable_targets(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot write: No such file or directory"):
        IMAGE.write(sample(torch.zeros(3, 2, 2)), tmp_path / "none" / "a.png")
    (tmp_path / "folder.png").mkdir()
    with pytest.raises(DataError, match="cannot write"):
        IMAGE.write(sample(torch.zeros(3, 2, 2)), tmp_path / "folder.png")
    with pytest.raises(DataError, match=r"got \[1, 2, 2\]"):
        IMAGE.write(sample(torch.zeros(1, 2, 2)), tmp_path / "a.png")
    with pytest.raises(DataError, match="no tensor 'image', only"):
        IMAGE.write(Sample("image", {"picture": torch.zeros(3, 2, 2)}), tmp_path / "a.png")
    assert [entry.name for entry in tmp_path.iterdir()] == ["folder.png"]


def test_gradients_and_halves_can_be_written(tmp_path: Path) -> None:
    IMAGE.write(sample(torch.zeros(3, 2, 2, requires_grad=True)), tmp_path / "a.png")
    IMAGE.write(sample(torch.ones(3, 2, 2, dtype=torch.bfloat16)), tmp_path / "b.png")
    assert IMAGE.read(tmp_path / "b.png").data["image"].min() == 1
