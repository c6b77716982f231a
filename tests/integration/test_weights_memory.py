"""Importing and loading a model costs little more memory than its weights: measured in processes of their own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from /proc")

LIMIT = 1.3  # times the size of the checkpoint

MEASURE = """
import sys
from pathlib import Path
import torch, yaml
from tok4d import Tokenizer
from tok4d.weights import load_atoken
from tok4d.weights.atoken_arch import arch_of
from tok4d.weights.checkpoints import read_checkpoint

folder = Path(sys.argv[1])

def memory(kind):
    line = next(line for line in open("/proc/self/status") if line.startswith(kind))
    return int(line.split()[1]) * 1024

def make():
    stack = {"width": 512, "blocks": 10, "heads": 8, "mlp": 2048}
    model = Tokenizer.from_preset("tiny", latent=48, encoder=stack, decoder=stack)
    torch.save({k: v for k, v in model.state_dict().items() if not k.startswith("latent_")}, folder / "a.pt")
    (folder / "a.yaml").write_text(yaml.safe_dump(arch_of(model.config)))

def load():
    load_atoken(read_checkpoint(folder / "a.pt"), yaml.safe_load((folder / "a.yaml").read_text()))

def bring():
    arch = yaml.safe_load((folder / "a.yaml").read_text())
    load_atoken(read_checkpoint(folder / "a.pt"), arch).save_pretrained(folder / "model")

def use():
    Tokenizer.from_pretrained(folder / "model")

with torch.device("meta"):
    Tokenizer.from_preset("tiny")  # torch loads 150 MB of Python for the first module on that device
before = memory("VmRSS")
globals()[sys.argv[2]]()
print((memory("VmHWM") - before) / (folder / "a.pt").stat().st_size)
"""


def test_memory_of_import_and_loading(tmp_path):
    measure(tmp_path, "make")
    assert (tmp_path / "a.pt").stat().st_size > 200e6, "small models would measure Python itself"
    assert measure(tmp_path, "load") < 0.2, "a mapped checkpoint costs nothing until it is used"
    assert measure(tmp_path, "bring") < LIMIT
    assert measure(tmp_path, "use") < LIMIT


def measure(folder: Path, step: str) -> float:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    program = [sys.executable, "-c", MEASURE, str(folder), step]
    done = subprocess.run(program, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return float(done.stdout)
