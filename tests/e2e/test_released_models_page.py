"""The commands and the code of docs/released-models.md run as written, on a tiny checkpoint in the released layout."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "released-models.md").read_text(encoding="utf-8")
SHELL, (FIRST, GAUSSIANS) = re.findall(r"```sh\n(.*?)```", PAGE, re.S), re.findall(r"```python\n(.*?)```", PAGE, re.S)
DATA = ROOT / "tests" / "parity" / "data"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A photograph and the golden weights under the released names."""
    made = tmp_path_factory.mktemp("released")
    rows, columns = np.mgrid[0:70, 0:101]
    Image.fromarray(np.stack([rows * 3, columns * 2, (rows + columns) % 256], -1).astype(np.uint8)).save(
        made / "photo.jpg"
    )
    golden = DATA / "c16_hd16"
    tensors = {}
    for part in ("encoder", "decoder"):
        tensors.update({name: x.float() for name, x in load_file(golden / f"weights_{part}.safetensors").items()})
    torch.save(tensors, made / "atoken-soc.pt")
    arch = json.loads((golden / "weights.json").read_text())["arch_cfg"]
    config = {"model": {"class_name": "any", "model_cfg": {"eval_fid": True, "arch_cfg": arch}}}
    (made / "atoken-soc.yaml").write_text(yaml.safe_dump(config))
    gaussians = load_file(DATA / "gs_decoder.safetensors")
    torch.save(
        {name.removeprefix("sd."): x for name, x in gaussians.items() if name.startswith("sd.")},
        made / "3d_decode_gs.pt",
    )
    described = json.loads((DATA / "gs_decoder.json").read_text())
    gaussian_config = {**described["args"], "representation_config": described["representation_config"]}
    (made / "3d_decode_gs.yaml").write_text(yaml.safe_dump({"model": gaussian_config}))
    return made


def run(command: str | list[str], folder: Path) -> str:
    path = str(Path(sys.executable).parent) + os.pathsep + os.environ["PATH"]
    shell = isinstance(command, str)
    environment = {**os.environ, "PATH": path, "TOK4D_CACHE": str(folder / "cache"), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, shell=shell, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, f"$ {command}\n{done.stdout[-1500:]}\n{done.stderr[-1500:]}"
    return done.stdout


def test_the_page(folder, siglip):
    (block,) = SHELL
    commands = [line.split("  #")[0].strip() for line in block.splitlines() if line.strip()]
    printed = run(commands[0], folder)
    assert "windows" in printed
    assert "batch" in printed
    # The tiny model is no SigLIP2 so400m: give it a tower of its own width, as the real one's YAML names one.
    width = yaml.safe_load((folder / "atoken-soc" / "config.yaml").read_text())["encoder"]["width"]
    siglip(folder / "tower", width=width)
    config = yaml.safe_load((folder / "atoken-soc" / "config.yaml").read_text())
    config["text"] = {"kind": "siglip2", "source": str(folder / "tower")}
    (folder / "atoken-soc" / "config.yaml").write_text(yaml.safe_dump(config))
    for command in commands[1:]:
        run(command, folder)
    first, again = torch.load(folder / "atoken-soc.pt", weights_only=True), load_file(folder / "again.safetensors")
    assert first.keys() == again.keys()
    assert all(torch.equal(first[name], again[name]) for name in first)
    run([sys.executable, "-c", FIRST], folder)
    assert Image.open(folder / "restored.png").size == (96, 64), "cropped to whole patches, as the release does"
    run([sys.executable, "-c", GAUSSIANS], folder)


def test_the_table_of_options_is_what_an_import_sets():
    """Every option and its two values, against the code."""
    from tok4d.config.gaussians import GaussianConfig
    from tok4d.config.schema import TokenizerConfig
    from tok4d.weights.atoken_arch import RELEASE
    from tok4d.weights.gaussians import load_atoken_gaussians

    rows = dict(re.findall(r"^\| `([^`]+)`[^|]* \| ([^\n]+)$", PAGE, re.M))
    new = TokenizerConfig()
    for option, value in (("windows", "batch"), ("table_extent", "tokens"), ("cached_steps", 0)):
        released, ours = rows[option].split(" | ")[:2]
        assert RELEASE[option] == value
        assert str(value) in released
        assert str(getattr(new, option)) in ours
    assert RELEASE["inputs"] == {
        "image": {"fit": "crop"},
        "video": {"fit": "crop", "frames": "floor"},
        "mesh3d": {"t_offset": 1},
    }
    assert new.inputs == {}
    assert load_atoken_gaussians.__kwdefaults__["softcap"] == 30.0
    assert GaussianConfig().softcap is None
