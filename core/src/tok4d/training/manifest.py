"""The run manifest: everything outside the configuration that could change a number."""

from __future__ import annotations

import platform
import subprocess
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch

from tok4d import __version__
from tok4d.plugins.registry import records


def manifest() -> dict[str, Any]:
    """Versions and hardware, for the record."""
    try:
        here = Path(__file__).parent
        command = ["git", "-C", str(here), "rev-parse", "HEAD"]
        commit = subprocess.run(command, capture_output=True, text=True, check=True, timeout=5).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        commit = None
    return {
        "tok4d": __version__,
        "torch": torch.__version__,
        "lightning": pl.__version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "threads": torch.get_num_threads(),
        "cpu": torch.backends.cpu.get_cpu_capability(),
        "cuda": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "commit": commit,
        "plugins": {record.name: f"{record.distribution} {record.version} {record.state}" for record in records()},
    }
