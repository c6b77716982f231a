"""From per-sample values to figures with intervals, and to a page.

Intervals are 95 %: Wilson's for shares of objects, the bootstrap over objects for differences in dB (paired: the same
objects restored by two models), the seeds' own spread where there are several.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from math import sqrt
from typing import Any

import numpy as np

QUALITY = {  # task -> metric that says how well it is restored
    "picture": "image/psnr",
    "photo": "image/psnr",
    "turn": "video/psnr",
    "asset": "mesh3d/view_psnr_foreground",
}
MORE = {
    "picture": ("image/ssim", "image/lpips_vgg"),
    "photo": ("image/ssim", "image/lpips_vgg"),
    "turn": ("video/ssim",),
    "asset": ("mesh3d/view_psnr", "mesh3d/psnr"),
}
NAMED = ("picture", "turn", "asset")
SHOWN = (*QUALITY.items(), ("asset", "mesh3d/view_psnr"))  # columns of the tables in dB
COLUMNS = " | ".join([*QUALITY, "asset, all"])
DRAWS = 2000


def say(text: str) -> None:
    """A line on stdout."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def wilson(share: float, count: int, z: float = 1.96) -> tuple[float, float]:
    """95 % interval of a share of `count` objects (Wilson 1927)."""
    centre = share + z * z / (2 * count)
    half = z * sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    return (centre - half) / (1 + z * z / count), (centre + half) / (1 + z * z / count)


def paired(one: Mapping[str, float], other: Mapping[str, float]) -> tuple[float, float, float]:
    """Mean difference over the objects that both have, with its 95 % bootstrap interval."""
    keys = sorted(set(one) & set(other))
    differences = np.array([one[key] - other[key] for key in keys])
    draws = np.random.default_rng(0).integers(len(keys), size=(DRAWS, len(keys)))
    low, high = np.quantile(differences[draws].mean(1), [0.025, 0.975])
    return float(differences.mean()), float(low), float(high)


def summary(runs: Mapping[str, dict[str, Any]], floors: dict[str, Any]) -> dict[str, Any]:
    """Figures of every run and stage, and differences to floors and controls."""
    found: dict[str, Any] = {"floors": {}, "floors_own": {}, "floors_fewer": {}, "runs": {}, "differences": []}
    for task, metric in SHOWN:
        found["floors"][f"{task} {metric}"] = _mean(floors["samples"][task][metric])
        if task in floors["own"]:
            found["floors_own"][f"{task} {metric}"] = _mean(floors["own"][task][metric])
    for stage, tasks in floors.get("fewer", {}).items():
        found["floors_fewer"][stage] = {f"{t} {m}": _mean(tasks[t][m]) for t, m in SHOWN if t in tasks}
    for name, run in runs.items():
        found["runs"][name] = {
            "steps": run["steps"],
            "cpu_seconds": run["cpu_seconds"],
            "commit": run["manifest"].get("commit"),
            "stages": {stage: _stage(measured) for stage, measured in run["stages"].items()},
        }
        found["differences"] += _differences(name, run, runs, floors)
    return found


def _mean(values: Mapping[str, float]) -> float:
    return sum(values.values()) / len(values)


def _stage(measured: dict[str, Any]) -> dict[str, Any]:
    row: dict[str, Any] = {}
    for task, metric in QUALITY.items():
        for each in (metric, *MORE[task]):
            if each in measured["samples"].get(task, {}):
                row[f"{task} {each}"] = _mean(measured["samples"][task][each])
    figures = measured["figures"]
    for task in NAMED:
        for prefix in ("", "unseen_"):
            key = f"{prefix}{task}"
            if f"{key}/accuracy" not in figures:
                continue
            share, count = figures[f"{key}/accuracy"], int(figures[f"{key}/accuracy/samples"])
            row[f"{key} accuracy"] = {
                "value": share,
                "interval": wilson(share, count),
                "macro": figures[f"{key}/macro_accuracy"],
                "chance": figures[f"{key}/accuracy/chance"],
                "majority": figures[f"{key}/accuracy/majority"],
                "objects": count,
            }
            if not prefix:
                row[f"{key} recall@1"] = figures.get(f"{key}/recall@1")
    row |= {name: value for name, value in figures.items() if "/codes/" in name}
    return row


def _differences(
    name: str, run: dict[str, Any], runs: Mapping[str, dict[str, Any]], floors: dict[str, Any]
) -> list[dict[str, Any]]:
    """Of a whole curriculum's stages to the floor, and to the controls of its preset and seed at the same stage."""
    base, _, kind = name.rpartition("-curriculum")
    if not base or kind:
        return []
    rows = []
    for stage, measured in run["stages"].items():
        for task, metric in QUALITY.items():
            own = measured["samples"].get(task, {}).get(metric)
            if own is None:
                continue
            ground = floors.get("fewer", {}).get(stage, floors["samples"])
            others = {"floor": ground.get(task, {}).get(metric)}
            for other, control in runs.items():
                if other.startswith(f"{base}-") and other != name and stage in control["stages"]:
                    others[other] = control["stages"][stage]["samples"].get(task, {}).get(metric)
            for other, values in others.items():
                if values:
                    mean, low, high = paired(own, values)
                    rows.append(
                        {"run": name, "stage": stage, "task": task, "metric": metric, "less": other}
                        | {"mean": mean, "interval": [low, high]}
                    )
    return rows


def table(report: dict[str, Any]) -> str:
    """The page."""
    lines = ["# The mini curriculum", "", f"`{report['command']}`", ""]
    lines += [
        "Restored, in dB. Assets: drawn Gaussians over a fixed background, pixels of the object and all pixels.",
        "",
    ]
    lines += [f"| run | after | {COLUMNS} | CPU s |", "|---|---|" + "---|" * (len(SHOWN) + 1)]
    for label, values in (
        ("floor: a PCA of all pictures, one of all clips (48 channels); one splat a voxel", report["floors"]),
        ("floor: a PCA of this task's data alone", report["floors_own"]),
        *((f"floor of the stage {stage}, with its channels", row) for stage, row in report["floors_fewer"].items()),
    ):
        cells = " | ".join(_number(values.get(f"{task} {metric}")) for task, metric in SHOWN)
        lines.append(f"| {label} | | {cells} | |")
    for name, run in report["runs"].items():
        for stage, row in run["stages"].items():
            cells = " | ".join(_number(row.get(f"{task} {metric}")) for task, metric in SHOWN)
            lines.append(f"| {name} | {stage} | {cells} | {run['cpu_seconds']} |")
    lines += _changed(report) + _over_seeds(report)
    lines += ["", "Named: share of held-out objects whose noun is nearest, [95 % interval], macro; then retrieval.", ""]
    lines += [
        "| run | after | task | accuracy | macro | chance | majority | objects | recall@1 |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name, run in report["runs"].items():
        for stage, row in run["stages"].items():
            for key, value in row.items():
                if key.endswith(" accuracy"):
                    task = key.removesuffix(" accuracy")
                    low, high = value["interval"]
                    lines.append(
                        f"| {name} | {stage} | {task} | {value['value']:.3f} [{low:.3f}, {high:.3f}] "
                        f"| {value['macro']:.3f} | {value['chance']:.3f} | {value['majority']:.3f} "
                        f"| {value['objects']} | {_number(row.get(f'{task} recall@1'), 3)} |"
                    )
    lines += ["", "The curriculum less floors and controls, over the same objects, dB [95 % interval]:", ""]
    lines += ["| run | after | task | less | difference |", "|---|---|---|---|---|"]
    for row in report["differences"]:
        low, high = row["interval"]
        lines.append(
            f"| {row['run']} | {row['stage']} | {row['task']} | {row['less']} "
            f"| {row['mean']:+.2f} [{low:+.2f}, {high:+.2f}] |"
        )
    lines += ["", "Other figures of the last stages (SSIM, LPIPS, codes):", ""]
    for name, run in report["runs"].items():
        stage, row = list(run["stages"].items())[-1]
        shown = {key: value for key, value in row.items() if isinstance(value, float)}
        lines.append(f"* {name}, {stage}: " + ", ".join(f"{key} {value:.3f}" for key, value in shown.items()))
    return "\n".join([*lines, ""])


def _changed(report: dict[str, Any]) -> list[str]:
    given = {name: run["changed"] for name, run in report["runs"].items() if run.get("changed")}
    if not given:
        return []
    return ["", "With other settings than the curriculum ships:", ""] + [
        f"* {name}: `{' '.join(settings)}`" for name, settings in given.items()
    ]


def _over_seeds(report: dict[str, Any]) -> list[str]:
    """Mean, lowest and highest of the seeds of one variant, where there are several."""
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for name, run in report["runs"].items():
        preset, _, rest = name.partition("-")
        seed, _, rest = rest.partition("-")
        if seed.isdecimal():
            groups.setdefault((preset, rest), []).append(run)
    lines = []
    for (preset, rest), runs in groups.items():
        for stage in runs[0]["stages"] if len(runs) > 1 else ():
            cells = []
            for task, metric in SHOWN:
                values = [run["stages"][stage].get(f"{task} {metric}") for run in runs]
                cells.append("-" if None in values else _spread(values))
            lines.append(f"| {preset}, {rest} | {len(runs)} | {stage} | {' | '.join(cells)} |")
    if not lines:
        return []
    head = [f"| runs | seeds | after | {COLUMNS} |", "|---|---|---|" + "---|" * len(SHOWN)]
    return ["", "Over seeds: mean, lowest to highest, in dB:", "", *head, *lines]


def _spread(values: list[float]) -> str:
    return f"{sum(values) / len(values):.2f}, {min(values):.2f} to {max(values):.2f}"


def _number(value: Any, digits: int = 2) -> str:
    return "-" if value is None else f"{value:.{digits}f}"
