"""Floors that need no weights: codecs by quality and by rate, and PCA of patches."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from tok4d import Sample
from tok4d.errors import ConfigError, DataError, Tok4dError
from tok4d.metrics import psnr
from tok4d_bench.subjects import load_subject
from tok4d_bench.subjects.codecs import from_bytes, to_bytes
from tok4d_bench.subjects.rate import largest_within

STILLS = ("jpeg", "webp", "avif")


def smooth(*shape: int, seed: int = 0) -> torch.Tensor:
    """A smooth random picture `[3, H, W]` or clip `[F, 3, H, W]` in [-1, 1]."""
    generator = torch.Generator().manual_seed(seed)
    *frames, channels, height, width = shape
    coarse = torch.rand(1, channels, frames[0] if frames else 1, 6, 6, generator=generator) * 2 - 1
    fine = F.interpolate(coarse, size=(frames[0] if frames else 1, height, width), mode="trilinear")[0]
    return fine.transpose(0, 1) if frames else fine[:, 0]


def picture(height: int = 96, width: int = 80, seed: int = 0) -> Sample:
    return Sample("image", {"image": smooth(3, height, width, seed=seed)}, key=f"picture{seed}")


def clip(frames: int = 6, height: int = 70, width: int = 91) -> Sample:
    return Sample("video", {"video": smooth(frames, 3, height, width)}, 30.0, key="clip")


def test_pixels_are_rounded_as_files_hold_them():
    signed = torch.tensor([-1.5, -1.0, 0.0, 0.4999 / 127.5 - 1, 0.5001 / 127.5 - 1, 1.0, 9.0])
    levels = to_bytes(signed.expand(3, 1, 7))
    assert levels.shape == (1, 7, 3)
    assert levels[0, :, 0].tolist() == [0, 0, 128, 0, 1, 255, 255]
    every = torch.arange(256) / 127.5 - 1
    assert torch.equal(from_bytes(to_bytes(every.expand(3, 1, 256))), every.expand(3, 1, 256))


@pytest.mark.parametrize(
    ("spec", "format", "options"),
    [
        ("jpeg,quality=60", "JPEG", {"quality": 60, "optimize": True, "subsampling": "4:2:0"}),
        ("jpeg,quality=60,subsampling=444", "JPEG", {"quality": 60, "optimize": True, "subsampling": "4:4:4"}),
        ("webp,quality=40,method=2", "WEBP", {"quality": 40, "method": 2}),
        ("avif,quality=50,speed=9", "AVIF", {"quality": 50, "speed": 9, "subsampling": "4:2:0", "max_threads": 1}),
    ],
)
def test_a_codec_is_what_its_library_does_and_its_size_is_the_files(spec, format, options):
    sample, subject = picture(), load_subject(spec)
    (restored,) = subject.reconstruct([sample])
    levels = ((sample.data["image"] + 1) * 127.5).round().byte().permute(1, 2, 0).numpy()
    file = io.BytesIO()
    Image.fromarray(levels).save(file, format, **options)
    assert restored.bits == 8 * len(file.getvalue())
    decoded = np.asarray(Image.open(file).convert("RGB"))
    assert torch.equal(to_tensor(decoded), restored.sample.data["image"])
    assert subject.discrete
    assert subject.facts()["codec"].startswith("pillow ")


def to_tensor(levels: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(levels.copy()).permute(2, 0, 1).float() / 127.5 - 1


@pytest.mark.parametrize("kind", STILLS)
def test_a_rate_is_kept_with_the_best_quality(kind):
    sample = picture(128, 128)
    budget = 1.0 * 128 * 128 / 8
    (restored,) = load_subject(f"{kind},bpp=1.0").reconstruct([sample])
    quality = restored.sample.meta["quality"]
    assert restored.bits <= 8 * budget
    if quality < 100:
        (better,) = load_subject(f"{kind},quality={quality + 1}").reconstruct([sample])
        assert better.bits > 8 * budget
    (same,) = load_subject(f"{kind},quality={quality}").reconstruct([sample])
    assert same.bits == restored.bits


def test_the_rate_search_finds_what_trying_everything_finds():
    sizes = [3, 3, 4, 7, 9, 9, 9, 12, 30, 31]
    for budget in range(35):
        fitting = [rank for rank, size in enumerate(sizes) if size <= budget]
        rank, coded = largest_within(lambda r: b"x" * sizes[r], len(sizes) - 1, budget)
        assert rank == (max(fitting) if fitting else 0)
        assert len(coded) == sizes[rank]


def test_a_rate_that_cannot_be_kept_shows_in_the_size():
    (restored,) = load_subject("jpeg,bpp=0.001").reconstruct([picture()])
    assert restored.sample.meta == {"quality": 1}
    assert restored.bits > 0.001 * 96 * 80


@pytest.mark.parametrize("kind", STILLS)
def test_a_clip_is_coded_frame_by_frame(kind):
    sample, subject = clip(3), load_subject(f"{kind},quality=50")
    (restored,) = subject.reconstruct([sample])
    stills = [Sample("image", {"image": frame}) for frame in sample.data["video"]]
    alone = subject.reconstruct(stills)
    assert restored.bits == sum(one.bits for one in alone) + 3 * 64
    frames = torch.stack([one.sample.data["image"] for one in alone])
    assert torch.equal(restored.sample.data["video"], frames)
    assert (restored.sample.fps, restored.sample.key) == (30.0, "clip")


def test_av1_uses_what_frames_share():
    subject, sample = load_subject("av1,crf=30"), clip(12)
    (restored,) = subject.reconstruct([sample])
    assert restored.sample.data["video"].shape == sample.data["video"].shape
    assert psnr(restored.sample.data["video"], sample.data["video"]) > 30
    (again,) = subject.reconstruct([sample])
    assert torch.equal(again.sample.data["video"], restored.sample.data["video"])
    (still,) = subject.reconstruct([Sample("video", {"video": sample.data["video"][:1]})])
    assert restored.bits < 12 * still.bits  # else it would be no video codec


def test_av1_by_rate():
    sample = clip(8)
    (restored,) = load_subject("av1,bpp=0.2").reconstruct([sample])
    crf = restored.sample.meta["crf"]
    assert restored.bits <= 0.2 * 8 * 70 * 91
    (better,) = load_subject(f"av1,crf={crf - 1}").reconstruct([sample])
    assert better.bits > 0.2 * 8 * 70 * 91


@pytest.mark.parametrize("shape", [(1, 1, 1), (2, 17, 250), (1, 64, 65)])
def test_codecs_take_any_size(shape):
    frames, height, width = shape
    sample = Sample("video", {"video": smooth(frames, 3, height, width)})
    for spec in ("av1", "jpeg", "webp", "avif"):
        (restored,) = load_subject(spec).reconstruct([sample])
        assert restored.sample.data["video"].shape == sample.data["video"].shape


@pytest.mark.parametrize(
    ("spec", "error"),
    [
        ("jpeg,quality=0", r"quality must be a whole number in \[1, 100\], got 0"),
        ("jpeg,quality=7.5", "whole number"),
        ("av1,crf=64", r"crf must be a whole number in \[1, 63\]"),
        ("av1,preset=99", "preset must be 0 to 13"),
        ("av1,encoder=x265", "unknown AV1 encoder"),
        ("webp,bpp=-1", "bpp must be positive"),
        ("webp,bpp=1,quality=3", "either quality or bpp"),
        ("webp,method=7", "method must be 0 to 6"),
        ("jpeg,subsampling=411", "unknown jpeg subsampling"),
        ("jpeg:photos", "takes no source"),
        ("jpeg,bpp=x", "baseline jpeg: option 'bpp' must be a number or left out, got 'x'"),
        ("av1,preset=[8]", r"baseline av1: option 'preset' must be a whole number, got \[8\]"),
    ],
)
def test_settings_that_cannot_be(spec, error):
    with pytest.raises(ConfigError, match=error):
        load_subject(spec)


def test_what_is_no_picture_is_refused_by_name():
    with pytest.raises(DataError, match=r"odd: is no picture or clip: its tensor is \[4, 8, 8\]"):
        load_subject("jpeg").reconstruct([Sample("image", {"image": torch.zeros(4, 8, 8)}, key="odd")])


def test_every_setting_is_another_subject():
    specs = ("jpeg", "jpeg,quality=76", "jpeg,bpp=1", "jpeg,bpp=2", "jpeg,subsampling=444", "webp", "avif", "av1")
    assert len({load_subject(spec).digest for spec in specs}) == len(specs)
    assert load_subject("jpeg,bpp=0.5").name == "jpeg@0.5bpp"
    assert load_subject("jpeg,quality=75").digest == load_subject("jpeg").digest


# --- PCA --------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    for seed in range(6):
        Image.fromarray(to_bytes(smooth(3, 64, 64, seed=seed))).save(folder / f"{seed}.png")
    return folder


def test_pca_is_the_best_linear_map_of_its_training_patches(pictures):
    spec = f"pca:image/folder,channels=5,options={{path: {pictures}, split: all}}"
    subject = load_subject(spec)
    sample = Sample("image", {"image": to_tensor(np.asarray(Image.open(pictures / "0.png")))}, key="0")
    (restored,) = subject.reconstruct([sample])
    rows = []
    for path in sorted(pictures.iterdir()):
        levels = np.asarray(Image.open(path), dtype=np.float64) / 127.5 - 1
        rows.append(levels.reshape(4, 16, 4, 16, 3).transpose(0, 2, 1, 3, 4).reshape(16, 768))
    patches = np.concatenate(rows)
    mean = patches.mean(0)
    basis = np.linalg.svd(patches - mean, full_matrices=False)[2][:5]
    expected = (rows[0] - mean) @ basis.T @ basis + mean
    whole = expected.reshape(4, 4, 16, 16, 3).transpose(0, 2, 1, 3, 4).reshape(64, 64, 3)
    np.testing.assert_allclose(restored.sample.data["image"].permute(1, 2, 0).numpy(), whole, atol=1e-4)
    assert (restored.tokens, restored.bits) == (16, None)
    scores = subject.features([sample], "latents")[0].abs()
    np.testing.assert_allclose(scores.numpy(), np.abs(((rows[0] - mean) @ basis.T).mean(0)), atol=1e-4)


def test_pca_says_where_it_was_fitted(pictures):
    subject = load_subject(f"pca:image/folder,channels=5,options={{path: {pictures}}}")
    fitted = subject.facts()["fitted_on"]
    assert fitted["source"] == "image/folder"
    assert fitted["options"] == {"path": str(pictures), "split": "train"}  # nothing of `val` leaks in
    everything = load_subject(f"pca:image/folder,channels=5,options={{path: {pictures}, split: all}}")
    assert everything.digest != subject.digest
    assert load_subject(f"pca:image/folder,channels=4,options={{path: {pictures}}}").digest != subject.digest


@pytest.mark.parametrize(
    ("spec", "error"),
    [
        ("pca", "needs the source"),
        ("pca:image/photoz", "Did you mean 'image/photos'"),
        ("pca:image/shapes,channels=769,samples=2", r"channels must be in \[1, 768\], got 769"),
        ("pca:image/shapes,options={sise: 3}", "unknown option 'sise'"),
        ("pca:image/shapes,channels=abc", "baseline pca: option 'channels' must be a whole number, got 'abc'"),
        ("pca:image/shapes,samples=x", "baseline pca: option 'samples' must be a whole number, got 'x'"),
        ("pca:image/shapes,samples=0", "samples must be at least 1, got 0"),
        ("pca:image/shapes,options=3", "baseline pca: option 'options' must be a mapping or left out, got 3"),
        ("pca:image/shapes,seed=x", "baseline pca: option 'seed' must be a whole number, got 'x'"),
    ],
)
def test_a_pca_that_cannot_be_fitted(spec, error):
    with pytest.raises(Tok4dError, match=error):
        load_subject(spec)


def test_pca_of_pictures_takes_no_clips():
    subject = load_subject("pca:image/shapes,channels=3,samples=4")
    with pytest.raises(DataError, match="clip: its patches have 3072 values, the PCA's have 768"):
        subject.reconstruct([clip()])
    with pytest.raises(Tok4dError, match="no features"):
        subject.features([picture()], "features")
