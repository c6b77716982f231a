"""Runs as comparisons and reports read them: results.json of one or several folders, each under a name of its own."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tok4d.errors import DataError
from tok4d_bench.contracts import flat_protocol
from tok4d_bench.results import read_results
from tok4d_bench.subjects.nulls import PLAIN

RESULTS = "results.json"
_SEED = re.compile(r"[-_.=, /]*(?:seed[-_=]?\d+|(?<![A-Za-z0-9])s\d+)(?![A-Za-z0-9])")


@dataclass
class Run:
    """A subject's results in one suite.

    Attributes:
        folder: where results.json and the values per sample are.
        content: of results.json.
        label: what tables call it: the subject's name, with more where that is not enough.
    """

    folder: Path
    content: dict[str, Any]
    label: str = ""

    @property
    def name(self) -> str:
        return str(self.content["subject"]["name"])

    @property
    def digest(self) -> str:
        return str(self.content["subject"]["digest"])

    @property
    def facts(self) -> dict[str, Any]:
        return dict(self.content["subject"].get("facts") or {})

    @property
    def suite(self) -> str:
        return str(self.content["suite"])

    @property
    def null(self) -> bool:
        """Whether it codes nothing (originals, their own voxels, random vectors): to read others by, no competitor."""
        return self.facts.get("kind") in PLAIN

    def protocol(self, record: dict[str, Any]) -> dict[str, Any]:
        """Protocol of a figure, keys joined by dots."""
        return flat_protocol(self.content["protocols"].get(record["fingerprint"], {}))

    def measure(self, record: dict[str, Any]) -> str:
        """Label of the measure that a figure comes from, as in `lpips(net=vgg)`."""
        return str(self.protocol(record).get("measure.name", record["metric"]))


def find_runs(paths: Sequence[Path], broken: list[DataError] | None = None) -> list[Run]:
    """All runs below folders (`OUT`, `OUT/SUITE` or `OUT/SUITE/SUBJECT`) or of results files, each once.

    Args:
        broken: receives the errors of results files that cannot be used, beside others that can.

    Raises:
        DataError: for a path that holds none, or a results file that cannot be used.
    """
    lost: list[DataError] = []
    found: dict[Path, Run] = {}
    for path in paths:
        files = [path] if path.is_file() else sorted(path.rglob(RESULTS))
        if not files:
            raise DataError(path, f"holds no {RESULTS}; `tok4d bench run SUITE -m MODEL -o FOLDER` writes them")
        for file in files:
            if (key := file.resolve()) in found:
                continue
            try:
                found[key] = Run(file.parent, _checked(file))
            except DataError as error:
                lost.append(DataError(file, f"{error.reason}; remove it, and the command of the run makes it again"))
    if lost and (broken is None or not found):
        raise lost[0]
    if broken is not None:
        broken += lost
    runs = list(found.values())
    _label(runs)
    return runs


def seedless(name: str) -> str:
    """A subject's name without what names its seed: `tiny-seed1`, `tiny_s1` and `tiny,seed=1` are one subject."""
    return _SEED.sub("", name) or name


def _checked(file: Path) -> dict[str, Any]:
    content = read_results(file)
    try:
        for record in content["results"]:
            for key in ("task", "metric", "value", "n", "fingerprint"):
                if key not in record:
                    raise KeyError(key)
            for key in ("stderr", "higher_is_better", "unit", "note"):
                record.setdefault(key, None)
        for key in ("name", "digest"):
            if not isinstance(content["subject"][key], str):
                raise KeyError(key)
    except (KeyError, TypeError, AttributeError) as error:
        raise DataError(file, f"has figures or a subject without {error}") from None
    return content


def _label(runs: Sequence[Run]) -> None:
    """Names that differ: by the digest of the subject where names are equal, and by folder where that is equal too."""
    suites_of = Counter((run.suite, run.name) for run in runs)
    digests = Counter((run.suite, run.name, run.digest) for run in runs)
    for run in runs:
        run.label = run.name
        if digests[run.suite, run.name, run.digest] > 1:
            run.label = f"{run.name} ({_distinct(run, runs)})"
        elif suites_of[run.suite, run.name] > 1:
            run.label = f"{run.name} ({run.digest[:8]})"


def _distinct(run: Run, runs: Sequence[Run]) -> str:
    """The part of a run's path by which it differs from those of its name."""
    same = [other.folder.resolve().parts for other in runs if (other.suite, other.name) == (run.suite, run.name)]
    own = run.folder.resolve().parts
    start = next((i for i, part in enumerate(own) if any(parts[i : i + 1] != (part,) for parts in same)), 0)
    ends = [len(parts) for parts in same]
    stop = len(own)
    while stop > start + 1 and len(set(ends)) == 1 and len({parts[stop - 1] for parts in same}) == 1:
        stop -= 1
    return "/".join(own[start:stop])
