"""Command line of the experiment; see the package."""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path
from typing import Any

import pytorch_lightning as pl

from tok4d.config.loader import load_curriculum
from tok4d.config.schema import Curriculum
from tok4d.training.manifest import manifest
from tok4d.training.run import train
from tok4d.weights.folder import write_text
from tok4d_bench.mini.measuring import cpu_clock, floors, measure
from tok4d_bench.mini.report import say, summary, table
from tok4d_bench.mini.variants import VARIANTS, changed, variant


class KeepStage(pl.Callback):
    """Keeps the model folder of a stage's end beside the run, since checkpoints give way to newer ones."""

    def __init__(self, run: Path, stage: str) -> None:
        self.run, self.stage = run, stage

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        last, kept = self.run / "checkpoints" / "last", self.run / "stages" / self.stage
        if trainer.is_global_zero and last.exists() and not trainer.interrupted:
            kept.mkdir(parents=True, exist_ok=True)
            for name in ("model.safetensors", "config.yaml"):
                shutil.copy2(last / name, kept / name)


def run_variant(curriculum: Curriculum, name: str, out: Path) -> dict[str, Any]:
    """Train one variant (or go on with it), and measure what each of its stages left."""
    config = variant(curriculum, name)
    done = out / "measured.json"
    if done.is_file():
        return dict(json.loads(done.read_text()))
    with cpu_clock(out / "cpu_seconds.json") as clock:
        train(config, out, resume=True, callbacks=lambda stage, start, steps: [KeepStage(out, stage)])
    stages = {}
    for stage in config.order:
        say(f"measuring {out.name} after {stage}")
        stages[stage] = measure(out / "stages" / stage, config, stage)
    found = {
        "steps": {stage: config.stages[stage].steps for stage in config.order},
        "cpu_seconds": round(clock()),
        "manifest": json.loads((out / "manifest.json").read_text()),
        "stages": stages,
    }
    write_text(done, json.dumps(found))
    return found


def main() -> None:
    """Train, measure, and write what was found."""
    parser = argparse.ArgumentParser(description="The mini curriculum, floors, and controls of one modality")
    parser.add_argument("-o", "--out", type=Path, required=True, help="folder of the runs")
    parser.add_argument("--curriculum", default="mini")
    parser.add_argument("--presets", default="tiny", help="comma-separated")
    parser.add_argument("--seeds", default="0", help="comma-separated")
    parser.add_argument("--variants", default=",".join(VARIANTS), help="comma-separated")
    parser.add_argument("--label", default="", help="in the names of these runs, where overrides make others of them")
    parser.add_argument("--also", action="store_true", help="report what else is measured in that folder, too")
    parser.add_argument("--report", type=Path, help="JSON to write, and a page of the same name with .md")
    parser.add_argument("overrides", nargs="*", help="key=value, as for `tok4d train`")
    args = parser.parse_args()
    runs: dict[str, dict[str, Any]] = {}
    for preset in args.presets.split(","):
        for seed in args.seeds.split(","):
            given = [*args.overrides, f"model.preset={preset}", f"seed={seed}"]
            config = load_curriculum(args.curriculum, given)
            for name in args.variants.split(","):
                folder = args.out / "-".join(part for part in (preset, seed, args.label, name) if part)
                runs[folder.name] = run_variant(config, name, folder)
    if args.also:
        found = {path.parent.name: path for path in sorted(args.out.glob("*/measured.json"))}
        runs |= {name: json.loads(path.read_text()) for name, path in found.items() if name not in runs}
    config = load_curriculum(args.curriculum, args.overrides)
    ground = args.out / "floors.json"
    if not ground.is_file():
        write_text(ground, json.dumps(floors(config)))
    report = summary(runs, json.loads(ground.read_text()))
    for name, run in runs.items():
        report["runs"][name]["changed"] = changed(args.curriculum, name, run["manifest"]["curriculum"])
    command = f"python -m tok4d_bench.mini --presets {args.presets} --seeds {args.seeds} --variants {args.variants}"
    command += f" --label {args.label}" if args.label else ""
    command += " --also" if args.also else ""
    report = {"command": " ".join([command, *args.overrides]), "manifest": manifest(), **report}
    for line in table(report).splitlines():
        say(line)
    if args.report:
        write_text(args.report, json.dumps(report, indent=1))
        write_text(args.report.with_suffix(".md"), table(report))


if __name__ == "__main__":
    main()
