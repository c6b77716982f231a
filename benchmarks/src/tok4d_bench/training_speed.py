"""Cost of a training step against its bare matrix products and attention, in CPU seconds.

    python -m tok4d_bench.training_speed -o benchmarks/results/training_speed.json --threads 1
    python -m tok4d_bench.training_speed --presets tiny --pictures 4x64 --repeats 2         # seconds; prints only

A step is what a run does with a batch of pictures that is loaded already: targets, encode, posterior noise, decode,
losses {l1: 1, l2: 10, kl: 1e-8} on samples, backward, clipping, AdamW and the averaged weights; without Lightning's own
loop. Bare are forward and backward of the model's products with all channels of a patch; a picture fills a quarter of
them, and a step multiplies only those: `flops` tells both. `loss` is the step without clipping, AdamW and averages. The
sides alternate; the ratio is that of the medians, and the bar is 1.3.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from tok4d.cli.console import note
from tok4d.config.schema import StageConfig, TaskConfig
from tok4d.data.batches import StageBatches
from tok4d.training.module import TokenizerModule
from tok4d.training.optim import make_adamw
from tok4d.training.parallel import clip
from tok4d.weights.folder import write_text
from tok4d_bench.speed import alternate, build, machine
from tok4d_bench.speed_parts import BareProducts

LIMIT = 1.3
LOSSES = {"l1": 1.0, "l2": 10.0, "kl": 1e-8}


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line."""
    args = _parser().parse_args(arguments)
    command = ["python", "-m", "tok4d_bench.training_speed", *(sys.argv[1:] if arguments is None else arguments)]
    if args.threads:
        torch.set_num_threads(args.threads)
    pictures = args.pictures.split(",")
    presets = args.presets.split(",")
    rows = []
    for preset, load in zip(presets, pictures * (len(presets) if len(pictures) == 1 else 1), strict=True):
        row = measure(preset, load, args.repeats)
        rows.append(row)
        note(f"{preset} {load}: step {row['ratio']:.3f}, loss alone {row['loss_ratio']:.3f} of the bare products")
    report = {"command": shlex.join(command), "limit": LIMIT, "losses": LOSSES, "machine": machine(), "steps": rows}
    if args.out:
        write_text(Path(args.out), json.dumps(report, indent=1) + "\n")


def measure(preset: str, load: str, repeats: int) -> dict[str, Any]:
    """One preset on `COUNTxPIXELS` pictures: CPU seconds and FLOPs of the three sides, and their ratios."""
    torch.manual_seed(0)
    count, side = (int(number) for number in load.split("x"))
    options = {"split": "train", "count": 2 * count, "side": side}
    stage = StageConfig(steps=1, tasks={"image": TaskConfig("image/shapes", options, 1.0, count, losses=dict(LOSSES))})
    module = TokenizerModule(build(preset).train(), stage)
    batch = StageBatches(stage, "images", 0, module.tokenizer.patch_size)[0]
    optimizer = make_adamw(module.tokenizer, stage.optimizer)

    def loss() -> None:
        # As for a batch never seen: offsets and tables are built anew.
        fresh = replace(batch, tokens=replace(batch.tokens))
        module.loss(fresh)[0].total.backward()

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        loss()
        clip(optimizer.param_groups, stage.optimizer.clip)
        optimizer.step()
        module.ema.update(module.tokenizer, 1)

    bare = BareProducts(module.tokenizer, batch.tokens)
    sides: dict[str, Callable[[], object]] = {"step": step, "loss": loss, "bare": bare.forward_backward}
    found = alternate(sides, repeats)
    seconds = {name: found[name]["median_cpu_seconds"] for name in sides}
    ratios = {"ratio": seconds["step"] / seconds["bare"], "loss_ratio": seconds["loss"] / seconds["bare"]}
    tokens = batch.tokens.num_tokens
    return {"preset": preset, "pictures": load, "tokens": tokens} | {k: round(v, 4) for k, v in ratios.items()} | found


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("-o", "--out", default="", help="JSON file to write")
    parser.add_argument("--presets", default="tiny,base")
    parser.add_argument("--pictures", default="32x128,4x128", help="COUNTxPIXELS, one for each preset or for all")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=0, help="0: PyTorch's choice")
    return parser


if __name__ == "__main__":
    main()
