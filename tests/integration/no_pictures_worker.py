"""`tok4d` in which the samples of the second process have no pictures to compare with, for `fork_server` to start."""

from __future__ import annotations

import os

from tok4d.cli.main import main as tok4d
from tok4d_mesh3d.modality import Mesh3dModality


def main() -> None:
    if os.environ["RANK"] == "1":
        Mesh3dModality.extras = lambda self, sample: {}  # type: ignore[method-assign]
    tok4d()
