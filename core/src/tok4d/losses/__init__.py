"""Training objectives: per-sample loss terms, combined by weights from the config.

`LPIPS`, `GramLoss`, `TeacherPerceptual`, `SSIMLoss` and `MSSSIMLoss` are modules too, called with two `[N, 3, H, W]`
in [-1, 1], that give `[N]`. Names are imported on first use.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tok4d.losses.codes import CodeStatistics
    from tok4d.losses.objective import Loss, Objective, Term
    from tok4d.losses.perceptual import LPIPS, GramLoss
    from tok4d.losses.structural import MSSSIMLoss, SSIMLoss
    from tok4d.losses.teacher import TeacherPerceptual

__all__ = [
    "LPIPS",
    "CodeStatistics",
    "GramLoss",
    "Loss",
    "MSSSIMLoss",
    "Objective",
    "SSIMLoss",
    "TeacherPerceptual",
    "Term",
]

_HOMES = {
    "CodeStatistics": "codes",
    "GramLoss": "perceptual",
    "LPIPS": "perceptual",
    "Loss": "objective",
    "MSSSIMLoss": "structural",
    "Objective": "objective",
    "SSIMLoss": "structural",
    "TeacherPerceptual": "teacher",
    "Term": "objective",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
