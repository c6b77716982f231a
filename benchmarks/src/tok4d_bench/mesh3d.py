"""3D: how long a mesh file takes to become voxel tokens, and what every model of the real collections comes to.

    python -m tok4d_bench.mesh3d -o benchmarks/results/mesh3d.json
    python -m tok4d_bench.mesh3d --table -o benchmarks/results/mesh3d_table.json

The time is that of loading one model of about 50,000 triangles from its file, 16 pictures of 256 pixels (2x2 rays a
pixel) and back-projection to 64^3 voxels, with all imports done; the bar is 1.5 s on two cores. The table loads,
renders and tokenizes every model of the `furniture` and `controllers` recipes and names refusals and degradations.
"""

from __future__ import annotations

import argparse
import json
import platform
import re
import shlex
import statistics
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from tok4d import __version__
from tok4d.data.fetch import ensure
from tok4d.errors import DataError, Tok4dError
from tok4d.weights.folder import write_text
from tok4d_bench.speed_report import print_line

if TYPE_CHECKING:
    from tok4d_mesh3d.lifting import Lifted

LIMIT_S = 1.5
VIEWS, SIZE, RESOLUTION = 16, 256, 64
# Models of the `furniture` recipe with 50,000 triangles or a little more: 8 materials and 2 textures, 8 plain
# colours, and leaves with a texture.
MODELS = ("Blend Swap CC-0#kitchenaid", "Blend Swap CC-BY#bunkBed", "Blend Swap CC-BY#spider_plant")


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line."""
    args = _parser().parse_args(arguments)
    command = ["python", "-m", "tok4d_bench.mesh3d", *(sys.argv[1:] if arguments is None else arguments)]
    if args.threads:
        torch.set_num_threads(args.threads)
    report: dict[str, Any] = {"command": shlex.join(command), "machine": machine()}
    if args.table:
        report["rows"] = [row for row in collections(args.resolution) if _tell(row)]
        report["summary"] = summary(report["rows"])
    else:
        report["times"] = [measure(name, args.repeats) for name in args.models.split(",")]
        report["limit_s"] = LIMIT_S
    text = table_markdown(report) if args.table else times_markdown(report)
    print_line(text)
    if args.out is not None:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        write_text(args.out, json.dumps(report, indent=1) + "\n")
        write_text(args.out.with_suffix(".md"), text + "\n")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Mesh files to voxel tokens: time, and coverage of real collections")
    parser.add_argument("--table", action="store_true", help="every model of `furniture` and `controllers`")
    parser.add_argument("--models", default=",".join(MODELS), help="ids of `furniture` models to time")
    parser.add_argument("--repeats", type=int, default=7, help="rounds after one warm-up")
    parser.add_argument("--resolution", type=int, default=RESOLUTION, help="voxels along an axis, of the table")
    parser.add_argument("--threads", type=int, default=0, help="default: as torch chooses")
    parser.add_argument("-o", "--out", type=Path, help="JSON file; a Markdown table is written beside it")
    return parser


def machine() -> dict[str, Any]:
    """What the figures depend on."""
    import open3d
    import trimesh

    return {
        "architecture": platform.machine(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "open3d": open3d.__version__,
        "trimesh": trimesh.__version__,
        "python": platform.python_version(),
        "tok4d": __version__,
    }


def measure(identity: str, repeats: int) -> dict[str, Any]:
    """Seconds of every step for one model, median and all rounds."""
    from tok4d_mesh3d.cameras import hammersley_sphere
    from tok4d_mesh3d.furniture import load_catalogue, load_furniture
    from tok4d_mesh3d.lifting import lift
    from tok4d_mesh3d.rendering import render_views

    items = {item.identity: item for item in load_catalogue(ensure("furniture")[1])}
    if identity not in items:
        raise Tok4dError(f"recipe furniture has no model {identity!r}")
    rounds: dict[str, list[float]] = {"load": [], "render": [], "lift": [], "total": [], "cpu": []}
    counts: dict[str, Any] = {}
    for number in range(repeats + 1):
        cpu, marks = time.process_time(), [time.perf_counter()]
        mesh = load_furniture(items[identity])
        marks.append(time.perf_counter())
        cameras = hammersley_sphere(VIEWS)
        views = render_views(mesh, cameras, SIZE)
        marks.append(time.perf_counter())
        lifted = lift(views, cameras, RESOLUTION)
        marks.append(time.perf_counter())
        cpu = time.process_time() - cpu
        nearest = lift(views, cameras, RESOLUTION, mode="compat")
        counts = {"faces": len(mesh.faces), "tokens": len(lifted.coords), "blocked": _blocked(lifted, nearest)}
        if number:  # the first round warms up
            for step, begin, end in zip(("load", "render", "lift"), marks, marks[1:], strict=False):
                rounds[step].append(round(end - begin, 4))
            rounds["total"].append(round(marks[-1] - marks[0], 4))
            rounds["cpu"].append(round(cpu, 4))
    medians = {step: round(statistics.median(values), 4) for step, values in rounds.items()}
    within = medians["total"] <= LIMIT_S
    return {"model": identity, **counts, "median_s": medians, "within": within, "rounds": rounds}


def _blocked(visible: Lifted, compat: Lifted) -> float:
    """Share of the voxels of both modes that `compat` takes from a view which does not see them."""
    number = [(c[:, 0].long() * RESOLUTION + c[:, 1]) * RESOLUTION + c[:, 2] for c in (visible.coords, compat.coords)]
    shared = torch.isin(number[1], number[0])
    place = torch.searchsorted(number[0], number[1][shared])
    return round(float((visible.view[place] != compat.view[shared]).float().mean()), 4)


def collections(resolution: int) -> Iterator[dict[str, Any]]:
    """One row for every model of the two recipes."""
    from tok4d_mesh3d.furniture import load_catalogue, load_furniture
    from tok4d_mesh3d.meshes import load_mesh

    for item in load_catalogue(ensure("furniture")[1]):
        extra = {"name": item.name, "noun": item.noun}
        yield {**tokenize(item.identity, lambda item=item: load_furniture(item), resolution), **extra}  # type: ignore[misc]
    for path in sorted(ensure("controllers")[1].glob("*.glb")):
        yield tokenize(path.name, lambda path=path: load_mesh(path), resolution)  # type: ignore[misc]


def tokenize(key: str, load: Callable[[], Any], resolution: int) -> dict[str, Any]:
    """Load, render and lift one model: counts, seconds, and what was wrong."""
    from tok4d_mesh3d.cameras import hammersley_sphere
    from tok4d_mesh3d.lifting import lift
    from tok4d_mesh3d.rendering import render_views

    start = time.process_time()  # of all threads: what else the machine does must not count
    try:
        mesh = load()
        cameras = hammersley_sphere(VIEWS)
        lifted = lift(render_views(mesh, cameras, SIZE), cameras, resolution)
    except Tok4dError as error:
        reason = error.reason if isinstance(error, DataError) else str(error)
        return {"model": key, "state": "refused", "reason": base_names(reason)}
    return {
        "model": key,
        "state": "degraded" if mesh.degradations else "ok",
        "reason": base_names("; ".join(mesh.degradations)),
        "faces": len(mesh.faces),
        "materials": len(mesh.materials),
        "textures": sum(material.texture is not None for material in mesh.materials),
        "tokens": len(lifted.coords),
        "unseen": lifted.unseen,
        "cpu_seconds": round(time.process_time() - start, 3),
    }


def base_names(text: str) -> str:
    """The text with quoted paths cut to their last part: those of the authors' machines say nothing here."""
    return re.sub(r"'[^']*[/\\]([^'/\\]+)'", r"'.../\1'", text)


def _tell(row: dict[str, Any]) -> bool:
    if row["state"] != "ok":
        print(json.dumps(row), file=sys.stderr, flush=True)  # noqa: T201  progress of a long run
    return True


def summary(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Counts of states and medians of what came out."""
    done = [row for row in rows if row["state"] != "refused"]
    return {
        "models": len(rows),
        "states": dict(Counter(row["state"] for row in rows)),
        "nouns": dict(Counter(row["noun"] for row in rows if row.get("noun"))),
        "median_faces": statistics.median(row["faces"] for row in done),
        "max_faces": max(row["faces"] for row in done),
        "median_tokens": statistics.median(row["tokens"] for row in done),
        "max_tokens": max(row["tokens"] for row in done),
        "unseen_share": round(sum(row["unseen"] for row in done) / sum(row["tokens"] for row in done), 4),
        "median_cpu_seconds": statistics.median(row["cpu_seconds"] for row in done),
        "max_cpu_seconds": max(row["cpu_seconds"] for row in done),
    }


def times_markdown(report: dict[str, Any]) -> str:
    """Seconds by step."""
    lines = [
        "# Mesh file to tokens",
        "",
        f"`{report['command']}`; {report['machine']['threads']} threads, torch {report['machine']['torch']}. "
        f"{VIEWS} views of {SIZE} px with 2x2 rays, {RESOLUTION}^3 voxels; medians in seconds; bar {LIMIT_S} s.",
        "",
        "| model | triangles | tokens | load | render | lift | total | CPU seconds | within | blocked in `compat` |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in report["times"]:
        steps = " | ".join(f"{row['median_s'][step]:.3f}" for step in ("load", "render", "lift", "total", "cpu"))
        within = "yes" if row["within"] else "**no**"
        lines.append(
            f"| {row['model']} | {row['faces']:,} | {row['tokens']:,} | {steps} | {within} | {row['blocked']:.0%} |"
        )
    lines += [
        "",
        "Blocked: voxels that mode `compat` (as the released models) takes from a view that does not see them.",
    ]
    return "\n".join(lines)


def table_markdown(report: dict[str, Any]) -> str:
    """Summary, and every model that is not plainly in order."""
    lines = ["# Every model of `furniture` and `controllers`", "", f"`{report['command']}`", ""]
    lines += [f"* {name.replace('_', ' ')}: {value}" for name, value in report["summary"].items()]
    lines += ["", "| model | state | why |", "|---|---|---|"]
    rows = [row for row in report["rows"] if row["state"] != "ok"]
    lines += [f"| {row['model']} | {row['state']} | {row['reason']} |" for row in rows] or ["| none | | |"]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
