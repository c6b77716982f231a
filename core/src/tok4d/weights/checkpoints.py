"""Checkpoint files of other programs: `torch.save` (`.pt`, `.pth`, `.bin`) and safetensors, never running code."""

from __future__ import annotations

import re
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tok4d.errors import DataError
from tok4d.weights.folder import read_tensors

WRAPPERS = ("state_dict", "model", "model_state_dict", "module")  # where training programs keep the weights
_CODE = re.compile(r"(?:GLOBAL|unrecognized function) (\S+)")  # as torch.load names what it refuses


def read_checkpoint(path: str | Path) -> dict[str, Tensor]:
    """Tensors of a checkpoint by name, on the CPU.

    Those of a `torch.save` file are mapped: they cost memory when used, and need the file for as long as they live.

    Args:
        path: a `torch.save` file of a state dict, alone or under one of `WRAPPERS`; or a safetensors file.

    Raises:
        DataError: for anything else, with the reason. Code in a file is never run.
    """
    path = Path(path)
    if path.is_dir():
        raise DataError(path, "is a folder; give the checkpoint file itself")
    if not path.is_file():
        raise DataError(path, "no such file")
    try:
        with path.open("rb") as stream:
            head = stream.read(64)
    except OSError as error:
        raise DataError(path, f"cannot be read: {error.strerror or error}") from error
    if not head:
        raise DataError(path, "is empty")
    if head.startswith(b"version https://git-lfs"):
        raise DataError(path, "is a Git LFS pointer, not the file itself; fetch it with `git lfs pull`")
    if path.suffix == ".safetensors" or head[8:9] == b"{":
        return read_tensors(path)
    return _tensors(path, _load(path, mapped=head.startswith(b"PK")))


def _load(path: Path, mapped: bool) -> Any:
    """What a `torch.save` file holds; files from before 2020 are no zip archives and cannot be mapped."""
    if mapped and not zipfile.is_zipfile(path):
        raise DataError(path, "is truncated: the end of its zip archive is missing")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of torch to the authors of old files
            return torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except Exception as error:  # a damaged pickle can fail in any way there is
        raise DataError(path, _reason(str(error), mapped)) from error


def _reason(text: str, mapped: bool) -> str:
    """torch's error in one line, without its advice to run the file after all."""
    if found := _CODE.search(text):
        return f"holds code ({found[1][:100]}), which was not run; save the tensors alone, best as safetensors"
    if "TorchScript" in text:
        return "is a TorchScript program, not a state dict; save the tensors alone, best as safetensors"
    if not mapped or "weights_only" in text:
        return "is neither a complete torch.save file nor safetensors; nothing in it was run"
    return f"is damaged: {text.splitlines()[0][:200] if text else 'its contents do not fit together'}"


def _tensors(path: Path, data: Any) -> dict[str, Tensor]:
    if not isinstance(data, Mapping):
        raise DataError(path, f"holds a {type(data).__name__}, not tensors by name")
    inner = {key: value for key, value in data.items() if _is_state_dict(value)}
    if len(inner) > 1:
        raise DataError(path, f"holds several sets of tensors ({', '.join(map(str, inner))}); save one of them alone")
    if inner and next(iter(inner)) in WRAPPERS:
        (data,) = inner.values()
    if not data:
        raise DataError(path, "holds no tensors")
    for name, value in data.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            raise DataError(path, f"holds more than tensors by name: {name!r:.60} ({type(value).__name__})")
        if not _is_plain(value):
            raise DataError(path, f"{name} is sparse, quantised or not stored in full; save plain dense tensors")
    return {name: value.detach() for name, value in data.items()}


def _is_state_dict(value: Any) -> bool:
    return isinstance(value, Mapping) and bool(value) and all(isinstance(item, Tensor) for item in value.values())


def _is_plain(value: Tensor) -> bool:
    """Dense and with all its bytes there: a repeated (stride 0) tensor may be of any size on a few bytes."""
    dense = value.layout == torch.strided and value.device.type == "cpu" and not value.is_quantized
    return dense and value.untyped_storage().nbytes() >= value.numel() * value.element_size()
