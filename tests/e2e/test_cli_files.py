"""encode, decode, reconstruct, info and config on real files, through the command line."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from tok4d.cli.main import app
from tok4d.model.tokenizer import Tokenizer
from tok4d.plugins.registry import modality
from tok4d.tokenfile import FORMAT, MAX_ELEMENTS, load_tokens, save_tokens
from tok4d.tokens import TokenSet

SMALL = {"encoder": {"blocks": 1}, "decoder": {"blocks": 1}}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Untrained models: continuous, another continuous one, and one with codes."""
    folder = tmp_path_factory.mktemp("models")
    torch.manual_seed(0)
    codes = {"quantizer": {"groups": 8, "levels": [4] * 6}}
    for name, extra in (("plain", {}), ("other", {}), ("codes", codes)):
        Tokenizer.from_preset("tiny", **SMALL, **extra).save_pretrained(folder / name)
    return {path.name: path for path in folder.iterdir()}


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Three pictures of awkward sizes."""
    folder = tmp_path / "photos"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for name, size in (("a.png", (40, 50)), ("b.png", (64, 33)), ("c.png", (1, 1))):
        Image.fromarray(rng.integers(0, 256, (*size, 3), dtype=np.uint8)).save(folder / name)
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


def pixels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path))


def test_files_come_back_from_their_token_files_alone(models, photos, tmp_path):
    out = as_json("encode", photos, "-m", models["plain"], "-o", tmp_path / "tokens")
    assert [Path(row["tokens"]).name for row in out["files"]] == [f"{n}.tok.safetensors" for n in "abc"]
    assert [row["count"] for row in out["files"]] == [3 * 4, 4 * 3, 1]
    assert out["failed"] == []
    as_json("reconstruct", photos, "-m", models["plain"], "-o", tmp_path / "direct")
    originals = {path.name: pixels(path).shape for path in photos.iterdir()}
    for path in photos.iterdir():
        path.unlink()
    as_json("decode", tmp_path / "tokens", "-m", models["plain"], "-o", tmp_path / "back")
    assert {path.name: pixels(path).shape for path in (tmp_path / "back").iterdir()} == originals
    for name in originals:  # a batch of three and files alone agree to within one grey level
        difference = pixels(tmp_path / "back" / name).astype(int) - pixels(tmp_path / "direct" / name)
        assert np.abs(difference).max() <= 1


def test_codes_are_stored_and_decoded(models, photos, tmp_path):
    as_json("encode", photos / "a.png", "-m", models["codes"], "-o", tmp_path / "t", "--batch-size", 1)
    file = load_tokens(tmp_path / "t" / "a.tok.safetensors")
    assert (file.kind, tuple(file.values.shape)) == ("codes", (12, 8))
    as_json("decode", tmp_path / "t", "-m", models["codes"], "-o", tmp_path / "back")
    as_json("reconstruct", photos / "a.png", "-m", models["codes"], "-o", tmp_path / "direct")
    assert (tmp_path / "back" / "a.png").read_bytes() == (tmp_path / "direct" / "a.png").read_bytes()


def test_half_precision_and_the_kind_of_latents(models, photos, tmp_path):
    tok4d("encode", photos / "a.png", "-m", models["codes"], "-o", tmp_path, "--latents", "--half")
    file = load_tokens(tmp_path / "a.tok.safetensors")
    assert (file.kind, file.values.dtype) == ("latents", torch.float16)
    refused = as_json("encode", photos / "a.png", "-m", models["plain"], "-o", tmp_path, "--codes", code=1)
    assert "this model has continuous latents" in refused["error"]


def test_batches_agree_with_files_alone_and_runs_with_each_other(models, photos, tmp_path):
    for name, size in (("x", 1), ("y", 3), ("z", 3)):
        tok4d("encode", photos, "-m", models["plain"], "-o", tmp_path / name, "--batch-size", size)
    for path in (tmp_path / "x").iterdir():
        batched = load_tokens(tmp_path / "y" / path.name).values
        torch.testing.assert_close(load_tokens(path).values, batched, atol=1e-5, rtol=0)
        assert (tmp_path / "y" / path.name).read_bytes() == (tmp_path / "z" / path.name).read_bytes()


def test_metrics_are_those_of_the_pictures(models, photos, tmp_path):
    out = as_json("reconstruct", photos / "a.png", photos / "b.png", "-m", models["plain"], "-o", tmp_path)
    model = Tokenizer.from_pretrained(models["plain"])
    expected = []
    for name in ("a.png", "b.png"):
        sample = modality("image").read(photos / name)
        with torch.inference_mode():
            patches = model.decode(model.encode(modality("image").patchify(sample)).latents("mean"))
        restored = modality("image").unpatchify(patches)[0].data["image"].clamp(-1, 1).double()
        mse = float((restored - sample.data["image"].double()).square().mean()) / 4  # range 2 -> range 1
        expected.append(-10 * math.log10(mse))
    assert [row["metrics"]["psnr"] for row in out["files"]] == pytest.approx(expected, abs=1e-3)
    assert out["mean"]["image"]["psnr"] == pytest.approx(sum(expected) / 2, abs=1e-3)


def test_a_partly_failed_batch_goes_on_and_names_each_failure(models, photos, tmp_path):
    (photos / "empty.png").touch()
    (photos / "cut.png").write_bytes((photos / "a.png").read_bytes()[:200])
    result = tok4d("encode", photos, "nowhere.png", "-m", models["plain"], "-o", tmp_path / "t", code=1)
    assert sorted(path.name for path in (tmp_path / "t").iterdir()) == [f"{n}.tok.safetensors" for n in "abc"]
    lines = result.stderr.splitlines()
    assert len(lines) == 4
    assert lines[0] == "error: nowhere.png: no such file or folder"
    assert lines[1].startswith(f"error: {photos / 'cut.png'}: ")
    assert lines[2].startswith(f"error: {photos / 'empty.png'}: ")
    assert lines[3] == "3 of 6 files failed"
    out = as_json("reconstruct", photos / "a.png", photos / "cut.png", "-m", models["plain"], "-o", tmp_path, code=1)
    assert [row["file"] for row in out["failed"]] == [str(photos / "cut.png")]


def test_a_file_that_could_not_be_written_counts_for_no_mean(models, photos, tmp_path):
    (tmp_path / "out" / "a.png").mkdir(parents=True)
    pair = [photos / "a.png", photos / "b.png"]
    out = as_json("reconstruct", *pair, "-m", models["plain"], "-o", tmp_path / "out", code=1)
    (row,) = out["files"]
    assert (Path(row["file"]).name, out["mean"]["image"]) == ("b.png", row["metrics"])
    assert "Is a directory" in out["failed"][0]["error"]
    alone = tok4d("reconstruct", pair[0], "-m", models["plain"], "-o", tmp_path / "out", code=1)
    assert alone.stdout == "", "no mean of nothing"


def test_brackets_in_a_name_are_no_pattern_where_the_name_is_there(models, photos, tmp_path):
    folder = photos.rename(photos.with_name("photos [1]"))
    out = as_json("encode", folder, "-m", models["plain"], "-o", tmp_path / "t")
    assert [Path(row["file"]).name for row in out["files"]] == ["a.png", "b.png", "c.png"]
    out = as_json("encode", f"{tmp_path}/photos*/[ab].png", "-m", models["plain"], "-o", tmp_path / "t")
    assert [Path(row["file"]).name for row in out["files"]] == ["a.png", "b.png"]


@pytest.mark.parametrize("option", ["max_pixels=abc", "background=5", "frame=[1]"])
def test_reading_options_of_another_type_are_one_line_a_file(models, photos, tmp_path, option):
    name, value = option.split("=")
    result = tok4d("encode", photos / "a.png", "-m", models["plain"], "-o", tmp_path, "--read", option, code=1)
    assert f"image option '{name}' must be " in result.stderr
    assert value in result.stderr.splitlines()[0]
    assert len(result.stderr.splitlines()) == 2


def test_info_takes_every_token_file_that_decode_takes(tmp_path):
    """A clip of 4K restores to more than may be held at once; nothing is restored to describe it."""
    shape = (100, 3, 2160, 3840)
    assert math.prod(shape) > MAX_ELEMENTS
    coords, origin = modality("video").grid(shape)
    path = tmp_path / "long.tok.safetensors"
    save_tokens(path, TokenSet(torch.zeros(len(coords), 1), coords, (len(coords),), (origin,)), model_digest="0" * 64)
    assert as_json("info", path)["shapes"] == [list(shape)]


def test_clashing_names_are_told_apart(models, photos, tmp_path):
    Image.open(photos / "a.png").save(photos / "a.bmp")
    (photos / "more").mkdir()
    for name in ("a.png", "b.png"):
        Image.open(photos / name).save(photos / "more" / name)
    out = as_json("encode", photos, "-m", models["plain"], "-o", tmp_path / "t")
    names = {str(Path(row["file"]).relative_to(photos)): Path(row["tokens"]).name for row in out["files"]}
    assert names == {
        "a.bmp": "a.bmp.tok.safetensors",
        "a.png": "a.png.tok.safetensors",
        "b.png": "b.png.tok.safetensors",
        "c.png": "c.tok.safetensors",
        "more/a.png": "a.png-2.tok.safetensors",
        "more/b.png": "b.png-2.tok.safetensors",
    }


def test_originals_are_never_overwritten(models, photos):
    before = (photos / "a.png").read_bytes()
    out = as_json("reconstruct", photos / "a.png", "-m", models["plain"], "-o", photos, code=1)
    assert "would be overwritten" in out["error"]
    assert (photos / "a.png").read_bytes() == before


def test_tokens_of_another_model_are_refused_unless_allowed(models, photos, tmp_path):
    tok4d("encode", photos / "a.png", "-m", models["plain"], "-o", tmp_path / "t")
    args = ("decode", tmp_path / "t", "-m", models["other"], "-o", tmp_path / "back")
    (failure,) = as_json(*args, code=1)["failed"]
    digests = [Tokenizer.from_pretrained(models[name]).digest[:12] for name in ("plain", "other")]
    assert all(digest in failure["error"] for digest in digests)
    assert list((tmp_path / "back").iterdir()) == []
    assert len(as_json(*args, "--allow-other-model")["files"]) == 1


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"modality": "nonsense"}, "unknown modality 'nonsense'"),
        ({"shape": [7]}, "its origins do not describe a sample of 'image'"),
        ({"shape": [3, 64, 49]}, r"it promises a sample of shape \(3, 64, 49\), its tokens give \(3, 64, 48\)"),
        ({"patch": [4, 8, 8]}, r"patches of \(4, 8, 8\), the model has \(4, 16, 16\)"),
    ],
)
def test_a_token_file_that_lies_gives_one_line(models, photos, tmp_path, change, error):
    tok4d("encode", photos / "b.png", "-m", models["plain"], "-o", tmp_path / "t")
    path = tmp_path / "t" / "b.tok.safetensors"
    length = int.from_bytes(path.read_bytes()[:8], "little")
    head = json.loads(json.loads(path.read_bytes()[8 : 8 + length])["__metadata__"][FORMAT])
    head["origins"][0].update(change)
    head["modality"] = head["origins"][0]["modality"]
    save_file(load_file(path), path, {FORMAT: json.dumps(head)})
    result = tok4d("decode", path, "-m", models["plain"], "-o", tmp_path / "back", code=1)
    assert len(result.stderr.splitlines()) == 2
    assert re.search(error, result.stderr)
    assert list((tmp_path / "back").iterdir()) == []


@pytest.mark.parametrize(
    ("args", "error"),
    [
        (["-m", "nowhere", "-o", "t"], "nowhere: no such model folder"),
        (["-m", "{photos}", "-o", "t"], "not a model folder"),
        (["-m", "{plain}", "-o", "{photos}/a.png"], "cannot make the folder"),
        (["-m", "{plain}", "-o", "t", "--device", "abacus"], "--device abacus: not available here"),
        (["-m", "{plain}", "-o", "t", "--device", "meta"], "--device meta: holds shapes without values"),
        (["-m", "{plain}", "-o", "t", "--dtype", "bf61"], "Did you mean 'bf16'?"),
        (["-m", "{plain}", "-o", "t", "--modality", "imgae"], "Did you mean 'image'?"),
    ],
)
def test_bad_arguments_are_one_line(models, photos, tmp_path, monkeypatch, args, error):
    monkeypatch.chdir(tmp_path)
    filled = [arg.format(photos=photos, plain=models["plain"]) for arg in args]
    result = tok4d("encode", photos / "a.png", *filled, code=1)
    assert error in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_info_tells_what_things_are(models, photos, tmp_path):
    sample = as_json("info", photos / "a.png")
    assert (sample["modality"], sample["shape"], sample["tokens"]) == ("image", [3, 40, 50], 12)
    assert sample["grid"] == [1, 3, 4, 1]
    model = as_json("info", models["codes"])
    assert (model["preset"], model["latent_channels"]) == ("tiny", 48)
    assert model["quantizer"] == {"groups": 8, "levels": [4] * 6}
    tok4d("encode", photos / "a.png", "-m", models["codes"], "-o", tmp_path)
    tokens = as_json("info", tmp_path / "a.tok.safetensors")
    assert (tokens["holds"], tokens["channels"], tokens["tokens"]) == ("codes", 8, [12])
    assert tokens["model_digest"] == model["digest"]
    assert "40 x 50" in tok4d("info", photos / "a.png").stdout
    for path, error in ((photos / "z.png", "no such file"), (photos, "not a model folder")):
        assert error in tok4d("info", path, code=1).stderr


def test_config_show_and_validate(tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "300")  # a long temporary path would be folded
    assert as_json("config", "show", "tiny", "latent=24")["latent"] == 24
    assert "latent: 48" in tok4d("config", "show", "tiny").stdout
    said = tok4d("config", "show", "tinny", code=1).stderr
    assert "Did you mean 'tiny'?" in said
    assert said.count(" base,") == 1, "the name of a preset and a curriculum"
    assert {row["error"] for row in as_json("config", "validate")} == {None}
    (tmp_path / "good.yaml").write_text("extends: tiny\nlatent: 24\n")
    (tmp_path / "bad.yaml").write_text("extends: tiny\nlatnet: 24\n")
    result = tok4d("config", "validate", tmp_path, code=1)
    assert "good.yaml" in result.stdout
    assert "Did you mean 'latent'?" in result.stderr


@pytest.mark.parametrize(
    ("text", "kind", "error"),
    [
        ("extends: smoke\n", "curriculum", None),
        ("extends: smoke\nseed: 4\n", "curriculum", None),
        ("extends: tiny\nname: other\n", "preset", None),
        ("extends: smoke\nsedd: 4\n", None, "unknown key 'sedd'. Did you mean 'seed'"),
        ("extends: base.yaml\n", None, "unknown key 'sedd'. Did you mean 'seed'"),
        ("extends: mine.yaml\n", None, "does it go in a circle"),
    ],
)
def test_what_a_file_extends_says_what_it_is(tmp_path, text, kind, error):
    (tmp_path / "base.yaml").write_text("extends: smoke\nsedd: 4\n")
    (tmp_path / "mine.yaml").write_text(text)
    (row,) = as_json("config", "validate", tmp_path / "mine.yaml", code=int(error is not None))
    assert row["kind"] == kind
    assert (row["error"] is None) if error is None else (error in row["error"])


def test_bf16_runs(models, photos, tmp_path):
    tok4d("encode", photos / "c.png", "-m", models["plain"], "-o", tmp_path / "t", "--dtype", "bf16")
    tok4d("decode", tmp_path / "t", "-m", models["plain"], "-o", tmp_path / "back", "--dtype", "bf16")
    assert pixels(tmp_path / "back" / "c.png").shape == (1, 1, 3)
