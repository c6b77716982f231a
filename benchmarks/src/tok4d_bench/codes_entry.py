"""What a model loses in the moment its latents become codes, by how levels are dealt out, before any training.

    python -m tok4d_bench.codes_entry -m runs/mini/tiny-0-curriculum/stages/assets -o codes_entry.json

The model of continuous latents is given FSQ as the curriculum's last stage would give it, once for every choice of
levels, and measured on that stage's held-out tasks. Choices with about as many codes can be compared directly.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from dataclasses import asdict
from math import log2, prod
from pathlib import Path
from typing import Any

from tok4d.config.loader import load_curriculum
from tok4d.config.schema import Curriculum, FSQConfig
from tok4d.data.batches import validation_batches
from tok4d.model.tokenizer import Tokenizer
from tok4d.training.discrete import channel_worth, entry_of
from tok4d.training.evaluate import evaluate
from tok4d.training.grow import Learned, first_batches, quantize
from tok4d.training.manifest import manifest
from tok4d.weights.folder import write_text
from tok4d_bench.mini.measuring import by_task
from tok4d_bench.speed_report import print_line

LEVELS = ("4,4,4,4,4,4", "8,6,5,4,3,3", "16,3,3,3,3,3")
SHOWN = {"image": "psnr", "video": "psnr", "mesh3d": "view_psnr_foreground"}


def measure(model: Tokenizer, curriculum: Curriculum) -> dict[str, float]:
    """Mean held-out PSNR by task, of the last stage's validation; of assets the object's pixels."""
    tasks = curriculum.stages[curriculum.order[-1]].validation
    scores = evaluate(model.eval(), validation_batches(tasks, model.patch_size, inputs=model.config.inputs))
    found: dict[str, float] = {}
    for task, metrics in by_task(scores).items():
        for name, values in metrics.items():
            host, _, metric = name.partition("/")
            if SHOWN.get(host) == metric:
                found[task] = sum(values.values()) / len(values)
    return found


def main() -> None:
    """Measure every choice, and write what was found."""
    parser = argparse.ArgumentParser(description="What FSQ costs before training, by levels")
    parser.add_argument("-m", "--model", required=True, help="folder of a model with continuous latents")
    parser.add_argument("--curriculum", default="mini")
    parser.add_argument("--levels", nargs="*", default=LEVELS, help="comma-separated lists")
    parser.add_argument("-o", "--out", type=Path, help="JSON to write")
    parser.add_argument("overrides", nargs="*", help="key=value, as for `tok4d train`")
    args = parser.parse_args()
    curriculum = load_curriculum(args.curriculum, args.overrides)
    model = Tokenizer.from_pretrained(args.model).eval()
    last = curriculum.order[-1]
    before = curriculum.stages[last].quantizer
    groups = before.groups if before is not None else FSQConfig().groups
    rows: list[dict[str, Any]] = [{"levels": None, "psnr": measure(model, curriculum)}]
    print_line(json.dumps(rows[-1]))
    means, worth = channel_worth(model, first_batches(curriculum, last, model))
    for levels in args.levels:
        quantizer = FSQConfig(groups=groups, levels=[int(level) for level in levels.split(",")])
        discrete = quantize(Learned(model), quantizer, entry_of(means, worth, quantizer)).model
        bits = round(groups * log2(prod(quantizer.levels)), 2)
        rows.append({**asdict(quantizer), "bits": bits, "psnr": measure(discrete, curriculum)})
        print_line(json.dumps(rows[-1]))
    if args.out:
        command = shlex.join(["python", "-m", "tok4d_bench.codes_entry", *sys.argv[1:]])
        write_text(args.out, json.dumps({"command": command, "manifest": manifest(), "rows": rows}, indent=1))


if __name__ == "__main__":
    main()
