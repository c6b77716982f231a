"""Web pages with splat viewers: everything is inside the one file, nothing is fetched."""

from __future__ import annotations

import io
import json
from base64 import b64encode
from dataclasses import asdict
from html import escape
from importlib.resources import files
from pathlib import Path

from PIL import Image

from tok4d.errors import PluginError, Tok4dError
from tok4d.model.gaussians import Gaussians
from tok4d_mesh3d.splatfiles.files import replacing
from tok4d_mesh3d.viewer.packing import Packed, pack
from tok4d_mesh3d.viewer.view import View

MAX_SPLATS = 500_000
_TEXTURE = 1024 * 2048  # texels of the viewer's texture on every device that has WebGL 2
_SCRIPTS = ("shaders.js", "renderer.js", "viewer.js")
_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy"
  content="default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data:">
<title>{title}</title>
{assets}
</head>
<body class="tok4d-splats-page">
{fragment}
</body>
</html>
"""


def write_viewer(
    gaussians: Gaussians,
    path: str | Path,
    *,
    title: str = "3D asset",
    view: View | None = None,
    poster: Image.Image | None = None,
    max_splats: int = MAX_SPLATS,
) -> None:
    """Write one web page that shows Z-up Gaussians and opens straight from the disk, complete or not at all.

    2.1 MB per 100,000 Gaussians, and the poster (at most about 0.5 MB); `max_splats` bounds it at 11 MB.

    Args:
        title: heading and description of the picture.
        view: where the viewer starts; None: `View()`, for assets in the unit cube.
        poster: picture where WebGL 2 is missing; None: drawn here from `view`, 512 pixels wide.
        max_splats: of more Gaussians, those are shown that hide most; the caption says so.

    Raises:
        DataError: for no Gaussians, values that are none, max_splats out of range, or a folder that takes no file.
    """
    with replacing(path) as stream:
        fragment = viewer_fragment(gaussians, title=title, view=view, poster=poster, max_splats=max_splats)
        page = _PAGE.format(title=escape(title), assets=viewer_assets(), fragment=fragment)
        stream.write(page.encode("utf-8", "replace"))


def viewer_fragment(
    gaussians: Gaussians,
    *,
    title: str = "3D asset",
    view: View | None = None,
    poster: Image.Image | None = None,
    max_splats: int = MAX_SPLATS,
) -> str:
    """One `<figure>` to put into a page that has `viewer_assets` once, anywhere; as many as wanted to a page.

    They share one drawing context and are decoded when they scroll into view. The arguments are those of
    `write_viewer`. Elements that are added later are started by `tok4dSplats.start(figure)`.

    Raises:
        Tok4dError: for no Gaussians, values that are none, or max_splats out of range.
    """
    view = view or View()
    if not 1 <= max_splats <= _TEXTURE:
        raise Tok4dError(f"max_splats must be in [1, {_TEXTURE:,}], got {max_splats:,}")
    try:
        packed = pack(gaussians, max_splats)
    except ValueError as error:
        raise Tok4dError(f"cannot show {title!r}: {error}") from None
    settings = {**asdict(view), "count": packed.count} | {
        name: getattr(packed, name) for name in ("origin", "extent", "scale")
    }
    keys = "drag or arrow keys turn, wheel or plus and minus zoom, shift-drag moves, space spins, 0 resets"
    return f"""<figure class="tok4d-splats" data-settings="{escape(json.dumps(settings))}">
<div class="stage">
{_poster(gaussians, view, poster, title)}
<canvas tabindex="0" role="img" aria-label="{escape(title)}, 3D view: {keys}" title="{keys}"></canvas>
<div class="bar"><button type="button" data-action="spin" aria-pressed="false">Spin</button>
<button type="button" data-action="background">Background</button>
<button type="button" data-action="reset">Reset</button></div>
</div>
<figcaption><b>{escape(title)}</b> <span>{_count(packed)}</span> <span class="note"></span></figcaption>
<script type="application/octet-stream">{b64encode(packed.content).decode("ascii")}</script>
</figure>"""


def viewer_assets() -> str:
    """Style and script that all viewers of a page share, 20 kB; a second copy in a page does nothing."""
    folder = files("tok4d_mesh3d.viewer") / "assets"
    script = "\n".join((folder / name).read_text(encoding="utf-8") for name in _SCRIPTS)
    style = (folder / "viewer.css").read_text(encoding="utf-8")
    return f'<style>\n{style}</style>\n<script>\n(() => {{\n"use strict";\n{script}}})();\n</script>'


def _poster(gaussians: Gaussians, view: View, poster: Image.Image | None, title: str) -> str:
    """The `<img>`, or nothing when there is no picture and none can be drawn."""
    if poster is None:
        from tok4d_mesh3d.viewer.poster import draw_poster

        try:
            poster = draw_poster(gaussians, view)
        except PluginError:
            return ""
    stream = io.BytesIO()
    poster.save(stream, "PNG", optimize=True)
    return f'<img alt="{escape(title)}" src="data:image/png;base64,{b64encode(stream.getvalue()).decode("ascii")}">'


def _count(packed: Packed) -> str:
    if packed.count < packed.total:
        return f"{packed.count:,} of {packed.total:,} Gaussians, those that hide most"
    return f"{packed.count:,} Gaussians"
