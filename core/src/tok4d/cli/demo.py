"""`tok4d demo`: from nothing to a report in a few minutes."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from tok4d.cli.console import emit, note, table

if TYPE_CHECKING:
    import pytorch_lightning as pl

    from tok4d.demo.run import Report


def demo(
    overrides: list[str] = typer.Argument(None, metavar="[KEY=VALUE]...", help="As for `tok4d train`."),
    out: Path = typer.Option(Path("demo-out"), "--out", "-o", help="Folder of run, tokens, pictures and report."),
    curriculum: str = typer.Option("demo", "--curriculum", help="Another curriculum than the demo's own."),
    as_json: bool = typer.Option(False, "--json", help="Give JSON alone on stdout."),
) -> None:
    """Train a small tokenizer on real photographs, restore held-out ones from token files, and write a report.

    Run again on the same folder it goes on where it stopped. With your own data: --curriculum my.yaml, see
    docs/training.md; its last stage needs a validation task.
    """
    from tok4d.cli.train import progress
    from tok4d.config.loader import load_curriculum
    from tok4d.demo.run import check_demo, evaluate_run
    from tok4d.training.run import train

    logging.basicConfig(stream=sys.stderr, format="%(message)s", level=logging.WARNING)
    config = load_curriculum(curriculum, overrides or [])
    check_demo(config)

    def callbacks(stage: str, start: int, steps: int) -> list[pl.Callback]:
        return [] if as_json else [progress(stage, start, steps)]

    if not as_json:
        note(f"training {config.model.preset}: {sum(config.stages[name].steps for name in config.order)} steps")
    result = train(config, out / "run", resume=True, callbacks=callbacks)
    report = evaluate_run(config, result, out)
    emit({"summary": report.summary(), "report": str(out / "index.html")}, as_json, lambda: _render(report, out))


def _render(report: Report, out: Path) -> None:
    names = {"pca": "PCA", "model": "tok4d", "model, sampled": "sampled"}
    summary = report.summary()
    for modality, measured in summary.pop("modalities").items():
        some = [row for row in report.rows if row.modality == modality]
        metrics = [
            name for name in ("psnr", "ssim", "view_psnr") if name in some[0].scores["model"]
        ]  # the page has them all
        columns = [
            modality,
            "tokens",
            *[f"{name} {metric}" for metric in metrics for name in names.values()],
            "gain dB",
        ]
        rows = [
            [row.key, row.tokens, *[row.scores[method].get(metric) for metric in metrics for method in names], row.gain]
            for row in some
        ]
        table(columns, rows, (modality,))
        typer.echo()
        table([f"mean, {modality}", "value"], list(measured.items()))
        typer.echo()
    stages = summary.pop("stages")
    if len(stages) > 1:
        keys = list(
            dict.fromkeys(key for stage in stages for key in stage if key.endswith("psnr") and "frame" not in key)
        )
        table(["after stage", *keys], [[stage["stage"], *[stage.get(key) for key in keys]] for stage in stages])
        typer.echo()
    table(["run", "value"], list(summary.items()))
    typer.echo(f"\nreport: {(out / 'index.html').resolve()}")
