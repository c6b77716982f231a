"""Understanding models as subjects, against their libraries called directly: tiny random models in the real formats."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import transformers

from tok4d import Sample
from tok4d.errors import Tok4dError
from tok4d.text.siglip2 import canonicalize
from tok4d_bench.contracts import UnsuitedError
from tok4d_bench.subjects import load_subject
from tok4d_bench.subjects.towers import frames_of

SMALL: dict[str, Any] = {"hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 2}
LETTERS = "abcdefghijklmnopqrstuvwxyz"
TEXTS = ["a photo of a cat", "the dog", "train"]


def levels(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def signed(pixels: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(pixels.copy()).movedim(-1, -3).float() / 127.5 - 1


PICTURES = [levels(40, 50, 3), levels(64, 64, 3, seed=1)]
CLIP = levels(11, 40, 44, 3, seed=2)
SEEN = [i * 10 // 7 for i in range(8)]  # RECIPE's rule: frame i * (N - 1) / 7


def samples() -> list[Sample]:
    stills = [Sample("image", {"image": signed(p)}, key=f"p{i}") for i, p in enumerate(PICTURES)]
    return [*stills, Sample("video", {"video": signed(CLIP)}, key="clip")]


def randomise(model: torch.nn.Module) -> Any:
    """Weights that make inputs differ."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.copy_(noise * 0.3 if parameter.ndim < 2 else noise / parameter[0].numel() ** 0.5)
    return model.eval()


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("TOK4D_CACHE", str(tmp_path_factory.mktemp("cache")))


def save_clip(folder: Path) -> Any:
    tokens = [*LETTERS, *(letter + "</w>" for letter in LETTERS), "<|startoftext|>", "<|endoftext|>"]
    transformers.CLIPTokenizer(vocab={t: i for i, t in enumerate(tokens)}, merges=[]).save_pretrained(folder)
    text = {**SMALL, "num_hidden_layers": 2, "vocab_size": 54, "max_position_embeddings": 24}
    text |= {"bos_token_id": 52, "eos_token_id": 53}
    vision = {**SMALL, "num_hidden_layers": 1, "patch_size": 8, "image_size": 32}
    config = transformers.CLIPConfig(text_config=text, vision_config=vision, projection_dim=24)
    model = randomise(transformers.CLIPModel(config))
    model.save_pretrained(folder)
    crop = {"height": 32, "width": 32}
    transformers.CLIPImageProcessor(size={"shortest_edge": 32}, crop_size=crop).save_pretrained(folder)
    return model


def save_videoprism(folder: Path) -> Any:
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("\u2581", -2.0), *((letter, -3.0) for letter in LETTERS)]
    transformers.VideoPrismTokenizer(vocab=pieces, extra_ids=0).save_pretrained(folder)
    vision = {**SMALL, "image_size": 36, "num_frames": 4, "tubelet_size": [1, 18, 18]}
    vision |= {"num_spatial_layers": 1, "num_temporal_layers": 1, "num_auxiliary_layers": 1}
    text = {**SMALL, "num_hidden_layers": 1, "vocab_size": 40, "max_position_embeddings": 16}
    config = transformers.VideoPrismConfig(vision_config=vision, text_config=text)
    model = randomise(transformers.VideoPrismClipModel(config))
    model.save_pretrained(folder)
    size = {"height": 36, "width": 36}
    transformers.LlavaOnevisionVideoProcessor(size=size, do_normalize=False).save_pretrained(folder)
    return model


def vector(outputs: Any) -> torch.Tensor:
    return outputs if isinstance(outputs, torch.Tensor) else outputs.pooler_output


@torch.no_grad()
def expected_embeddings(model: Any, processor: Any) -> torch.Tensor:
    """Unit vectors, of a clip the mean of its eight frames' unit vectors."""

    def one(picture: np.ndarray) -> torch.Tensor:
        return F.normalize(
            vector(model.get_image_features(**processor(images=[picture], return_tensors="pt")))[0], dim=0
        )

    of_clip = torch.stack([one(CLIP[i]) for i in SEEN]).mean(0)
    return torch.stack([*(one(p) for p in PICTURES), F.normalize(of_clip, dim=0)])


def test_clip_is_that_of_transformers(tmp_path):
    model = save_clip(tmp_path)
    subject = load_subject(f"clip:{tmp_path}")
    processor = transformers.AutoImageProcessor.from_pretrained(tmp_path)
    expected = expected_embeddings(model, processor)
    torch.testing.assert_close(subject.embed(samples()), expected, atol=1e-5, rtol=0)
    assert torch.cdist(expected, expected).max() > 1e-2
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path)
    with torch.no_grad():
        rows = [vector(model.get_text_features(**tokenizer([text], return_tensors="pt")))[0] for text in TEXTS]
        pooled = model.vision_model(**processor(images=[PICTURES[1]], return_tensors="pt")).pooler_output[0]
    torch.testing.assert_close(subject.embed_texts(TEXTS), F.normalize(torch.stack(rows), dim=-1), atol=1e-5, rtol=0)
    torch.testing.assert_close(subject.features(samples(), "features")[1], pooled, atol=1e-5, rtol=1e-5)
    assert (subject.reconstructs, subject.embeds) == ((), ("image", "video"))


@pytest.mark.parametrize("layout", ["siglip2", "siglip"])
def test_siglip_is_that_of_transformers(siglip, tmp_path, layout):
    model = siglip(tmp_path, layout)
    if layout == "siglip2":
        made = transformers.Siglip2ImageProcessor(patch_size=16, max_num_patches=16)
    else:
        made = transformers.SiglipImageProcessor(size={"height": 64, "width": 64})
    made.save_pretrained(tmp_path)
    subject = load_subject(f"siglip2:{tmp_path}")
    expected = expected_embeddings(model, transformers.AutoImageProcessor.from_pretrained(tmp_path))
    torch.testing.assert_close(subject.embed(samples()), expected, atol=1e-5, rtol=0)
    texts = subject.embed_texts(TEXTS)
    torch.testing.assert_close(texts, subject.text.encode([canonicalize(text) for text in TEXTS]))
    assert texts.shape[1] == expected.shape[1]


def test_videoprism_is_that_of_transformers(tmp_path):
    model = save_videoprism(tmp_path)
    subject = load_subject(f"videoprism:{tmp_path}")
    clips = [np.stack([PICTURES[0]] * 4), CLIP[[0, 3, 6, 10]], np.stack([CLIP[0]] * 2 + [CLIP[9]] * 2)]
    given = [*samples()[::2], Sample("video", {"video": signed(CLIP[[0, 9]])})]
    processor = transformers.AutoVideoProcessor.from_pretrained(tmp_path)
    rows = []
    with torch.no_grad():
        for frames in clips:
            pixels = processor(videos=[torch.from_numpy(frames).movedim(-1, 1)], return_tensors="pt")
            rows.append(vector(model.get_video_features(**pixels)).reshape(-1))
    torch.testing.assert_close(subject.embed(given), F.normalize(torch.stack(rows), dim=-1), atol=1e-5, rtol=0)
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path)
    ids = tokenizer(["a photo of a cat"], padding="max_length", max_length=16, truncation=True, return_tensors="pt")
    with torch.no_grad():
        text = vector(model.get_text_features(**ids))
    torch.testing.assert_close(subject.embed_texts(["A photo of a cat!"]), F.normalize(text, dim=-1), atol=1e-5, rtol=0)
    as_it_is = load_subject(f"videoprism:{tmp_path},canonical=false")
    assert not torch.equal(as_it_is.embed_texts(["A cat!"]), subject.embed_texts(["A cat!"]))
    assert as_it_is.digest != subject.digest


def save_pe(folder: Path, **changes: Any) -> Any:
    import timm

    small = {"depth": 1, "embed_dim": 32, "num_heads": 2, "num_classes": 24, "img_size": 32, "ref_feat_shape": (2, 2)}
    model = randomise(timm.create_model("vit_pe_core_tiny_patch16_384", pretrained=False, **small))
    timm.models.save_for_hf(model, folder, model_args=small, safe_serialization=True)
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    return model


def test_pe_core_is_that_of_timm(tmp_path):
    import timm
    from PIL import Image

    model = save_pe(tmp_path)
    subject = load_subject(f"pe:{tmp_path}")
    data = {"input_size": (3, 32, 32), "mean": (0.5,) * 3, "std": (0.5,) * 3, "crop_pct": 1.0}
    transform = timm.data.create_transform(**data, interpolation="bicubic", crop_mode="center", is_training=False)
    with torch.no_grad():
        rows = [model(transform(Image.fromarray(p))[None])[0] for p in PICTURES]
        inner = model.forward_head(
            model.forward_features(transform(Image.fromarray(PICTURES[0]))[None]), pre_logits=True
        )
    torch.testing.assert_close(subject.embed(samples())[:2], F.normalize(torch.stack(rows), dim=-1), atol=1e-5, rtol=0)
    torch.testing.assert_close(subject.features(samples(), "features")[0], inner[0], atol=1e-5, rtol=1e-5)
    with pytest.raises(UnsuitedError, match="timm carries PE-core's image tower alone"):
        subject.embed_texts(TEXTS)


def test_frames_of_a_clip():
    clip = Sample("video", {"video": signed(np.stack([np.full((2, 2, 3), i, np.uint8) for i in range(30)]))})
    assert frames_of(clip, 8)[:, 0, 0, 0].tolist() == [0, 4, 8, 12, 16, 20, 24, 29]
    assert len(frames_of(Sample("video", {"video": clip.data["video"][:3]}), 8)) == 3
    assert len(frames_of(clip, 1)) == 1


def test_precision_frames_and_weights_make_another_subject(tmp_path):
    save_clip(tmp_path / "a")
    specs = [f"clip:{tmp_path}/a", f"clip:{tmp_path}/a,frames=4", f"clip:{tmp_path}/a,dtype=bf16"]
    subjects = [load_subject(spec) for spec in specs]
    assert len({s.digest for s in subjects}) == 3
    full, half = subjects[0].embed(samples()), subjects[2].embed(samples())
    assert half.dtype == torch.float32
    assert 0 < (full - half).abs().max() < 0.1


def test_what_has_no_latents_says_so(tmp_path):
    save_clip(tmp_path)
    with pytest.raises(UnsuitedError, match="has features to probe, no codes"):
        load_subject(f"clip:{tmp_path}").features(samples(), "codes")


@pytest.mark.parametrize(
    ("break_it", "error"),
    [
        (lambda f: (f / "preprocessor_config.json").unlink(), "it has no processor"),
        (lambda f: (f / "config.json").unlink(), "it has no config.json"),
        (lambda f: (f / "model.safetensors").write_bytes(b"nothing"), "its weights cannot be loaded"),
        (lambda f: (f / "preprocessor_config.json").write_text("{"), "its processor cannot be loaded"),
    ],
)
def test_broken_folders_give_one_line(tmp_path, break_it, error):
    save_clip(tmp_path)
    break_it(tmp_path)
    with pytest.raises(Tok4dError, match=error) as caught:
        load_subject(f"clip:{tmp_path}")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("spec", "error"),
    [
        ("siglip2:{clip}", r"model_type 'clip' is no siglip2 model; known are siglip, siglip2"),
        ("videoprism:{clip}", "is no videoprism model"),
        ("pe:{clip}", "is no PE-core; timm has vit_pe_core"),
        ("clip", "needs a source"),
        ("clip:{clip},frames=0", "frames must be a positive number"),
        ("clip:nobody/no-such-tower", "no such folder, and the hub did not give it"),
    ],
)
def test_sources_that_do_not_fit(tmp_path, monkeypatch, spec, error):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    save_clip(tmp_path)
    with pytest.raises(Tok4dError, match=error):
        load_subject(spec.format(clip=tmp_path))
