"""Model folders as Hugging Face publishes them, local or by hub id, read without `transformers`.

A folder holds `config.json` and either `model.safetensors` or the files that `model.safetensors.index.json` lists.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from tok4d.errors import ConfigError, DataError

CONFIG, WEIGHTS, INDEX = "config.json", "model.safetensors", "model.safetensors.index.json"
MAX_JSON = 50_000_000
_HUB_ID = re.compile(r"\w[\w.-]*/\w[\w.-]*")


def locate(source: str, *, weights: bool = True, also: Sequence[str] = ()) -> Path:
    """The folder itself, or that of a hub id in the local cache, fetched when it is not there yet.

    Args:
        source: a folder, or a hub id like `google/siglip2-base-patch16-naflex`.
        weights: whether the weights are needed too, or `config.json` alone.
        also: names of further files to fetch, where the hub has them.

    Raises:
        ConfigError: when it is neither, or the hub cannot be had, with where it was looked for and how to get it.
    """
    if Path(source).expanduser().is_dir():
        return Path(source).expanduser()
    wanted = [CONFIG, *([WEIGHTS, INDEX, "model-*.safetensors"] if weights else []), *also]
    holds = f" with {CONFIG} and {WEIGHTS}"
    return from_hub(source, wanted, lambda folder: _complete(folder, weights), extra="siglip", holds=holds)


def from_hub(
    source: str, patterns: Sequence[str], complete: Callable[[Path], bool], *, extra: str, holds: str = ""
) -> Path:
    """The folder of a hub id in the local cache, fetched when it is not there yet.

    Args:
        patterns: files to fetch.
        complete: whether a folder holds what is needed: offline, the client gives a cached one whatever it holds.
        extra: of this package, which installs the client.
        holds: what a local folder would hold, for the message.

    Raises:
        ConfigError: for what is no hub id, or when the hub cannot be had.
    """
    if not _HUB_ID.fullmatch(source):
        raise ConfigError(f"{source or 'no source'}: no such folder; give one{holds}, or a hub id like owner/name")
    try:
        from huggingface_hub import constants, snapshot_download
    except ImportError as error:
        raise ConfigError(f'{source}: no such folder, and a hub id needs pip install "tok4d[{extra}]"') from error
    try:
        found = Path(snapshot_download(source, allow_patterns=list(patterns)))
        problem = "" if complete(found) else "the copy in the cache is not complete"
    except Exception as error:  # the client's own errors, its transport's, the system's
        problem = f"{type(error).__name__}: {' '.join(str(error).split())[:160]}"
    if problem:
        raise ConfigError(
            f"{source}: no such folder, and the hub did not give it ({problem}); looked for in "
            f"{constants.HF_HUB_CACHE}. Where there is a network, `hf download {source} --local-dir FOLDER` gets it"
        )
    return found


def _complete(folder: Path, weights: bool) -> bool:
    has_weights = (folder / WEIGHTS).is_file() or (folder / INDEX).is_file()
    return (folder / CONFIG).is_file() and (has_weights or not weights)


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object.

    Raises:
        DataError: for a missing, huge or malformed file.
    """
    if not path.is_file():
        raise DataError(path, f"no such file; a model folder holds {CONFIG} and {WEIGHTS}")
    if path.stat().st_size > MAX_JSON:
        raise DataError(path, f"{path.stat().st_size} bytes is too large")
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(path, f"not readable as JSON: {error}") from error
    if not isinstance(data, dict):
        raise DataError(path, f"must hold a JSON object, got {type(data).__name__}")
    return data


@dataclass(frozen=True)
class Stored:
    """A tensor in a file, not read yet."""

    file: Path
    key: str
    shape: tuple[int, ...]
    dtype: str

    def load(self) -> Tensor:
        """Read it.

        Raises:
            DataError: when the file cannot be read.
        """
        with _opened(self.file) as file:
            tensor: Tensor = file.get_tensor(self.key)
        return tensor


def stored_tensors(folder: Path, prefixes: tuple[str, ...]) -> dict[str, Stored]:
    """Tensors of a folder whose names start with one of `prefixes`, by name; only headers are read.

    Raises:
        DataError: for files that are missing, truncated or not safetensors.
    """
    found: dict[str, Stored] = {}
    for path, listed in _files(folder).items():
        if listed is not None and not any(key.startswith(prefixes) for key in listed):
            continue
        with _opened(path) as file:
            present = set(file.keys())
            if listed is not None and (lost := sorted(set(listed) - present)):
                raise DataError(path, f"lacks {lost[0]}, which {INDEX} says is there")
            for key in present if listed is None else listed:
                if key.startswith(prefixes):
                    part = file.get_slice(key)
                    found[key] = Stored(path, key, tuple(part.get_shape()), part.get_dtype())
    return found


def _files(folder: Path) -> dict[Path, list[str] | None]:
    """Weight files, each with the names the index lists for it; None for the only file of a folder without index."""
    index = folder / INDEX
    if not index.is_file():
        return {folder / WEIGHTS: None}
    table = read_json(index).get("weight_map")
    # A path would let an index name any file of this machine.
    if not isinstance(table, dict) or any(Path(str(name)).name != name for name in table.values()):
        raise DataError(index, "its weight_map must give the name of a file in this folder for every tensor")
    listed: dict[Path, list[str]] = {}
    for key, name in table.items():
        listed.setdefault(folder / name, []).append(key)
    return {**listed}


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    if not path.is_file():
        raise DataError(path, "no such file")
    try:
        with safe_open(path, "pt") as file:
            yield file
    except (SafetensorError, OSError) as error:
        raise DataError(path, f"not a complete safetensors file: {error}") from error
