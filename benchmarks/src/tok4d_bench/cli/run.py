"""`tok4d bench run`: a suite on models and baselines."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from tok4d.cli.console import emit, note, progress, table
from tok4d.cli.files import make_folder
from tok4d.errors import ConfigError, Tok4dError
from tok4d_bench.cli.options import DATA, JSON, LIMIT, SUITE, TASKS, check_names, parse_folders, split_names
from tok4d_bench.cli.sources import named
from tok4d_bench.data.layouts import data_name
from tok4d_bench.subjects.nulls import null_specs
from tok4d_bench.suite import load_suite, select
from tok4d_bench.world import World, announce_threads

if TYPE_CHECKING:
    from tok4d_bench.contracts import Suite
    from tok4d_bench.results import Document
    from tok4d_bench.runner import Work


def run(
    suite: str = SUITE,
    model: list[str] = typer.Option(
        ..., "-m", "--model", help="A model folder, or a baseline KIND[:SOURCE][,option=value]; several are allowed."
    ),
    out: Path = typer.Option(..., "-o", "--out", help="Results go to OUT/SUITE/SUBJECT/; what is there is not redone."),
    data: list[str] = DATA,
    tasks: str = TASKS,
    limit: int = LIMIT,
    batch_size: int = typer.Option(0, "--batch-size", min=0, help="Samples read ahead; changes no figure."),
    workers: int = typer.Option(1, "--workers", min=0, help="Threads that read; changes no figure."),
    processes: int = typer.Option(1, "--processes", min=1, help="Processes that share the work; changes no figure."),
    threads: int = typer.Option(1, "--threads", min=1, help="Of torch and BLAS in each process; part of the protocol."),
    seed: int = typer.Option(0, "--seed", help="Of subjects that draw at random."),
    device: str = typer.Option("cpu", "--device", help="cpu, cuda, or auto."),
    dtype: str = typer.Option("float32", "--dtype", help="Precision of networks: float32 or bf16."),
    nulls: bool = typer.Option(False, "--nulls", help="Also run what the suite names to read figures beside."),
    as_json: bool = JSON,
) -> None:
    """Run a suite and write results.json and values per sample; stopped at any moment, the same command goes on.

    Exit code 0 when parts had to be skipped (stderr says which, and how to get them), 1 when nothing could run, when
    files could not be used, when a measure failed on a sample, or on an error. Under torchrun or Lightning's launcher
    processes share the work.
    """
    announce_threads(os.environ, threads)  # before numpy and torch load: their pools are made once
    world = World.from_environment()
    if processes > 1 and world.size > 1:
        raise ConfigError(
            f"--processes {processes} under a launcher of {world.size} processes; leave it to the launcher"
        )
    loaded = load_suite(suite)  # mistakes are told before anything heavy loads
    folders, chosen = parse_folders(data), split_names(tasks)
    check_names(folders, [data_name(spec) for spec in loaded.tasks.values()])
    select(loaded, chosen)
    beside = [spec for spec in null_specs(loaded, tasks=chosen) if spec not in model] if nulls else []
    arguments = _arguments(locals())
    from tok4d_bench.planning import Settings
    from tok4d_bench.runner import Work

    if world.size == 1 and processes > 1:
        world = World(0, processes)
    settings = Settings(threads, seed, device)
    work = Work(out, folders, chosen, limit, batch_size, workers, settings, world, report=note)
    make_folder(out)
    with _others(arguments, processes, threads) as work.alive:
        documents = _run(loaded, model, beside, dtype, work, as_json)
    if world.rank == 0:
        emit([document.as_dict() for document in documents], as_json, lambda: _render(documents))
        _leave(documents)


def _run(
    suite: Suite, models: Sequence[str], nulls: Sequence[str], dtype: str, work: Work, as_json: bool
) -> list[Document]:
    """Models, then nulls: one of these that cannot be made here (its data is not there) is said and left out."""
    from tok4d_bench.runner import run_suite
    from tok4d_bench.subjects import load_subject

    documents = []
    for place, model in enumerate([*models, *nulls]):
        try:
            subject = load_subject(model, work.settings.device, dtype)
        except Tok4dError as error:
            if place < len(models):
                raise
            work.report(f"left out null {model}: {error}")
            continue
        work.report(f"{suite.name} of {subject.name}")
        with progress(None, subject.name, as_json or work.world.rank > 0) as work.advance:
            if (document := run_suite(suite, subject, work)) is not None:
                documents.append(document)
    return documents


def _arguments(values: dict[str, Any]) -> list[str]:
    """The command line of the other processes: as this one's, without --processes."""
    found = ["bench", "run", values["suite"], "-o", str(values["out"]), "--json"]
    found += [part for model in values["model"] for part in ("-m", model)]
    found += [part for pair in values["data"] for part in ("--data", pair)]
    for name in ("tasks", "limit", "batch_size", "workers", "threads", "seed", "device", "dtype"):
        found += [f"--{name.replace('_', '-')}", str(values[name])]
    return [*found, "--nulls"] if values["nulls"] else found


@contextmanager
def _others(arguments: list[str], processes: int, threads: int) -> Iterator[Any]:
    """Start the other processes; yields a check that they are alive, and ends them when the work ends before them."""
    environ = dict(os.environ)
    announce_threads(environ, threads)
    command = [sys.executable, "-m", "tok4d.cli.main", *arguments]
    started: list[subprocess.Popen[bytes]] = []

    def alive() -> None:
        for number, process in enumerate(started, 1):
            if process.poll():
                raise Tok4dError(f"process {number} of {processes} ended with exit code {process.returncode}")

    try:
        for rank in range(1, processes):
            own = {**environ, "RANK": str(rank), "WORLD_SIZE": str(processes)}
            started.append(subprocess.Popen(command, env=own, stdout=subprocess.DEVNULL))
        yield alive
        for process in started:
            process.wait()
        alive()
    finally:
        for process in started:
            if process.poll() is None:
                process.terminate()
                process.wait()


def _render(documents: Sequence[Document]) -> None:
    for document in documents:
        typer.echo(f"{document.suite.name} of {document.subject.name}")
        known = [record for record in document.results if record.value is not None]
        rows = [(r.task, r.metric, r.value, r.stderr, r.n, r.unit) for r in known]
        table(("task", "metric", "value", "stderr", "n", "unit"), rows, keys=2)
        for record in known:
            if record.note:
                typer.echo(f"  {record.task} {record.metric}: {record.note}")


def _leave(documents: Sequence[Document]) -> None:
    """Say what is missing, and choose the exit code."""
    for document in documents:
        for item in document.skipped:
            fix = f"; {item['fix']}" if item["fix"] else ""
            note(f"skipped {document.subject.name}: {item['task']}: {item['what']}: {item['why']}{fix}")
        unknown = {(record.task, record.note) for record in document.results if record.value is None}
        for task, why in sorted(unknown):
            note(f"no figure for {document.subject.name}: {task}: {why}")
        for item in document.bad:
            where = f"left out of {item['task']}" if item["task"] else "left out"
            note(f"{where}: {named(item['key'], item['reason'])}")
        if all(record.value is None for record in document.results):
            note(f"nothing could be measured of {document.subject.name}")
    if any(d.bad or d.failed or all(record.value is None for record in d.results) for d in documents):
        raise typer.Exit(1)
