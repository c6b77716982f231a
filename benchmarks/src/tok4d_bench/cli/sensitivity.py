"""`tok4d bench sensitivity`: how much each choice of a protocol moves each figure."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import typer

from tok4d.cli.console import emit, note
from tok4d.cli.files import make_folder
from tok4d.errors import ConfigError, DataError
from tok4d_bench.cli.options import JSON
from tok4d_bench.cli.sources import OPTIONS, SOURCE, leave_out, open_source, parse_options


def sensitivity(
    model: str = typer.Option(..., "-m", "--model", help="A model folder, or KIND[:SOURCE][,option=value]."),
    data: str = SOURCE,
    options: str = OPTIONS,
    out: Path = typer.Option(..., "-o", "--out", help="Folder for sensitivity.json and sensitivity.md."),
    side: int = typer.Option(256, "--size", min=16, help="Side of the protocol's square in pixels."),
    limit: int = typer.Option(32, "--limit", min=1, help="At most that many samples, evenly spread."),
    networks: list[str] = typer.Option(
        ["effnet-lite0"], "--network", help="Of the Fréchet distance: the first is the protocol's. '' leaves it out."
    ),
    threads: int = typer.Option(1, "--threads", min=1, help="Of torch and BLAS."),
    device: str = typer.Option("cpu", "--device", help="cpu, cuda, or auto."),
    dtype: str = typer.Option("float32", "--dtype", help="Precision of networks: float32 or bf16."),
    as_json: bool = JSON,
) -> None:
    """Measure the same samples under every size, filter, antialias, rounding, colour, mean and network in turn.

    One choice is changed at a time. What a model gets to see decides what it reconstructs, so a choice of the
    preparation reconstructs anew; all others measure the same reconstructions in another way. Files that could not be
    used are named, and the exit code is then 1.
    """
    import os

    from tok4d_bench.world import announce_threads, set_threads

    announce_threads(os.environ, threads)
    from tok4d_bench.fingerprint import versions
    from tok4d_bench.sensitivity.choices import base_prepare, choices
    from tok4d_bench.sensitivity.table import markdown, table_of
    from tok4d_bench.subjects import load_subject

    set_threads(threads)
    chosen = parse_options(options)
    used = [name for name in networks if name]
    subject = load_subject(model, device, dtype)
    first = open_source(data, chosen, base_prepare(side), limit)
    if first.modality not in subject.reconstructs:
        raise ConfigError(f"{subject.name} does not reconstruct {first.modality}")
    make_folder(out)
    bad: list[dict[str, str]] = []
    rows = table_of(
        subject,
        lambda prepare: open_source(data, chosen, prepare, limit),
        choices(side, used[1:]),
        side,
        used[0] if used else "",
        report=note,
        bad=bad,
    )
    found = {
        "schema": 1,
        "subject": {"name": subject.name, "digest": subject.digest, "facts": subject.facts()},
        "data": {"name": first.name, "digest": first.digest, **first.protocol()},
        "rows": [asdict(row) for row in rows],
        "bad": bad,
        "threads": threads,
        "versions": versions(),
    }
    lines = [
        f"{len(first) - len(bad)} samples of {first.name}; the protocol: shorter side {side} by Pillow's bicubic, "
        "centre crop, rounded to 8 bits. In brackets how far a choice moves the figure.",
        *([f"Left out, since they could not be used: {', '.join(item['key'] for item in bad)}."] if bad else []),
    ]
    _write(out, found, markdown(rows, f"Sensitivity of {subject.name}", lines))
    emit(found, as_json, lambda: typer.echo((out / "sensitivity.md").read_text(encoding="utf-8"), nl=False))
    leave_out(bad)


def _write(out: Path, found: object, text: str) -> None:
    from tok4d.weights.folder import write_text

    try:
        write_text(out / "sensitivity.json", json.dumps(found, indent=1, allow_nan=False, default=str) + "\n")
        write_text(out / "sensitivity.md", text)
    except OSError as error:
        raise DataError(out, f"cannot be written ({error.strerror or error})") from error
