"""Fingerprints: SHA-256 of a protocol written flat, so that a figure can name all that it depends on.

What must not change a figure (batch size, order, processes, workers) is not in a protocol. What may change its last
bits without changing its meaning (the processor, the device) is not in it either, but keeps stored columns apart.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from importlib import metadata
from typing import Any

import torch

from tok4d import __version__
from tok4d_bench.contracts import flat_protocol

HARNESS = 1  # raised when the runner itself changes what columns hold
_LIBRARIES = ("torch", "numpy", "pillow")


def canonical(value: Any) -> str:
    """JSON that depends on nothing but the value: keys sorted, no blanks."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, default=str)


def sha256(value: Any) -> str:
    """Digest of anything that JSON holds."""
    return hashlib.sha256(canonical(value).encode()).hexdigest()


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
