"""Decoded assets in a web page: an interactive splat viewer that needs no server, no network and no neighbour files."""

from __future__ import annotations

from tok4d_mesh3d.viewer.page import viewer_assets, viewer_fragment, write_viewer
from tok4d_mesh3d.viewer.view import View

__all__ = ["View", "viewer_assets", "viewer_fragment", "write_viewer"]
