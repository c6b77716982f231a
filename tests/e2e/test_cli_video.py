"""Clips through the command line: in pieces, with codes, from token files alone, and what cannot be used."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from tok4d.cli.main import app
from tok4d.modality import Sample
from tok4d.model.tokenizer import Tokenizer
from tok4d.plugins.registry import modality

VIDEO = modality("video")
SMALL = {"encoder": {"blocks": 1}, "decoder": {"blocks": 1}}


def tok4d(*args: object, code: int = 0):
    result = CliRunner().invoke(app, [str(arg) for arg in args])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == code, result.output
    return result


def as_json(*args: object, code: int = 0):
    return json.loads(tok4d(*args, "--json", code=code).stdout)


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("models")
    torch.manual_seed(0)
    for name, extra in (("plain", {}), ("codes", {"quantizer": {"groups": 8, "levels": [4] * 6}})):
        Tokenizer.from_preset("tiny", **SMALL, **extra).save_pretrained(folder / name)
    return {path.name: path for path in folder.iterdir()}


@pytest.fixture
def clip(tmp_path) -> Path:
    """37 frames of odd size, 24 a second."""
    t = torch.arange(37)[:, None, None] / 9
    rows, columns = torch.arange(35)[None, :, None] / 20, torch.arange(50)[None, None, :] / 20
    video = torch.stack([(rows * k + columns + t).sin() for k in (0.5, 1.0, 1.5)], dim=1) * 0.8
    VIDEO.write(Sample("video", {"video": video}, 24.0), tmp_path / "clip.mp4")
    return tmp_path / "clip.mp4"


@pytest.mark.parametrize("kind", ["plain", "codes"])
def test_a_clip_comes_back_from_its_token_file_alone(models, clip, tmp_path, kind):
    (row,) = as_json("encode", clip, "-m", models[kind], "-o", tmp_path / "tokens")["files"]
    assert (row["modality"], row["count"]) == ("video", 10 * 3 * 4)
    as_json("reconstruct", clip, "-m", models[kind], "-o", tmp_path / "direct")
    clip.unlink()
    (made,) = as_json("decode", tmp_path / "tokens", "-m", models[kind], "-o", tmp_path / "back")["files"]
    assert Path(made["file"]).name == "clip.mp4"
    back, direct = VIDEO.read(tmp_path / "back" / "clip.mp4"), VIDEO.read(tmp_path / "direct" / "clip.mp4")
    assert back.data["video"].shape == (37, 3, 35, 50)
    assert back.fps == 24.0
    assert (back.data["video"] - direct.data["video"]).abs().max() <= 0.1  # two runs of a lossy encoder


def test_metrics_of_pieces_are_those_of_the_whole(models, clip, tmp_path):
    """`reconstruct` goes piece by piece; here the same in one piece, by the Python API."""
    out = as_json("reconstruct", clip, "-m", models["plain"], "-o", tmp_path / "out")
    model, sample = Tokenizer.from_pretrained(models["plain"]), VIDEO.read(clip)
    with torch.no_grad():
        (restored,) = VIDEO.unpatchify(model.decode(model.encode(VIDEO.patchify(sample)).latents()))
    metrics = out["files"][0]["metrics"]
    assert set(metrics) == {"psnr", "frame_psnr", "ssim", "temporal", "seam_flicker"}
    for name, make in VIDEO.metrics().items():
        metric = make()
        metric.update([restored], [sample])
        assert metrics[name] == pytest.approx(float(metric.compute()), abs=1e-3), name
    assert out["mean"]["video"] == metrics


def test_reading_options_and_formats(models, clip, tmp_path):
    run = ["reconstruct", clip, "-m", models["plain"], "-o", tmp_path / "out"]
    read = ["--read", "size=20", "--read", "frames=5", "--read", "stride=2", "--read", "reader=pyav"]
    as_json(*run, *read, "--format", "webm")
    made = VIDEO.read(tmp_path / "out" / "clip.webm")
    assert made.data["video"].shape == (5, 3, 20, 29)
    assert made.fps == 12.0
    assert "unknown video option 'sise'" in tok4d(*run, "--read", "sise=3", code=1).stderr
    assert "--read needs KEY=VALUE" in tok4d(*run, "--read", "size", code=1).stderr


def test_the_released_rules_cut_a_clip_also_in_pieces(models, clip, tmp_path):
    inputs = {"video": {"fit": "crop", "frames": "floor"}}
    torch.manual_seed(0)
    Tokenizer.from_preset("tiny", **SMALL, inputs=inputs).save_pretrained(tmp_path / "model")
    (row,) = as_json("reconstruct", clip, "-m", tmp_path / "model", "-o", tmp_path / "out")["files"]
    assert VIDEO.read(tmp_path / "out" / "clip.mp4").data["video"].shape == (36, 3, 32, 48)
    assert row["tokens"] == 9 * 2 * 3


def test_embedding_pools_over_all_tiles(models, clip, tmp_path):
    as_json("embed", clip, "-m", models["plain"], "-o", tmp_path / "e.npz")
    model = Tokenizer.from_pretrained(models["plain"])
    with torch.no_grad():
        whole = model.encode(VIDEO.patchify(VIDEO.read(clip))).embedding[0]
    np.testing.assert_allclose(np.load(tmp_path / "e.npz")["embedding"][0], whole.numpy(), atol=1e-5)


def test_clips_that_cannot_be_used(models, clip, tmp_path):
    (tmp_path / "cut.mp4").write_bytes(clip.read_bytes()[:-200])
    (tmp_path / "empty.mkv").write_bytes(b"")
    (tmp_path / "text.webm").write_text("not a film")
    names = ["cut.mp4", "empty.mkv", "text.webm", "missing.mp4"]
    out = as_json(
        "reconstruct", clip, *[tmp_path / n for n in names], "-m", models["plain"], "-o", tmp_path / "o", code=1
    )
    assert [Path(row["file"]).name for row in out["files"]] == ["clip.mp4"]
    assert sorted(Path(row["file"]).name for row in out["failed"]) == sorted(names)
    assert all(len(row["error"].splitlines()) == 1 for row in out["failed"])
    assert [path.name for path in (tmp_path / "o").iterdir()] == ["clip.mp4"], "nothing half-written"


def test_info_on_a_clip(clip):
    shown = as_json("info", clip)
    assert (shown["modality"], shown["shape"], shown["fps"]) == ("video", [37, 3, 35, 50], 24.0)
    assert (shown["meta_codec"], shown["meta_reader"]) == ("h264", "decord")
    assert (shown["tokens"], shown["grid"]) == (10 * 3 * 4, [10, 3, 4, 1])


def test_info_on_a_clip_that_does_not_fit_into_memory(clip, monkeypatch):
    monkeypatch.setattr("tok4d_video.modality.MAX_VALUES", 1000)
    assert as_json("info", clip)["shape"] == [37, 3, 35, 50]
