"""Fingerprints: SHA-256 of a protocol written flat, so that a figure can name all that it depends on.

What must not change a figure (batch size, order, processes, workers) is not in a protocol. What may change its last
bits without changing its meaning (the processor, the device) is not in it either, but keeps stored columns apart.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from tok4d import __version__
from tok4d_bench.contracts import flat_protocol

HARNESS = 1  # raised when the runner itself changes what columns hold
BLOCK = 1 << 20  # bytes of a file that are read at once
UNREADABLE = "unreadable"
_LIBRARIES = ("torch", "numpy", "pillow")


def canonical(value: Any) -> str:
    """JSON that depends on nothing but the value: keys sorted, no blanks."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, default=str)


def sha256(value: Any) -> str:
    """Digest of anything that JSON holds."""
    return hashlib.sha256(canonical(value).encode()).hexdigest()


def content(path: Path) -> str:
    """SHA-256 of a file's bytes; read once while its size and time of change stay as they are.

    `unreadable` for what cannot be read: that is a bad sample, named when it is loaded, and no broken data set.
    """
    try:
        found = path.resolve()
        state = found.stat()
        return _content(str(found), state.st_size, state.st_mtime_ns)
    except OSError:
        return UNREADABLE


@cache
def _content(path: str, size: int, changed: int) -> str:
    sha = hashlib.sha256()
    with Path(path).open("rb") as stream:
        while block := stream.read(BLOCK):
            sha.update(block)
    return sha.hexdigest()


def fingerprint(protocol: Mapping[str, Any]) -> str:
    """SHA-256 of a protocol, whatever the order or the nesting of its keys."""
    return sha256(flat_protocol(protocol))


def versions() -> dict[str, str]:
    """Versions of what every figure goes through."""
    found = {name: metadata.version(name) for name in _LIBRARIES}
    return {"tok4d": __version__, "harness": str(HARNESS), **found}


def machine(device: str = "cpu") -> dict[str, str]:
    """What may change the last bits of a network's output besides the protocol."""
    name = torch.cuda.get_device_name(device) if device.startswith("cuda") else ""
    return {"device": device.partition(":")[0], "gpu": name, "cpu": torch.backends.cpu.get_cpu_capability()}
