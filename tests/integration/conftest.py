"""A fresh virtual environment with tok4d and a plugin installed by pip, as a stranger would have it."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Environment:
    """A virtual environment and a working folder outside of the repository."""

    folder: Path
    work: Path

    @property
    def bin(self) -> Path:
        return self.folder / ("Scripts" if os.name == "nt" else "bin")

    def run(self, *command: str | Path, cwd: Path | None = None, code: int = 0) -> str:
        """Run a program of the environment in a real process; gives stdout, fails on another exit code."""
        own = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "TOK4D", "PYTEST"))}
        done = subprocess.run(
            [self.bin / command[0], *command[1:]],
            cwd=cwd or self.work,
            env={**own, "PATH": f"{self.bin}{os.pathsep}{own.get('PATH', '')}"},
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert done.returncode == code, f"{command}: exit code {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def install(self, *projects: Path) -> None:
        """Build a wheel of every project and install them, without dependencies and without a network."""
        wheels = self.work / f"wheels-{len(list(self.work.glob('wheels-*')))}"
        for project in projects:
            _pip("wheel", "--no-deps", "--no-build-isolation", "--no-index", "-w", wheels, project)
        target = self.bin / "python"
        _pip("--python", target, "install", "--no-deps", "--no-index", *sorted(wheels.glob("*.whl")))


def _pip(*arguments: str | Path) -> None:
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"


@pytest.fixture(scope="session")
def make_environment(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Environment]:
    """A function of project folders that gives an environment with tok4d and these projects installed.

    torch and the other dependencies (7 GB) are seen through a .pth file, behind the environment's own packages.
    """

    def make(*projects: Path) -> Environment:
        base = tmp_path_factory.mktemp("environment")
        environment = Environment(base / "venv", base / "work")
        environment.work.mkdir()
        venv.create(environment.folder, with_pip=False)
        environment.install(ROOT, *projects)
        site = Path(sysconfig.get_path("purelib", vars={"base": str(environment.folder)}))
        shared = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
        (site / "zz_shared.pth").write_text("".join(f"{path}\n" for path in sorted(shared)))
        return environment

    return make
