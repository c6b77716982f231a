"""Checks of a suite before it runs: data folders against what the suite expects, files that open, weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from tok4d.errors import Tok4dError
from tok4d_bench.contracts import TaskSpec
from tok4d_bench.data.build import MissingDataError, open_data
from tok4d_bench.data.samples import ListedData, Thinned
from tok4d_bench.planning import missing_for

EXPECTATIONS = ("count", "classes", "captions")


class Finding(NamedTuple):
    """One line of a report.

    Attributes:
        state: `ok`, `missing` (can be had: `fix` says how) or `wrong`.
    """

    task: str
    what: str
    state: str
    detail: str
    fix: str = ""


@dataclass(frozen=True)
class Checker:
    """Checks tasks.

    Args:
        folders: where data sets lie, by name.
        opened: how many samples of a data set to read, evenly spread; 0: all.
    """

    folders: Mapping[str, Path]
    opened: int = 3

    def task(self, name: str, spec: TaskSpec) -> list[Finding]:
        """What there is to say of one task."""
        found = self._weights(name, spec)
        try:
            data = open_data(spec, self.folders)
        except MissingDataError as error:
            lacking = error.requirement
            return [Finding(name, lacking.what, "missing", lacking.missing, lacking.fix), *found]
        except Tok4dError as error:
            return [Finding(name, "data", "wrong", str(error)), *found]
        found = [*self._counts(name, spec, data), *self._files(name, data), *found]
        notes = data.listing.notes if isinstance(data, ListedData) else ()
        return [*found, *(Finding(name, "data", "missing", text) for text in notes)]

    def _weights(self, name: str, spec: TaskSpec) -> list[Finding]:
        try:
            lacking = missing_for(spec)
        except Tok4dError as error:
            return [Finding(name, "measures", "wrong", str(error))]
        found = {r.what: Finding(name, r.what, "missing", r.missing, r.fix) for r in lacking}
        return list(found.values()) or [Finding(name, "measures", "ok", f"{len(spec.measures)} can be computed")]

    def _counts(self, name: str, spec: TaskSpec, data: Thinned) -> list[Finding]:
        captions = min((len(data.captions(i)) for i in range(len(data))), default=0) if "captions" in spec.expect else 0
        have = {"count": len(data), "classes": len(data.classes), "captions": captions}
        found = []
        for key, wanted in spec.expect.items():
            if key not in EXPECTATIONS:
                found.append(Finding(name, key, "wrong", f"a suite can expect {', '.join(EXPECTATIONS)}, not {key!r}"))
                continue
            enough = have[key] >= wanted if key == "captions" else have[key] == wanted
            detail = f"{have[key]}" if enough else f"{have[key]} instead of {wanted}"
            found.append(Finding(name, key, "ok" if enough else "wrong", detail))
        return found or [Finding(name, "count", "ok", str(len(data)))]

    def _files(self, name: str, data: Thinned) -> list[Finding]:
        """Read some samples; of a listing, look at every file as well."""
        bad = []
        if isinstance(data, ListedData):
            gone = [item.key for item in data.listing.items if not item.path.exists()]
            if gone:
                bad.append(Finding(name, "files", "wrong", f"{len(gone)} are not there, such as {gone[0]}"))
        total = len(data)
        count = min(self.opened, total) if self.opened else total
        for place in range(count):
            try:
                data.load(place * total // count)
            except Tok4dError as error:
                bad.append(Finding(name, "files", "wrong", str(error)))
        return bad or [Finding(name, "files", "ok", f"{count} of {total} read")]
