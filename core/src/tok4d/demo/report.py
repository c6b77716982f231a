"""The demo's page: one HTML file beside its pictures, readable offline, on a phone, and in the dark."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader

from tok4d import __version__
from tok4d.weights.folder import write_text

# Published, for orientation only: AToken stage 1, arXiv 2509.14476 (ImageNet, 256 px, 845.7M parameters).
PAPER = {"psnr": 28.77, "ssim": 0.814}


def write_report(path: Path, rows: list[dict[str, Any]], summary: dict[str, Any]) -> None:
    """Write the page.

    Args:
        path: the HTML file; pictures are referred to relative to it.
        rows: samples with scores, pictures and gain.
        summary: what was measured over all of them.
    """
    templates = Environment(loader=PackageLoader("tok4d.demo"), autoescape=True, trim_blocks=True, lstrip_blocks=True)
    templates.filters["number"] = _number
    page = templates.get_template("index.html").render(
        rows=rows, summary=summary, paper=PAPER, version=__version__, metrics=list(rows[0]["scores"]["model"])
    )
    write_text(path, page)


def _number(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3f}" if abs(value) < 2 else f"{value:.2f}"
    return f"{value:,}" if isinstance(value, int) else str(value)
