"""classify and embed on real files, through the command line; numbers against those of the Python interface."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from tok4d.cli.main import app
from tok4d.model.tokenizer import Tokenizer
from tok4d.plugins.registry import modality
from tok4d.testing.models import tiny_tokenizer

LABELS = ["cat", "red train", "dog", "large picture"]
SCALE, BIAS = 1.5, -0.5


@pytest.fixture(scope="module")
def towers(siglip, bert, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("towers")
    siglip(folder / "siglip2")
    siglip(folder / "wide", width=48)
    bert(folder / "bert")
    return {path.name: path for path in folder.iterdir()}


@pytest.fixture(scope="module")
def models(towers: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Untrained models: one that names its text tower, one that names none, one whose tower is not there."""
    folder = tmp_path_factory.mktemp("models")
    aligned = {"kind": "siglip2", "source": str(towers["siglip2"]), "log_scale": SCALE, "bias": BIAS}
    lost = {**aligned, "source": str(folder / "nowhere")}
    for name, extra in (("aligned", {"text": aligned}), ("plain", {}), ("lost", {"text": lost})):
        tiny_tokenizer(**extra).save_pretrained(folder / name)
    return {path.name: path for path in folder.iterdir()}


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOK4D_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Five pictures of awkward sizes."""
    folder = tmp_path / "photos"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for name, size in (("a.png", (40, 50)), ("b.png", (64, 33)), ("c.png", (1, 1)), ("d.png", (16, 16))):
        Image.fromarray(rng.integers(0, 256, (*size, 3), dtype=np.uint8)).save(folder / name)
    Image.fromarray(np.full((20, 90, 3), (250, 10, 10), dtype=np.uint8)).save(folder / "e.png")
    return folder


def tok4d(*args: object, code: int = 0):
    """Run a command; a traceback fails the test whatever exit code is expected."""
    result = CliRunner().invoke(app, [str(arg) for arg in args])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == code, result.output
    return result


def as_json(*args: object, code: int = 0):
    return json.loads(tok4d(*args, "--json", code=code).stdout)


def encoded(model: Path, path: Path):
    """A file alone through the Python interface."""
    tokenizer = Tokenizer.from_pretrained(model)
    with torch.inference_mode():
        return tokenizer.encode(modality("image").patchify(modality("image").read(path), tokenizer.patch_size))


def text_vectors(folder: Path, prompts: list[str]) -> np.ndarray:
    """Unit vectors of lower-case texts without punctuation, by `transformers` alone."""
    model = transformers.Siglip2Model.from_pretrained(folder)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    ids = tokenizer(prompts, padding="max_length", max_length=24, truncation=True, return_tensors="pt").input_ids
    with torch.inference_mode():
        found = model.get_text_features(input_ids=ids)
    found = found if isinstance(found, torch.Tensor) else found.pooler_output
    return (found / found.norm(dim=-1, keepdim=True)).double().numpy()


def test_probabilities_are_those_of_the_formulas(models, towers, photos):
    args = ("classify", photos, "--labels", ",".join(LABELS), "-m", models["aligned"], "--templates", "plain")
    out = as_json(*args, "--top", 3)
    vectors = text_vectors(towers["siglip2"], LABELS)
    assert [Path(row["file"]).name for row in out["files"]] == ["a.png", "b.png", "c.png", "d.png", "e.png"]
    assert (out["labels"], out["templates"], out["failed"]) == (LABELS, ["{}"], [])
    assert (out["log_scale"], out["bias"], out["text"]["kind"]) == (SCALE, BIAS, "siglip2")
    assert out["model"] == Tokenizer.from_pretrained(models["aligned"]).digest
    for row in out["files"]:
        cosines = vectors @ encoded(models["aligned"], Path(row["file"])).embedding[0].double().numpy()
        logits = math.exp(SCALE) * cosines + BIAS
        softmax = np.exp(logits) / np.exp(logits).sum()
        order = sorted(range(len(LABELS)), key=lambda i, cosines=cosines: -cosines[i])[:3]
        assert [found["label"] for found in row["labels"]] == [LABELS[i] for i in order]
        for found, i in zip(row["labels"], order, strict=True):
            expected = {
                "cosine": cosines[i],
                "logit": logits[i],
                "softmax": softmax[i],
                "sigmoid": 1 / (1 + math.exp(-logits[i])),
            }
            assert {key: found[key] for key in expected} == pytest.approx(expected, abs=2e-5)
    ones = [sum(found["softmax"] for found in row["labels"]) for row in as_json(*args)["files"]]
    assert ones == pytest.approx([1] * 5)


def test_templates_and_labels_from_files(models, towers, photos, tmp_path):
    (tmp_path / "templates.txt").write_text("A {}!\n\nthe small {label} is red\n")
    (tmp_path / "labels.txt").write_text("Cat\nred, blue\n")
    args = ("classify", photos / "a.png", "--labels-file", tmp_path / "labels.txt", "-m", models["aligned"])
    out = as_json(*args, "--templates", tmp_path / "templates.txt")
    prompts = ["a cat", "the small cat is red", "a red blue", "the small red blue is red"]
    means = text_vectors(towers["siglip2"], prompts).reshape(2, 2, -1).mean(1)
    means /= np.linalg.norm(means, axis=-1, keepdims=True)
    cosines = means @ encoded(models["aligned"], photos / "a.png").embedding[0].double().numpy()
    assert {row["label"]: row["cosine"] for row in out["files"][0]["labels"]} == pytest.approx(
        {"Cat": cosines[0], "red, blue": cosines[1]}, abs=2e-5
    )


def test_label_vectors_are_kept_and_batches_agree(models, photos, tmp_path):
    args = ("classify", photos, "--labels", "cat,dog", "-m", models["aligned"])
    first = as_json(*args)
    (kept,) = (tmp_path / "cache" / "text").rglob("*.safetensors")
    assert kept.parent.name == first["text"]["digest"]
    stamp = kept.stat().st_mtime_ns
    second = as_json(*args, "--batch-size", 1)
    assert kept.stat().st_mtime_ns == stamp
    for one, other in zip(first["files"], second["files"], strict=True):
        assert {r["label"]: r["cosine"] for r in one["labels"]} == pytest.approx(
            {r["label"]: r["cosine"] for r in other["labels"]}, abs=1e-5
        )


def test_a_tower_by_hand(models, towers, photos):
    args = ("classify", photos / "a.png", "--labels", "cat,dog")
    named = as_json(*args, "-m", models["aligned"])
    by_hand = as_json(*args, "-m", models["plain"], "--text", f"siglip2={towers['siglip2']}")
    assert (by_hand["log_scale"], by_hand["bias"]) == (4.8438, -15.5625)
    cosines = [[row["cosine"] for row in out["files"][0]["labels"]] for out in (named, by_hand)]
    assert cosines[0] == pytest.approx(cosines[1], abs=1e-6)
    other = as_json(*args, "-m", models["aligned"], "--text", f"minilm={towers['bert']}")
    assert (other["text"]["kind"], other["log_scale"], other["bias"]) == ("minilm", SCALE, BIAS)
    assert "names no text tower" in tok4d(*args, "-m", models["plain"], "--text", f"siglip2={towers['siglip2']}").stderr


def test_the_table_shows_the_best_label_first(models, photos):
    result = tok4d("classify", photos / "a.png", "--labels", "cat,dog,red train", "-m", models["aligned"], "--top", 2)
    best = as_json("classify", photos / "a.png", "--labels", "cat,dog,red train", "-m", models["aligned"])
    lines = [line for line in result.stdout.splitlines() if line.strip()]
    assert lines[0].split() == ["file", "label", "softmax", "sigmoid", "cosine"]
    assert best["files"][0]["labels"][0]["label"] in lines[2]
    assert len(lines) >= 4


def test_json_alone_on_stdout_of_a_real_process(models, photos):
    code = "from tok4d.cli.main import main; main()"
    args = ["classify", str(photos / "a.png"), "--labels", "cat,dog", "-m", str(models["aligned"]), "--json"]
    own = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", code, *args], capture_output=True, text=True, env=own, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["labels"] == ["cat", "dog"]
    assert done.stderr == ""


def test_a_file_that_fails_leaves_the_others(models, photos, tmp_path):
    (photos / "cut.png").write_bytes((photos / "a.png").read_bytes()[:200])
    out = as_json("classify", photos, "nowhere.png", "--labels", "cat,dog", "-m", models["aligned"], code=1)
    assert len(out["files"]) == 5
    assert [row["file"] for row in out["failed"]] == ["nowhere.png", str(photos / "cut.png")]
    out = as_json("embed", photos, "nowhere.png", "-m", models["plain"], "-o", tmp_path / "e.npz", code=1)
    assert [row["file"] for row in out["failed"]] == ["nowhere.png", str(photos / "cut.png")]
    with np.load(tmp_path / "e.npz") as arrays:
        assert arrays["embedding"].shape == (5, 32)
        assert [Path(name).name for name in arrays["files"]] == ["a.png", "b.png", "c.png", "d.png", "e.png"]
    out = as_json("embed", photos / "cut.png", "-m", models["plain"], "-o", tmp_path / "none.npz", code=1)
    assert (out["files"], out["out"]) == ([], None)
    assert not (tmp_path / "none.npz").exists()


@pytest.mark.parametrize(
    ("args", "error"),
    [
        (["-m", "{plain}", "--labels", "a,b"], "aligned with no text"),
        (["-m", "{lost}", "--labels", "a,b"], "nowhere: no such folder"),
        (["-m", "{aligned}", "--labels", " ,"], "no labels"),
        (["-m", "{aligned}", "--labels", "a,b,a"], "label 'a' is there twice"),
        (["-m", "{aligned}", "--labels", "a,A!"], "labels 'a' and 'A!' are the same text: 'a'"),
        (["-m", "{aligned}", "--labels", "a", "--templates", "plian"], "Did you mean 'plain'?"),
        (["-m", "{aligned}", "--labels", "a", "--text", "siglip2={wide}"], "have width 32, those of the text tower"),
        (["-m", "{aligned}", "--labels", "a", "--text", "siglpi2={wide}"], "Did you mean 'siglip2'?"),
        (["-m", "{aligned}", "--labels", "a", "--text", "siglip2"], "needs a source"),
        (["-m", "{aligned}", "--labels-file", "none.txt"], "none.txt: No such file"),
        (["-m", "nowhere", "--labels", "a"], "nowhere: no such model folder"),
        (["-m", "{aligned}", "--labels", "a", "--modality", "imgae"], "Did you mean 'image'?"),
    ],
)
def test_what_classify_refuses_is_one_line(models, towers, photos, tmp_path, monkeypatch, args, error):
    monkeypatch.chdir(tmp_path)
    filled = [arg.format(**models, **towers) for arg in args]
    result = tok4d("classify", photos / "a.png", *filled, code=1)
    assert error in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert result.stdout == ""
    assert error in json.loads(tok4d("classify", photos / "a.png", *filled, "--json", code=1).stdout)["error"]


def test_usage_errors_have_their_own_code(models, photos, tmp_path):
    both = ("--labels", "a", "--labels-file", tmp_path / "x")
    for args in ((), both):
        result = tok4d("classify", photos, "-m", models["aligned"], *args, code=2)
        assert "either --labels A,B,C or --labels-file FILE" in " ".join(result.stderr.split())
    tok4d("classify", photos, "-m", models["aligned"], "--labels", "a", "--top", 0, code=2)


# --- embed ---


def test_embeddings_in_both_formats(models, photos, tmp_path):
    names = [photos / name for name in ("c.png", "a.png", "e.png")]
    digest = Tokenizer.from_pretrained(models["plain"]).digest
    results = [encoded(models["plain"], path) for path in names]
    for feature in ("embedding", "pooled"):
        expected = torch.cat([getattr(result, feature) for result in results])
        for out in (tmp_path / "new" / f"{feature}.npz", tmp_path / f"{feature}.safetensors"):
            said = as_json("embed", *names, "-m", models["plain"], "-o", out, "--features", feature)
            assert (said["out"], said["model"], said["width"]) == (str(out), digest, 32)
            assert [(row["file"], row["index"]) for row in said["files"]] == [(str(p), i) for i, p in enumerate(names)]
            if out.suffix == ".npz":
                with np.load(out, allow_pickle=False) as arrays:
                    assert set(arrays) == {feature, "files", "model"}
                    found, files, model = arrays[feature], arrays["files"].tolist(), str(arrays["model"])
            else:
                with safe_open(out, "np") as file:
                    head = json.loads(file.metadata()["tok4d-embeddings"])
                    found, files, model = file.get_tensor(feature), head["files"], head["model"]
                assert (head["version"], head["features"]) == (1, feature)
            assert found.dtype == np.float32
            assert (files, model) == ([str(path) for path in names], digest)
            torch.testing.assert_close(torch.from_numpy(found), expected, atol=1e-5, rtol=0)
            if feature == "embedding":
                np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-6)
    assert "[3, 32]" in tok4d("embed", *names, "-m", models["plain"], "-o", tmp_path / "x.npz").stdout


def test_a_vector_does_not_depend_on_its_batch(models, photos, tmp_path):
    found = []
    for size in (1, 2, 5):
        out = tmp_path / f"{size}.safetensors"
        tok4d("embed", photos, "-m", models["plain"], "-o", out, "--batch-size", size)
        found.append(load_file(out)["embedding"])
    assert found[0].shape == (5, 32)
    assert torch.cdist(found[0], found[0]).fill_diagonal_(9).min() > 1e-3
    for other in found[1:]:
        torch.testing.assert_close(other, found[0], atol=1e-5, rtol=0)
    tok4d("embed", photos, "-m", models["plain"], "-o", tmp_path / "half.safetensors", "--dtype", "bf16")
    half = load_file(tmp_path / "half.safetensors")["embedding"]
    assert half.dtype == torch.float32
    assert (half * found[0]).sum(-1).min() > 0.99


@pytest.mark.parametrize(
    ("args", "error"),
    [
        (["-o", "x.pt"], ".pt files are pickles"),
        (["-o", "x.csv"], "must end in .safetensors or .npz"),
        (["-o", "folder.npz"], "that is a folder"),
        (["-o", "a.png/x.npz"], "cannot make its folder"),
        (["-o", "x.npz", "--features", "poold"], "Did you mean 'pooled'?"),
        (["-o", "x.npz", "--dtype", "bf61"], "Did you mean 'bf16'?"),
    ],
)
def test_what_embed_refuses_is_one_line(models, photos, monkeypatch, args, error):
    monkeypatch.chdir(photos)
    (photos / "folder.npz").mkdir()
    before = sorted(photos.iterdir())
    result = tok4d("embed", "a.png", "-m", models["plain"], *args, code=1)
    assert error in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert sorted(photos.iterdir()) == before


def test_an_input_is_never_overwritten_and_a_failed_write_leaves_the_old_file(models, photos, tmp_path, monkeypatch):
    out = tmp_path / "e.npz"
    out.write_bytes(b"old")
    refused = as_json("embed", photos / "a.png", out, "-m", models["plain"], "-o", out, code=1)
    assert "is an input and would be overwritten" in refused["error"]

    def full(*args: object, **kwargs: object) -> None:
        args[0].write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez", full)
    failed = as_json("embed", photos / "a.png", "-m", models["plain"], "-o", out, code=1)
    assert "No space left on device" in failed["error"]
    assert out.read_bytes() == b"old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["e.npz", "photos"]


def test_a_model_that_gives_nan_is_said_per_file(models, photos, tmp_path):
    tokenizer = Tokenizer.from_pretrained(models["plain"])
    tokenizer.save_pretrained(tmp_path / "nan")
    weights = load_file(tmp_path / "nan" / "model.safetensors")
    next(tensor for name, tensor in weights.items() if name.startswith("encoder.head")).fill_(float("nan"))
    save_file(weights, tmp_path / "nan" / "model.safetensors")
    out = as_json("embed", photos, "-m", tmp_path / "nan", "-o", tmp_path / "e.npz", code=1)
    assert {row["error"] for row in out["failed"]} == {"the model gives no finite embedding for it"}
    assert len(out["failed"]) == 5
    assert not (tmp_path / "e.npz").exists()
