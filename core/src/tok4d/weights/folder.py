"""Model folders: `model.safetensors` + `config.yaml`, never pickle."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import torch
import yaml
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from tok4d.config.loader import from_mapping, read_yaml, to_mapping
from tok4d.config.schema import TokenizerConfig
from tok4d.errors import DataError

if TYPE_CHECKING:
    from os import PathLike

WEIGHTS, CONFIG = "model.safetensors", "config.yaml"


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str] | None = None) -> None:
    """A safetensors file, complete or not there at all.

    Raises:
        OSError: when it cannot be written.
    """
    with replacing(path) as partial:
        try:
            save_file({name: tensor.detach().contiguous() for name, tensor in tensors.items()}, partial, metadata)
        except SafetensorError as error:  # a full disk, say: its writer knows no OSError
            raise OSError(str(error)) from error
        partial.chmod(0o666 & ~_umask())  # its writer makes files that only their owner may read


def _umask() -> int:
    """The process's umask; setting it is the only way to read it."""
    current = os.umask(0o022)
    os.umask(current)
    return current


def write_text(path: Path, text: str) -> None:
    """A text file, complete or not there at all."""
    with replacing(path) as partial:
        partial.write_text(text, encoding="utf-8")


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A file beside `path` to write to; it takes the place of `path` when the block succeeds, else it is removed."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        yield partial
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def read_tensors(path: Path) -> dict[str, Tensor]:
    """All tensors of a safetensors file.

    Raises:
        DataError: when it is missing, truncated or not a safetensors file.
    """
    if not path.is_file():
        raise DataError(path, "no such file")
    try:
        with safe_open(path, framework="pt", backend="pread") as file:
            # Copied, since tensors lie where the file has them: odd addresses change the last bits of matrix products.
            # One by one and read, not mapped: a map counts as memory beside the copies, which doubles a model.
            return {name: file.get_tensor(name).clone() for name in file.offset_keys()}
    except (SafetensorError, OSError, ValueError) as error:
        raise DataError(path, f"not a complete safetensors file: {error}") from error


def write(path: Path, config: TokenizerConfig, tensors: Mapping[str, Tensor]) -> None:
    """Write a model folder; the weights come first, so that a config never stands beside missing weights."""
    path.mkdir(parents=True, exist_ok=True)
    write_tensors(path / WEIGHTS, tensors, {"format": "tok4d-model"})
    write_text(path / CONFIG, yaml.safe_dump(to_mapping(config), sort_keys=False))


def read(path: Path) -> tuple[TokenizerConfig, dict[str, Tensor]]:
    """Config and tensors of a model folder.

    Raises:
        DataError, ConfigError: for what is missing or broken, by file.
    """
    if not path.is_dir():
        raise DataError(path, "no such model folder")
    if not (path / CONFIG).is_file():
        raise DataError(path, f"not a model folder: it has no {CONFIG}")
    config = from_mapping(TokenizerConfig, read_yaml(path / CONFIG), str(path / CONFIG))
    return config, read_tensors(path / WEIGHTS)


def assign(model: nn.Module, tensors: Mapping[str, Tensor], where: str | PathLike[str]) -> None:
    """Put loaded tensors into a model built on the meta device, without copying them.

    Raises:
        DataError: when names or shapes differ, naming the first few.
    """
    wanted = model.state_dict()
    problems = [f"lacks {name}" for name in wanted if name not in tensors]
    problems += [f"has unknown {name}" for name in tensors if name not in wanted]
    problems += [
        f"has {name} {tuple(tensors[name].shape)} instead of {tuple(tensor.shape)}"
        for name, tensor in wanted.items()
        if name in tensors and tensors[name].shape != tensor.shape
    ]
    problems += [
        f"has {name} of type {tensors[name].dtype} instead of {tensor.dtype}"
        for name, tensor in wanted.items()
        if name in tensors and tensors[name].is_floating_point() != tensor.is_floating_point()
    ]
    if problems:
        more = f" and {len(problems) - 3} more" if len(problems) > 3 else ""
        raise DataError(str(where), f"the weights do not fit the config: {'; '.join(problems[:3])}{more}")
    model.load_state_dict(dict(tensors), strict=True, assign=True)


def digest(config: TokenizerConfig, tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 over the config and, in sorted order, every tensor's name, dtype, shape and bytes."""
    sha = hashlib.sha256(json.dumps(to_mapping(config), sort_keys=True).encode())
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        sha.update(f"{name}:{tensor.dtype}:{tuple(tensor.shape)}".encode())
        sha.update(tensor.view(-1).view(torch.uint8).numpy().data)
    return sha.hexdigest()
