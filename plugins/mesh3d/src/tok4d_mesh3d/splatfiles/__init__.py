"""Files of 3D Gaussians: `.ply` (INRIA layout), `.splat`, `.spz`, and coloured points as `.ply` or `.glb`."""

from __future__ import annotations

from tok4d_mesh3d.splatfiles.formats import SUFFIXES, read_splats, write_splats
from tok4d_mesh3d.splatfiles.plyheader import is_splat_ply
from tok4d_mesh3d.splatfiles.points import write_points

__all__ = ["SUFFIXES", "is_splat_ply", "read_splats", "write_points", "write_splats"]
