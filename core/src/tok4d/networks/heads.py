"""LPIPS's linear layers (Zhang et al., arXiv 1801.03924, version 0.1), from the `lpips` package.

C = channels.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from torch import Tensor

from tok4d.errors import ConfigError, DataError, unknown_name

FILES = {"vgg": "vgg", "vgg16": "vgg", "alex": "alex", "alexnet": "alex"}  # by the names of trunks too


def lpips_heads(net: str) -> list[Tensor]:
    """Non-negative weights of the squared differences, one tensor `[1, C, 1, 1]` a tap of the trunk, in float32.

    Args:
        net: `vgg` (or `vgg16`) or `alex` (or `alexnet`).

    Raises:
        ConfigError: for an unknown network, and where the package is not installed.
        DataError: when its file is damaged.
    """
    from tok4d.weights.checkpoints import read_checkpoint

    if net not in FILES:
        raise ConfigError(unknown_name("LPIPS network", net, FILES))
    package = find_spec("lpips")  # found, not imported: its import loads torchvision's models and builds plots
    if package is None or package.origin is None:
        raise ConfigError('LPIPS needs the package that holds its linear layers: pip install "tok4d[bench]"')
    path = Path(package.origin).parent / "weights" / "v0.1" / f"{FILES[net]}.pth"
    tensors = read_checkpoint(path)
    names = [f"lin{index}.model.1.weight" for index in range(5)]
    if missing := [name for name in names if name not in tensors or tensors[name].ndim != 4]:
        raise DataError(path, f"lacks {missing[0]}")
    return [tensors[name].float().clone() for name in names]
