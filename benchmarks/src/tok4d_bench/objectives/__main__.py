"""Command line of the experiment; see the package."""

from __future__ import annotations

import argparse
import json
import shlex
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch

from tok4d.config.loader import load_curriculum
from tok4d.config.schema import Curriculum, FSQConfig
from tok4d.data.batches import validation_batches
from tok4d.errors import ConfigError, unknown_name
from tok4d.losses import LPIPS
from tok4d.modality import Sample
from tok4d.model.tokenizer import Tokenizer
from tok4d.training.alignment import Alignment
from tok4d.training.evaluate import evaluate, reconstructor
from tok4d.training.manifest import manifest
from tok4d.training.run import train
from tok4d.training.stage_loss import targets, unpatchify
from tok4d.weights.folder import write_text
from tok4d_bench.contracts import Restored
from tok4d_bench.measures.frechet import FrechetDistance
from tok4d_bench.measures.kernel import KernelDistance
from tok4d_bench.measures.memory import measure_pairs
from tok4d_bench.mini.measuring import by_task, cpu_clock
from tok4d_bench.mini.report import paired, say, wilson
from tok4d_bench.objectives.claims import claims

L1 = {"l1": 1.0, "kl": 1e-8}
LPIPS_TERM = {"lpips": {"weight": 10.0, "net": "vgg", "size": None}}
GRAM = {"gram": {"weight": 1000.0, "size": None}}
TEACHER = {"teacher": {"weight": 1.0, "network": "alexnet", "size": None}}
NAMING = {"sigmoid": 0.05}
ARMS: dict[str, tuple[dict[str, Any], bool]] = {  # losses, and whether latents are FSQ codes
    "a L1": (L1, False),
    "b L1 + LPIPS": (L1 | LPIPS_TERM, False),
    "c L1 + LPIPS + Gram": (L1 | LPIPS_TERM | GRAM, False),
    "d all": (L1 | LPIPS_TERM | GRAM | TEACHER, False),
    "e L1 + sigmoid": (L1 | NAMING, False),
    "f L1, FSQ": ({"l1": 1.0}, True),
    "f L1 + sigmoid, FSQ": ({"l1": 1.0} | NAMING, True),
}
PICTURES = ("emoji", "icon")
DIRECTIONS = 20  # of the fixed PCA before the two parts of a Fréchet distance


def arm(name: str, seed: int, overrides: list[str]) -> Curriculum:
    """The curriculum of one arm; a term that a task cannot have (emoji have no noun to learn) is the same for all."""
    path = Path(str(files("tok4d_bench.objectives") / "objectives.yaml"))
    config = load_curriculum(path, [f"seed={seed}", *overrides])
    losses, discrete = ARMS[name]
    stage = config.stages["images"]
    for task in stage.tasks.values():
        task.losses = dict(losses)
    stage.quantizer = FSQConfig() if discrete else None
    return config.check()


@torch.no_grad()
def measure(folder: Path, config: Curriculum, vgg: bool) -> dict[str, Any]:
    """Per-sample values and figures of a trained arm on the held-out pictures."""
    model = Tokenizer.from_pretrained(folder)
    tasks = config.stages["images"].validation
    assert model.config.text is not None
    scores = evaluate(
        model, validation_batches(tasks, model.patch_size), Alignment(model.config.text, model.embedding_width, tasks)
    )
    values: dict[str, dict[str, float]] = {"psnr": {}, "ssim": {}, "lpips_vgg": {}, "lpips_alex": {}}
    for name in PICTURES:
        for metric in ("psnr", "ssim"):
            values[metric] |= by_task(scores)[name][f"image/{metric}"]
    originals, restored = _pairs(model, {name: tasks[name] for name in PICTURES})
    for net in ("vgg", "alex"):
        distance = LPIPS(net=net, size=None)
        for one, other in zip(originals, restored, strict=True):
            pair = (sample.data["image"][None].clamp(-1, 1) for sample in (one, other.sample))
            values[f"lpips_{net}"][one.key] = float(distance(*pair))
    networks = ["effnet-lite0", *(["vgg16-features"] if vgg else [])]
    sets = [made(network) for network in networks for made in (_frechet, KernelDistance)]
    figures = {
        value.metric: {"value": value.value, "stderr": value.stderr, "note": value.note}
        for several in measure_pairs(sets, originals, restored)
        for value in several
    }
    return {"values": values, "sets": figures, "figures": scores.figures}


def _frechet(network: str) -> FrechetDistance:
    return FrechetDistance(network, pca=DIRECTIONS)


def _pairs(model: Tokenizer, tasks: Mapping[str, Any]) -> tuple[list[Sample], list[Restored]]:
    """Originals and reconstructions, both as 8 bits keep them."""
    originals: list[Sample] = []
    restored: list[Restored] = []
    for batch in validation_batches(tasks, model.patch_size):
        got = unpatchify(model, batch, reconstructor(model)(batch))
        for one, other in zip(targets(batch), got, strict=True):
            other.data["image"] = ((other.data["image"].clamp(-1, 1) + 1) * 127.5).round() / 127.5 - 1
            originals.append(one)
            restored.append(Restored(other))
    return originals, restored


def run(name: str, seed: int, out: Path, overrides: list[str], vgg: bool) -> dict[str, Any]:
    """One arm with one seed, trained or gone on with, and measured."""
    config, done = arm(name, seed, overrides), out / "measured.json"
    if done.is_file():
        return dict(json.loads(done.read_text()))
    with cpu_clock(out / "cpu_seconds.json") as clock:
        train(config, out, resume=True)
    seconds = clock()
    found = measure(out / "checkpoints" / "last", config, vgg)
    found |= {"cpu_seconds": round(seconds, 1), "commit": json.loads((out / "manifest.json").read_text())["commit"]}
    write_text(done, json.dumps(found))
    psnr = sum(found["values"]["psnr"].values()) / len(found["values"]["psnr"])
    say(f"{name}, seed {seed}: {seconds:.0f} CPU s, PSNR {psnr:.2f}")
    return found


def summary(runs: Mapping[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """By arm: means over seeds and pictures, differences to (a) over the same pictures and seeds, named objects."""
    found: dict[str, Any] = {}
    for name, seeds in runs.items():
        row: dict[str, Any] = {"cpu_seconds": [run["cpu_seconds"] for run in seeds]}
        row |= {"commits": {number: run["commit"] for number, run in enumerate(seeds)}}
        for metric in seeds[0]["values"]:
            mine, base = (_pooled(some, metric) for some in (seeds, runs["a L1"]))
            difference, low, high = paired(mine, base)
            by_seed = [sum(run["values"][metric].values()) / len(run["values"][metric]) for run in seeds]
            row[metric] = {
                "value": sum(mine.values()) / len(mine),
                "by_seed": by_seed,
                "less_a": difference,
                "interval": [low, high],
            }
        for metric in dict.fromkeys(key for run in seeds for key in run["sets"]):
            row[metric] = [run["sets"][metric] for run in seeds if metric in run["sets"]]
        for task in ("icon", "unseen_icon"):
            shares = [run["figures"].get(f"{task}/accuracy") for run in seeds]
            if all(share is not None for share in shares):
                count = int(seeds[0]["figures"][f"{task}/accuracy/samples"])
                mean = sum(shares) / len(shares)
                row[f"{task} accuracy"] = {
                    "by_seed": shares,
                    "value": mean,
                    "interval_of_one_seed": wilson(mean, count),
                    "chance": seeds[0]["figures"][f"{task}/accuracy/chance"],
                    "majority": seeds[0]["figures"][f"{task}/accuracy/majority"],
                    "objects": count,
                }
        found[name] = row
    return found


def _pooled(seeds: list[dict[str, Any]], metric: str) -> dict[str, float]:
    found = [run["values"][metric] for run in seeds]
    return {f"{number}/{key}": value for number, values in enumerate(found) for key, value in values.items()}


def page(report: dict[str, Any]) -> str:
    """The report as a page."""
    arms = report["arms"]
    metrics = ("psnr", "ssim", "lpips_vgg", "lpips_alex")
    lines = ["# What each term of the objective does", "", f"`{report['command']}`", ""]
    lines += [
        f"{report['pictures']} held-out pictures of 64 px, seeds {report['seeds']}. In brackets: difference to (a),",
        "with its 95 % bootstrap interval, over the same pictures and seeds. CPU s: training, median over seeds.",
        "",
    ]
    lines += ["| arm | " + " | ".join(metrics) + " | CPU s |", "|---|" + "---|" * (len(metrics) + 1)]
    for name, row in arms.items():
        cells = []
        for metric in metrics:
            low, high = row[metric]["interval"]
            cells.append(f"{row[metric]['value']:.3f} ({row[metric]['less_a']:+.3f} [{low:+.3f}, {high:+.3f}])")
        seconds = sorted(row["cpu_seconds"])
        lines.append(f"| {name} | {' | '.join(cells)} | {seconds[len(seconds) // 2]:.0f} |")
    sets = list(dict.fromkeys(key for row in arms.values() for key, value in row.items() if isinstance(value, list)))
    sets = [key for key in sets if key != "cpu_seconds"]
    lines += ["", "Distances of the sets, by seed (value ± standard error):", ""]
    lines += ["| arm | " + " | ".join(sets) + " |", "|---|" + "---|" * len(sets)]
    for name, row in arms.items():
        cells = [", ".join(_with_error(value) for value in row.get(metric, [])) or "-" for metric in sets]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    lines += ["", *claims(arms)]
    lines += ["", "Named: share of held-out icons whose noun is nearest.", ""]
    lines += ["| arm | objects | accuracy by seed | mean | chance | majority |", "|---|---|---|---|---|---|"]
    for name, row in arms.items():
        for task in ("icon", "unseen_icon"):
            if f"{task} accuracy" in row:
                one = row[f"{task} accuracy"]
                by_seed = ", ".join(f"{share:.3f}" for share in one["by_seed"])
                lines.append(
                    f"| {name} | {task}, {one['objects']} | {by_seed} | {one['value']:.3f} | {one['chance']:.3f} "
                    f"| {one['majority']:.3f} |"
                )
    return "\n".join([*lines, ""])


def _arms(given: str) -> list[str]:
    """The arms asked for; (a) is always among them, since all others are compared with it."""
    names = [name.strip() for name in given.split(";") if name.strip()] or list(ARMS)
    for name in names:
        if name not in ARMS:
            raise ConfigError(unknown_name("arm", name, list(ARMS)))
    return list(dict.fromkeys([next(iter(ARMS)), *names]))


def _with_error(value: dict[str, Any]) -> str:
    if value["value"] is None:
        return "-"
    error = "" if value["stderr"] is None else f" ± {value['stderr']:.3g}"
    return f"{value['value']:.4g}{error}"


def main() -> None:
    """Train, measure and write what was found."""
    parser = argparse.ArgumentParser(description="What each term of the objective does")
    parser.add_argument("-o", "--out", type=Path, required=True, help="folder of the runs")
    parser.add_argument("--seeds", default="0,1,2", help="comma-separated")
    parser.add_argument("--vgg-seeds", default="0", help="seeds that are also measured on VGG16's features: slow")
    parser.add_argument("--arms", default="", help=f"semicolon-separated, by default all: {'; '.join(ARMS)}")
    parser.add_argument("--report", type=Path, help="JSON to write, and a page of the same name with .md")
    parser.add_argument("overrides", nargs="*", help="key=value, as for `tok4d train`")
    args = parser.parse_args()
    seeds = [int(seed) for seed in args.seeds.split(",")]
    vgg = {int(seed) for seed in args.vgg_seeds.split(",") if seed}
    try:
        runs: dict[str, list[dict[str, Any]]] = {name: [] for name in _arms(args.arms)}
    except ConfigError as error:
        parser.error(str(error))
    for seed in seeds:
        for name in runs:
            folder = args.out / f"{name.replace(' ', '-').replace(',', '')}-{seed}"
            runs[name].append(run(name, seed, folder, args.overrides, seed in vgg))
    given = f"--seeds {args.seeds} --vgg-seeds {args.vgg_seeds or chr(34) * 2}"
    given += f" --arms {shlex.quote(args.arms)}" if args.arms else ""
    command = " ".join([f"python -m tok4d_bench.objectives {given}", *args.overrides])
    report = {
        "command": command,
        "seeds": seeds,
        "pictures": len(runs["a L1"][0]["values"]["psnr"]),
        "manifest": manifest(),
        "arms": summary(runs),
    }
    for line in page(report).splitlines():
        say(line)
    if args.report:
        write_text(args.report, json.dumps(report, indent=1))
        write_text(args.report.with_suffix(".md"), page(report))


if __name__ == "__main__":
    main()
