"""`tok4d weights` on real checkpoint files, through the command line."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from tok4d import Tokenizer
from tok4d.cli.main import app

GOLDEN = Path(__file__).parents[1] / "parity" / "data" / "c16_hd16"


@pytest.fixture(scope="module")
def released(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small checkpoint laid out as released: `.pt` and safetensors, with its YAML configuration."""
    folder = tmp_path_factory.mktemp("released")
    state = {**load_file(GOLDEN / "weights_encoder.safetensors"), **load_file(GOLDEN / "weights_decoder.safetensors")}
    torch.save(state, folder / "a.pt")
    save_file(state, folder / "a.safetensors")
    arch = json.loads((GOLDEN / "weights.json").read_text())["arch_cfg"]
    write_config(folder / "a.yaml", arch)
    write_config(folder / "wrong.yaml", {**arch, "latent_channels": 48})
    write_config(folder / "typo.yaml", {**arch, "laten_channels": 48})
    return folder


def write_config(path: Path, arch: dict[str, object]) -> None:
    path.write_text(yaml.safe_dump({"model": {"class_name": "x", "model_cfg": {"arch_cfg": arch}}}))


def tok4d(*args: object, code: int = 0):
    """Run a command; a traceback fails the test whatever exit code is expected."""
    result = CliRunner().invoke(app, ["weights", *(str(arg) for arg in args)])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == code, result.output
    return result


@pytest.mark.parametrize("name", ["a.pt", "a.safetensors"])
def test_import_says_what_it_is(released, tmp_path, name):
    data = json.loads(
        tok4d("import-atoken", released / name, released / "a.yaml", "-o", tmp_path / "m", "--json").stdout
    )
    assert data == {
        "folder": str(tmp_path / "m"),
        "kind": "continuous; no released model has 16 latent channels",
        "latent_channels": 16,
        "quantizer": None,
        "parameters": sum(p.numel() for p in Tokenizer.from_pretrained(tmp_path / "m").parameters()),
        "dtype": "bfloat16",
        "text": None,
        "compatibility": {
            "positions": "joint",
            "table_extent": "tokens",
            "windows": "batch",
            "tile_steps": 4,
            "cached_steps": 0,
            "inputs": {
                "image": {"fit": "crop"},
                "video": {"fit": "crop", "frames": "floor"},
                "mesh3d": {"t_offset": 1},
            },
        },
    }


def test_import_for_people(released, tmp_path):
    lines = tok4d("import-atoken", released / "a.pt", released / "a.yaml", "-o", tmp_path / "m").stdout.splitlines()
    shown = dict(line.split("  ", 1) for line in lines)
    assert shown["latent channels"].strip() == "16"
    assert shown["windows"].strip() == "batch"
    assert shown["inputs video"].strip() == "fit: crop, frames: floor"


def test_an_imported_model_is_used_like_any_other(released, tmp_path):
    """In a real process: import, then restore a picture whose sides are multiples of the patch."""
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (32, 48, 3), dtype=np.uint8)).save(tmp_path / "a.png")
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
    for command in (
        ["weights", "import-atoken", released / "a.pt", released / "a.yaml", "-o", "m"],
        ["reconstruct", "a.png", "-m", "m", "-o", "out"],
    ):
        program = [sys.executable, "-m", "tok4d.cli.main", *command]
        subprocess.run(program, cwd=tmp_path, env=environment, check=True, capture_output=True, timeout=120)
    assert Image.open(tmp_path / "out" / "a.png").size == (48, 32)


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_export_gives_the_released_files_back(released, tmp_path, suffix):
    tok4d("import-atoken", released / "a.pt", released / "a.yaml", "-o", tmp_path / "m")
    out = tmp_path / "new" / f"b{suffix}"
    data = json.loads(tok4d("export-atoken", tmp_path / "m", "-o", out, "--json").stdout)
    assert (data["checkpoint"], data["config"]) == (str(out), str(out.with_suffix(".yaml")))
    assert data["not_exported"] == []
    state, original = load_any(out), load_file(released / "a.safetensors")
    assert state.keys() == original.keys()
    assert all(state[name].dtype == value.dtype and torch.equal(state[name], value) for name, value in original.items())
    arch = [
        yaml.safe_load(p.read_text())["model"]["model_cfg"] for p in (out.with_suffix(".yaml"), released / "a.yaml")
    ]
    assert arch[0] == arch[1]
    assert sorted(path.name for path in out.parent.iterdir()) == sorted([out.name, "b.yaml"])
    tok4d("import-atoken", out, out.with_suffix(".yaml"), "-o", tmp_path / "again")
    assert (tmp_path / "again" / "model.safetensors").read_bytes() == (
        tmp_path / "m" / "model.safetensors"
    ).read_bytes()
    assert (tmp_path / "again" / "config.yaml").read_bytes() == (tmp_path / "m" / "config.yaml").read_bytes()


def load_any(path: Path) -> dict[str, torch.Tensor]:
    return torch.load(path, weights_only=True) if path.suffix == ".pt" else load_file(path)


def test_export_says_what_it_leaves_out(tmp_path):
    Tokenizer.from_preset("tiny", encoder={"blocks": 1}, decoder={"blocks": 1}).save_pretrained(tmp_path / "m")
    result = tok4d("export-atoken", tmp_path / "m", "-o", tmp_path / "b.pt")
    assert "note: cached_steps: 1 here, the release runs with 0" in result.stderr


def test_nothing_is_overwritten_without_force(released, tmp_path):
    command = ("import-atoken", released / "a.pt", released / "a.yaml", "-o", tmp_path / "m")
    tok4d(*command)
    before = (tmp_path / "m" / "model.safetensors").stat().st_mtime_ns
    assert "model.safetensors is there already" in tok4d(*command, code=1).stderr
    assert (tmp_path / "m" / "model.safetensors").stat().st_mtime_ns == before
    tok4d(*command, "--force")
    assert (tmp_path / "m" / "model.safetensors").stat().st_mtime_ns > before
    tok4d("export-atoken", tmp_path / "m", "-o", tmp_path / "b.pt")
    assert "b.pt is there already" in tok4d("export-atoken", tmp_path / "m", "-o", tmp_path / "b.pt", code=1).stderr
    (tmp_path / "b.pt").unlink()
    assert "b.yaml is there already" in tok4d("export-atoken", tmp_path / "m", "-o", tmp_path / "b.pt", code=1).stderr


class Code:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, ("ran",)


def truncated(folder: Path, released: Path, name: str) -> Path:
    data = (released / name).read_bytes()
    (folder / name).write_bytes(data[: len(data) // 2])
    return folder / name


def with_code(folder: Path) -> Path:
    torch.save({"proj.weight": Code()}, folder / "code.pt")
    return folder / "code.pt"


def a_gaussian_decoder(folder: Path) -> Path:
    torch.save({"offset_perturbation": torch.zeros(32, 3)}, folder / "gs.pt")
    return folder / "gs.pt"


def plain_pickle(folder: Path) -> Path:
    (folder / "plain.pt").write_bytes(pickle.dumps({"proj.weight": [1, 2]}))
    return folder / "plain.pt"


@pytest.mark.parametrize(
    ("checkpoint", "config", "error"),
    [
        (lambda f, r: r / "missing.pt", "a.yaml", "missing.pt: no such file"),
        (lambda f, r: r, "a.yaml", "is a folder; give the checkpoint file itself"),
        (lambda f, r: truncated(f, r, "a.pt"), "a.yaml", "a.pt: is truncated"),
        (lambda f, r: truncated(f, r, "a.safetensors"), "a.yaml", "a.safetensors: not a complete safetensors file"),
        (lambda f, r: with_code(f), "a.yaml", "mkdir), which was not run"),
        (lambda f, r: plain_pickle(f), "a.yaml", "neither a complete torch.save file nor safetensors"),
        (lambda f, r: a_gaussian_decoder(f), "a.yaml", "gs.pt: holds a Gaussian decoder"),
        (lambda f, r: r / "a.yaml", "a.yaml", "a.yaml: is neither a complete torch.save file nor safetensors"),
        (lambda f, r: r / "a.pt", "missing.yaml", "missing.yaml: cannot be read: No such file or directory"),
        (lambda f, r: r / "a.pt", "a.pt", "a.pt: "),
        (lambda f, r: r / "a.pt", "typo.yaml", "typo.yaml: unknown key 'laten_channels'. Did you mean"),
        (
            lambda f, r: r / "a.pt",
            "wrong.yaml",
            "a.pt: does not fit its config: latent_channels: 48 in the config, but proj.weight is [32, 64], that is 16",
        ),
    ],
)
def test_bad_files_are_one_error_and_leave_nothing(released, tmp_path, monkeypatch, checkpoint, config, error):
    monkeypatch.chdir(tmp_path)
    path = checkpoint(tmp_path, released)
    before = sorted(tmp_path.rglob("*"))
    result = tok4d("import-atoken", path, released / config, "-o", tmp_path / "m", "--json", code=1)
    assert error in json.loads(result.stdout)["error"]
    assert error in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("out", "error"),
    [
        ("b.bin", "the name must end in .safetensors or .pt"),
        ("a-file/b.pt", "b.pt: cannot be written"),
    ],
)
def test_exports_that_cannot_be_written(released, tmp_path, out, error):
    tok4d("import-atoken", released / "a.pt", released / "a.yaml", "-o", tmp_path / "m")
    (tmp_path / "a-file").touch()
    assert error in tok4d("export-atoken", tmp_path / "m", "-o", tmp_path / out, code=1).stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a-file", "m"]


def test_the_help_needs_no_torch():
    code = (
        "import sys; from typer.testing import CliRunner; from tok4d.cli.main import app;"
        "r = CliRunner().invoke(app, ['weights', '--help']); assert r.exit_code == 0, r.output;"
        "assert all(name in r.output for name in ('import-atoken', 'export-atoken', 'init-siglip2')), r.output;"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
