"""Autoencoders of diffusers as subjects, against the library called directly: tiny random models in its own format."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
import torch
from diffusers_tiny import CLIPS, PICTURES, make, size_of

from tok4d import Sample
from tok4d.errors import ConfigError, DataError, Tok4dError
from tok4d_bench.subjects import load_subject
from tok4d_bench.subjects.diffusers_families import FAMILIES, Sizes

pytest.importorskip("diffusers", reason="the extra `baselines` is not installed")

IMAGENET = (torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225]))
HEAVY = ("AutoencoderKLAllegro",)  # its smallest tile is 24 x 128 x 128


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def picture(height: int, width: int, key: str = "picture", seed: int = 0) -> Sample:
    return Sample("image", {"image": noise(3, height, width, seed=seed)}, key=key)


def clip(frames: int, height: int, width: int, key: str = "clip", seed: int = 0) -> Sample:
    return Sample("video", {"video": noise(frames, 3, height, width, seed=seed)}, 25.0, key=key)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Save a tiny model once; gives it and its spec."""
    kept: dict[str, tuple[Any, str]] = {}

    def get(name: str) -> tuple[Any, str]:
        if name not in kept:
            model, folder = make(name), tmp_path_factory.mktemp(name)
            model.save_pretrained(folder)
            kept[name] = (model, f"diffusers:{folder}")
        return kept[name]

    return get


def by_library(name: str, model: Any, x: torch.Tensor) -> torch.Tensor:
    """What the class itself makes of `[1, 3, (F,) H, W]` in [-1, 1], by its documentation."""
    if name == "AutoencoderRAE":
        return model((x + 1) / 2).sample * 2 - 1
    if name == "AutoencoderKLMiniMaxH3":
        mean, std = (part.view(1, 3, 1, 1, 1) for part in IMAGENET)
        z = model.encode(((x + 1) / 2 - mean) / std).latent_dist.mode()
        return (model.decode(z).sample * std + mean) * 2 - 1
    if name == "AutoencoderTiny":  # its `forward` rounds latents to bytes
        return model.decode(model.encode(x).latents).sample
    if name == "ConsistencyDecoderVAE":
        torch.manual_seed(0)
        return model.decode(model.encode(x).latent_dist.mode()).sample
    if name == "AutoencoderKLAllegro":
        model.enable_tiling()
        return model.decode(model.encode(x).latent_dist.mode()).sample.transpose(1, 2)
    if name == "AutoencoderKLTemporalDecoder":
        frames = x[0].transpose(0, 1)
        z = model.encode(frames).latent_dist.mode()
        return model.decode(z, num_frames=len(frames)).sample.transpose(0, 1)[None]
    if name == "AutoencoderKLQwenImage21":
        opaque = torch.cat([x, torch.ones_like(x[:, :1])], 1)[:, :, None]
        return model(opaque).sample[:, :3, 0]
    if name == "AutoencoderKLLTXVideo":
        return model(x, temb=torch.zeros(1)).sample
    if name == "AutoencoderVidTok":
        return model(x, sample_posterior=False).sample
    return model(x).sample


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[pytest.mark.slow] if n in HEAVY else []) for n in (*PICTURES, *CLIPS)]
)
@torch.no_grad()
def test_a_reconstruction_is_what_the_library_gives(saved, name):
    model, spec = saved(name)
    height, width, *frames = size_of(name)
    sample = clip(frames[0], height, width) if frames else picture(height, width)
    subject = load_subject(spec)
    torch.manual_seed(0)
    (restored,) = subject.reconstruct([sample])
    field = "video" if frames else "image"
    values = sample.data[field]
    given = values.transpose(0, 1)[None] if frames else values[None]
    expected = by_library(name, model, given)[0]
    expected = expected.transpose(0, 1) if frames else expected
    torch.testing.assert_close(restored.sample.data[field], expected, atol=1e-4, rtol=1e-4)
    assert expected.std() > 1e-4  # else any adapter would agree
    assert (restored.sample.key, restored.sample.fps) == (sample.key, sample.fps)
    assert restored.tokens > 0


@pytest.mark.parametrize("name", [n for n in (*PICTURES, *CLIPS) if n not in (*HEAVY, "AutoencoderRAE")])
def test_what_a_model_does_not_take_is_padded_and_cut_off_again(saved, name):
    _, spec = saved(name)
    subject = load_subject(spec)
    family = FAMILIES[name]
    height, width = (size.fit(side) for size, side in zip(family.sides(subject.model), (19, 29), strict=True))
    small = picture(19, 29)
    torch.manual_seed(0)
    (restored,) = subject.reconstruct([small])
    assert restored.sample.data["image"].shape == (3, 19, 29)
    widened = np.pad(small.data["image"].numpy(), ((0, 0), (0, height - 19), (0, width - 29)), mode="edge")
    torch.manual_seed(0)
    (whole,) = subject.reconstruct([Sample("image", {"image": torch.from_numpy(widened)})])
    torch.testing.assert_close(restored.sample.data["image"], whole.sample.data["image"][:, :19, :29])


@pytest.mark.parametrize("name", [n for n in CLIPS if n not in HEAVY])
def test_a_clip_of_any_length_is_padded_by_its_last_frame(saved, name):
    _, spec = saved(name)
    subject = load_subject(spec)
    height, width, *_ = size_of(name)
    frames = FAMILIES[name].frames(subject.model).fit(4)
    sample = clip(4, height, width)
    (restored,) = subject.reconstruct([sample])
    assert restored.sample.data["video"].shape == sample.data["video"].shape
    longer = torch.cat([sample.data["video"], sample.data["video"][-1:].expand(frames - 4, -1, -1, -1)])
    (whole,) = subject.reconstruct([Sample("video", {"video": longer})])
    torch.testing.assert_close(restored.sample.data["video"], whole.sample.data["video"][:4])


def test_models_of_pictures_take_clips_frame_by_frame(saved):
    subject, sample = load_subject(saved("AutoencoderKL")[1]), clip(3, 16, 24)
    (restored,) = subject.reconstruct([sample])
    stills = subject.reconstruct([Sample("image", {"image": frame}) for frame in sample.data["video"]])
    frames = torch.stack([one.sample.data["image"] for one in stills])
    torch.testing.assert_close(restored.sample.data["video"], frames)
    assert restored.tokens == 3 * stills[0].tokens


def test_a_group_of_mixed_sizes_keeps_its_order(saved):
    subject = load_subject(saved("AutoencoderKLWan")[1])
    samples = [picture(16, 24, "a"), clip(5, 16, 16, "b"), picture(8, 8, "c"), picture(16, 24, "d", seed=1)]
    for together, sample in zip(subject.reconstruct(samples), samples, strict=True):
        (alone,) = subject.reconstruct([sample])
        field = "image" if sample.modality == "image" else "video"
        assert together.sample.key == sample.key
        torch.testing.assert_close(together.sample.data[field], alone.sample.data[field], atol=1e-5, rtol=1e-4)


def test_a_codebook_has_a_rate(saved):
    model, spec = saved("VQModel")
    subject = load_subject(spec)
    (restored,) = subject.reconstruct([picture(16, 32)])
    assert subject.discrete
    assert subject.facts()["quantizer"] == {"groups": 1, "levels": [16]}
    assert (restored.tokens, restored.bits) == (8 * 16, 8 * 16 * 4.0)  # half the sides, sixteen codes
    with torch.no_grad():
        latents = model.encode(noise(1, 3, 16, 32)).latents
        rows = latents.permute(0, 2, 3, 1).reshape(-1, latents.shape[1])
        nearest = torch.cdist(rows, model.quantize.embedding.weight).argmin(1)
    assert torch.equal(restored.codes[:, 0].long(), nearest)
    (sequence,) = subject.reconstruct([clip(3, 16, 32)])
    assert sequence.codes.shape == (3 * 128, 1)


def test_finite_scalars_of_vidtok_have_a_rate(tmp_path):
    make("AutoencoderVidTok", z_channels=2, double_z=False, regularizer="fsq", codebook_size=64).save_pretrained(
        tmp_path
    )
    (restored,) = load_subject(f"diffusers:{tmp_path}").reconstruct([clip(5, 16, 24)])
    assert restored.tokens == 2 * 2 * 3
    assert restored.bits == restored.tokens * math.log2(64)
    assert int(restored.codes.max()) < 64


def test_every_class_of_the_table_has_a_tiny_model():
    assert set(FAMILIES) == {*PICTURES, *CLIPS}


@pytest.mark.parametrize(
    ("sizes", "lengths"),
    [(Sizes(1, 4), [(1, 1), (2, 5), (5, 5), (6, 9)]), (Sizes(8, 8), [(1, 8), (8, 8), (9, 16)]),
     (Sizes(24, 16), [(1, 24), (25, 40)]), (Sizes(32, 0), [(5, 32), (32, 32), (33, None)])],
)  # fmt: skip
def test_the_next_length_that_a_model_takes(sizes, lengths):
    assert [sizes.fit(length) for length, _ in lengths] == [wanted for _, wanted in lengths]


def test_a_fixed_size_refuses_what_is_larger(saved):
    with pytest.raises(DataError, match=r"big: AutoencoderRAE.* takes a height of 32 alone, got 40; resize it"):
        load_subject(saved("AutoencoderRAE")[1]).reconstruct([picture(40, 32, "big")])


def test_a_pipeline_folder_is_known_by_its_vae(tmp_path):
    make("AutoencoderTiny").save_pretrained(tmp_path / "sd" / "vae")
    by_itself, named = load_subject(f"diffusers:{tmp_path}/sd"), load_subject(f"diffusers:{tmp_path}/sd,subfolder=vae")
    assert by_itself.digest == named.digest
    assert by_itself.name == "sd"
    assert by_itself.facts()["class"] == "AutoencoderTiny"


def test_weights_and_precision_make_another_subject(saved, tmp_path):
    _, spec = saved("AutoencoderKL")
    make("AutoencoderKL", seed=1).save_pretrained(tmp_path)
    subjects = [load_subject(spec), load_subject(f"diffusers:{tmp_path}"), load_subject(spec, dtype="bf16")]
    assert len({subject.digest for subject in subjects}) == 3
    assert load_subject(spec).digest == subjects[0].digest
    (half,), (full,) = (s.reconstruct([picture(16, 16)]) for s in (subjects[2], subjects[0]))
    assert half.sample.data["image"].dtype == torch.float32
    difference = (half.sample.data["image"] - full.sample.data["image"]).abs().max()
    assert 0 < difference < 0.1


def changed(folder, **entries: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | entries))


@pytest.mark.parametrize(
    ("break_it", "error"),
    [
        (lambda f: changed(f, _class_name="AutoencoderKLWann"), "Did you mean 'AutoencoderKLWan'"),
        (lambda f: changed(f, _class_name="UNet2DModel"), "unknown autoencoder of pictures or clips 'UNet2DModel'"),
        (lambda f: changed(f, block_out_channels=[8, 8]), "its weights cannot be loaded"),
        (lambda f: (f / "config.json").unlink(), r"holds no config.json with safetensors beside it"),
        (lambda f: (f / "config.json").write_text("{"), "not readable as JSON"),
        (lambda f: (f / "diffusion_pytorch_model.safetensors").write_bytes(b"x" * 99), "its weights cannot be loaded"),
        (lambda f: (f / "diffusion_pytorch_model.safetensors").rename(f / "diffusion_pytorch_model.bin"),
         "holds no config.json with safetensors"),
    ],
)  # fmt: skip
def test_broken_folders_give_one_line(tmp_path, break_it, error):
    make("AutoencoderKL").save_pretrained(tmp_path)
    break_it(tmp_path)
    with pytest.raises(Tok4dError, match=error) as caught:
        load_subject(f"diffusers:{tmp_path}")
    assert "\n" not in str(caught.value)


def test_what_is_not_there_says_where_it_was_looked_for(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(ConfigError, match=r"no such folder, and the hub did not give it .* looked for in .* gets it"):
        load_subject("diffusers:nobody/no-such-vae")
    with pytest.raises(ConfigError, match="no source: no such folder"):
        load_subject("diffusers")
