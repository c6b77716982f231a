"""The README's commands run as written, in order, by a shell, on a real photograph and a clip."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tok4d_video.writing import VideoWriter

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
# `make` sets up an environment and trains; what `make demo` runs is tested in test_demo.py.
COMMANDS = [
    line.split("  #")[0].strip()
    for block in re.findall(r"```sh\n(.*?)```", README, re.DOTALL)
    for line in block.splitlines()
    if line.strip() and not line.startswith(("#", "make ", "git ", "cd "))
]
SNIPPETS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("readme")
    rows, columns = np.mgrid[0:90, 0:140]
    picture = np.stack([rows * 2, columns, (rows + columns) % 256], -1).astype(np.uint8)
    Image.fromarray(picture).save(made / "photo.jpg", quality=95)
    frames = torch.from_numpy(np.stack([np.roll(picture, shift, 1)[:40, :56] for shift in range(20)]))
    with VideoWriter(made / "clip.mp4", 25) as writer:
        writer.write(frames)
    return made


def test_the_readme_has_commands_and_code() -> None:
    assert len(COMMANDS) >= 8
    assert SNIPPETS


def test_readme_commands(folder: Path) -> None:
    binaries = str(Path(sys.executable).parent)
    environment = {**os.environ, "PATH": binaries + os.pathsep + os.environ["PATH"]}
    for command in COMMANDS:
        done = subprocess.run(command, shell=True, cwd=folder, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, f"$ {command}\n{done.stdout[-1500:]}\n{done.stderr[-1500:]}"
    for snippet in SNIPPETS:
        done = subprocess.run([sys.executable, "-c", snippet], cwd=folder, capture_output=True, text=True)
        assert done.returncode == 0, f"{snippet}\n{done.stderr[-1500:]}"
    shutil.rmtree(folder)


def test_make_targets_named_in_the_readme_exist() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^make (\w+)", README, re.MULTILINE))
    assert {"demo", "test"} <= targets
    for target in targets:
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), f"the Makefile has no target {target}"
