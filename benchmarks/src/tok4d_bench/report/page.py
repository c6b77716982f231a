"""Pages: a comparison alone as one file, or a whole report; readable offline, on a phone, and in the dark."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined

from tok4d import __version__
from tok4d_bench.compare.markdown import direction, figure, notes, spread_word
from tok4d_bench.compare.model import Comparison
from tok4d_bench.report.charts import legend

if TYPE_CHECKING:
    from tok4d_bench.report.build import Report


def comparison_page(comparison: Comparison) -> str:
    """A comparison as one HTML file without others beside it."""
    return _render("comparison.html", comparison=comparison)


def report_page(report: Report) -> str:
    """The page of a report; it refers to files in `media/`."""
    return _render("report.html", report=report, comparison=report.comparison)


def _render(name: str, **parts: Any) -> str:
    return _templates().get_template(name).render(version=__version__, **parts)


@cache
def _templates() -> Environment:
    found = Environment(
        loader=ChoiceLoader([PackageLoader("tok4d_bench.report"), PackageLoader("tok4d.demo")]),  # together.html
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    found.filters |= {
        "figure": figure,
        "direction": direction,
        "legend": legend,
        "spread_word": spread_word,
        "notes": notes,
    }
    return found
