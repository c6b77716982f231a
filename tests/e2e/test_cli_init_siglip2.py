"""`tok4d weights init-siglip2` on published folders, through the command line."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from typer.testing import CliRunner

sys.path.insert(0, str(Path(__file__).parents[1] / "parity"))

import siglip2_towers as towers

from tok4d import Tokenizer
from tok4d.cli.main import app
from tok4d.cli.weights_siglip2 import _configure
from tok4d.config.loader import load_preset
from tok4d.patches import patchify
from tok4d.weights.siglip2_tower import Tower


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return towers.save(towers.naflex(), tmp_path_factory.mktemp("hub") / "tower")


def tok4d(*args: object, code: int = 0):
    """Run a command; a traceback fails the test whatever exit code is expected."""
    result = CliRunner().invoke(app, [str(arg) for arg in ("weights", "init-siglip2", *args)])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == code, result.output
    return result


def as_json(*args: object, code: int = 0):
    return json.loads(tok4d(*args, "--json", code=code).stdout)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    made = tmp_path / "photos"
    made.mkdir()
    rng = np.random.default_rng(0)
    for name, size in (("a.png", (48, 112)), ("b.png", (80, 80))):
        Image.fromarray(rng.integers(0, 256, (*size, 3), dtype=np.uint8)).save(made / name)
    return made


@pytest.mark.parametrize("layout", ["naflex", "fixed"])
def test_with_the_table_the_written_model_is_the_tower(tmp_path, layout):
    theirs = {"naflex": towers.naflex, "fixed": towers.fixed}[layout]()
    run = {"naflex": towers.run_naflex, "fixed": towers.run_fixed}[layout]
    source = towers.save(theirs, tmp_path / "tower", max_shard_size="100KB")
    data = as_json(source, "-o", tmp_path / "model", "--positions", "table", "--latent", 16)
    assert data["step0"]["embedding_cosine"] == pytest.approx(1, abs=1e-6)
    assert data["step0"]["feature_cosine"] == pytest.approx(1, abs=1e-6)
    assert (data["layout"], data["positions"], data["latent"]) == (layout, "table", 16)
    model = Tokenizer.from_pretrained(tmp_path / "model")
    assert sum(data["parameters"].values()) == sum(p.numel() for p in model.parameters())
    assert data["parameters"]["taken"] == sum(p.numel() for p in towers.vision(theirs).parameters())
    image = towers.picture(3, 7)
    with torch.no_grad():
        ours = model.encode(patchify(image, "image"))
    ((features, pooled),) = run(theirs, [image])
    torch.testing.assert_close(ours.features.feats, features, atol=1e-4, rtol=0)
    torch.testing.assert_close(ours.embedding[0], F.normalize(pooled, dim=-1), atol=1e-4, rtol=0)


def test_joint_positions_say_how_far_they_are(folder, photos, tmp_path):
    data = as_json(folder, "-o", tmp_path / "model", "--images", photos)
    measured = data["step0"]
    assert (measured["pictures"], measured["count"], data["positions"]) == ("given", 2, "joint")
    model = Tokenizer.from_pretrained(tmp_path / "model")
    images = [torch.from_numpy(np.array(Image.open(p))).permute(2, 0, 1) / 127.5 - 1 for p in sorted(photos.iterdir())]
    expected = towers.run_naflex(towers.naflex(), images)
    with torch.no_grad():
        ours = [model.encode(patchify(image, "image")) for image in images]
    pairs = list(zip(ours, expected, strict=True))
    embedding = [float(F.cosine_similarity(one.embedding[0], pooled, dim=0)) for one, (_, pooled) in pairs]
    features = [float(F.cosine_similarity(one.features.feats, f, dim=-1).mean()) for one, (f, _) in pairs]
    assert measured["embedding_cosine"] == pytest.approx(sum(embedding) / 2, abs=1e-5)
    assert measured["feature_cosine"] == pytest.approx(sum(features) / 2, abs=1e-5)
    assert measured["embedding_cosine"] < 0.9999
    assert measured["feature_cosine"] < 0.9999


def test_what_people_read(folder, tmp_path):
    said = tok4d(folder, "-o", tmp_path / "model").stdout
    assert "3 blocks, width 64, 4 heads, MLP 128, patch 16, table 16x16" in said
    assert "199,552 parameters of the tower" in said
    assert "4 generated (image/shapes)" in said
    line = next(line for line in said.splitlines() if line.startswith("step-0 cosine"))
    cosines = [float(part.split()[-1]) for part in line.split(",")]
    assert len(cosines) == 2
    assert all(0.5 < value < 0.9999 for value in cosines)
    assert tok4d(folder, "-o", tmp_path / "again").stdout.splitlines()[1:] == said.splitlines()[1:]
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("model", "again")]
    assert weights[0] == weights[1]
    tok4d(folder, "-o", tmp_path / "again", "--force", "--seed", 1)
    assert (tmp_path / "again" / "model.safetensors").read_bytes() != weights[0]


def test_the_checkpoints_text_tower_and_its_constants_are_recorded(folder, tmp_path):
    tok4d(folder, "-o", tmp_path / "model")
    text = Tokenizer.from_pretrained(tmp_path / "model").config.text
    source = towers.naflex()
    assert (text.kind, text.source) == ("siglip2", str(folder.resolve()))
    assert (text.log_scale, text.bias) == pytest.approx((source.logit_scale.item(), source.logit_bias.item()))
    alone = towers.save(towers.naflex(both=False), tmp_path / "alone")
    assert as_json(alone, "-o", tmp_path / "without")["text"] is None
    assert as_json(folder, "-o", tmp_path / "off", "text=null")["text"] is None


def test_options_and_changes(folder, tmp_path):
    tok4d(folder, "-o", tmp_path / "model", "--preset", "tiny", "decoder.blocks=2", "latent=8", "rope_scale=0.5")
    config = Tokenizer.from_pretrained(tmp_path / "model").config
    tiny = load_preset("tiny", ["decoder.blocks=2"])
    assert config.decoder == tiny.decoder
    assert (config.encoder.width, config.latent, config.rope_scale) == (64, 8, 0.5)


@pytest.mark.parametrize(
    ("name", "width", "blocks", "heads", "mlp"), [("base", 768, 12, 12, 3072), ("so400m", 1152, 27, 16, 4304)]
)
def test_published_towers_choose_their_preset(name, width, blocks, heads, mlp):
    tower = Tower("x", Path("x"), "naflex", width, blocks, heads, mlp, 16, 16, with_text=False)
    config, preset = _configure(tower, None, []), load_preset(name)
    preset.parameters = None
    assert config == preset


def test_other_towers_get_a_decoder_of_their_own_size():
    tower = Tower("x", Path("x"), "fixed", 1024, 24, 16, 4096, 14, 27, with_text=False)
    config = _configure(tower, None, ["positions=table"])
    for stack in (config.encoder, config.decoder):
        assert (stack.width, stack.blocks, stack.heads, stack.mlp) == (1024, 24, 16, 4096)
    assert (config.decoder.norm, config.decoder.bias, config.decoder.qk_norm) == ("rms", False, True)
    assert (config.patch_size, config.table_side, config.table_resize) == ([4, 14, 14], 27, "bicubic")
    assert config.positions == "table"


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--preset", "bas"], "'bas'"),
        (["encoder.blocks=2"], "encoder.blocks is 2, not 3"),
        (["--positions", "rope"], "positions is rope"),
        (["--positions", "sideways"], "positions must be one of joint, table, rope, got 'sideways'"),
        (["--images", "/nowhere/*.png"], "--images: none can be used, nothing was written; /nowhere/*.png: "),
    ],
)
def test_one_line_and_nothing_written(folder, tmp_path, arguments, reason):
    result = tok4d(folder, "-o", tmp_path / "model", *arguments, code=1)
    (line,) = result.stderr.splitlines()
    assert reason in line
    assert not (tmp_path / "model").exists()
    assert as_json(folder, "-o", tmp_path / "model", *arguments, code=1)["error"]


def test_a_bad_picture_is_named_and_the_others_count(folder, photos, tmp_path):
    (photos / "c.png").write_bytes(b"no picture")
    result = tok4d(folder, "-o", tmp_path / "model", "--images", photos, "--json", code=1)
    data = json.loads(result.stdout)
    assert data["step0"]["count"] == 2
    assert [Path(failure["file"]).name for failure in data["failed"]] == ["c.png"]
    assert "1 of 3 pictures failed" in result.stderr


def test_an_existing_model_is_not_overwritten(folder, tmp_path):
    tok4d(folder, "-o", tmp_path / "model")
    before = (tmp_path / "model" / "model.safetensors").read_bytes()
    said = tok4d(folder, "-o", tmp_path / "model", "--seed", 1, code=1).stderr
    assert "holds a model already; choose another --out, or overwrite it with --force" in said
    assert (tmp_path / "model" / "model.safetensors").read_bytes() == before
    assert "no such folder" in tok4d(tmp_path / "nothing", "-o", tmp_path / "other", code=1).stderr
