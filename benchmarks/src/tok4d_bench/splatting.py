"""Time and memory of splatting on the CPU, forward and backward, and how far float32 is from the reference.

    OMP_WAIT_POLICY=PASSIVE python -m tok4d_bench.splatting -o benchmarks/results/splatting.json     # two minutes
    python -m tok4d_bench.splatting --cases 500x64 --repeats 2                                       # prints only

A case VOXELSxPIXELS is an asset of that many voxels of a 64^3 grid, nearest to an ellipsoid, with 32 Gaussians each as
a new decoder makes them (sizes about 0.004, opacities about 0.1), seen from one side. `VOXELSxPIXELSopaque`, without a
bar, has sizes about 0.01 and opacities about 0.8. The cases of a round run in turn, the order changing from round to
round. Bars are seconds on two cores. They are held against the CPU seconds of all threads together, which other
programs disturb less, and which exceed the seconds that a machine with nothing else to do needs. (Without the
variable, torch's own threads burn CPU seconds while they wait for a core that another program has.)
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shlex
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tok4d.weights.folder import write_text
from tok4d_bench.speed import machine
from tok4d_bench.speed_memory import STATUS, peak_bytes
from tok4d_bench.speed_report import print_line
from tok4d_mesh3d.splatting import rasterize

CASES = "8000x256,8000x512,14000x256,14000x512,8000x256opaque"
SMALL, SMALL_BARS = (8000, 256), {"forward": 0.2, "backward": 0.3}
LARGE = (14000, 512)  # up to here, twice the bars of the small case
MEMORY_BAR = 2_000_000_000  # bytes, of the whole process
GRID, PER_VOXEL = 64, 32
FIELD_OF_VIEW, DISTANCE = math.radians(40), 2.0
SIDES = ("forward", "backward")


@dataclass(frozen=True)
class Case:
    """An asset and the size of its image."""

    voxels: int
    pixels: int
    opaque: bool = False

    @classmethod
    def parse(cls, text: str) -> Case:
        """From VOXELSxPIXELS, with `opaque` behind or not."""
        voxels, pixels = text.removesuffix("opaque").split("x")
        return cls(int(voxels), int(pixels), text.endswith("opaque"))

    @property
    def name(self) -> str:
        return f"{self.voxels}x{self.pixels}{'opaque' if self.opaque else ''}"

    @property
    def bars(self) -> dict[str, float] | None:
        """Seconds of every side."""
        if self.opaque or self.voxels > LARGE[0] or self.pixels > LARGE[1]:
            return None
        factor = 1 if self.voxels <= SMALL[0] and self.pixels <= SMALL[1] else 2
        return {side: factor * bar for side, bar in SMALL_BARS.items()}

    @cached_property
    def gaussians(self) -> tuple[Tensor, ...]:
        """Means, quaternions, scales, opacities, colours; float32."""
        size, opacity = (0.01, 0.8) if self.opaque else (0.004, 0.1)
        return asset(self.voxels, size, opacity)

    def draw(self, gaussians: Sequence[Tensor], backend: str = "numba") -> tuple[Tensor, Tensor]:
        """Image and alpha."""
        means, quaternions, scales, opacities, colors = gaussians
        pose, lens = camera(self.pixels)
        size = self.pixels
        return rasterize(means, quaternions, scales, opacities, colors, pose, lens, size, size, backend=backend)


def asset(voxels: int, size: float, opacity: float) -> tuple[Tensor, ...]:
    """A shell of voxels, every one with Gaussians strewn within 1.5 of its side, all turned and stretched at random."""
    rng = torch.Generator().manual_seed(0)
    axis = (torch.arange(GRID) + 0.5) / GRID - 0.5
    centres = torch.cartesian_prod(axis, axis, axis)
    distance = (centres / torch.tensor([0.48, 0.40, 0.44])).norm(dim=1) - 1
    chosen = centres[distance.abs().argsort(stable=True)[:voxels]]
    offsets = (torch.rand(voxels, PER_VOXEL, 3, generator=rng) - 0.5) * 1.5 / GRID
    count = voxels * PER_VOXEL
    return (
        (chosen[:, None] + offsets).reshape(count, 3),
        torch.randn(count, 4, generator=rng),
        size * torch.exp(0.5 * torch.randn(count, 3, generator=rng)),
        torch.sigmoid(torch.randn(count, generator=rng) + math.log(opacity / (1 - opacity))),
        torch.rand(count, 3, generator=rng),
    )


def camera(pixels: int) -> tuple[Tensor, Tensor]:
    """One view from the side and above, `[1, 4, 4]` and `[1, 3, 3]`."""
    eye = DISTANCE * torch.tensor([0.73, 0.61, 0.30]) / torch.tensor([0.73, 0.61, 0.30]).norm()
    forward = -eye / eye.norm()
    right = torch.linalg.cross(forward, torch.tensor([0.0, 0.0, 1.0]))
    right = right / right.norm()
    pose = torch.eye(4)
    pose[:3, :3] = torch.stack([right, torch.linalg.cross(forward, right), forward])
    pose[:3, 3] = -pose[:3, :3] @ eye
    focal = 0.5 * pixels / math.tan(FIELD_OF_VIEW / 2)
    lens = torch.tensor([[focal, 0, pixels / 2], [0, focal, pixels / 2], [0, 0, 1]])
    return pose[None], lens[None]


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line."""
    args = _parser().parse_args(arguments)
    if args.threads:
        torch.set_num_threads(args.threads)
    if args.memory_of:
        print_line(json.dumps({"bytes": memory(Case.parse(args.memory_of))}))
        return
    command = ["python", "-m", "tok4d_bench.splatting", *(sys.argv[1:] if arguments is None else arguments)]
    cases = [Case.parse(name) for name in args.cases.split(",")]
    peaks = [_memory_of(case, args.threads) if STATUS.exists() else None for case in cases]
    report: dict[str, Any] = {"command": shlex.join(command), "machine": machine(), "repeats": args.repeats}
    report["machine"]["omp_wait_policy"] = os.environ.get("OMP_WAIT_POLICY", "default")
    report["cases"] = [
        {**row, "peak_bytes": peak, "memory_bar": MEMORY_BAR}
        for row, peak in zip(measure(cases, args.repeats), peaks, strict=True)
    ]
    report["reference"] = reference(cases[0])
    text = markdown(report)
    print_line(text)
    if args.out is not None:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        write_text(args.out, json.dumps(report, indent=1) + "\n")
        write_text(args.out.with_suffix(".md"), text + "\n")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Time and memory of splatting on the CPU")
    parser.add_argument("--cases", default=CASES, help="VOXELSxPIXELS or VOXELSxPIXELSopaque, comma-separated")
    parser.add_argument("--repeats", type=int, default=9, help="rounds after one warm-up")
    parser.add_argument("--threads", type=int, default=0, help="default: as torch chooses")
    parser.add_argument("--memory-of", help="one case: print this process's peak memory after it")
    parser.add_argument("-o", "--out", type=Path, help="JSON file; a Markdown table is written beside it")
    return parser


def measure(cases: Sequence[Case], repeats: int) -> list[dict[str, Any]]:
    """Seconds, CPU seconds and their medians of both sides of all cases, alternating after a warm-up."""
    rows: list[dict[str, Any]] = [
        {"case": case.name, "gaussians": case.voxels * PER_VOXEL, "pixels": case.pixels, "bars": case.bars}
        | {side: {"seconds": [], "cpu_seconds": []} for side in SIDES}
        for case in cases
    ]
    for number in range(repeats + 1):
        both = list(zip(cases, rows, strict=True))
        for case, row in reversed(both) if number % 2 else both:
            times = step(case)
            for side in SIDES if number else ():
                for unit, value in times[side].items():
                    row[side][unit].append(round(value, 4))
    for row in rows:
        for side in SIDES:
            for unit in ("seconds", "cpu_seconds"):
                row[side][f"median_{unit}"] = round(statistics.median(row[side][unit]), 4)
        bars = row["bars"]
        row["within"] = None if bars is None else all(row[s]["median_cpu_seconds"] <= bars[s] for s in SIDES)
    return rows


def step(case: Case) -> dict[str, dict[str, float]]:
    """One forward and one backward with gradients of everything."""
    leaves = [tensor.clone().requires_grad_() for tensor in case.gaussians]
    cpu, wall = [time.process_time()], [time.perf_counter()]
    image, alpha = case.draw(leaves)
    cpu.append(time.process_time())
    wall.append(time.perf_counter())
    torch.autograd.backward([image, alpha], [torch.ones_like(image), torch.ones_like(alpha)])
    cpu.append(time.process_time())
    wall.append(time.perf_counter())
    return {
        side: {"seconds": wall[i + 1] - wall[i], "cpu_seconds": cpu[i + 1] - cpu[i]} for i, side in enumerate(SIDES)
    }


@torch.no_grad()
def reference(case: Case) -> dict[str, Any]:
    """Seconds of the reference, forward, and the distance of the kernels in float32 from it."""
    start = time.process_time()
    wanted = torch.cat(case.draw(case.gaussians, "torch"), 1)
    seconds = time.process_time() - start
    apart = (torch.cat(case.draw(case.gaussians), 1) - wanted).abs()
    return {
        "case": case.name,
        "cpu_seconds": round(seconds, 3),
        "largest_difference": float(apart.max()),
        "mean_difference": float(apart.mean()),
    }


def memory(case: Case) -> int:
    """Peak bytes of this process, libraries and asset included, after one step."""
    step(case)
    return peak_bytes()


def _memory_of(case: Case, threads: int) -> int:
    command = [sys.executable, "-m", "tok4d_bench.splatting", "--memory-of", case.name, "--threads", str(threads)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return int(json.loads(done.stdout)["bytes"])


def markdown(report: dict[str, Any]) -> str:
    """The report as tables."""
    about, apart = report["machine"], report["reference"]
    lines = [
        "# Splatting on the CPU",
        "",
        f"`{report['command']}`",
        "",
        f"{about['threads']} thread(s), OMP_WAIT_POLICY {about['omp_wait_policy']}, CPU {about['cpu_capability']}, "
        f"torch {about['torch']}; float32, one view, all gradients; medians of {report['repeats']} alternating rounds. "
        "CPU seconds are of all threads together and must not exceed the bar; seconds are those of the clock, with "
        "whatever else ran.",
        "",
        "| Gaussians | pixels | forward, CPU s | bar | backward, CPU s | bar | held | forward, s | backward, s "
        "| peak memory, MB |",
        "|---" * 10 + "|",
    ]
    for row in report["cases"]:
        bars = row["bars"] or dict.fromkeys(SIDES, "-")
        peak = row["peak_bytes"]
        held = "-" if row["within"] is None else "yes" if row["within"] else "NO"
        cells = [f"{row['gaussians']}{' opaque' if row['case'].endswith('opaque') else ''}", f"{row['pixels']}"]
        for side in SIDES:
            cells += [f"{row[side]['median_cpu_seconds']:.3f}", str(bars[side])]
        cells += [held, *(f"{row[side]['median_seconds']:.3f}" for side in SIDES)]
        cells.append("-" if peak is None else f"{peak / 1e6:.0f}{'' if peak <= row['memory_bar'] else ' (OVER)'}")
        lines.append("| " + " | ".join(cells) + " |")
    lines += [
        "",
        f"Peak memory is that of a whole process (torch and numba loaded, one step); bar {MEMORY_BAR / 1e6:.0f} MB.",
        "",
        f"Reference in torch (float64) at {apart['case']}: {apart['cpu_seconds']:.2f} CPU s forward. The kernels in "
        f"float32 differ from it by {apart['mean_difference']:.1e} on average, {apart['largest_difference']:.1e} at "
        "most (a contribution of almost 1/255 counts in one precision only).",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
