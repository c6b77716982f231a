"""Plans: a task with its data, its measures, their protocols and stores; and what is missing for it, in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tok4d.cli.files import pick_device
from tok4d.data.fetch import cache_root
from tok4d_bench.adapter import label_of, make_measure
from tok4d_bench.contracts import Measure, Requirement, Subject, TaskSpec
from tok4d_bench.data.build import MissingDataError, open_data
from tok4d_bench.data.samples import Thinned
from tok4d_bench.fingerprint import fingerprint, machine, sha256, versions
from tok4d_bench.store import Store, StoreReader
from tok4d_bench.suite import measure_entries

TEXT_KINDS = ("zero_shot", "retrieval")  # kinds of tasks that compare samples with texts
_NOT_OF_REFERENCES = ("seed",)


@dataclass(frozen=True)
class Settings:
    """What holds for all tasks of a run and enters every fingerprint.

    Attributes:
        threads: of torch and BLAS in each process.
        seed: of subjects that draw at random; every group has its own state, derived from it.
        device: where the subject and the networks compute; not in fingerprints, but it keeps stored columns apart.
    """

    threads: int = 1
    seed: int = 0
    device: str = "cpu"


@dataclass
class Slot:
    """One measure of a task.

    Attributes:
        label: its name with its options.
        protocol: everything that a figure depends on besides the subject.
        store: columns of the subject's results.
        reference: columns of the originals; None where the measure has none.
    """

    label: str
    measure: Measure
    protocol: dict[str, Any]
    store: Store
    reference: Store | None

    @property
    def fingerprint(self) -> str:
        return fingerprint(self.protocol)

    def reader(self) -> StoreReader:
        """All columns."""
        return StoreReader([self.store, *([self.reference] if self.reference else [])])


@dataclass
class Plan:
    """One task, ready to be worked on.

    Attributes:
        groups: how many there are.
        skipped: what is left out: `{task, what, why, fix}`.
        failed: labels of the measures among it that failed on a sample.
    """

    name: str
    spec: TaskSpec
    data: Thinned | None
    slots: list[Slot] = field(default_factory=list)
    skipped: list[dict[str, str]] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)

    @property
    def groups(self) -> int:
        return 0 if self.data is None else -(-len(self.data) // self.spec.inner_batch)

    def skip(self, what: str, why: str, fix: str = "") -> None:
        """Say that something is left out."""
        self.skipped.append({"task": self.name, "what": what, "why": why, "fix": fix})

    def fail(self, slot: Slot, why: str) -> None:
        """Leave out a measure that failed on a sample: a figure over the others would pass for one of all."""
        self.skip(slot.label, f"failed: {why}", "leave out what it cannot take, or the measure")
        self.failed.append(slot.label)
        self.slots.remove(slot)

    def missing(self, requirement: Requirement) -> None:
        self.skip(requirement.what, requirement.missing, requirement.fix)


def make_plan(
    name: str,
    spec: TaskSpec,
    subject: Subject,
    folder: Path,
    folders: Mapping[str, Path],
    settings: Settings,
    limit: int = 0,
    data: Thinned | None = None,
) -> Plan:
    """The plan of a task.

    Args:
        folder: where its columns are kept.
        folders: where data sets lie, by name.
        limit: at most that many samples.
        data: instead of what the task names.

    Raises:
        Tok4dError: for a suite that names what there is not, or a folder that is not the layout: that is no missing
            part but a mistake.
    """
    try:
        data = open_data(spec, folders, limit) if data is None else data
    except MissingDataError as error:
        plan = Plan(name, spec, None)
        plan.missing(error.requirement)
        return plan
    plan = Plan(name, spec, data)
    able = subject.embeds if spec.kind in TEXT_KINDS else subject.reconstructs
    if spec.kind == "probe":
        able = (*subject.reconstructs, *subject.embeds)
    if data.modality not in able:
        verb = "embed" if spec.kind in TEXT_KINDS else "take" if spec.kind == "probe" else "reconstruct"
        plan.skip(f"{spec.kind} of {data.modality}", f"{subject.name} does not {verb} this modality")
        return plan
    for entry, options in measure_entries(spec):
        measure, label = make_measure(entry, options), label_of(entry, options)
        measure.device = str(pick_device(settings.device))
        lacking = [r for r in [*measure.requirements(), *measure.suits(data, subject)] if r.missing]
        if lacking:
            for requirement in lacking:
                plan.skip(f"{label}: {requirement.what}", requirement.missing, requirement.fix)
            continue
        plan.slots.append(_slot(plan, label, measure, subject, folder, settings))
    return plan


def protocol_of(plan: Plan, label: str, measure: Measure, settings: Settings) -> dict[str, Any]:
    """Everything that the figures of a measure depend on besides the subject."""
    assert plan.data is not None
    return {
        "task": {"kind": plan.spec.kind, "inner_batch": plan.spec.inner_batch},
        "data": {"name": plan.data.name, "digest": plan.data.digest, **plan.data.protocol()},
        "measure": {"name": label, **measure.protocol()},
        "seed": settings.seed,
        "threads": settings.threads,
        "versions": versions(),
    }


def _slot(plan: Plan, label: str, measure: Measure, subject: Subject, folder: Path, settings: Settings) -> Slot:
    assert plan.data is not None
    protocol = protocol_of(plan, label, measure, settings)
    place = machine(settings.device)
    key = sha256([fingerprint(protocol), subject.digest, place])
    store = Store(folder / "columns" / f"{_file_name(label)}-{key[:16]}", plan.spec.inner_batch)
    reference = None
    if type(measure).reference is not Measure.reference:
        shared = {name: value for name, value in protocol.items() if name not in _NOT_OF_REFERENCES}
        kept = cache_root() / "bench" / sha256([fingerprint(shared), place, plan.data.apart])[:32]
        reference = Store(kept, plan.spec.inner_batch)
    return Slot(label, measure, protocol, store, reference)


def _file_name(label: str) -> str:
    return "".join(char if char.isalnum() or char in "-_." else "_" for char in label)


def missing_for(spec: TaskSpec) -> Sequence[Requirement]:
    """What the measures of a task need and is not there, whatever the subject.

    Raises:
        Tok4dError: for measures that there are not.
    """
    found: list[Requirement] = []
    for entry, options in measure_entries(spec):
        found += [r for r in make_measure(entry, options).requirements() if r.missing]
    return found
