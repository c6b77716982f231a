"""Subjects of benchmarks: how they are named, and what our own models and the identity give."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from tok4d import Sample, Tokenizer
from tok4d.errors import ConfigError, DataError, Tok4dError
from tok4d.plugins import registry
from tok4d.plugins.loader import load_plugins
from tok4d.testing import tiny_tokenizer
from tok4d_bench.subjects import kind_rows, load_subject, parse_spec
from tok4d_bench.subjects import tok4d_model as ours

KINDS = ("tok4d", "identity", "pca", "diffusers")
FSQ = {"groups": 2, "levels": [4, 4, 4]}


def pictures(*sizes: tuple[int, int], seed: int = 0) -> list[Sample]:
    generator = torch.Generator().manual_seed(seed)
    return [
        Sample("image", {"image": torch.rand(3, *size, generator=generator) * 2 - 1}, key=f"p{i}")
        for i, size in enumerate(sizes)
    ]


def clip(frames: int, height: int = 32, width: int = 32, key: str = "clip") -> Sample:
    generator = torch.Generator().manual_seed(frames)
    return Sample("video", {"video": torch.rand(frames, 3, height, width, generator=generator) * 2 - 1}, 24.0, key=key)


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, Path]:
    """A continuous model and one of codes, saved."""
    root = tmp_path_factory.mktemp("models")
    tiny_tokenizer().save_pretrained(root / "continuous")
    tiny_tokenizer(latent=6, quantizer=FSQ).save_pretrained(root / "fsq" / "model")
    return {"continuous": root / "continuous", "fsq": root / "fsq" / "model"}


# --- names ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "kind", "source", "options"),
    [
        ("identity", "identity", "", {}),
        ("diffusers:some/folder,subfolder=vae", "diffusers", "some/folder", {"subfolder": "vae"}),
        ("diffusers:owner/name", "diffusers", "owner/name", {}),
        ("pca:image/photos,channels=48,options={size: 64, limit: 9}", "pca", "image/photos",
         {"channels": 48, "options": {"size": 64, "limit": 9}}),
        ("runs/tiny/model", "tok4d", "runs/tiny/model", {}),
        ("runs/tiny/model,codes=false", "tok4d", "runs/tiny/model", {"codes": False}),
        ("tok4d:model,cached_steps=2", "tok4d", "model", {"cached_steps": 2}),
    ],
)  # fmt: skip
def test_what_a_spec_says(text, kind, source, options):
    asked = parse_spec(text, KINDS)
    assert (asked.kind, asked.source, asked.options) == (kind, source, options)


def test_a_folder_whose_name_has_a_comma_is_a_folder(tmp_path):
    folder = tmp_path / "a,b=c"
    folder.mkdir()
    assert parse_spec(str(folder), KINDS).source == str(folder)


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("pca:x,channels", "'channels' is no option"),
        ("pca:x,=3", "'=3' is no option"),
        ("pca:x,a=1,a=2", "'a' is given twice"),
        ("pca:x,a={", "is no YAML value"),
    ],
)
def test_a_spec_that_cannot_be_read(text, error):
    with pytest.raises(ConfigError, match=error):
        parse_spec(text, KINDS)


@pytest.mark.parametrize(
    ("spec", "error"),
    [
        ("identiti", "unknown kind of subject 'identiti'. Did you mean 'identity'.*or give a model folder"),
        ("identity,size=3", "unknown option 'size'"),
        ("identity:x", "takes no source"),
        ("identity,dtype=int8", "unknown dtype 'int8'"),
        ("identity,device=tpu7", "not available here"),
        ("no/such/folder", "no such model folder"),
        ("tok4d", "needs a model folder"),
        (
            "tok4d:any,cached_steps=x",
            "baseline tok4d: option 'cached_steps' must be a whole number or left out, got 'x'",
        ),
        ("tok4d:any,inputs=3", "option 'inputs' must be a mapping with a mapping each or left out, got 3"),
        ("tok4d:any,inputs={image: 3}", "option 'inputs' must be a mapping with a mapping each or left out"),
        ("tok4d:any,codes=7", "option 'codes' must be true or false or left out, got 7"),
    ],
)
def test_a_subject_that_does_not_exist(spec, error):
    with pytest.raises(Tok4dError, match=error):
        load_subject(spec)


def test_a_kind_of_another_package(tmp_path, monkeypatch):
    (tmp_path / "mycodec_plugin.py").write_text(
        "from tok4d.plugins.hookspecs import hookimpl\nHOOK_API_VERSION = 1\n"
        "@hookimpl\ndef tok4d_register_baselines(register):\n"
        "    register('mycodec', 'tok4d_bench.subjects.identity:Identity')\n"
    )
    info = tmp_path / "mycodec-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: mycodec\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[tok4d.plugins]\nmycodec = mycodec_plugin\n")
    monkeypatch.syspath_prepend(tmp_path)
    registry.reset()
    try:
        assert load_subject("mycodec,name=mine").name == "mine"
        (row,) = [row for row in kind_rows() if row.name == "mycodec"]
        assert (row.plugin, row.missing) == ("mycodec", "")
    finally:
        monkeypatch.undo()
        registry.reset()


def test_the_hook_is_one_that_plugins_of_this_version_may_have(tmp_path, monkeypatch):
    (tmp_path / "bl_plugin.py").write_text(
        "from tok4d.plugins.hookspecs import hookimpl\nHOOK_API_VERSION = 1\n"
        "@hookimpl\ndef tok4d_register_baselines(register):\n    register('jp2', 'a.b:C')\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    from tok4d.plugins.loader import Candidate

    loaded = load_plugins([Candidate("bl", "bl_plugin", "bl", "1")], {})
    assert loaded.records[0].provides == {"baselines": ("jp2",)}
    assert loaded.tables["baselines"]["jp2"].target == "a.b:C"


# --- identity ---------------------------------------------------------------------------------------------------------


def test_the_identity_gives_back_what_it_gets():
    subject, samples = load_subject("identity"), pictures((5, 7), (9, 9))
    restored = subject.reconstruct(samples)
    assert [r.sample for r in restored] == samples
    assert {r.bits for r in restored} == {None}
    assert {"image", "video", "mesh3d"} <= set(subject.reconstructs)


# --- our models -------------------------------------------------------------------------------------------------------


def test_continuous_latents_are_decoded_from_their_means(folders):
    model, subject = Tokenizer.from_pretrained(folders["continuous"]), load_subject(str(folders["continuous"]))
    samples = pictures((32, 48), (20, 33))
    for restored, sample in zip(subject.reconstruct(samples), samples, strict=True):
        host = registry.modality("image")
        with torch.inference_mode():
            latents = model.encode(host.patchify(sample), pool=False).latents("mean")
            (expected,) = host.unpatchify(model.decode(latents))
        torch.testing.assert_close(restored.sample.data["image"], expected.data["image"], atol=1e-5, rtol=0)
        assert (restored.bits, restored.codes, restored.sample.key) == (None, None, sample.key)
        assert restored.tokens == math.prod(-(-side // 16) for side in sample.data["image"].shape[1:])


def test_codes_have_a_size(folders):
    subject = load_subject(str(folders["fsq"]))
    (restored,) = subject.reconstruct(pictures((32, 48)))
    assert restored.tokens == 6
    assert restored.bits == 6 * 2 * math.log2(4**3)
    assert restored.codes is not None
    assert (restored.codes.shape, restored.codes.dtype) == ((6, 2), torch.int32)
    assert subject.discrete
    means = load_subject(f"{folders['fsq']},codes=false")
    (undiscretised,) = means.reconstruct(pictures((32, 48)))
    assert (undiscretised.bits, means.discrete) == (None, False)
    assert not torch.equal(undiscretised.sample.data["image"], restored.sample.data["image"])
    assert means.digest != subject.digest


def test_a_long_clip_goes_tile_by_tile_to_the_same_result(folders, monkeypatch):
    subject, sample = load_subject(str(folders["fsq"])), clip(37)
    (whole,) = subject.reconstruct([sample])
    embedding = subject.embed([sample])
    monkeypatch.setattr(ours, "PACKED", 5)
    (tiled,) = subject.reconstruct([sample])
    torch.testing.assert_close(tiled.sample.data["video"], whole.sample.data["video"], atol=1e-5, rtol=0)
    assert torch.equal(tiled.codes, whole.codes)
    assert (tiled.bits, tiled.tokens) == (whole.bits, whole.tokens)
    torch.testing.assert_close(subject.embed([sample]), embedding, atol=1e-5, rtol=0)


def test_a_group_that_is_large_goes_in_parts_to_the_same_result(folders, monkeypatch):
    subject, samples = load_subject(str(folders["continuous"])), pictures((32, 32), (16, 16), (64, 16), (16, 32))
    whole = subject.reconstruct(samples)
    monkeypatch.setattr(ours, "PACKED", 5)
    for one, other in zip(subject.reconstruct(samples), whole, strict=True):
        torch.testing.assert_close(one.sample.data["image"], other.sample.data["image"], atol=1e-5, rtol=0)


def test_what_a_model_would_cut_away_is_refused_with_the_way_out(tmp_path):
    tiny_tokenizer(inputs={"image": {"fit": "crop"}}).save_pretrained(tmp_path)
    with pytest.raises(DataError, match=r"p0: the model cuts it from \[3, 20, 33\] to \[3, 16, 32\].*inputs=\{image"):
        load_subject(str(tmp_path)).reconstruct(pictures((20, 33)))
    (restored,) = load_subject(f"{tmp_path},inputs={{image: {{}}}}").reconstruct(pictures((20, 33)))
    assert restored.sample.data["image"].shape == (3, 20, 33)
    with pytest.raises(ConfigError, match="unknown option of modality image 'fid'"):
        load_subject(f"{tmp_path},inputs={{image: {{fid: pad}}}}")


def test_three_dimensional_assets_come_back_with_gaussians(tmp_path):
    from tok4d_mesh3d.sources import Mesh3dSolids

    head = {"resolution": 16, "width": 32, "blocks": 1, "heads": 1, "mlp": 32, "num_gaussians": 2}
    tiny_tokenizer(heads={"mesh3d": head}).save_pretrained(tmp_path)
    source = Mesh3dSolids("mesh3d", count=2, resolution=16)
    (restored,) = load_subject(str(tmp_path)).reconstruct([source.load(0)])
    assert {"voxels", "means", "opacities"} <= set(restored.sample.data)


def test_embeddings_and_features(folders):
    subject, samples = load_subject(str(folders["fsq"])), [*pictures((32, 32), (16, 48)), clip(5)]
    embedded = subject.embed(samples)
    assert embedded.dtype == torch.float32
    torch.testing.assert_close(embedded.norm(dim=-1), torch.ones(3))
    pooled = subject.features(samples, "features")
    torch.testing.assert_close(torch.nn.functional.normalize(pooled, dim=-1), embedded)
    restored = subject.reconstruct(samples)
    values = subject.model.quantizer.values(restored[0].codes)
    torch.testing.assert_close(subject.features(samples, "codes")[0], values.mean(0))
    assert subject.features(samples, "latents").shape == (3, 6)


@pytest.mark.parametrize(("where", "error"), [("codes", "no codes to probe"), ("pixels", "probed at features")])
def test_features_that_are_not_there(folders, where, error):
    with pytest.raises(Tok4dError, match=error):
        load_subject(str(folders["continuous"])).features(pictures((16, 16)), where)


def test_texts_need_a_tower(folders):
    with pytest.raises(Tok4dError, match="aligned with no text"):
        load_subject(str(folders["continuous"])).embed_texts(["a cat"])


def test_bf16_is_another_subject(folders):
    half = load_subject(str(folders["continuous"]), dtype="bf16")
    (restored,) = half.reconstruct(pictures((32, 32)))
    (full,) = load_subject(str(folders["continuous"])).reconstruct(pictures((32, 32)))
    assert restored.sample.data["image"].dtype == torch.float32
    difference = (restored.sample.data["image"] - full.sample.data["image"]).abs().max()
    assert 0 < difference < 0.1
    assert half.digest != load_subject(str(folders["continuous"])).digest


def test_the_facts_and_the_name_are_the_models(folders):
    subject = load_subject(str(folders["fsq"]))
    assert subject.name == "fsq"  # RUN/model is known by its run
    facts = subject.facts()
    assert facts["model"] == Tokenizer.from_pretrained(folders["fsq"]).digest
    assert facts["parameters"] == sum(p.numel() for p in subject.model.parameters())
    assert facts["bits_per_token"] == 12
    assert subject.digest == load_subject(f"{folders['fsq']},name=other").digest


def test_a_released_model_is_a_subject_once_imported(tmp_path):
    import json

    from safetensors.torch import load_file, save_file
    from typer.testing import CliRunner

    from tok4d.cli.main import app
    from tok4d.weights import load_atoken

    golden = Path(__file__).parents[1] / "parity" / "data" / "c16_hd16"
    released = json.loads((golden / "weights.json").read_text())["arch_cfg"]
    state = {**load_file(golden / "weights_encoder.safetensors"), **load_file(golden / "weights_decoder.safetensors")}
    save_file(state, tmp_path / "atoken.safetensors")
    (tmp_path / "atoken.yaml").write_text(json.dumps({"model": {"model_cfg": {"arch_cfg": released}}}))
    command = ["weights", "import-atoken", str(tmp_path / "atoken.safetensors"), str(tmp_path / "atoken.yaml")]
    assert CliRunner().invoke(app, [*command, "-o", str(tmp_path / "imported")]).exit_code == 0
    subject = load_subject(str(tmp_path / "imported"))
    assert subject.name == "imported"
    model = load_atoken(state, released).float().eval()
    sample, host = pictures((32, 48))[0], registry.modality("image")
    with torch.inference_mode():
        encoded = model.encode(host.patchify(sample, model.patch_size))
        (expected,) = host.unpatchify(model.decode(encoded.latents("mean")))
    (restored,) = subject.reconstruct([sample])
    torch.testing.assert_close(restored.sample.data["image"], expected.data["image"], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(subject.embed([sample]), encoded.embedding.float(), atol=1e-5, rtol=0)
