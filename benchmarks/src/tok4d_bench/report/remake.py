"""Samples of a run made once more: runs keep figures, not reconstructions.

The whole group of a sample goes through the subject again, as in the run, so that the figure is the very same; where it
is not (another model, machine or library), the page says so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from tok4d.errors import Tok4dError
from tok4d.modality import Sample
from tok4d_bench.adapter import label_of, make_measure
from tok4d_bench.compare.runs import Run
from tok4d_bench.contracts import Subject, Suite, TaskSpec
from tok4d_bench.data.build import open_data
from tok4d_bench.data.samples import Thinned
from tok4d_bench.groups import Group, read_groups
from tok4d_bench.planning import Settings
from tok4d_bench.report.values import PerSample
from tok4d_bench.suite import measure_entries
from tok4d_bench.working import Worker
from tok4d_bench.world import set_threads

DIFFERS = 1e-6  # relative: a figure made again that is further off is not the same


@dataclass(frozen=True)
class Made:
    """One sample made again.

    Attributes:
        recorded, again: the figure in the run, and now.
    """

    original: Sample
    restored: Sample
    recorded: float
    again: float

    @property
    def same(self) -> bool:
        return abs(self.again - self.recorded) <= DIFFERS * max(1.0, abs(self.recorded))


class Remaker:
    """Makes samples of runs again.

    Args:
        specs: of `-m`; a run whose subject is none of these is made from the spec that it recorded.
        folders: where data sets lie, by name.
        device: where subjects compute.
    """

    def __init__(
        self, suites: Mapping[str, Suite], specs: Sequence[str], folders: Mapping[str, Path], device: str = "cpu"
    ) -> None:
        self.suites, self.specs, self.folders, self.device = suites, list(specs), folders, device
        self._data: dict[tuple[str, str], Thinned] = {}
        self._group = lru_cache(maxsize=8)(self._read)

    def subject(self, run: Run) -> Subject:
        """The subject of a run.

        Raises:
            Tok4dError: when none of the specs gives it.
        """
        from tok4d_bench.subjects import kind_names, load_subject, parse_spec
        from tok4d_bench.subjects.spec import gone

        if run.facts.get("kind") == "files":
            raise Tok4dError(f"{run.label} is a folder of files, and its pairs are not shown here; its figures are")
        recorded = str(run.content.get("spec") or "")
        tried = list(dict.fromkeys([*self.specs, *([recorded] if recorded else [])]))
        for spec in tried:
            if spec not in self.specs and (folder := gone(parse_spec(spec, kind_names()), kind_names())):
                raise Tok4dError(f"its folder {folder} is not there any more; give the model with -m")
            found = load_subject(spec, self.device)
            if found.digest == run.digest:
                return found
        said = f"{', '.join(tried)} {'is' if len(tried) == 1 else 'are'} not it" if tried else "the run names none"
        raise Tok4dError(f"{run.label}: no subject of digest {run.digest[:12]}...: {said}; give it with -m")

    def make(self, run: Run, subject: Subject, task: str, values: PerSample, row: int) -> Made:
        """One sample of a task.

        Args:
            values: the figure by which it was chosen.
            row: in `values`.

        Raises:
            Tok4dError: for a suite, data or figures that are not those of the run.
        """
        protocol = run.content["protocols"][values.record["fingerprint"]]
        inner, index = int(protocol["task"]["inner_batch"]), int(values.indices[row])
        data = self.data(run, task, protocol)
        set_threads(int(protocol["threads"]))
        group = self._group(run.suite, task, index // inner, inner)
        place = index % inner
        if place >= len(group.samples):
            raise Tok4dError(f"task {task}: {values.keys[row]} cannot be read any more: {group.bad}")
        settings = Settings(int(protocol["threads"]), int(protocol["seed"]), self.device)
        restored = [timed.restored for timed in Worker(group, data, subject, settings).restored()]
        again = self._measure(run, task, values.measure).columns(group.samples, restored)[values.column][place]
        return Made(group.samples[place], restored[place].sample, float(values.values[row]), float(again))

    def data(self, run: Run, task: str, protocol: Mapping[str, Any]) -> Thinned:
        """The data of a task, thinned as in the run.

        Raises:
            Tok4dError: when it is not there or not the same.
        """
        if (run.suite, task) not in self._data:
            about = protocol["data"]
            limit = int(about["samples"]) if about["samples"] < about["of"] else 0
            self._data[run.suite, task] = open_data(self._spec(run, task), self.folders, limit)
        data = self._data[run.suite, task]
        if data.digest != protocol["data"]["digest"]:
            raise Tok4dError(f"task {task}: the data here is not that of {run.label} (another digest)")
        return data

    def _read(self, suite: str, task: str, number: int, inner: int) -> Group:
        (group,) = read_groups(self._data[suite, task], [number], inner, workers=0)
        return group

    def _spec(self, run: Run, task: str) -> TaskSpec:
        suite = self.suites.get(run.suite)
        if suite is None or task not in suite.tasks:
            raise Tok4dError(f"task {task} of suite {run.suite} is not known here; give its file with --suite")
        return suite.tasks[task]

    def _measure(self, run: Run, task: str, label: str) -> Any:
        for name, options in measure_entries(self._spec(run, task)):
            if label_of(name, options) == label:
                return make_measure(name, options)
        raise Tok4dError(f"task {task} of suite {run.suite} has no measure {label} any more")
