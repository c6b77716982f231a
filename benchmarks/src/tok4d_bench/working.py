"""Work on one group: what a subject makes of it, and the columns that measures take from that.

n = samples of a group, D = width of an embedding or feature.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tok4d.errors import Tok4dError
from tok4d_bench.contracts import Columns, Measure, MeasureError, Subject, SubjectError, Timed, UnsuitedError
from tok4d_bench.data.samples import Thinned
from tok4d_bench.groups import Group
from tok4d_bench.peak import Peak
from tok4d_bench.planning import Settings, Slot
from tok4d_bench.store import Part, Store


class Worker:
    """Columns of one group, by slot. What the subject makes is computed when a measure first asks for it."""

    def __init__(self, group: Group, data: Thinned, subject: Subject, settings: Settings) -> None:
        self.group, self.data, self.subject, self.settings = group, data, subject, settings
        self._made: dict[str, Any] = {}

    @torch.no_grad()
    def part(self, slot: Slot, store: Store) -> Part:
        """Columns of this group for one of a slot's stores; rows that only fill the group up are dropped.

        Raises:
            UnsuitedError, NotImplementedError: when this cannot be done at all.
            SubjectError: when the subject fails, naming the group.
            MeasureError: when the measure fails, naming the sample.
        """
        samples = self.group.samples
        columns: Columns = {}
        if samples:
            try:
                columns = self._columns(slot, store, slice(None))
            except UnsuitedError:
                raise
            except SubjectError as error:
                named = f"group {self.group.number} ({samples[0].key}, ...)"
                raise SubjectError(f"{slot.label}, {named}: {error}") from error
            except Tok4dError as error:
                raise MeasureError(self._failing(slot, store, str(error))) from error
        for name, values in columns.items():
            if len(values) != len(samples) or values.dtype == object:
                found = f"{values.dtype} {list(values.shape)}"
                raise MeasureError(f"column {name!r} must have {len(samples)} rows of numbers, got {found}")
        kept = {name: values[self.group.kept] for name, values in columns.items()}
        return Part(kept, np.array(self.group.index, dtype=np.int64), self.group.bad)

    def _columns(self, slot: Slot, store: Store, places: slice) -> Columns:
        samples = self.group.samples[places]
        if store is slot.reference:
            return slot.measure.reference(samples)
        return slot.measure.columns(samples, self._results(slot.measure)[places])

    def _failing(self, slot: Slot, store: Store, why: str) -> str:
        """The sample that a measure cannot take, found by giving it each one alone, and why."""
        for place in self.group.kept:
            key = self.group.samples[place].key
            try:
                self._columns(slot, store, slice(place, place + 1))
            except SubjectError:
                break
            except Tok4dError as error:
                return str(error) if key in str(error) else f"{key}: {error}"
        return f"group {self.group.number} ({self.group.samples[0].key}, ...): {why}"

    @torch.no_grad()
    def restored(self) -> list[Timed]:
        """What the subject makes of the samples of the group: the same bits in every run."""
        found: list[Timed] = self._once("restored", self._restore)
        return found

    def _results(self, measure: Measure) -> Any:
        if measure.kind == "timing":
            return self.restored()
        if measure.kind == "pair":
            return [timed.restored for timed in self.restored()]
        if measure.kind == "embedding":
            return self._once("embedding", lambda: self._vectors(self._ask(self.subject.embed)))
        where = measure.where
        return self._once(f"probe {where}", lambda: self._vectors(self._ask(self.subject.features, where)))

    def _once(self, name: str, make: Callable[[], Any]) -> Any:
        if name not in self._made:
            with torch.random.fork_rng(devices=[]):
                _seed(group_seed(self.settings.seed, self.group.number), self.settings.device)
                self._made[name] = make()
        return self._made[name]

    def _ask(self, method: Callable[..., Any], *args: Any) -> Any:
        try:
            return method(self.group.samples, *args)
        except UnsuitedError:
            raise
        except Tok4dError as error:
            raise SubjectError(str(error)) from error

    def _restore(self) -> list[Timed]:
        peak = Peak(self.settings.device)
        wall, cpu = time.perf_counter(), time.process_time()
        restored = self._ask(self.subject.reconstruct)
        count = len(self.group.samples)
        wall, cpu = (time.perf_counter() - wall) / count, (time.process_time() - cpu) / count
        held = peak.bytes()
        if len(restored) != count:
            raise Tok4dError(f"{self.subject.name} gave {len(restored)} reconstructions for {count} samples")
        rounded = [replace(one, sample=self.data.prepare.rounded(one.sample)) for one in restored]
        return [Timed(one, wall, cpu, held, peak.lifelong) for one in rounded]

    def _vectors(self, vectors_nD: Tensor) -> Tensor:
        count = len(self.group.samples)
        if vectors_nD.ndim != 2 or len(vectors_nD) != count:
            raise Tok4dError(f"{self.subject.name} gave vectors {list(vectors_nD.shape)} for {count} samples")
        return vectors_nD


def group_seed(seed: int, group: int) -> int:
    """State of torch's generator for a group: its own, whoever works on it and when."""
    return int.from_bytes(hashlib.sha256(f"{seed}:{group}".encode()).digest()[:8], "little") >> 1


def _seed(state: int, device: str) -> None:
    """Seed the generators in use; `torch.manual_seed` takes milliseconds to prepare those of devices that are not."""
    torch.default_generator.manual_seed(state)
    if device.startswith("cuda"):
        torch.cuda.manual_seed_all(state)
