"""Running a suite: groups into columns, columns into figures. It goes on wherever an earlier run ended."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from pathlib import Path

import torch

from tok4d.errors import Tok4dError
from tok4d_bench.contracts import MeasureError, Subject, SubjectError, Suite, UnsuitedError
from tok4d_bench.data.samples import Thinned
from tok4d_bench.groups import read_groups
from tok4d_bench.planning import TEXT_KINDS, Plan, Settings, Slot, make_plan
from tok4d_bench.results import Document, subject_folder, write_samples
from tok4d_bench.store import Store, Writer
from tok4d_bench.suite import select
from tok4d_bench.working import Worker
from tok4d_bench.world import World, set_threads

IDLE_SECONDS = 3600.0  # without a new file, after which rank 0 no longer waits for the others
_POLL = 0.2
_Missing = dict[int, set[int]]  # groups that a store lacks, by its id


@dataclass
class Work:
    """What a run is asked for besides suite and subject.

    Attributes:
        out: folder of all results.
        folders: where data sets lie, by name.
        tasks: names of the tasks to run; empty: all.
        limit: at most that many samples of every data set; 0: all.
        batch_size: samples read ahead; no figure depends on it.
        workers: threads that read; no figure depends on it.
        settings: what figures do depend on.
        world: this process among those that share the run.
        data: of tasks whose data is no layout and no source, by task.
        alive: called while rank 0 waits for others; raises when one of them has ended.
        report: receives lines for people.
        advance: receives groups done.
    """

    out: Path
    folders: Mapping[str, Path] = field(default_factory=dict)
    tasks: Sequence[str] = ()
    limit: int = 0
    batch_size: int = 0
    workers: int = 1
    settings: Settings = field(default_factory=Settings)
    world: World = field(default_factory=World)
    data: Mapping[str, Thinned] = field(default_factory=dict)
    alive: Callable[[], None] = lambda: None
    report: Callable[[str], None] = lambda text: None
    advance: Callable[[float], None] = lambda groups: None


def run_suite(suite: Suite, subject: Subject, work: Work) -> Document | None:
    """Run a suite on a subject.

    Returns:
        What was found, which is also in `OUT/SUITE/SUBJECT/results.json`; None in processes other than rank 0.

    Raises:
        Tok4dError: when the subject fails after the first group of a task: what was done until then stays. A measure
            that fails is left out of its task and named in `Document.failed`.
    """
    set_threads(work.settings.threads)
    began = time.monotonic()
    folder = subject_folder(work.out / suite.name, subject)
    document = Document(suite, subject, work.settings)
    settings, given = work.settings, work.data
    plans = [  # all of them first: a folder that is not the layout is told before hours are spent
        make_plan(name, spec, subject, folder / name, work.folders, settings, work.limit, given.get(name))
        for name, spec in select(suite, list(work.tasks)).items()
    ]
    for plan in plans:
        _fill(plan, subject, work)
        if work.world.rank == 0:
            _wait(plan, work)
            _finish(plan, subject, folder / plan.name, document)
    if work.world.rank:
        return None
    document.seconds = time.monotonic() - began
    document.keep(folder / "results.json", [plan.name for plan in plans])
    document.write(folder / "results.json")
    return document


def _fill(plan: Plan, subject: Subject, work: Work) -> None:
    """Work on this process's groups of a task until all their columns are there."""
    if plan.data is None or not plan.slots:
        return
    _check_texts(plan, subject)
    if numbers := _own(_missing(plan), work):
        work.report(f"{plan.name}: {len(numbers)} of {plan.groups} groups of {plan.spec.inner_batch} samples to do")
    _try_failed(plan, subject, work)
    _try_first(plan, subject, work)
    missing = _missing(plan)
    numbers = _own(missing, work)
    if not numbers:
        return
    groups = read_groups(plan.data, numbers, plan.spec.inner_batch, work.batch_size, work.workers)
    with ExitStack() as stack:
        writers = {id(store): stack.enter_context(Writer(store)) for store in _stores(plan.slots)}
        for group in stack.enter_context(closing(groups)):
            worker = Worker(group, plan.data, subject, work.settings)
            for slot in list(plan.slots):
                _group(plan, slot, worker, missing, writers)
            work.advance(1)
            if not plan.slots:
                break


def _missing(plan: Plan) -> _Missing:
    """Groups that every store of a task lacks."""
    return {id(store): set(range(plan.groups)) - store.groups() for store in _stores(plan.slots)}


def _own(missing: _Missing, work: Work) -> list[int]:
    """Groups that some store lacks and this process works on, in order."""
    return [number for number in sorted(set().union(*missing.values())) if work.world.owns(number)]


def _group(plan: Plan, slot: Slot, worker: Worker, missing: _Missing, writers: Mapping[int, Writer]) -> None:
    """The columns of one group that a measure lacks; without the measure from then on where it fails."""
    number = worker.group.number
    try:
        for store in _stores([slot]):
            if number in missing[id(store)]:
                writers[id(store)].add(number, worker.part(slot, store))
    except SubjectError:
        raise
    except (MeasureError, UnsuitedError, NotImplementedError) as error:
        slot.store.fail(number, str(error))  # the other processes have to know, rank 0 above all
        plan.fail(slot, str(error))


def _stores(slots: Sequence[Slot]) -> list[Store]:
    found = [store for slot in slots for store in (slot.store, slot.reference)]
    return [store for store in found if store is not None]


def _check_texts(plan: Plan, subject: Subject) -> None:
    """Leave out what needs texts of a subject that embeds none, before hours are spent on pictures."""
    if plan.spec.kind in TEXT_KINDS:
        try:
            with torch.no_grad():
                subject.embed_texts(["a photo"])
        except (Tok4dError, NotImplementedError) as error:
            plan.skip(plan.spec.kind, str(error))
            plan.slots = []


def _try_failed(plan: Plan, subject: Subject, work: Work) -> None:
    """Try again the group on which a measure failed in an earlier run; leave it out at once where it still does."""
    assert plan.data is not None
    for slot in list(plan.slots):
        if (held := slot.store.failure()) is None:
            continue
        (group,) = read_groups(plan.data, [held[0]], plan.spec.inner_batch, workers=0)
        worker = Worker(group, plan.data, subject, work.settings)
        try:
            for store in _stores([slot]):
                worker.part(slot, store)
        except SubjectError:
            continue  # told where it is tried in its turn
        except (MeasureError, UnsuitedError, NotImplementedError) as error:
            plan.fail(slot, str(error))
            continue
        slot.store.forgive()


def _try_first(plan: Plan, subject: Subject, work: Work) -> None:
    """Leave out measures that cannot work on the first group: every process finds the same, before hours are spent.

    It also warms up what is timed afterwards.
    """
    assert plan.data is not None
    untried = [slot for slot in plan.slots if any(_untried(slot, store, plan.groups) for store in _stores([slot]))]
    if not untried:
        return
    (group,) = read_groups(plan.data, [0], plan.spec.inner_batch, workers=0)
    worker = Worker(group, plan.data, subject, work.settings)
    for slot in untried:
        try:
            parts = {
                id(store): worker.part(slot, store) for store in _stores([slot]) if _untried(slot, store, plan.groups)
            }
        except (UnsuitedError, SubjectError, NotImplementedError) as error:
            plan.skip(slot.label, str(error))
            plan.slots.remove(slot)
            continue
        except MeasureError as error:
            plan.fail(slot, str(error))  # every process sees this for itself
            continue
        if slot.measure.reproducible and work.world.rank == 0:
            for store in _stores([slot]):
                if id(store) in parts and 0 not in store.groups():
                    store.write(0, 0, [parts[id(store)]])


def _untried(slot: Slot, store: Store, groups: int) -> bool:
    there = store.groups()
    return 0 not in there or (not slot.measure.reproducible and len(there) < groups)


def _wait(plan: Plan, work: Work) -> None:
    """Until the other processes have written their groups.

    Raises:
        Tok4dError: when one of them has ended, or nothing comes for an hour.
    """
    before, since = -1, time.monotonic()
    while left := max((plan.groups - len(store.groups()) for store in _stores(plan.slots)), default=0):
        if left != before:
            before, since = left, time.monotonic()
        if work.world.size == 1 or time.monotonic() - since > IDLE_SECONDS:
            raise Tok4dError(f"task {plan.name}: {left} groups have no columns; start the run again to complete it")
        for slot in list(plan.slots):
            if (held := slot.store.failure()) is not None:
                plan.fail(slot, held[1])
        work.alive()
        time.sleep(_POLL)


def _finish(plan: Plan, subject: Subject, folder: Path, document: Document) -> None:
    """Figures, values per sample, and what could not be used."""
    if plan.data is not None and plan.slots:
        bad = plan.slots[0].reader().bad()
        document.bad += [{"task": plan.name, "key": plan.data.key(index), "reason": reason} for index, reason in bad]
        for slot in list(plan.slots):
            reader = slot.reader()
            if reader.n == 0:
                plan.skip(slot.label, f"none of {len(plan.data)} samples could be used", "see `bad`")
                continue
            try:
                with torch.no_grad():
                    values = slot.measure.finish(reader, plan.data, subject)
            except (UnsuitedError, NotImplementedError) as error:
                plan.skip(slot.label, str(error))
                continue
            except Tok4dError as error:
                plan.fail(slot, str(error))
                continue
            document.add(plan.name, slot, values)
        write_samples(folder / "samples.parquet", plan.data, plan.slots)
    document.skipped += plan.skipped
    document.failed += [f"{plan.name}: {label}" for label in plan.failed]
