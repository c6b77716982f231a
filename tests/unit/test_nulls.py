"""Nulls: which ones a suite names, and what those give that are subjects of their own."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tok4d.errors import ConfigError
from tok4d.modality import Sample
from tok4d_bench.contracts import Restored, Suite, TaskSpec
from tok4d_bench.measures.memory import measure_pairs
from tok4d_bench.runner import Work, run_suite
from tok4d_bench.statistics.codes import code_use, uniform_use
from tok4d_bench.subjects import load_subject
from tok4d_bench.subjects.nulls import null_specs
from tok4d_bench.suite import load_suite, suite_names

SHAPES = {"source": "image/shapes", "options": {"count": 20, "side": 32, "split": "val", "limit": 3}}
SOLIDS = {"count": 6, "resolution": 8, "views": 6, "size": 48, "targets": 2, "target_size": 32, "cache_gb": 0}


def suite(**tasks: dict) -> Suite:
    return Suite("made", 1, "", {name: TaskSpec(**spec) for name, spec in tasks.items()})


def image(seed: int) -> Sample:
    return Sample("image", {"image": torch.rand(3, 8, 8, generator=torch.Generator().manual_seed(seed))}, key=f"{seed}")


def figures(document) -> dict[tuple[str, str], float]:
    return {(record.task, record.metric): record.value for record in document.results}


# --- names ------------------------------------------------------------------------------------------------------------


def test_nulls_of_a_suite_as_specs():
    made = suite(
        a={"data": SHAPES, "nulls": ["identity", "pca", "real-real"]},
        b={"data": {"layout": "imagenet"}, "nulls": ["identity", "pca"]},
        c={"data": {"source": "video/moving"}, "nulls": ["pca"]},
        d={"data": SHAPES},
        e={"data": {"source": "mesh3d/solids", "options": SOLIDS}, "nulls": ["splats", "pca"]},
        f={"data": SHAPES, "nulls": ["random", "uniform"]},
    )
    specs = null_specs(made, channels=7)
    assert [spec.partition(",options")[0] for spec in specs] == [
        "identity",
        "pca:image/shapes,channels=7",
        "pca:video/moving,channels=7,samples=16",
        "splats",
        "pca:mesh3d/solids,channels=7,samples=24",
        "random",
    ]
    assert specs[1].endswith(',options={"count": 20, "side": 32}')
    subject = load_subject(specs[1])
    assert subject.facts()["fitted_on"]["options"] == {"count": 20, "side": 32, "split": "train"}
    assert null_specs(made, tasks=["b"]) == ["identity", "pca:image/photos,channels=48"]
    assert null_specs(made, tasks=["d"]) == []


@pytest.mark.parametrize(
    ("layout", "source"),
    [("davis", "video/clips"), ("toys4k", "mesh3d/furniture"), ("coco", "image/photos")],
)
def test_a_data_set_has_no_side_to_fit_on(layout, source):
    (spec,) = null_specs(suite(a={"data": {"layout": layout}, "nulls": ["pca"]}))
    assert spec.startswith(f"pca:{source},channels=48")


def test_a_null_that_does_not_exist():
    with pytest.raises(ConfigError, match=r"made, a: unknown null 'identiti'. Did you mean 'identity'"):
        null_specs(suite(a={"nulls": ["identiti"]}))


def test_every_shipped_suite_but_those_named_has_nulls_that_exist():
    for name in suite_names():
        loaded = load_suite(name)
        null_specs(loaded)
        bare = [task for task, spec in loaded.tasks.items() if not spec.nulls]
        assert not bare or name in ("smoke", "speed"), (name, bare)


def test_the_command_runs_nulls_after_models_and_leaves_out_what_cannot_be_made(tmp_path, monkeypatch):
    import json

    import yaml
    from typer.testing import CliRunner

    from tok4d.cli.main import app

    monkeypatch.setattr("tok4d_bench.cli.run.null_specs", lambda *a, **k: ["pca:image/nowhere", "splats", "random"])
    data = {"source": "image/shapes", "options": {"count": 8, "side": 16}}
    task = {"kind": "zero_shot", "data": data, "measures": ["zero_shot"], "nulls": ["random"]}
    (tmp_path / "made.yaml").write_text(yaml.safe_dump({"tasks": {"one": task}}))
    command = ["bench", "run", str(tmp_path / "made.yaml"), "-m", "random,seed=3", "-o", str(tmp_path / "out")]
    done = CliRunner().invoke(app, [*command, "--nulls", "--json"])
    assert "left out null pca:image/nowhere: " in done.stderr
    names = [document["subject"]["name"] for document in json.loads(done.stdout)]
    assert names == ["random-seed3", "splats", "random"]
    assert "nothing could be measured of splats" in done.stderr
    alone = CliRunner().invoke(app, [*command[:4], "pca:image/nowhere", *command[5:], "--nulls"])
    assert alone.exit_code == 1  # a model that was asked for is no null
    assert "error: " in alone.stderr


# --- random -----------------------------------------------------------------------------------------------------------


def test_random_vectors_depend_on_what_is_shown_alone():
    subject, samples = load_subject("random"), [image(0), image(1), image(2)]
    embedded = subject.embed(samples)
    torch.testing.assert_close(embedded.norm(dim=1), torch.ones(3))
    assert torch.equal(subject.embed(samples[::-1]), embedded.flip(0))
    assert torch.equal(load_subject("random").embed(samples[1:2])[0], embedded[1])
    assert embedded.dtype == torch.float32
    assert not torch.equal(load_subject("random,seed=1").embed(samples), embedded)
    assert load_subject("random,seed=1").digest != subject.digest
    assert load_subject("random,width=5").embed_texts(["a", "b", "a"]).shape == (3, 5)
    assert torch.equal(subject.embed_texts(["a"]), subject.embed_texts(["b", "a"])[1:])
    places = [subject.features(samples, where) for where in ("features", "latents", "codes")]
    assert not torch.equal(places[0], places[1])
    for spec, error in (("random:x", "takes no source"), ("random,width=0", "width must be at least 1")):
        with pytest.raises(ConfigError, match=error):
            load_subject(spec)


def test_random_vectors_are_at_the_level_of_chance(tmp_path):
    """400 samples of 4 classes: 25 % with a standard error of 2.2."""
    data = {"source": "image/shapes", "options": {"count": 400, "side": 16}}
    made = suite(
        names={"kind": "zero_shot", "data": data, "measures": ["zero_shot"], "inner_batch": 50},
        texts={"kind": "retrieval", "data": data, "measures": [{"retrieval": {"at": [40]}}], "inner_batch": 50},
        probe={"kind": "probe", "data": data, "measures": ["linear_probe"], "inner_batch": 50},
    )
    document = run_suite(made, load_subject("random"), Work(tmp_path))
    found = figures(document)
    assert found["names", "chance"] == 25
    assert found["names", "top1"] == pytest.approx(25, abs=3 * 2.2)
    assert found["probe", "probe/features"] == pytest.approx(25, abs=3 * 2.2)
    for way in ("text_to_item", "item_to_text"):
        chance = found["texts", f"{way}/chance@40"]
        assert found["texts", f"{way}/recall@40"] == pytest.approx(chance, abs=max(8.0, 0.5 * chance))
    assert document.skipped == []


# --- assets and clips -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def solids(tmp_path_factory):
    """Identity, splats and PCA on generated assets, as `--nulls` runs them."""
    task = {
        "data": {"source": "mesh3d/solids", "options": {**SOLIDS, "count": 2}},
        "prepare": {"round": False},
        "measures": ["mesh3d/psnr", "mesh3d/view_psnr", "mesh3d/mask_iou"],
        "inner_batch": 1,
        "nulls": ["identity", "splats", "pca"],
    }
    made, home = suite(one=task), tmp_path_factory.mktemp("nulls")
    specs = null_specs(made, channels=12)
    return {spec.partition(":")[0]: run_suite(made, load_subject(spec), Work(home)) for spec in specs}


def test_nulls_of_assets_are_in_order(solids):
    found = {name: figures(document) for name, document in solids.items()}
    assert found["identity"] == {("one", "mesh3d/psnr"): 100}
    assert {item["what"] for item in solids["identity"].skipped} == {"mesh3d/view_psnr", "mesh3d/mask_iou"}
    assert found["splats"]["one", "mesh3d/psnr"] == 100
    assert found["pca"]["one", "mesh3d/psnr"] < 60
    assert found["splats"]["one", "mesh3d/view_psnr"] >= found["pca"]["one", "mesh3d/view_psnr"] - 1
    for name in ("splats", "pca"):  # both draw something that stands where the asset is
        assert found[name]["one", "mesh3d/view_psnr"] > 10
        assert found[name]["one", "mesh3d/mask_iou"] > 0.3


@pytest.mark.parametrize(
    ("spec", "error"),
    [
        ("splats:x", "takes no source"),
        ("splats,scale=0", "scale 0 must be above 0"),
        ("splats,opacity=1.5", r"opacity 1.5 in \(0, 1\]"),
    ],
)
def test_splats_that_cannot_be(spec, error):
    with pytest.raises(ConfigError, match=error):
        load_subject(spec)


def test_a_long_clip_goes_through_the_pca_in_pieces(monkeypatch):
    from tok4d_bench.subjects import pca

    subject = load_subject("pca:video/moving,channels=5,samples=3,options={count: 6, side: 32, length: 8, frames: 8}")
    video = torch.rand(22, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    sample = Sample("video", {"video": video}, 24.0, key="clip")
    (whole,) = subject.reconstruct([sample])
    monkeypatch.setattr(pca, "TOKENS", 5)  # one latent step of 2 x 2 patches a piece
    assert pca._frames(video) == 4
    (pieces,) = subject.reconstruct([sample])
    torch.testing.assert_close(pieces.sample.data["video"], whole.sample.data["video"], atol=1e-5, rtol=0)
    assert (pieces.tokens, pieces.sample.key, pieces.sample.fps) == (whole.tokens, "clip", 24.0)
    assert whole.tokens == 6 * 4


# --- a uniform code ---------------------------------------------------------------------------------------------------


def test_the_use_of_a_uniform_code_by_hand():
    """Three draws of two codes: all alike with probability 1/4 (0 bits), else 1 : 2 (0.9183 bits)."""
    share, bits = uniform_use(2, 3)
    assert share == pytest.approx((1 / 4 * 1 + 3 / 4 * 2) / 2)
    assert bits == pytest.approx(3 / 4 * 0.9182958340544896)
    assert uniform_use(1, 9) == (1.0, 0.0)
    assert uniform_use(64, 10_000_000) == pytest.approx((1, 6), abs=1e-4)
    assert uniform_use(4096, 1) == pytest.approx((1 / 4096, 0), abs=1e-12)


@pytest.mark.parametrize(("codes", "tokens"), [(64, 200), (1000, 150), (5, 4000)])
def test_the_use_of_a_uniform_code_by_drawing(codes, tokens):
    random = np.random.default_rng(0)
    drawn = [code_use(random.integers(codes, size=(tokens, 1)))[0] for _ in range(400)]
    share, bits = uniform_use(codes, tokens)
    assert share == pytest.approx(np.mean([one.seen / codes for one in drawn]), rel=0.01)
    assert bits == pytest.approx(np.mean([one.bits for one in drawn]), rel=0.002)


def test_codes_stand_beside_their_null(tmp_path):
    from tok4d_bench.contracts import Subject
    from tok4d_bench.measures.codes import Codebook

    class Coded(Subject):
        name, digest = "coded", "0"

        def facts(self):
            return {"quantizer": {"groups": 2, "levels": [4, 4]}}

    random = np.random.default_rng(0)
    codes = [torch.from_numpy(random.integers(16, size=(40, 2)).astype(np.int32)) for _ in range(3)]
    samples = [image(i) for i in range(3)]
    restored = [Restored(sample, 320.0, 40, one) for sample, one in zip(samples, codes, strict=True)]
    (values,) = measure_pairs([Codebook(tokens=100)], samples, restored, Coded())
    found = {value.metric: value for value in values}
    share, bits = uniform_use(16, 100)
    assert found["codebook/usage/null"].value == pytest.approx(100 * share)
    assert found["codebook/entropy/null"].value == pytest.approx(bits)
    assert found["codebook/perplexity/null"].value == pytest.approx(2**bits)
    assert found["codebook/entropy"].value == pytest.approx(bits, abs=0.1)  # these codes were drawn evenly
    assert found["codebook/usage/null"].higher_is_better is None
