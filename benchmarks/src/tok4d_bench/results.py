"""Results: one JSON document a run, and values per sample in Parquet.

What equal runs have in common (figures, protocols, what was left out) is digested as `values`; versions, hardware and
seconds stand beside it.
"""

from __future__ import annotations

import json
import math
import platform
import re
from collections.abc import Collection, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from tok4d import __version__
from tok4d.errors import DataError, Tok4dError
from tok4d.training.manifest import code_state, hardware
from tok4d.weights.folder import replacing, write_text
from tok4d_bench.contracts import BenchData, Subject, Suite, Value
from tok4d_bench.earlier import earlier, merged
from tok4d_bench.fingerprint import sha256
from tok4d_bench.store import INDEX, StoreReader

if TYPE_CHECKING:
    from tok4d_bench.planning import Settings, Slot

SCHEMA = 1
_PACKAGES = ("torch", "torchvision", "torchmetrics", "numpy", "pillow", "lpips", "diffusers", "transformers")
_KEYS = ("schema", "suite", "version", "subject", "results", "protocols", "skipped", "bad")


@dataclass(frozen=True)
class Record:
    """One figure with the fingerprint of its protocol; the rest as in `tok4d_bench.contracts.Value`."""

    task: str
    metric: str
    value: float | None
    stderr: float | None
    n: int
    higher_is_better: bool | None
    unit: str
    note: str
    fingerprint: str
    reproducible: bool = True


@dataclass
class Document:
    """What a run of a suite on a subject found.

    Attributes:
        protocols: by fingerprint.
        skipped: `{task, what, why, fix}`.
        bad: `{task, key, reason}` of samples that could not be used.
        failed: `task: measure` of those of `skipped` that failed on a sample.
        kept: of the file that this one takes the place of: tasks that this run was not asked for.
        seconds: wall time of the command that finished the run.
    """

    suite: Suite
    subject: Subject
    settings: Settings
    results: list[Record] = field(default_factory=list)
    protocols: dict[str, dict[str, Any]] = field(default_factory=dict)
    skipped: list[dict[str, str]] = field(default_factory=list)
    bad: list[dict[str, str]] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    kept: dict[str, Any] = field(default_factory=dict)
    seconds: float = 0.0

    def add(self, task: str, slot: Slot, values: Sequence[Value]) -> None:
        """Figures of one measure.

        Raises:
            Tok4dError: for a figure that is not finite: a broken measure must be seen.
        """
        key = slot.fingerprint
        self.protocols[key] = slot.protocol
        for value in values:
            for name in ("value", "stderr"):
                if (number := getattr(value, name)) is not None and not math.isfinite(number):
                    raise Tok4dError(f"task {task}, {value.metric}: {name} is {number}")
            own = {**asdict(value), "value": _plain(value.value), "stderr": _plain(value.stderr), "n": int(value.n)}
            self.results.append(Record(task=task, fingerprint=key, reproducible=slot.measure.reproducible, **own))

    def keep(self, path: Path, done: Collection[str]) -> None:
        """Take over from an earlier file of the same suite and subject the tasks that are not in `done`."""
        with suppress(DataError):  # none, or one that nothing can be taken from
            self.kept = earlier(read_results(path), self.suite, self.subject, done)

    def as_dict(self) -> dict[str, Any]:
        """The document as JSON holds it."""
        subject = {"name": self.subject.name, "digest": self.subject.digest, "facts": self.subject.facts()}
        content = {
            "schema": SCHEMA,
            "suite": self.suite.name,
            "version": self.suite.version,
            "subject": subject,
            "results": [asdict(record) for record in self.results],
            "protocols": self.protocols,
            "skipped": self.skipped,
            "bad": self.bad,
        }
        content = merged(content, self.kept, self.suite.tasks)
        return {
            **content,
            "values": values_digest(content),
            "spec": self.subject.spec,
            "seed": self.settings.seed,
            "threads": self.settings.threads,
            "versions": _packages(),
            "commit": _checkout()["commit"],
            "dirty": _checkout()["dirty"],
            "hardware": machine_facts(),
            "seconds": round(self.seconds, 3),
        }

    def write(self, path: Path) -> None:
        """Write it, complete or not at all.

        Raises:
            DataError: when it cannot be written.
        """
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_text(path, json.dumps(self.as_dict(), indent=1, allow_nan=False, default=str) + "\n")
        except OSError as error:
            raise DataError(path, f"cannot be written ({error.strerror or error})") from error


@lru_cache
def _packages() -> dict[str, str]:
    """Versions of Python and of the packages that figures go through, where they are installed."""
    found = {"python": platform.python_version()}
    for name in _PACKAGES:
        with suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found | {"tok4d": __version__}


@lru_cache
def _checkout() -> dict[str, Any]:
    return code_state(Path(__file__).parent)


@lru_cache
def machine_facts() -> dict[str, Any]:
    return {"platform": platform.platform(), **hardware(), "capability": torch.backends.cpu.get_cpu_capability()}


def values_digest(content: dict[str, Any]) -> str:
    """SHA-256 of what equal runs have in common: figures that are reproducible, and their protocols."""
    kept = {key: content[key] for key in _KEYS if key in content}
    kept["results"] = [record for record in kept["results"] if record.get("reproducible", True)]
    return sha256(kept)


def read_results(path: Path) -> dict[str, Any]:
    """A results.json, or the one of a folder.

    Raises:
        DataError: when it is missing, no JSON, or of another schema.
    """
    path = path / "results.json" if path.is_dir() else path
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(path, f"cannot be read ({error.strerror or error})") from None
    except (ValueError, RecursionError) as error:
        raise DataError(path, f"is not JSON ({error})") from None
    if not isinstance(content, dict) or any(key not in content for key in _KEYS):
        raise DataError(path, f"is no results file of a benchmark: it needs {', '.join(_KEYS)}")
    if content["schema"] != SCHEMA:
        raise DataError(path, f"has schema {content['schema']!r}; this tok4d reads {SCHEMA}")
    return content


def subject_folder(folder: Path, subject: Subject) -> Path:
    """Where a subject's results go: by its name, and by its digest too when the name is taken by another."""
    name = re.sub(r"[^A-Za-z0-9._=,+-]+", "_", subject.name).strip("._") or "subject"
    first = folder / name
    try:
        held = json.loads((first / "results.json").read_text(encoding="utf-8"))["subject"]["digest"]
    except (OSError, ValueError, KeyError, TypeError):
        return first
    return first if held == subject.digest else folder / f"{name}-{subject.digest[:8]}"


def write_samples(path: Path, data: BenchData, slots: Sequence[Slot]) -> None:
    """Values per sample: index, key and every column of one number a sample, as `measure.column`.

    Raises:
        Tok4dError: when pyarrow is not installed, or the file cannot be written.
    """
    try:
        import pyarrow as pa
        from pyarrow import parquet
    except ImportError:
        raise Tok4dError("values per sample need pyarrow; install it with pip install 'tok4d[bench]'") from None
    readers = [slot.reader() for slot in slots]
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with replacing(path) as partial:
            writer = None
            for columns in _rows(data, slots, readers):
                table = pa.table(columns)
                writer = writer or parquet.ParquetWriter(partial, table.schema)
                writer.write_table(table.cast(writer.schema))
            if writer is None:
                parquet.write_table(
                    pa.table({"index": pa.array([], pa.int64()), "key": pa.array([], pa.string())}), partial
                )
            else:
                writer.close()
    except OSError as error:
        raise DataError(path, f"cannot be written ({error.strerror or error})") from error


def _rows(data: BenchData, slots: Sequence[Slot], readers: Sequence[StoreReader]) -> Iterator[dict[str, Any]]:
    """Pieces of the table; all slots have the same rows."""
    indices, start = readers[0].indices(), 0
    for pieces in zip(*(reader() for reader in readers), strict=True):
        rows = len(next(iter(pieces[0].values())))
        own = indices[start : start + rows]
        start += rows
        table: dict[str, Any] = {"index": own, "key": [data.key(int(index)) for index in own]}
        for slot, piece in zip(slots, pieces, strict=True):
            flat = {name: values for name, values in piece.items() if values.ndim == 1 and name != INDEX}
            table |= {f"{slot.label}.{name}": values for name, values in flat.items()}
        yield table


def _plain(value: Any) -> float | None:
    return None if value is None else float(value)
