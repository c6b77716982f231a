"""Subjects that a suite wants beside any other, so that its figures can be read: by name to what `load_subject` takes.

`identity` is what each figure is at best, `pca` what a linear map of as many latent channels reaches. `real-real` is no
subject but a figure: a Fréchet distance gives its own null, one half of the originals against the other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from tok4d.errors import ConfigError, unknown_name

if TYPE_CHECKING:
    from tok4d_bench.contracts import Suite, TaskSpec

FIGURES = ("real-real",)
CHANNELS = 48  # of the released AToken models and of ours
FITTED_ON = "image/photos"  # where a task reads a data set that has no side to fit on here
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
            if null == "identity":
                found.setdefault(null, null)
            elif null == "pca":
                source, options = _source(task)
                found.setdefault(f"pca {source.partition('/')[0]}", _pca(source, options, channels))
            else:
                raise ConfigError(f"{suite.name}, {name}: {unknown_name('null', null, ('identity', 'pca', *FIGURES))}")
    return list(found.values())


def _source(task: TaskSpec) -> tuple[str, dict[str, Any]]:
    """Source and options that a task's PCA is fitted with."""
    if "source" not in task.data:
        return FITTED_ON, {}
    given: Mapping[str, Any] = task.data.get("options") or {}
    return str(task.data["source"]), {name: value for name, value in given.items() if name not in _OF_EVALUATION}


def _pca(source: str, options: Mapping[str, Any], channels: int) -> str:
    import json

    settings = f",options={json.dumps(dict(options))}" if options else ""
    return f"pca:{source},channels={channels}{settings}"
