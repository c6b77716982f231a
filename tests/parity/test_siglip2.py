"""SigLIP2 as a start: a tokenizer whose encoder is the tower computes what `transformers` computes."""

from __future__ import annotations

import json
import re
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import Siglip2ImageProcessor

sys.path.insert(0, str(Path(__file__).parent))

import siglip2_towers as towers

from tok4d import Tokenizer, TokenSet
from tok4d.config.loader import load_preset
from tok4d.errors import ConfigError, DataError
from tok4d.model.bottleneck import Encoded
from tok4d.patches import patchify
from tok4d.weights import init_from_siglip2
from tok4d.weights.siglip2 import siglip2_config, step0_cosines

DECODER = {"width": 32, "blocks": 1, "heads": 1, "mlp": 32}
Run = Callable[[nn.Module, Sequence[Tensor]], list[tuple[Tensor, Tensor]]]
KINDS: dict[str, tuple[Callable[..., nn.Module], Run]] = {
    "naflex": (towers.naflex, towers.run_naflex),
    "fixed": (towers.fixed, towers.run_fixed),
}
NATIVE = {"naflex": (16, 16), "fixed": (4, 4)}
GRIDS = [(3, 7), (9, 2), (5, 5), (1, 1), (20, 18)]


@pytest.fixture(scope="module", params=KINDS)
def saved(request, tmp_path_factory) -> tuple[str, nn.Module, Path]:
    """Layout, model with both towers, and its published form."""
    model = KINDS[request.param][0]()
    return request.param, model, towers.save(model, tmp_path_factory.mktemp("hub") / request.param)


def tokenizer(folder: Path, seed: int = 0, **changes: Any) -> Tokenizer:
    torch.manual_seed(seed)
    options = {"positions": "table", "decoder": DECODER, **siglip2_config(folder), **changes}
    return Tokenizer.from_preset("tiny", **options).eval()


def started(folder: Path, **changes: Any) -> Tokenizer:
    model = tokenizer(folder, **changes)
    init_from_siglip2(model, folder)
    return model


@torch.no_grad()
def encode(model: Tokenizer, pictures: Sequence[Tensor]) -> Encoded:
    return model.encode(TokenSet.pack([patchify(image, "image", model.patch_size) for image in pictures]))


def assert_equal(encoded: Encoded, expected: list[tuple[Tensor, Tensor]]) -> None:
    assert encoded.pooled is not None
    for tokens, (features, _) in zip(encoded.features.unpack(), expected, strict=True):
        assert float(features.std()) > 0.3, "features that say nothing would agree with anything"
        torch.testing.assert_close(tokens.feats, features, atol=1e-4, rtol=0)
    pooled = torch.stack([one for _, one in expected])
    torch.testing.assert_close(encoded.pooled, pooled, atol=1e-4, rtol=0)
    torch.testing.assert_close(encoded.embedding, F.normalize(pooled, dim=-1), atol=1e-4, rtol=0)


def test_single_images_at_the_native_and_other_sizes(saved):
    layout, theirs, folder = saved
    ours = started(folder)
    for grid in (NATIVE[layout], *GRIDS):
        image = [towers.picture(*grid)]
        assert_equal(encode(ours, image), KINDS[layout][1](theirs, image))


def test_a_batch_of_different_sizes(saved):
    layout, theirs, folder = saved
    pictures = [towers.picture(*grid, seed=i) for i, grid in enumerate((NATIVE[layout], *GRIDS, (3, 7)))]
    assert_equal(encode(started(folder), pictures), KINDS[layout][1](theirs, pictures))


def test_the_published_image_processor_cuts_the_same_patches(tmp_path):
    """The tower's own preprocessing: rescale, mean 0.5 and deviation 0.5, patches."""
    theirs = towers.naflex()
    folder = towers.save(theirs, tmp_path / "model")
    pixels = np.random.default_rng(0).integers(0, 256, (256, 256, 3), dtype=np.uint8)
    inputs = Siglip2ImageProcessor(max_num_patches=256)(Image.fromarray(pixels), return_tensors="pt")
    tokens = patchify(torch.from_numpy(pixels).permute(2, 0, 1) / 127.5 - 1, "image")
    torch.testing.assert_close(tokens.feats[:, :768], inputs["pixel_values"][0], atol=1e-6, rtol=0)
    with torch.no_grad():
        out = towers.vision(theirs)(**inputs)
    assert_equal(started(folder).encode(tokens), [(out.last_hidden_state[0], out.pooler_output[0])])


@pytest.mark.parametrize("layout", KINDS)
def test_the_vision_tower_alone_and_in_shards(tmp_path, layout):
    make, run = KINDS[layout]
    image = [towers.picture(3, 7)]
    for both in (False, True):
        theirs = make(both)
        folder = towers.save(theirs, tmp_path / f"shards{both}", max_shard_size="100KB")
        assert len(list(folder.glob("model-*.safetensors"))) > 2
        assert_equal(encode(started(folder), image), run(theirs, image))
    alone = towers.save(make(False), tmp_path / "alone")
    assert "vision_config" not in json.loads((alone / "config.json").read_text())
    assert_equal(encode(started(alone), image), run(make(False), image))


def test_only_the_needed_files_are_read(tmp_path):
    """Shards that hold text weights only may be missing."""
    folder = towers.save(towers.naflex(), tmp_path / "model", max_shard_size="20KB")
    table = json.loads((folder / "model.safetensors.index.json").read_text())["weight_map"]
    needed = {file for name, file in table.items() if name.startswith("vision_model.")}
    others = set(table.values()) - needed
    assert others
    for file in others:
        (folder / file).unlink()
    started(folder)


@pytest.mark.parametrize("layout", KINDS)
def test_half_precision_files_and_omitted_defaults(tmp_path, layout):
    theirs = KINDS[layout][0]()
    theirs = theirs.to(torch.bfloat16).float()  # weights that bfloat16 holds exactly
    folder = towers.save(theirs, tmp_path / "model")
    tensors = load_file(folder / "model.safetensors")
    save_file({name: tensor.bfloat16() for name, tensor in tensors.items()}, folder / "model.safetensors")
    config = json.loads((folder / "config.json").read_text())
    for name in ("patch_size", "hidden_act", "layer_norm_eps", "num_channels", "vision_use_head"):
        del config["vision_config"][name]
    config["vision_config"].pop("num_patches", None)
    (folder / "config.json").write_text(json.dumps(config))
    image = [towers.picture(3, 7)]
    assert_equal(encode(started(folder), image), KINDS[layout][1](theirs, image))


def test_everything_else_stays_as_it_was(saved):
    _, _, folder = saved
    before = {name: tensor.clone() for name, tensor in tokenizer(folder).state_dict().items()}
    model = tokenizer(folder)
    report = init_from_siglip2(model, folder)
    after = model.state_dict()
    for name, tensor in before.items():
        assert torch.equal(after[name], tensor) != name.startswith("encoder."), name
    one = 3 * 16 * 16
    assert not after["encoder.input_layer.weight"][:, one:].any()
    assert report.zeroed == 64 * 3 * one
    assert report.taken == sum(p.numel() for name, p in model.encoder.named_parameters()) - report.zeroed
    assert report.taken + report.zeroed + report.fresh == sum(p.numel() for p in model.parameters())


def test_rope_moves_it_and_scale_zero_does_not(saved):
    layout, theirs, folder = saved
    pictures = [towers.picture(3, 7), towers.picture(5, 5, seed=1)]
    expected = KINDS[layout][1](theirs, pictures)
    ours = started(folder, positions="joint")
    with pytest.raises(AssertionError):
        assert_equal(encode(ours, pictures), expected)
    tokens = TokenSet.pack([patchify(image, "image") for image in pictures])
    embedding, features = step0_cosines(ours, tokens)
    encoded = encode(ours, pictures)
    truth = torch.stack([pooled for _, pooled in expected])
    torch.testing.assert_close(embedding, F.cosine_similarity(encoded.embedding, truth), atol=1e-5, rtol=0)
    parts = zip(encoded.features.unpack(), expected, strict=True)
    means = torch.stack([F.cosine_similarity(ours_.feats, theirs_, dim=-1).mean() for ours_, (theirs_, _) in parts])
    torch.testing.assert_close(features, means, atol=1e-5, rtol=0)
    assert float(embedding.max()) < 0.9999
    assert ours.encoder.rope_scale == 1
    ours.set_rope_scale(0.0)
    assert_equal(encode(ours, pictures), expected)
    assert torch.allclose(step0_cosines(ours, tokens)[0], torch.ones(2))


def test_rope_scale_is_saved_with_the_model(saved, tmp_path):
    layout, theirs, folder = saved
    ours = started(folder, positions="joint", rope_scale=0.0)
    assert (ours.encoder.rope_scale, ours.decoder.rope_scale) == (0, 1)
    ours.save_pretrained(tmp_path / "model")
    image = [towers.picture(3, 7)]
    assert_equal(encode(Tokenizer.from_pretrained(tmp_path / "model"), image), KINDS[layout][1](theirs, image))


def test_patches_of_one_frame(saved):
    layout, theirs, folder = saved
    image = [towers.picture(3, 7)]
    model = started(folder, patch_size=[1, 16, 16])
    assert_equal(encode(model, image), KINDS[layout][1](theirs, image))


# --- what cannot be -----------------------------------------------------------------------------------------------


def test_all_differences_are_named_with_what_fits(saved):
    layout, _, folder = saved
    torch.manual_seed(0)
    model = Tokenizer.from_preset("tiny", decoder=DECODER, positions="rope", table_side=5, patch_size=[2, 8, 8])
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(ConfigError) as caught:
        init_from_siglip2(model, folder)
    said = str(caught.value)
    side, resize = (16, "bilinear") if layout == "naflex" else (4, "bicubic")
    for part in ("encoder.width is 192, not 64", "encoder.blocks is 4, not 3", "encoder.heads is 3, not 4"):
        assert part in said
    assert "encoder.mlp is 768, not 128" in said
    assert "patch_size is [2, 8, 8], not [2, 16, 16]" in said
    assert f"table_side is 5, not {side}" in said
    assert "positions is rope" in said
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    overrides = re.split(r" (?=\w+=)", said.split("This fits: ")[1])
    assert overrides[0] == "patch_size=[2,16,16]"
    assert overrides[2:] == [f"table_side={side}", f"table_resize={resize}", "positions=joint"]
    init_from_siglip2(Tokenizer(load_preset("tiny", overrides)), folder)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"layer_norm_eps": 1e-5}, r"layer_norm_eps 1e-05 \(must be 1e-06\)"),
        ({"hidden_act": "gelu"}, r"hidden_act 'gelu' \(must be 'gelu_pytorch_tanh'\)"),
        ({"vision_use_head": False}, r"vision_use_head False"),
        ({"num_channels": 1}, "num_channels 1"),
        ({"hidden_size": "wide"}, "hidden_size must be a positive integer, got 'wide'"),
        ({"patch_size": [16, 14]}, r"patch_size must be square, got \[16, 14\]"),
        ({"num_patches": 200}, "num_patches 200 is not a square"),
        ({"hidden_size": 32}, "weights do not fit config.json: has embeddings.patch_embedding.bias"),
        ({"num_hidden_layers": 2}, r"has unknown encoder.layers.2.*and 13 more"),
        ({"num_hidden_layers": 4}, r"lacks encoder.layers.3"),
    ],
)
def test_other_towers_are_refused(tmp_path, change, reason):
    folder = towers.save(towers.naflex(), tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    config["vision_config"] |= change
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises((ConfigError, DataError), match=reason):
        started(folder)


def _truncate(folder: Path) -> None:
    data = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(data[: len(data) // 2])


def _integers(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    tensors["vision_model.post_layernorm.bias"] = torch.zeros(64, dtype=torch.int8)
    save_file(tensors, folder / "model.safetensors")


def _text_only(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    save_file({n: t for n, t in tensors.items() if n.startswith("text")}, folder / "model.safetensors")


def _escaping_index(folder: Path) -> None:
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"vision_model.x": "../../x"}}))


def _lying_index(folder: Path) -> None:
    names = {"vision_model.embeddings.nothing": "model.safetensors"}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": names}))


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (_truncate, "model.safetensors: not a complete safetensors file"),
        (lambda f: (f / "model.safetensors").unlink(), "model.safetensors: no such file"),
        (lambda f: (f / "config.json").unlink(), "config.json: no such file"),
        (lambda f: (f / "config.json").write_text("{"), "config.json: not readable as JSON"),
        (lambda f: (f / "config.json").write_text('{"model_type": "clip"}'), "model_type 'clip' is no SigLIP2"),
        (lambda f: (f / "config.json").write_text('{"model_type": []}'), r"model_type '\[\]' is no SigLIP2"),
        (_integers, "post_layernorm.bias of type I8"),
        (_text_only, "lacks embeddings.patch_embedding.weight"),
        (_escaping_index, "index.json: its weight_map must give the name of a file in this folder"),
        (_lying_index, "lacks vision_model.embeddings.nothing, which model.safetensors.index.json says is there"),
    ],
)
def test_damaged_folders(tmp_path, damage, reason):
    folder = towers.save(towers.naflex(), tmp_path / "model")
    options = siglip2_config(folder)
    damage(folder)
    torch.manual_seed(0)
    model = Tokenizer.from_preset("tiny", decoder=DECODER, **options)
    before = model.encoder.input_layer.weight.clone()
    with pytest.raises((ConfigError, DataError), match=reason):
        init_from_siglip2(model, folder)
    assert torch.equal(model.encoder.input_layer.weight, before)


# --- hub ids ------------------------------------------------------------------------------------------------------


@pytest.fixture
def offline(monkeypatch, tmp_path) -> Path:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


def test_a_hub_id_in_the_cache(saved, offline):
    layout, theirs, folder = saved
    cached = offline / "models--someone--a-tower"
    shutil.copytree(folder, cached / "snapshots" / "abc")
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_text("abc")
    model = tokenizer(folder)
    init_from_siglip2(model, "someone/a-tower")
    image = [towers.picture(3, 7)]
    assert_equal(encode(model, image), KINDS[layout][1](theirs, image))
    (cached / "snapshots" / "abc" / "model.safetensors").unlink()
    with pytest.raises(ConfigError, match=r"someone/a-tower: .*the copy in the cache is not complete"):
        init_from_siglip2(model, "someone/a-tower")


def test_what_is_nowhere(offline, monkeypatch):
    with pytest.raises(ConfigError) as caught:
        siglip2_config("someone/nothing")
    said = str(caught.value)
    assert said.count("\n") == 0
    assert str(offline) in said
    assert "hf download someone/nothing --local-dir FOLDER" in said
    for path in ("./nothing", "/nowhere/at/all", "nothing"):
        with pytest.raises(ConfigError, match=r"no such folder; give one with config\.json"):
            siglip2_config(path)
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ConfigError, match=r'needs pip install "tok4d\[siglip\]"'):
        siglip2_config("someone/nothing")


def test_no_transformers_is_needed(tmp_path):
    """The tower is read in a process that cannot import `transformers`."""
    import subprocess

    folder = towers.save(towers.naflex(), tmp_path / "model")
    code = (
        "import sys; sys.modules['transformers'] = None\n"
        "from tok4d import Tokenizer\nfrom tok4d.weights.siglip2 import init_from_siglip2, siglip2_config\n"
        f"folder = {str(folder)!r}\n"
        "model = Tokenizer.from_preset('tiny', **siglip2_config(folder))\n"
        "print(init_from_siglip2(model, folder).taken)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 100_000
