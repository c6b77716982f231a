"""The tasks of a score: those of a suite with other data, or every measure that a kind of file has."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tok4d.errors import ConfigError, Tok4dError
from tok4d.metrics import applies
from tok4d.modality import Modality, Sample
from tok4d.plugins.registry import modality
from tok4d_bench.contracts import Suite, TaskSpec
from tok4d_bench.data.layouts import modality_of
from tok4d_bench.score.pairs import RESTORED
from tok4d_bench.suite import load_suite

PICTURE_MEASURES: tuple[Any, ...] = (
    "psnr",
    "psnr_pooled",
    "ssim",
    "ms_ssim",
    {"lpips": {"net": "vgg"}},
    {"lpips": {"net": "alex"}},
)
SET_MEASURES: dict[bool, tuple[Any, ...]] = {  # by whether the data moves
    False: ({"frechet": {"network": "inception-v3-fid"}}, {"frechet": {"network": "effnet-lite0"}}),
    True: ({"fvd": {"network": "i3d"}}, {"fvd": {"network": "transnetv2"}}),
}


def suite_of(
    owners: Sequence[str],
    suite: str = "",
    task: str = "",
    prepare: Mapping[str, Any] | None = None,
    measures: Mapping[str, Sequence[Any]] | None = None,
) -> tuple[Suite, dict[str, str]]:
    """One reconstruction task a modality, and its name by modality: that of the suite's task where it is clear, so that
    the figures stand beside others of it.

    Args:
        owners: modalities.
        suite: take preparation and measures from the suite's reconstruction task of each modality.
        task: which one, where it has several.
        prepare: entries that take the place of the suite's.
        measures: by modality, instead of the suite's or the default ones.

    Raises:
        ConfigError: for a suite or task that is not there or measures another modality.
    """
    tasks, names = {}, {}
    given = load_suite(suite) if suite else None
    for owner in owners:
        name, spec = (owner, TaskSpec()) if given is None else _task_of(given, task, owner)
        names[owner] = name
        tasks[name] = TaskSpec(
            kind="reconstruction",
            data={"layout": "pairs"},
            prepare={**spec.prepare, **(prepare or {})},
            measures=list((measures or {}).get(owner) or spec.measures or default_measures(owner)),
            inner_batch=spec.inner_batch,
            anchors=spec.anchors,
        )
    if given is None:
        return Suite("score", 1, "Two folders of files", tasks), names
    return Suite(given.name, given.version, given.summary, tasks), names


def default_measures(owner: str) -> list[Any]:
    """Of pictures and clips the registered measures; empty for other data, see `usable_metrics`."""
    host = modality(owner)
    if type(host).pictures is Modality.pictures:  # it has none
        return []
    return [*PICTURE_MEASURES, *SET_MEASURES["t" in host.axes], "rate"]


def usable_metrics(owner: str, sample: Sample) -> tuple[list[str], dict[str, str]]:
    """Names of a modality's metrics that compare an original with the reconstruction beside it; why others do not."""
    usable, refused = [], {}
    for name, factory in modality(owner).metrics().items():
        metric = factory()
        restored = sample.meta[RESTORED]
        try:
            if not applies(metric, restored, sample):
                refused[name] = "does not compare samples like these"
                continue
            metric.update([restored], [sample])
            float(metric.compute())
        except Tok4dError as error:
            refused[name] = str(error)
            continue
        usable.append(f"{owner}/{name}")
    return usable, refused


def _task_of(suite: Suite, task: str, owner: str) -> tuple[str, TaskSpec]:
    """A suite's task of a modality, called like the modality where several measure alike."""
    found = {
        name: spec
        for name, spec in suite.tasks.items()
        if spec.kind == "reconstruction" and task in ("", name) and modality_of(spec) == owner
    }
    if not found:
        what = f"task {task!r}" if task else "reconstruction task"
        raise ConfigError(f"suite {suite.name} has no {what} of {owner}; its tasks are {', '.join(suite.tasks)}")
    if len({str(spec.prepare) + str(spec.measures) for spec in found.values()}) > 1:
        raise ConfigError(f"suite {suite.name} has several tasks of {owner}, choose one: --task {', '.join(found)}")
    name, spec = next(iter(found.items()))
    return (name if len(found) == 1 else owner), spec
