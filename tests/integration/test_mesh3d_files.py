"""3D through the command line: a short training run, then files through the model it leaves behind."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tok4d.cli.main import app
from tok4d_mesh3d.splatfiles import read_splats

CURRICULUM = """
seed: 0
model:
  preset: tiny
  overrides:
    encoder: {{width: 32, blocks: 1, heads: 1, mlp: 32}}
    decoder: {{width: 32, blocks: 1, heads: 1, mlp: 32}}
    heads: {{mesh3d: {{resolution: 8, width: 24, blocks: 1, heads: 1, mlp: 24, num_gaussians: 4}}}}
order: [solids]
stages:
  solids:
    steps: 3
    tasks:
      solid: {{source: mesh3d/solids, batch: 2, options: {{split: train, {options}}}, losses: {{l1: 1.0, kl: 1.0e-8}}}}
    validation:
      solid: {{source: mesh3d/solids, batch: 2, options: {{split: val, {options}}}}}
    optimizer: {{lr: 1.0e-3, min_lr: 1.0e-4, warmup: 1, ema: 0.9}}
"""
OPTIONS = (
    "count: 10, resolution: 8, views: 4, size: 64, targets: 4, target_size: 24, targets_at_once: 2, cache_folder: {}"
)
BOX = """
v 0 0 0
v 1 0 0
v 1 1 0
v 0 1 0
v 0 0 1
v 1 0 1
v 1 1 1
v 0 1 1
f 1 4 3 2
f 5 6 7 8
f 1 2 6 5
f 2 3 7 6
f 3 4 8 7
f 4 1 5 8
"""


def run(*arguments: object) -> dict:
    done = CliRunner().invoke(app, [*map(str, arguments), "--json"])
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> dict:
    folder = tmp_path_factory.mktemp("run")
    text = CURRICULUM.format(options=OPTIONS.format(folder / "cache"))
    (folder / "c.yaml").write_text(text)
    return run("train", folder / "c.yaml", "-o", folder / "run")


@pytest.fixture
def box(tmp_path) -> Path:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "box.obj").write_text(BOX)
    return tmp_path / "in" / "box.obj"


def test_training_validates_on_pictures(trained):
    (row,) = trained["validation"]
    assert {"mesh3d/psnr", "mesh3d/view_psnr", "mesh3d/view_psnr_foreground", "mesh3d/chamfer"} <= set(row)
    assert trained["bad_files"] == 0


def test_a_mesh_becomes_gaussians(trained, box, tmp_path):
    read = ["--read", "size=64", "--read", "views=6"]
    for suffix in ("ply", "spz"):
        done = run("reconstruct", box, "-m", trained["model"], "-o", tmp_path / suffix, "--format", suffix, *read)
        (row,) = done["files"]
        assert row["tokens"] == 8**3 - 6**3
        assert len(read_splats(row["written"])) == 4 * row["tokens"]
        assert {"psnr", "view_psnr", "mask_iou", "f_score"} <= set(row["metrics"])


def test_a_token_file_is_enough(trained, box, tmp_path):
    read = ["--read", "size=64", "--read", "views=6"]
    made = run("encode", box, "-m", trained["model"], "-o", tmp_path / "tokens", *read)
    token_file = made["files"][0]["tokens"]
    back = run("decode", token_file, "-m", trained["model"], "-o", tmp_path / "back")
    direct = run("reconstruct", box, "-m", trained["model"], "-o", tmp_path / "direct", *read)
    one, other = read_splats(back["files"][0]["file"]), read_splats(direct["files"][0]["written"])
    assert float((one.means - other.means).abs().max()) < 1e-5
    assert float((one.colors - other.colors).abs().max()) < 1e-3
    told = run("info", token_file)
    assert (told["modality"], told["tokens"], told["grids"]) == ("mesh3d", [296], [[1, 8, 8, 8]])


def test_a_bad_file_is_named_and_the_others_are_done(trained, box, tmp_path):
    bad = box.with_name("bad.glb")
    bad.write_bytes(b"glTF")
    arguments = ["reconstruct", str(bad), str(box), "-m", trained["model"], "-o", str(tmp_path / "out"), "--json"]
    done = CliRunner().invoke(app, [*arguments, "--read", "size=32"])
    assert done.exit_code == 1
    told = json.loads(done.stdout)
    assert [Path(row["file"]).name for row in told["files"]] == ["box.obj"]
    assert "bad.glb" in told["failed"][0]["file"]
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["box.ply"]


def test_a_resolution_that_the_model_does_not_take(trained, box, tmp_path):
    arguments = ["reconstruct", str(box), "-m", trained["model"], "-o", str(tmp_path / "out"), "--json"]
    done = CliRunner().invoke(app, [*arguments, "--read", "resolution=16"])
    assert done.exit_code == 1
    assert (
        "takes voxels of a 8^3 grid, these are of 16^3; read or make them with resolution=8"
        in json.loads(done.stdout)["failed"][0]["error"]
    )
