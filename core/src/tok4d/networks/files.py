"""Weights that only a model hub has: where their files are looked for, and what to say when there is none."""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path

from tok4d.errors import ConfigError, DataError
from tok4d.networks.catalogue import Availability, Weights, find_weights, weights_folder

HUB_VARIABLES = (("TORCH_HOME", ""), ("XDG_CACHE_HOME", "torch"))  # in the order torch asks them
_HASHED = re.compile(r"-([0-9a-f]{8,})\.\w+")  # torch hub's file names end in the first digits of their SHA-256


def torch_hub() -> Path:
    """Where torch's hub keeps downloaded files; found without importing torch."""
    for variable, below in HUB_VARIABLES:
        if value := os.environ.get(variable):
            return Path(value).expanduser() / below / "hub" / "checkpoints"
    return Path("~/.cache/torch/hub/checkpoints").expanduser()


def places(weights: Weights) -> list[Path]:
    """The paths at which a file is looked for, in order."""
    return [weights_folder() / weights.file, torch_hub() / weights.file]


def find(weights: Weights) -> Availability:
    """Whether one of the places has the file. Its content is not read."""
    candidates = places(weights)
    present = next((path for path in candidates if path.is_file()), None)
    if present is not None:
        return Availability(True, str(present), _how(weights))
    return Availability(False, " or ".join(str(path.parent) for path in candidates), _how(weights))


def locate(name: str, source: str) -> Path:
    """The file itself, or the one of the places that has it.

    Raises:
        ConfigError: when there is none: what is missing, where it was looked for, how to get it.
        DataError: when a file at one of the places is not the one its name says.
    """
    weights = find_weights(name)
    if source:
        path = Path(source).expanduser()
        if not path.is_file():
            raise ConfigError(f"{name}: {source}: no such file; {_how(weights)}")
        return path
    found = find(weights)
    if not found.present:
        raise ConfigError(f"{name}: {weights.file} is missing; looked for in {found.where}; {found.how}")
    path = Path(found.where)
    _verify(path)
    return path


def _verify(path: Path) -> None:
    named = _HASHED.search(path.name)
    if named is None:
        return
    sha = hashlib.sha256()
    with path.open("rb") as stream:
        while chunk := stream.read(1 << 20):
            sha.update(chunk)
    if not sha.hexdigest().startswith(named[1]):
        raise DataError(path, f"has SHA-256 {sha.hexdigest()}, its name says {named[1]}...; get it again")


def _how(weights: Weights) -> str:
    return f"{weights.how}; put it into {weights_folder()}"
