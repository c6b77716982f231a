"""Reading every kind of pixel: values are compared with what was put into the file."""

from __future__ import annotations

import pickle
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tests_image_files import VARIANTS, picture

from tok4d.errors import ConfigError, DataError
from tok4d_image.modality import ImageModality
from tok4d_image.reading import ReadOptions, read_size

IMAGE = ImageModality()


def save(folder: Path, image: Image.Image, name: str = "a.png", **options) -> Path:
    path = folder / name
    image.save(path, **options)
    return path


def pixels(path: Path, **options) -> torch.Tensor:
    """The image in [0, 255]."""
    return (IMAGE.read(path, **options).data["image"] + 1) * 127.5


def test_values_range_and_layout(tmp_path: Path) -> None:
    image = Image.new("RGB", (3, 2), (0, 128, 255))
    sample = IMAGE.read(save(tmp_path, image))
    tensor = sample.data["image"]
    assert tensor.shape == (3, 2, 3)
    assert tensor.dtype == torch.float32
    assert tensor[0, 0, 0] == -1
    assert tensor[2, 0, 0] == 1
    assert tensor[1, 0, 0].item() == pytest.approx(128 / 127.5 - 1, abs=1e-6)
    assert sample.key.endswith("a.png")
    assert sample.meta == {"format": "PNG", "frames": 1}


@pytest.mark.parametrize("name", ["png", "webp-lossless", "tiff", "tiff-lzw", "tiff-deflate", "bmp"])
def test_lossless_formats_are_exact(name: str, tmp_path: Path) -> None:
    path = tmp_path / f"a.{name.split('-')[0]}"
    path.write_bytes(VARIANTS[name]())
    expected = torch.from_numpy(np.array(picture())).permute(2, 0, 1)
    assert torch.equal(pixels(path).round().to(torch.uint8), expected)


@pytest.mark.parametrize("name", ["jpeg", "jpeg-progressive", "webp"])
def test_lossy_formats_are_close(name: str, tmp_path: Path) -> None:
    path = tmp_path / "a.img"
    path.write_bytes(VARIANTS[name]())
    assert pixels(path).shape == (3, 23, 37)
    expected = torch.from_numpy(np.array(picture())).permute(2, 0, 1).float()
    assert (pixels(path) - expected).abs().mean() < 12


def test_all_rows_of_an_exif_turned_photo(tmp_path: Path) -> None:
    image = Image.fromarray(np.arange(18, dtype=np.uint8).reshape(2, 3, 3))
    upright = torch.from_numpy(np.array(image)).permute(2, 0, 1).float()
    undone = {  # how the stored picture must be turned to stand upright, by the EXIF standard
        1: upright,
        2: upright.flip(2),
        3: upright.flip(1, 2),
        4: upright.flip(1),
        5: upright.transpose(1, 2),
        6: torch.rot90(upright, -1, (1, 2)),
        7: upright.transpose(1, 2).flip(1, 2),
        8: torch.rot90(upright, 1, (1, 2)),
    }
    for orientation, expected in undone.items():
        exif = Image.Exif()
        exif[0x0112] = orientation
        for name in ("a.png", "a.tiff", "a.webp"):
            path = save(tmp_path, image, name, exif=exif, **({"lossless": True} if name == "a.webp" else {}))
            assert torch.equal(pixels(path).round(), expected), (orientation, name)
            assert read_size(path) == tuple(expected.shape[1:]), (orientation, name)


@pytest.mark.parametrize("kind", VARIANTS)
def test_the_header_tells_the_size_that_is_decoded(tmp_path: Path, kind: str) -> None:
    (tmp_path / "a").write_bytes(VARIANTS[kind]())
    assert read_size(tmp_path / "a") == tuple(pixels(tmp_path / "a").shape[1:])


def test_a_size_without_a_header_is_refused(tmp_path: Path) -> None:
    path = save(tmp_path, picture())
    with pytest.raises(DataError, match="exceed the limit of 10"):
        read_size(path, ReadOptions(max_pixels=10))
    path.write_bytes(b"text")
    with pytest.raises(DataError, match=r"a\.png: is not a readable image"):
        read_size(path)
    with pytest.raises(DataError, match="no such file"):
        read_size(tmp_path / "none.png")


def test_alpha_over_the_background(tmp_path: Path) -> None:
    image = Image.new("RGBA", (2, 1))
    image.putpixel((0, 0), (255, 0, 0, 51))  # one fifth red
    path = save(tmp_path, image)
    assert pixels(path)[:, 0, 0].tolist() == pytest.approx([255, 204, 204], abs=1e-3)
    assert pixels(path)[:, 0, 1].tolist() == [255, 255, 255]
    assert pixels(path, background="black")[:, 0, 0].tolist() == pytest.approx([51, 0, 0], abs=1e-3)
    assert pixels(path, background="#0000ff")[:, 0, 1].tolist() == [0, 0, 255]


def test_grey_with_alpha_palette_with_transparency_and_one_bit(tmp_path: Path) -> None:
    grey = Image.new("LA", (1, 1), (100, 0))
    assert pixels(save(tmp_path, grey), background="black").flatten().tolist() == [0, 0, 0]
    palette = Image.new("P", (2, 1))
    palette.putpalette([10, 20, 30, 40, 50, 60])
    palette.putpixel((1, 0), 1)
    assert pixels(save(tmp_path, palette)).round()[:, 0].T.tolist() == [[10, 20, 30], [40, 50, 60]]
    see_through = save(tmp_path, palette, transparency=0)
    assert pixels(see_through).round()[:, 0].T.tolist() == [[255, 255, 255], [40, 50, 60]]
    keyed = save(tmp_path, Image.new("RGB", (1, 1), (9, 9, 9)), transparency=(9, 9, 9))
    assert pixels(keyed).flatten().tolist() == [255, 255, 255]
    bits = Image.new("1", (2, 1))
    bits.putpixel((1, 0), 1)
    assert pixels(save(tmp_path, bits))[0, 0].tolist() == [0, 255]
    assert pixels(save(tmp_path, Image.new("L", (1, 1), 77))).round().flatten().tolist() == [77, 77, 77]


def test_cmyk(tmp_path: Path) -> None:
    path = save(tmp_path, Image.new("CMYK", (8, 8), (255, 0, 0, 0)), "a.tiff")
    assert pixels(path)[:, 0, 0].tolist() == [0, 255, 255]
    jpeg = save(tmp_path, Image.new("CMYK", (8, 8), (0, 0, 0, 255)), "a.jpg")
    assert pixels(jpeg).max() < 4


@pytest.mark.parametrize("name", ["a.png", "a.tiff"])
def test_sixteen_bit_grey_keeps_its_precision(name: str, tmp_path: Path) -> None:
    values = np.array([[0, 1, 256, 65535]], dtype=np.uint16)
    tensor = IMAGE.read(save(tmp_path, Image.fromarray(values), name)).data["image"]
    assert tensor.shape == (3, 1, 4)
    assert ((tensor[0, 0] + 1) / 2 * 65535).tolist() == pytest.approx([0, 1, 256, 65535], abs=0.01)


@pytest.mark.parametrize(("white", "dtype"), [(255, np.int32), (65535, np.int32), (1, np.float32), (255, np.float32)])
def test_wide_values_by_the_smallest_range_that_holds_them(white: float, dtype: type, tmp_path: Path) -> None:
    values = (np.array([[0, 0.2, 1.0]]) * white).astype(dtype)
    unit = (IMAGE.read(save(tmp_path, Image.fromarray(values), "a.tiff")).data["image"][1, 0] + 1) / 2
    assert unit.tolist() == pytest.approx([0, 0.2, 1.0], abs=1e-6)


@pytest.mark.parametrize("values", [[[-3.0, 900.0]], [[0.0, 256.0]], [[-0.5, 0.5]]])
def test_floats_out_of_range_are_named(values: list[list[float]], tmp_path: Path) -> None:
    path = save(tmp_path, Image.fromarray(np.array(values, dtype=np.float32)), "a.tiff")
    low, high = values[0]
    with pytest.raises(DataError, match=rf"span \[{low:g}, {high:g}\]; expected \[0, 1\] or \[0, 255\]"):
        IMAGE.read(path)


def test_gif_gives_its_first_frame_and_counts_them(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (5, 4), colour) for colour in ((255, 0, 0), (0, 255, 0), (0, 0, 255))]
    path = save(tmp_path, frames[0], "a.gif", save_all=True, append_images=frames[1:], duration=40)
    sample = IMAGE.read(path)
    assert sample.meta["frames"] == 3
    assert pixels(path)[:, 0, 0].tolist() == [255, 0, 0]
    assert pixels(path, frame=2)[:, 0, 0].tolist() == [0, 0, 255]
    with pytest.raises(DataError, match=r"no frame 3, only 0\.\.2"):
        IMAGE.read(path, frame=3)


@pytest.mark.parametrize("name", ["a.png", "a.webp", "a.tiff"])
def test_other_files_of_several_frames_need_a_choice(name: str, tmp_path: Path) -> None:
    frames = [Image.new("RGB", (6, 4), colour) for colour in ((255, 0, 0), (0, 0, 255))]
    options = {"lossless": True} if name == "a.webp" else {}
    path = save(tmp_path, frames[0], name, save_all=True, append_images=frames[1:], **options)
    with pytest.raises(DataError, match=r"has 2 frames or pages; choose one with frame=0\.\.1"):
        IMAGE.read(path)
    assert pixels(path, frame=1)[:, 0, 0].tolist() == [0, 0, 255]


def test_a_picture_with_damaged_exif_still_reads_without_a_warning(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    picture().save(path, exif=b"Exif\x00\x00MM\x00*\x00\x00\x00\xff garbage")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert IMAGE.read(path).data["image"].shape == (3, 23, 37)


def test_unknown_and_unusable_options(tmp_path: Path) -> None:
    path = save(tmp_path, picture())
    with pytest.raises(ConfigError, match="Did you mean 'background'"):
        IMAGE.read(path, backgrund="red")
    with pytest.raises(ConfigError, match=r"background.*'reddish'"):
        IMAGE.read(path, background="reddish")
    with pytest.raises(ConfigError, match=r"frame.*-1"):
        IMAGE.read(path, frame=-1)


def test_modality_crosses_to_workers_and_shows_a_preview(tmp_path: Path) -> None:
    sample = IMAGE.read(save(tmp_path, picture()))
    again = pickle.loads(pickle.dumps(IMAGE)).read(tmp_path / "a.png")
    assert torch.equal(again.data["image"], sample.data["image"])
    (shown,) = IMAGE.preview(sample)
    assert shown.tobytes() == picture().tobytes()
