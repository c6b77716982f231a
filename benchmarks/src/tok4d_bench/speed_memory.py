"""Peak memory of encode against the number of tokens, every size in a process of its own.

    python -m tok4d_bench.speed_memory clip 4096            # one size: prints the growth in bytes

`image` is one big image whose tokens all see each other, `clip` one long clip read in temporal tiles.
"""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from tok4d.modality import patch_width
from tok4d.model.tokenizer import Tokenizer
from tok4d.tokens import TokenSet
from tok4d_bench.speed_report import print_line

PRESET = "tiny"
ROW = 64
FRAME = (16, 16)
STATUS = Path("/proc/self/status")


def measure_memory(sizes: Sequence[int]) -> list[dict[str, Any]]:
    """Growth of peak memory during encode of `sizes` tokens, as an image and as a clip.

    Returns:
        per kind: tokens, bytes, bytes per token, and `exponent`, the slope of log(bytes) over log(tokens): 1 is linear.
        Empty where the system does not tell a process's peak memory (no /proc).
    """
    if not STATUS.exists() or not sizes:
        return []
    rows = []
    for kind in ("image", "clip"):
        grown = [_child(kind, size) for size in sizes]
        row: dict[str, Any] = {"kind": kind, "preset": PRESET, "dtype": "float32", "tokens": list(sizes)}
        row["bytes"] = grown
        row["bytes_per_token"] = [round(n / size) for n, size in zip(grown, sizes, strict=True)]
        if len(sizes) > 1 and min(grown) > 0:
            row["exponent"] = round(_slope([math.log(n) for n in sizes], [math.log(n) for n in grown]), 3)
        rows.append(row)
    return rows


def _child(kind: str, size: int) -> int:
    command = [sys.executable, "-m", "tok4d_bench.speed_memory", kind, str(size)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return int(json.loads(done.stdout)["bytes"])


def _slope(x: Sequence[float], y: Sequence[float]) -> float:
    """Least squares."""
    mean_x, mean_y = sum(x) / len(x), sum(y) / len(y)
    products = sum((a - mean_x) * (b - mean_y) for a, b in zip(x, y, strict=True))
    return products / sum((a - mean_x) ** 2 for a in x)


@torch.no_grad()
def growth(kind: str, size: int) -> int:
    """Bytes by which encoding `size` tokens raises this process's peak memory, input not counted."""
    model = Tokenizer.from_preset(PRESET).eval()
    width = patch_width(model.patch_size)
    model.encode(_tokens("image", ROW, width))  # loads the kernels' libraries
    tokens = _tokens(kind, size, width)
    before = peak_bytes()
    model.encode(tokens)
    return peak_bytes() - before


def _tokens(kind: str, size: int, width: int) -> TokenSet:
    """One sample of about `size` tokens: an image of 64 columns of patches, or a clip of 16 x 16 patches a step."""
    steps, rows, columns = (1, size // ROW, ROW) if kind == "image" else (size // math.prod(FRAME), *FRAME)
    coords = torch.cartesian_prod(*(torch.arange(n) for n in (steps, rows, columns, 1))).to(torch.int32)
    return TokenSet(torch.ones(len(coords), width), coords, (len(coords),))


def peak_bytes() -> int:
    """Largest resident size of this process so far. Not `ru_maxrss`, which a child inherits from its parent."""
    line = next(line for line in STATUS.read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


if __name__ == "__main__":
    print_line(json.dumps({"bytes": growth(sys.argv[1], int(sys.argv[2]))}))
