"""The run manifest: everything that could change a number, and how the run was started.

RUN/manifest.json describes the newest start of a run; `before` holds those of the parts before it.
"""

from __future__ import annotations

import json
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Mapping
from datetime import datetime, timezone
from importlib.metadata import distributions, version
from pathlib import Path
from typing import Any

import torch

from tok4d import __version__
from tok4d.plugins.registry import records
from tok4d.training.memory import total_memory
from tok4d.weights.folder import write_text

NAME = "manifest.json"


def manifest(curriculum: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Versions, code, hardware and command, for the record.

    Args:
        curriculum: the resolved configuration.
    """
    return {
        "tok4d": __version__,
        "torch": torch.__version__,
        "lightning": version("pytorch-lightning"),  # importing it takes seconds
        "python": platform.python_version(),
        "platform": platform.platform(),
        "threads": torch.get_num_threads(),
        "cpu": torch.backends.cpu.get_cpu_capability(),
        "cuda": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "started": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "command": command_line(),
        **code_state(Path(__file__).parent),
        "hardware": hardware(),
        "plugins": {record.name: f"{record.distribution} {record.version} {record.state}" for record in records()},
        "packages": packages(),
        "curriculum": dict(curriculum or {}),
    }


def command_line() -> str:
    """How this process was started, without the folders that its programs happen to be in."""
    arguments = sys.argv[1:]
    interpreter = sys.orig_argv[1 : len(sys.orig_argv) - len(arguments)]  # its own options, and what it runs
    program = ["python", *interpreter] if "-m" in interpreter else [Path(sys.argv[0]).name]
    return shlex.join([*program, *arguments])


def write_manifest(out: Path, curriculum: Mapping[str, Any]) -> None:
    """Write RUN/manifest.json; of a run that is continued, with what was there before.

    Raises:
        OSError: when it cannot be written.
    """
    new = manifest(curriculum)
    new["before"] = _earlier(out / NAME)
    write_text(out / NAME, json.dumps(new, indent=1))


def _earlier(path: Path) -> list[dict[str, Any]]:
    """Earlier starts of a run, oldest first, each without the configuration, which is the same."""
    try:
        last = json.loads(path.read_text())
        before = list(last.pop("before", []))
    except (OSError, ValueError, AttributeError, TypeError):
        return []
    last.pop("curriculum", None)
    return [*before, last]


def code_state(folder: Path) -> dict[str, Any]:
    """`commit` of the checkout that holds a folder, and whether it was `dirty`: files changed or added since.

    None where there is no checkout or no git. A folder that git ignores (an installed package inside of somebody's
    repository) belongs to no checkout.
    """
    if _git(folder, "check-ignore", "-q", ".") is not None or (commit := _git(folder, "rev-parse", "HEAD")) is None:
        return {"commit": None, "dirty": None}
    status = _git(folder, "status", "--porcelain", "--untracked-files=normal")
    return {"commit": commit, "dirty": None if status is None else bool(status)}


def _git(folder: Path, *arguments: str) -> str | None:
    """What a git command says, or None when it fails."""
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=True, timeout=5
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def hardware() -> dict[str, Any]:
    """Processor, cores this process may use, memory in bytes, GPUs."""
    return {
        "cpu": _cpu_model(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory": total_memory(),
        "gpus": [
            {"name": found.name, "memory": found.total_memory}
            for found in map(torch.cuda.get_device_properties, range(torch.cuda.device_count()))
        ],
    }


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    models = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(models, platform.processor() or platform.machine())


def packages() -> dict[str, str]:
    """Version of every installed package, by name."""
    found = {one.metadata["Name"]: one.version for one in distributions() if one.metadata["Name"]}
    return dict(sorted(found.items(), key=lambda item: item[0].lower()))
