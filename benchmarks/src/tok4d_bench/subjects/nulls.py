"""Subjects that a suite wants beside any other, so that its figures can be read: by name to what `load_subject` takes.

`identity` is what each figure is at best, `pca` what a linear map of as many latent channels reaches, `splats` what an
asset's own voxels show, `random` what knows nothing. Two names are no subjects but figures that a measure gives by
itself: `real-real`, a Fréchet distance of one half of the originals to the other, and `uniform`, how even a codebook of
this size can look at so many tokens.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from tok4d.errors import ConfigError, unknown_name
from tok4d_bench.data.layouts import modality_of

if TYPE_CHECKING:
    from tok4d_bench.contracts import Suite, TaskSpec

FIGURES = ("real-real", "uniform")
PLAIN = ("identity", "splats", "random")  # subjects without source or options
CHANNELS = 48  # of the released AToken models and of ours
# Where a task reads a data set that has no side to fit on here.
FITTED_ON: dict[str, tuple[str, dict[str, Any]]] = {
    "image": ("image/photos", {}),
    "video": ("video/clips", {"frames": 16}),
    "mesh3d": ("mesh3d/furniture", {"targets": 0}),
}
SAMPLES = {"video": 16, "mesh3d": 24}  # fitted on at most: clips have many patches, assets take seconds to prepare
_OF_EVALUATION = ("split", "limit")  # options of a source that say which samples are measured


def null_specs(suite: Suite, channels: int = CHANNELS, tasks: Sequence[str] = ()) -> list[str]:
    """Specs of the subjects that a suite names as nulls, each once.

    A PCA is fitted on the side `train` of the source that its first task reads; a second one only for a task of
    another modality.

    Args:
        channels: of the PCA.
        tasks: only these; empty: all.

    Raises:
        ConfigError: for a null that is neither a figure nor a kind of subject known here.
    """
    found: dict[str, str] = {}
    for name, task in suite.tasks.items():
        if tasks and name not in tasks:
            continue
        for null in task.nulls:
            if null in FIGURES:
                continue
            if null in PLAIN:
                found.setdefault(null, null)
            elif null == "pca":
                found.setdefault(f"pca {modality_of(task)}", _pca(task, channels))
            else:
                raise ConfigError(f"{suite.name}, {name}: {unknown_name('null', null, (*PLAIN, 'pca', *FIGURES))}")
    return list(found.values())


def _source(task: TaskSpec) -> tuple[str, dict[str, Any]]:
    """Source and options that a task's PCA is fitted with."""
    if "source" not in task.data:
        return FITTED_ON.get(modality_of(task), FITTED_ON["image"])
    given: Mapping[str, Any] = task.data.get("options") or {}
    return str(task.data["source"]), {name: value for name, value in given.items() if name not in _OF_EVALUATION}


def _pca(task: TaskSpec, channels: int) -> str:
    import json

    source, options = _source(task)
    few = SAMPLES.get(modality_of(task))
    samples = f",samples={few}" if few else ""
    settings = f",options={json.dumps(options)}" if options else ""
    return f"pca:{source},channels={channels}{samples}{settings}"
