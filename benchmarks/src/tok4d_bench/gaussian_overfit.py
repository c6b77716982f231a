"""3D: the Gaussian decoder alone, optimised on one model, and how well it shows views that it was not trained on.

    python -m tok4d_bench.gaussian_overfit -o benchmarks/results/gaussian_overfit.json

The decoder reads the model's own voxels (16 lifted views), is trained with L1 + 0.2 (1 - SSIM) on 64 other pictures,
four a step, and is scored on 16 pictures from cameras that are among neither. The bar is a PSNR of 30 dB over whole
pictures; that over covered pixels alone is given beside it. It tells whether decoder, splatting, gradients and loss fit
together, not how well a tokenizer works.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import shlex
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from tok4d import __version__
from tok4d.errors import Tok4dError
from tok4d.metrics import score_all
from tok4d.modality import Sample
from tok4d.weights.folder import write_text
from tok4d_bench.speed_report import print_line

LIMIT_DB = 30.0
MODEL = "Scopia#ryokanChair"  # of the `furniture` recipe: wood grain, thin edges, a hole
TRAINED, HELD_OUT, AT_ONCE = 64, 16, 4
METRICS = ("view_psnr", "view_psnr_foreground", "view_ssim", "mask_iou", "depth_error", "chamfer", "f_score")


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line."""
    args = _parser().parse_args(arguments)
    command = ["python", "-m", "tok4d_bench.gaussian_overfit", *(sys.argv[1:] if arguments is None else arguments)]
    if args.threads:
        torch.set_num_threads(args.threads)
    report: dict[str, Any] = {"command": shlex.join(command), "machine": machine(), "limit_db": LIMIT_DB}
    report |= {"model": args.model, "resolution": args.resolution, "size": args.size, "seed": args.seed, "rows": []}
    for row in overfit(args):
        report["rows"].append(row)
        print_line("  ".join(f"{name} {value:g}" for name, value in row.items()))
    report["within"] = report["rows"][-1]["view_psnr"] >= LIMIT_DB
    if args.out is not None:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        write_text(args.out, json.dumps(report, indent=1) + "\n")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="The Gaussian decoder optimised on one model")
    parser.add_argument("--model", default=MODEL, help="id of a model of the `furniture` recipe")
    parser.add_argument("--path", default="", help="folder of other catalogues (.sh3f) than the recipe's")
    parser.add_argument("--resolution", type=int, default=16, help="voxels along an axis")
    parser.add_argument("--size", type=int, default=96, help="side of a picture in pixels")
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--every", type=int, default=100, help="steps between scores")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=0, help="default: as torch chooses")
    parser.add_argument("-o", "--out", type=Path, help="JSON file")
    return parser


def machine() -> dict[str, Any]:
    """What the figures depend on."""
    return {
        "architecture": platform.machine(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "tok4d": __version__,
    }


def overfit(args: argparse.Namespace) -> Iterator[dict[str, float]]:
    """Train and score; one row every `args.every` steps and at the end."""
    from tok4d_mesh3d.head import make_head
    from tok4d_mesh3d.metrics import METRICS as FACTORIES
    from tok4d_mesh3d.modality import Mesh3dModality
    from tok4d_mesh3d.objective import Render

    host = Mesh3dModality(resolution=args.resolution)
    sample, trained, held_out = pictures(args.path, args.model, args.resolution, args.size)
    tokens = host.patchify(sample)
    torch.manual_seed(args.seed)
    head, loss = make_head({"resolution": args.resolution}), Render(views=None)
    optimizer = torch.optim.Adam(head.parameters(), lr=args.lr, betas=(0.9, 0.99))
    drawn = torch.Generator().manual_seed(args.seed)
    started = time.perf_counter()
    for step in range(args.steps + 1):
        if step % args.every == 0 or step == args.steps:
            with torch.no_grad():
                (restored,) = host.unpatchify(tokens, head)
            scores = score_all({name: FACTORIES[name] for name in METRICS}, restored, held_out)
            seconds = round(time.perf_counter() - started, 1)
            yield {"step": step, "seconds": seconds} | {name: round(value, 4) for name, value in scores.items()}
            if step == args.steps:
                return
        for group in optimizer.param_groups:
            cosine = 0.5 + 0.5 * math.cos(math.pi * step / args.steps)
            group["lr"] = args.lr * min(1.0, (step + 1) / 20) * (0.05 + 0.95 * cosine)
        chosen = torch.randperm(TRAINED, generator=drawn)[:AT_ONCE]
        part = {name: value if name == "background" else value[chosen] for name, value in trained.data.items()}
        (restored,) = host.unpatchify(tokens, head)
        value = loss([Sample(host.name, part)], [restored], None).mean()
        optimizer.zero_grad()
        value.backward()
        optimizer.step()


def pictures(path: str, identity: str, resolution: int, size: int) -> tuple[Sample, Sample, Sample]:
    """Voxels of a model, pictures to train on, and pictures to score on."""
    from tok4d_mesh3d.cameras import hammersley_sphere
    from tok4d_mesh3d.furniture import load_furniture
    from tok4d_mesh3d.prepared import target_cameras
    from tok4d_mesh3d.reading import ReadOptions, asset_sample
    from tok4d_mesh3d.samples import with_views
    from tok4d_mesh3d.shown import MeshAsset
    from tok4d_mesh3d.sources import Mesh3dFurniture

    items = {item.identity: item for item in Mesh3dFurniture("mesh3d", path=path).items}
    if identity not in items:
        raise Tok4dError(f"the catalogues have no model {identity!r}")
    asset, options = MeshAsset(load_furniture(items[identity])), ReadOptions(resolution=resolution)
    sets = []
    for cameras in (hammersley_sphere(TRAINED), target_cameras(HELD_OUT)):
        made = Sample("mesh3d", {}, key=identity)
        with_views(made.data, asset.views(cameras, size, options.look), cameras, options.background)
        sets.append(made)
    return asset_sample(asset, options, identity), sets[0], sets[1]


if __name__ == "__main__":
    main()
