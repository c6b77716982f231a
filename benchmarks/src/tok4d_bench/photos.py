"""A learned tokenizer against the PCA of its patches, on held-out photographs, over folds.

    python -m tok4d_bench.photos -o runs/photos            # 3 folds of the `photos` curriculum, about an hour
    python -m tok4d_bench.photos -o runs/photos --folds 0 stages.images.steps=200

Each fold trains on two thirds of the natural photographs and is scored on the rest, every photograph against its own
PCA with as many components as the model has latent channels, fitted on the same training photographs. Interrupted, the
command goes on where it stopped; folds may also run as commands of their own. Expected: median gain above 0.3 dB.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from tok4d.config.loader import load_curriculum, to_mapping
from tok4d.data.batches import validation_batches
from tok4d.model.tokenizer import Tokenizer
from tok4d.training.evaluate import Reconstruct, pca_reconstructor, reconstructor, score
from tok4d.training.manifest import manifest
from tok4d.training.run import train
from tok4d.training.start import fit_pca
from tok4d.weights.folder import write_text

METRICS = ("image/psnr", "image/ssim")


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description="A learned tokenizer against its PCA, over folds")
    parser.add_argument("-o", "--out", type=Path, required=True, help="folder of the runs")
    parser.add_argument("--curriculum", default="photos")
    parser.add_argument("--folds", default="0,1,2", help="comma-separated")
    parser.add_argument("overrides", nargs="*", help="key=value, as for `tok4d train`")
    args = parser.parse_args()
    numbers = [int(number) for number in args.folds.split(",")]
    folds = [run_fold(args.curriculum, fold, args.out / f"fold{fold}", args.overrides) for fold in numbers]
    summary = summarise(folds)
    command = f"python -m tok4d_bench.photos -o {args.out} {' '.join(args.overrides)}".strip()
    report = {"summary": summary, "command": command, "folds": folds}
    write_text(args.out / "photos.json", json.dumps(report, indent=1))
    write_text(args.out / "photos.md", markdown(report))
    for name, value in summary.items():
        print_line(f"{name}: {value}")


def run_fold(curriculum: str, fold: int, out: Path, overrides: Sequence[str]) -> dict[str, Any]:
    """Train one fold (or go on with it) and score it; CPU seconds are those of this process."""
    stage = load_curriculum(curriculum, overrides).order[0]
    path = f"stages.{stage}"
    fold_options = [f"{path}.tasks.image.options.fold={fold}", f"{path}.validation.image.options.fold={fold}"]
    config = load_curriculum(curriculum, [*overrides, *fold_options])
    done = out / "fold.json"
    if done.is_file() and (found := json.loads(done.read_text()))["curriculum"] == to_mapping(config):
        return dict(found)
    about = out / "manifest.json"  # a run that is only scored again keeps the record of its training
    trained = json.loads(about.read_text()) if about.is_file() else manifest()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_utime
    result = train(config, out, resume=True)
    clock = out / "cpu_seconds.json"  # of all the commands that trained this fold
    seconds = resource.getrusage(resource.RUSAGE_SELF).ru_utime - before
    seconds += json.loads(clock.read_text()) if clock.is_file() else 0
    write_text(clock, json.dumps(seconds))
    model, task = result.model, config.stages[stage]
    pca = fit_pca(next(iter(task.tasks.values())), model.patch_size, config.init_samples, config.seed)
    batches = list(validation_batches(task.validation, model.patch_size))
    methods: dict[str, Reconstruct] = {
        "pca": pca_reconstructor(pca, model.config.latent),
        "mean": reconstructor(model, "mean"),
        "sample": reconstructor(model, "sample"),
        "residuals_zeroed": reconstructor(without_residuals(model, out), "mean"),
    }
    values: dict[str, dict[str, dict[str, float]]] = {}
    for name, method in methods.items():
        values[name] = score(batches, method).values
    photos = {
        key: {name: {metric: values[name][metric][key] for metric in METRICS} for name in methods}
        for key in values["pca"]["image/psnr"]
    }
    for key, row in photos.items():
        psnr = {name: round(row[name]["image/psnr"], 3) for name in methods}
        print_line(f"fold {fold} {key}: {psnr}")
    steps = config.stages[stage].steps
    record: dict[str, Any] = {
        "fold": fold,
        "steps": steps,
        "cpu_seconds": round(seconds),
        "threads": trained["threads"],
    }
    record |= {"manifest": trained, "curriculum": to_mapping(config), "photos": photos}
    write_text(done, json.dumps(record, indent=1))
    return record


@torch.no_grad()
def without_residuals(model: Tokenizer, out: Path) -> Tokenizer:
    """A copy of the model whose blocks add nothing: what is left of it is linear but for the norms."""
    copy = Tokenizer.from_pretrained(out / "checkpoints" / "last")
    for name, parameter in copy.named_parameters():
        if ".blocks." in name and (".attn.to_out." in name or ".mlp.mlp.2." in name):
            parameter.zero_()
    return copy


def summarise(folds: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Paired gains over all folds' photographs, in dB."""
    rows = [row for fold in folds for row in fold["photos"].values()]

    def gains(method: str, base: str) -> list[float]:
        return [row[method]["image/psnr"] - row[base]["image/psnr"] for row in rows]

    mean, sample = gains("mean", "pca"), gains("sample", "pca")
    return {
        "photographs": len(rows),
        "median_gain_db": round(statistics.median(mean), 3),
        "median_gain_db_sampled": round(statistics.median(sample), 3),
        "least_gain_db": round(min(mean), 3),
        "below_pca": sum(gain < 0 for gain in mean),
        "median_loss_db_without_residuals": round(-statistics.median(gains("residuals_zeroed", "mean")), 3),
        "pca_psnr": round(statistics.mean(row["pca"]["image/psnr"] for row in rows), 3),
        "model_psnr": round(statistics.mean(row["mean"]["image/psnr"] for row in rows), 3),
        "cpu_seconds": sum(fold["cpu_seconds"] for fold in folds),
    }


def markdown(report: dict[str, Any]) -> str:
    """The report as a page: one row a photograph, PSNR in dB."""
    lines = [
        "# Learned tokenizer against PCA, held-out photographs",
        "",
        f"`{report['command']}`, seed {report['folds'][0]['curriculum']['seed']}, "
        f"commit {report['folds'][0]['manifest']['commit']}, {report['folds'][0]['steps']} steps a fold, "
        f"{report['folds'][0]['threads']} thread(s), {report['summary']['cpu_seconds']} CPU seconds in all.",
        "",
        "PSNR in dB over the whole photograph. PCA: as many components as the model has latent channels, fitted on the",
        "same training pictures. Sampled: latents drawn from the posterior. No residuals: the trained model with the",
        "outputs of all its blocks set to zero.",
        "",
        "| fold | photograph | PCA | model, mean | model, sampled | gain | no residuals |",
        "|---|---|---|---|---|---|---|",
    ]
    for fold in report["folds"]:
        for key, row in fold["photos"].items():
            value = {name: row[name]["image/psnr"] for name in row}
            lines.append(
                f"| {fold['fold']} | {key} | {value['pca']:.2f} | {value['mean']:.2f} | {value['sample']:.2f} "
                f"| {value['mean'] - value['pca']:+.2f} | {value['residuals_zeroed']:.2f} |"
            )
    lines += ["", *[f"* {name.replace('_', ' ')}: {value}" for name, value in report["summary"].items()], ""]
    return "\n".join(lines)


def print_line(text: str) -> None:
    """A line of the report on stdout."""
    import sys

    sys.stdout.write(text + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
