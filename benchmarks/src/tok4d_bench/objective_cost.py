"""Cost of the image objective beside LPIPS alone, in CPU seconds of the loss and its gradient.

    python -m tok4d_bench.objective_cost -o benchmarks/results/objective_cost.json      # a few minutes
    python -m tok4d_bench.objective_cost --pictures 2x96 --size 64 --repeats 2          # seconds; prints only

Objectives on the same pictures run in turn, the first of a round changing from round to round; a ratio is that of the
medians. The bar: L1 + 10 LPIPS + 1000 Gram + 1 teacher, the paper's image objective, costs at most 1.6 times LPIPS
alone. Its teacher is the trunk itself (`network: vgg16`), so that one forward pass serves all; the rows with another
teacher, with SSIM, and with nothing shared are for information.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tok4d.losses.objective import Objective
from tok4d.modality import Sample
from tok4d.model.bottleneck import Encoded, Posterior
from tok4d.tokens import TokenSet
from tok4d.weights.folder import write_text
from tok4d_bench.speed import alternate, machine
from tok4d_bench.speed_report import print_line

LIMIT = 1.6
BASE, BARRED = "lpips", "image objective"


def objectives(size: int) -> dict[str, list[dict[str, Any]]]:
    """What is compared, by name: objectives that are computed one after the other."""
    lpips = {"lpips": {"weight": 10, "size": size}}
    gram = {"gram": {"weight": 1000, "size": size}}
    teacher = {"teacher": {"network": "vgg16", "size": size}}
    return {
        BASE: [lpips],
        "l1": [{"l1": 1}],
        "lpips + gram": [{**lpips, **gram}],
        "l1 + lpips + gram": [{"l1": 1, **lpips, **gram}],
        BARRED: [{"l1": 1, **lpips, **gram, **teacher}],
        "image objective, teacher alexnet": [
            {"l1": 1, **lpips, **gram, "teacher": {"network": "alexnet", "size": size}}
        ],
        "image objective + ssim": [{"l1": 1, **lpips, **gram, **teacher, "ssim": 1}],
        "nothing shared": [{"l1": 1}, lpips, gram, teacher],
    }


def measure(count: int, side: int, size: int, repeats: int) -> dict[str, Any]:
    """CPU seconds of every objective and their ratio to LPIPS alone, on `count` random pictures of side x side."""
    target = [Sample("image", {"image": _picture(side, seed)}) for seed in range(count)]
    pictures = [_picture(side, count + seed).requires_grad_() for seed in range(count)]
    got = [Sample("image", {"image": picture}) for picture in pictures]
    encoded = _encoded(count)

    def work(configs: list[dict[str, Any]]) -> Callable[[], object]:
        made = [Objective.from_config(config) for config in configs]

        def run() -> None:
            for picture in pictures:
                picture.grad = None
            for objective in made:
                objective(target, got, encoded).total.backward()

        return run

    sides = {name: work(configs) for name, configs in objectives(size).items()}
    timed = alternate(sides, repeats)
    base = timed[BASE]["median_cpu_seconds"]
    rows = [
        {
            "objective": name,
            "median_cpu_seconds": row["median_cpu_seconds"],
            "ratio": round(row["median_cpu_seconds"] / base, 4),
            "cpu_seconds": row["cpu_seconds"],
        }
        for name, row in timed.items()
    ]
    ratio = next(row["ratio"] for row in rows if row["objective"] == BARRED)
    return {
        "pictures": f"{count}x{side}",
        "size": size,
        "repeats": repeats,
        "rows": rows,
        "ratio": ratio,
        "limit": LIMIT,
        "within": ratio <= LIMIT,
    }


def _picture(side: int, seed: int) -> Tensor:
    return torch.rand(3, side, side, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def _encoded(count: int) -> Encoded:
    """These objectives do not look at it."""
    coords = torch.arange(4 * count, dtype=torch.int32).view(count, 4)
    nothing = torch.zeros(count, 1)
    return Encoded(TokenSet(nothing, coords, (1,) * count), Posterior(nothing, nothing))


def markdown(report: dict[str, Any]) -> str:
    """The report as a table."""
    lines = [
        "# Cost of the image objective",
        "",
        f"`{report['command']}`",
        "",
        f"{report['pictures']} pictures, perceptual terms at {report['size']} pixels, loss and gradient; median of "
        f"{report['repeats']} rounds; {report['machine']['threads']} threads, torch {report['machine']['torch']}.",
        "",
        "| objective | CPU s | beside LPIPS |",
        "|---|---|---|",
        *(f"| {row['objective']} | {row['median_cpu_seconds']:.3f} | {row['ratio']:.3f} |" for row in report["rows"]),
        "",
        f"The bar for the image objective is {report['limit']}: " + ("within." if report["within"] else "NOT within."),
    ]
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description="Cost of the image objective beside LPIPS alone")
    parser.add_argument("--pictures", default="8x128", help="COUNTxPIXELS")
    parser.add_argument("--size", type=int, default=224, help="at which perceptual terms compare")
    parser.add_argument("--repeats", type=int, default=5, help="rounds after one warm-up")
    parser.add_argument("--threads", type=int, default=0, help="default: as torch chooses")
    parser.add_argument("-o", "--out", type=Path, help="JSON file; a Markdown table is written beside it")
    args = parser.parse_args(arguments)
    given = sys.argv[1:] if arguments is None else arguments
    if args.threads:
        torch.set_num_threads(args.threads)
    count, side = (int(number) for number in args.pictures.split("x"))
    report = {
        "command": shlex.join(["python", "-m", "tok4d_bench.objective_cost", *given]),
        "machine": machine(),
        **measure(count, side, args.size, args.repeats),
    }
    print_line(markdown(report))
    if args.out is not None:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        write_text(args.out, json.dumps(report, indent=1) + "\n")
        write_text(args.out.with_suffix(".md"), markdown(report) + "\n")


if __name__ == "__main__":
    main()
