"""Rotation metadata: phones store pictures as the sensor sees them and say how to turn them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

_ONE = 1 << 16  # 16.16 fixed point, ISO/IEC 14496-12


@dataclass(frozen=True)
class Turn:
    """How stored frames become upright ones: transposed first, then flipped.

    Attributes:
        transpose: rows and columns are swapped.
        flip_rows, flip_columns: the order of rows (top and bottom) or columns (left and right) is reversed.
    """

    transpose: bool = False
    flip_rows: bool = False
    flip_columns: bool = False

    def __bool__(self) -> bool:
        return self.transpose or self.flip_rows or self.flip_columns

    @property
    def mirrors(self) -> bool:
        """Whether left and right change places: no mere rotation does that."""
        return self.transpose ^ self.flip_rows ^ self.flip_columns

    def apply(self, pixels_HWC: Tensor) -> Tensor:
        """The upright frame, contiguous."""
        upright = pixels_HWC.transpose(0, 1) if self.transpose else pixels_HWC
        flips = [axis for axis, wanted in enumerate((self.flip_rows, self.flip_columns)) if wanted]
        return (upright.flip(flips) if flips else upright).contiguous()


def turn_of(frame: Any) -> Turn:
    """What the display matrix of an `av.VideoFrame` asks for; angles other than quarter turns are left alone.

    A pixel (x, y) is shown at (a x + c y, b x + d y) with the matrix (a b u, c d v, x y w).
    """
    data = frame.side_data.get("DISPLAYMATRIX")
    if data is None:
        return Turn()
    a, b, _, c, d = (int(value) for value in np.frombuffer(data, dtype=np.int32)[:5])
    if abs(a) == abs(d) == _ONE and b == c == 0:
        return Turn(flip_rows=d < 0, flip_columns=a < 0)
    if abs(b) == abs(c) == _ONE and a == d == 0:
        return Turn(True, flip_rows=b < 0, flip_columns=c < 0)
    return Turn()
