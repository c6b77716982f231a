"""The demo's page: one HTML file beside its pictures, readable offline, on a phone, and in the dark."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader

from tok4d import __version__
from tok4d.weights.folder import write_text

# Published, for orientation only: arXiv 2509.14476, 845.7M parameters, continuous latents.
PAPER = {
    "image": [("stage 1, ImageNet, 256 px", 28.77, 0.814), ("stage 2, ImageNet, 256 px", 29.55, 0.845)],
    "video": [("stage 2, DAVIS, 1080p", 32.29, None)],
    "mesh3d": [("stage 3, Toys4k, rendered views", 28.28, 0.951)],
}


def write_report(path: Path, rows: list[dict[str, Any]], summary: dict[str, Any]) -> None:
    """Write the page.

    Args:
        path: the HTML file; pictures are referred to relative to it.
        rows: samples with scores, pictures and gain.
        summary: what was measured over all of them.
    """
    templates = Environment(loader=PackageLoader("tok4d.demo"), autoescape=True, trim_blocks=True, lstrip_blocks=True)
    templates.filters["number"] = number
    page = templates.get_template("index.html").render(
        groups=[(name, [row for row in rows if row["modality"] == name]) for name in summary["modalities"]],
        summary=summary,
        stage_metrics=list(dict.fromkeys(key for stage in summary["stages"] for key in stage if "/" in key)),
        paper=PAPER,
        version=__version__,
    )
    write_text(path, page)


def number(value: Any) -> str:
    """A figure as the page shows it; a dash for none."""
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3f}" if abs(value) < 2 else f"{value:.2f}"
    return f"{value:,}" if isinstance(value, int) else str(value)
