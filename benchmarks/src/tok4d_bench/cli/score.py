"""`tok4d bench score`: figures of any tokenizer, closed ones too, from files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from tok4d.cli.console import emit, note, progress
from tok4d.cli.files import make_folder
from tok4d.errors import ConfigError, DataError
from tok4d.plugins.registry import names
from tok4d_bench.cli.options import JSON, LIMIT, split_names

if TYPE_CHECKING:
    from tok4d.modality import Sample
    from tok4d_bench.contracts import Suite
    from tok4d_bench.score.matching import Matched
    from tok4d_bench.score.pairs import PairData


def score(
    originals: Path = typer.Argument(..., metavar="REF", help="Folder of originals."),
    restored: Path = typer.Argument(..., metavar="REC", help="Folder of what a tokenizer made of them."),
    out: Path = typer.Option(..., "-o", "--out", help="Results go to OUT/SUITE/NAME/; what is there is not redone."),
    suite: str = typer.Option("", "--suite", help="Take preparation and measures from a suite's reconstruction tasks."),
    task: str = typer.Option("", "--task", help="Which task of the suite, where several measure one kind of file."),
    measures: str = typer.Option("", "--measures", help="Only these, comma-separated, such as psnr,ssim,video/psnr."),
    prepare: list[str] = typer.Option([], "--prepare", metavar="KEY=VALUE", help="short=256, crop=256, filter=..."),
    coded: Path = typer.Option(None, "--coded", help="Folder of the coded files, for the rate in bits per pixel."),
    name: str = typer.Option("", "--name", help="What results call the tokenizer; default: the name of REC."),
    modality: str = typer.Option(None, "--modality", help="Read all files as this modality."),
    read: list[str] = typer.Option([], "--read", metavar="KEY=VALUE", help="An option of the modality's reader."),
    limit: int = LIMIT,
    workers: int = typer.Option(1, "--workers", min=0, help="Threads that read; changes no figure."),
    threads: int = typer.Option(1, "--threads", min=1, help="Of torch and BLAS; part of the protocol."),
    as_json: bool = JSON,
) -> None:
    """Compare files of two folders, matched by relative path, with the suffix or without it.

    Images, clips and 3D assets are told apart by their suffixes. Originals are prepared as the protocol says;
    reconstructions of the original's size too, those of the prepared size are taken as they are. Results are written
    as `tok4d bench run` writes them. Files without a partner are named, and the exit code is then 1.
    """
    import os

    from tok4d_bench.world import announce_threads

    announce_threads(os.environ, threads)
    from tok4d.cli.files import read_options
    from tok4d_bench.cli.run import _leave, _render
    from tok4d_bench.planning import Settings
    from tok4d_bench.prepare import Prepare
    from tok4d_bench.runner import Work, run_suite
    from tok4d_bench.score.matching import match_folders
    from tok4d_bench.score.pairs import FilesSubject, PairData

    _refuse_same(originals, restored)
    matched = match_folders(originals, restored, modality, coded)
    options, chosen = read_options(read), read_options(prepare)
    asked, names_of = _suite(matched, suite, task, chosen, split_names(measures))
    data = {
        (called := names_of[owner]): PairData(
            originals.resolve().name, owner, pairs, Prepare.parse(asked.tasks[called].prepare), limit, options
        )
        for owner, pairs in matched.pairs.items()
    }
    make_folder(out)
    _choose_metrics(asked, data)
    subject = FilesSubject(restored, matched.pairs, name)
    with progress(None, subject.name, as_json) as advance:
        work = Work(out, workers=workers, settings=Settings(threads), data=data, report=note, advance=advance)
        document = run_suite(asked, subject, work)
    assert document is not None
    for what, folder, lonely in (("original", originals, matched.alone), ("coded file", coded, matched.uncoded)):
        document.bad += [{"task": "", "key": key, "reason": f"has no {what} in {folder}"} for key in lonely]
    document.write(document_path(out, asked, subject))
    emit(document.as_dict(), as_json, lambda: _render([document]))
    _leave([document])


def _refuse_same(originals: Path, restored: Path) -> None:
    if originals.resolve() == restored.resolve():
        raise ConfigError(f"{originals} is given as both folders; compared with themselves files are perfect")


def _suite(
    matched: Matched, suite: str, task: str, prepare: dict[str, Any], measures: Sequence[str]
) -> tuple[Suite, dict[str, str]]:
    """The tasks and their names by modality, with the measures asked for; one with a modality's name is its alone."""
    from tok4d_bench.score.suite import suite_of

    owners = list(matched.pairs)
    own = {owner: [m for m in measures if m.partition("/")[0] in (owner, m)] or None for owner in owners}
    if measures and (idle := [owner for owner, chosen in own.items() if not chosen]):
        raise ConfigError(f"--measures {','.join(measures)}: none of them compares files of modality {idle[0]}")
    return suite_of(owners, suite, task, prepare, {owner: chosen for owner, chosen in own.items() if chosen})


def _choose_metrics(asked: Suite, data: dict[str, PairData]) -> None:
    """Of data that are no pictures: of the metrics asked for those that can compare the first pair."""
    from tok4d_bench.score.suite import default_measures, usable_metrics

    for task, pairs in data.items():
        spec, owner = asked.tasks[task], pairs.modality
        if default_measures(owner):  # pictures: all measures compare them
            continue
        usable, refused = usable_metrics(owner, _first(pairs))
        registered = [name for name in names("metrics") if name.startswith(f"{owner}/")]
        wanted = spec.measures or [*usable, *(f"{owner}/{name}" for name in refused), *registered]
        for metric, why in refused.items():
            if f"{owner}/{metric}" in wanted:
                note(f"left out {owner}/{metric}: {why}")
        spec.measures = [m for m in wanted if str(m).partition("/")[2] not in refused]
        if not spec.measures:
            raise ConfigError(f"no metric of modality {owner} compares these files; reconstructions as splats can be")


def _first(pairs: PairData) -> Sample:
    """The first pair that can be read."""
    for index in range(len(pairs)):
        try:
            return pairs.load(index)
        except DataError as error:
            last = error
    raise last


def document_path(out: Path, suite: Suite, subject: Any) -> Path:
    """Where results of a subject are."""
    from tok4d_bench.results import subject_folder

    return subject_folder(out / suite.name, subject) / "results.json"
