"""The I3D of FVD (Carreira & Zisserman, arXiv 1705.07750), the TorchScript program that StyleGAN-V measures with.

N = clips, F = frames.
"""

from __future__ import annotations

import hashlib
import warnings
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tok4d.data.fetch import Report
from tok4d.errors import DataError, Tok4dError
from tok4d.networks.base import VideoNetwork
from tok4d.networks.resize import short_side

SIDE = 224
NAME = "i3d"


class I3D(VideoNetwork):
    """FVD's 400 features (the logits of Kinetics-400's classes).

    The short side of a clip becomes 224 pixels (bilinear, not antialiased), its centre is cut out, and the program
    gets `[N, 3, F, 224, 224]` in [-1, 1] with `rescale=False, resize=False, return_features=True`.

    Args:
        path: the TorchScript file. It is a program: take it from where you would take code.

    Raises:
        DataError: when it is no TorchScript program.
    """

    name, width = NAME, 400
    preprocessing = "short side 224 bilinear, centre crop 224, [-1, 1]"

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", FutureWarning)  # the format is old, and FVD's only one
                self.model: Any = torch.jit.load(str(path), map_location="cpu")
        except (RuntimeError, ValueError, OSError) as error:
            reason = str(error).strip().partition("\n")[0][:200]
            raise DataError(path, f"is not a complete TorchScript program: {reason}") from error

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the preprocessing's name and of the program's file. Computed once."""
        sha = hashlib.sha256(f"{self.preprocessing}\n".encode())
        with self.path.open("rb") as stream:
            while chunk := stream.read(1 << 20):
                sha.update(chunk)
        return sha.hexdigest()

    def features(self, samples: Tensor) -> Tensor:
        frames = short_side(samples.flatten(0, 1), SIDE, "bilinear", antialias=False)
        batch = frames.unflatten(0, samples.shape[:2]).transpose(1, 2)
        try:
            found = self.model(batch, rescale=False, resize=False, return_features=True)
        except (RuntimeError, torch.jit.Error) as error:
            reason = str(error).strip().splitlines()[-1]  # a TorchScript error tells its place first
            raise Tok4dError(f"{self.path}: the program cannot take clips of {list(batch.shape)}: {reason}") from error
        if not isinstance(found, Tensor) or found.shape != (len(samples), self.width):
            shape = list(found.shape) if isinstance(found, Tensor) else type(found).__name__
            raise DataError(
                self.path, f"gave {shape} for {len(samples)} clips, I3D gives [{len(samples)}, {self.width}]"
            )
        return found.float()


def load(source: str, report: Report) -> I3D:
    """The network from StyleGAN-V's file.

    Args:
        source: the file; empty: where it is looked for.

    Raises:
        ConfigError: when there is none, with the places and how to get it.
        DataError: when it is no TorchScript program.
    """
    from tok4d.networks.files import locate

    return I3D(locate(NAME, source))
