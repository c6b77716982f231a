"""`tok4d bench card`: what a model's latents and codes are like."""

from __future__ import annotations

import json
from pathlib import Path

import typer

from tok4d.cli.console import emit, progress
from tok4d.cli.files import make_folder
from tok4d.errors import ConfigError, DataError
from tok4d_bench.cli.options import JSON
from tok4d_bench.cli.sources import OPTIONS, SOURCE, leave_out, open_source, parse_options


def card(
    model: str = typer.Option(..., "-m", "--model", help="A tok4d model folder."),
    data: str = SOURCE,
    options: str = OPTIONS,
    out: Path = typer.Option(..., "-o", "--out", help="Folder for card.json and card.md."),
    side: int = typer.Option(0, "--size", min=0, help="Square of pixels that pictures are cut to; 0: as they are."),
    limit: int = typer.Option(256, "--limit", min=1, help="At most that many samples, evenly spread."),
    tokens: int = typer.Option(16_384, "--tokens", min=1, help="Tokens at which the use of codes is counted."),
    threads: int = typer.Option(1, "--threads", min=1, help="Of torch and BLAS."),
    device: str = typer.Option("cpu", "--device", help="cpu, cuda, or auto."),
    dtype: str = typer.Option("float32", "--dtype", help="Precision of the model: float32 or bf16."),
    as_json: bool = JSON,
) -> None:
    """Describe the latents: mean, deviation, kurtosis and KL of every channel, active channels, spectrum; use of
    codebooks; error at the seams of clips; a linear probe of features, latents and codes where there are labels.
    """
    import os

    from tok4d_bench.world import announce_threads, set_threads

    announce_threads(os.environ, threads)
    from tok4d_bench.card.make import make_card
    from tok4d_bench.card.report import markdown
    from tok4d_bench.fingerprint import versions
    from tok4d_bench.sensitivity.choices import base_prepare
    from tok4d_bench.subjects import load_subject
    from tok4d_bench.subjects.tok4d_model import Tok4dSubject

    set_threads(threads)
    subject = load_subject(model, device, dtype)
    if not isinstance(subject, Tok4dSubject):
        raise ConfigError(f"{model}: a card is of a tok4d model; {subject.name} shows no latents")
    samples = open_source(data, parse_options(options), base_prepare(side) if side else {}, limit)
    make_folder(out)
    with progress(-(-len(samples) // 4), "card", as_json) as advance:
        found = {**make_card(subject, samples, tokens, advance=advance), "threads": threads, "versions": versions()}
    text = markdown(found)
    from tok4d.weights.folder import write_text

    try:
        write_text(out / "card.json", json.dumps(found, indent=1, allow_nan=False, default=str) + "\n")
        write_text(out / "card.md", text)
    except OSError as error:
        raise DataError(out, f"cannot be written ({error.strerror or error})") from error
    emit(found, as_json, lambda: typer.echo(text, nl=False))
    leave_out(found["bad"])
