"""Cost of a tokenizer against its bare matrix products and attention, in CPU seconds.

    python -m tok4d_bench.speed -o benchmarks/results/speed.json                # so400m, float32 and bf16, three loads
    python -m tok4d_bench.speed --preset tiny --loads 1x256 --repeats 3         # seconds; prints only
    python -m tok4d_bench.speed --model FOLDER ...                              # a saved or imported model

Encode (pooling included) and decode, random weights, no gradients, against `torch.nn.functional.linear` and
`scaled_dot_product_attention` with the same weights, shapes and lengths and nothing else. The two sides alternate and
the ratio is that of their medians; from the width of so400m on the bars are 1.1 in float32 and 1.2 in bf16. Where the
CPU has no bf16 products, these are emulated and slow: give fewer blocks of the same width (`--blocks 27,2`), which the
result states.
"""

from __future__ import annotations

import argparse
import json
import platform
import shlex
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

from tok4d import __version__
from tok4d.config.loader import load_preset
from tok4d.modality import patch_width
from tok4d.model.tokenizer import Tokenizer
from tok4d.weights.folder import write_text
from tok4d_bench.speed_memory import measure_memory
from tok4d_bench.speed_parts import BareProducts, Load, full_pass, parts, training_step
from tok4d_bench.speed_report import markdown, print_line

DTYPES = {"float32": torch.float32, "bf16": torch.bfloat16}
LIMITS = {"float32": 1.1, "bf16": 1.2}
LIMITED_WIDTH = 1152  # narrow models do little in products: no bar
MEMORY_TOKENS = "8192,16384,32768"


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line."""
    args = _parser().parse_args(arguments)
    command = ["python", "-m", "tok4d_bench.speed", *(sys.argv[1:] if arguments is None else arguments)]
    if args.threads:
        torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    dtypes = args.dtypes.split(",")
    report: dict[str, Any] = {"command": shlex.join(command), "preset": args.preset, "machine": machine()}
    report["memory"] = measure_memory([int(n) for n in args.memory.split(",") if n])  # first: forks stay small
    report["training"] = training("tiny", args.training, args.repeats)
    report["loads"] = []
    for dtype, blocks in zip(dtypes, _blocks(args.blocks, len(dtypes)), strict=True):
        model = build(args.preset, blocks) if args.model is None else saved(args.model, blocks)
        model = model.to(DTYPES[dtype])
        report["preset"] = model.config.name
        for name in args.loads.split(","):
            report["loads"].append(compare(model, Load.parse(name, model.config), dtype, args.repeats))
            print_line(json.dumps({k: report["loads"][-1][k] for k in ("dtype", "load", "ratio")}))
    print_line(markdown(report))
    if args.out is not None:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        write_text(args.out, json.dumps(report, indent=1) + "\n")
        write_text(args.out.with_suffix(".md"), markdown(report) + "\n")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="A tokenizer against its bare matrix products and attention")
    parser.add_argument("--preset", default="so400m")
    parser.add_argument("--model", type=Path, help="a model folder instead of a preset with random weights")
    parser.add_argument("--dtypes", default="float32,bf16", help="comma-separated")
    parser.add_argument("--loads", default="1x256,8x256,clip16", help="COUNTxPIXELS or clipFRAMES, comma-separated")
    parser.add_argument("--repeats", type=int, default=5, help="rounds after one warm-up")
    parser.add_argument("--blocks", default="", help="blocks a stack, one number or one per dtype; default: all")
    parser.add_argument("--threads", type=int, default=0, help="default: as torch chooses")
    parser.add_argument("--memory", default=MEMORY_TOKENS, help="tokens of the memory runs; empty: none")
    parser.add_argument("--training", default="8x256", help="load of the training step of `tiny`")
    parser.add_argument("-o", "--out", type=Path, help="JSON file; a Markdown table is written beside it")
    return parser


def _blocks(text: str, count: int) -> list[int | None]:
    """Blocks for every dtype."""
    numbers = [int(n) for n in text.split(",")] if text else [None]
    return list(numbers * count if len(numbers) == 1 else numbers)


def build(preset: str, blocks: int | None = None) -> Tokenizer:
    """A preset with random weights, or the same with fewer blocks, in evaluation mode."""
    config = load_preset(
        preset, {} if blocks is None else {"encoder": {"blocks": blocks}, "decoder": {"blocks": blocks}}
    )
    return Tokenizer(config).eval()


def saved(folder: Path, blocks: int | None = None) -> Tokenizer:
    """A saved model, or its first blocks only."""
    model = Tokenizer.from_pretrained(folder)
    if blocks is not None:
        for stack, config in ((model.encoder, model.config.encoder), (model.decoder, model.config.decoder)):
            stack.blocks = stack.blocks[:blocks]
            config.blocks = len(stack.blocks)
    return model


def _limit(model: Tokenizer, dtype: str) -> float | None:
    return LIMITS[dtype] if model.config.encoder.width >= LIMITED_WIDTH else None


@torch.no_grad()
def compare(model: Tokenizer, load: Load, dtype: str, repeats: int) -> dict[str, Any]:
    """One load: CPU seconds, seconds and floating-point operations of both sides, their ratio, the model's parts."""
    tokens = load.tokens(patch_width(model.patch_size), DTYPES[dtype])
    bare = BareProducts(model, tokens)
    sides: dict[str, Callable[[], object]] = {"model": lambda: full_pass(model, tokens), "bare": bare.forward}
    result = alternate(sides, repeats)
    middle = {side: result[side]["median_cpu_seconds"] for side in sides}
    ratio, limit = middle["model"] / middle["bare"], _limit(model, dtype)
    return {
        "load": load.name,
        "dtype": dtype,
        "blocks": model.config.encoder.blocks,
        "tokens": tokens.num_tokens,
        "ratio": round(ratio, 4),
        "limit": limit,
        "within": None if limit is None else ratio <= limit,
        "tokens_per_second": round(tokens.num_tokens / result["model"]["median_seconds"], 1),
        **result,
        "parts": parts(sides["model"]),
    }


def alternate(sides: dict[str, Callable[[], object]], repeats: int) -> dict[str, dict[str, Any]]:
    """Time the sides in turn, the first of a round changing from round to round, after a warm-up that counts.

    Returns:
        per side `flops` (of products, from the warm-up), `cpu_seconds` (user + system, all threads) and `seconds`
        of every round, and their medians.
    """
    result: dict[str, dict[str, Any]] = {}
    for side, work in sides.items():
        result[side] = {"flops": count_flops(work), "cpu_seconds": [], "seconds": []}
    for number in range(repeats):
        for side in sorted(sides, reverse=number % 2 == 0):
            cpu, wall = time.process_time(), time.perf_counter()
            sides[side]()
            result[side]["cpu_seconds"].append(round(time.process_time() - cpu, 4))
            result[side]["seconds"].append(round(time.perf_counter() - wall, 4))
    for row in result.values():
        row["median_cpu_seconds"] = statistics.median(row["cpu_seconds"])
        row["median_seconds"] = statistics.median(row["seconds"])
    return result


def count_flops(work: Callable[[], object]) -> int:
    """Floating-point operations (two per multiply-add) of matrix products and attention in one run."""
    aten = torch.ops.aten

    def forward(q: Any, k: Any, v: Any, *_: Any, **__: Any) -> int:
        return sdpa_flop_count(q, k, v)

    def backward(grad: Any, q: Any, k: Any, v: Any, *_: Any, **__: Any) -> int:
        return sdpa_backward_flop_count(grad, q, k, v)

    kernels = {  # the CPU's kernels, which the counter does not know
        aten._scaled_dot_product_flash_attention_for_cpu: forward,
        aten._scaled_dot_product_flash_attention_for_cpu_backward: backward,
    }
    with FlopCounterMode(display=False, custom_mapping=kernels) as counter:
        work()
    return int(counter.get_total_flops())


def training(preset: str, load_name: str, repeats: int) -> dict[str, Any]:
    """For information: a float32 training step against forward and backward of its bare products."""
    model = build(preset)
    load = Load.parse(load_name, model.config)
    tokens = load.tokens(patch_width(model.patch_size), torch.float32)
    bare = BareProducts(model, tokens)
    sides: dict[str, Callable[[], object]] = {
        "model": lambda: training_step(model, tokens),
        "bare": bare.forward_backward,
    }
    result = alternate(sides, repeats)
    ratio = result["model"]["median_cpu_seconds"] / result["bare"]["median_cpu_seconds"]
    return {"preset": preset, "load": load.name, "dtype": "float32", "ratio": round(ratio, 4), **result}


def machine() -> dict[str, Any]:
    """What the figures depend on."""
    return {
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "bf16_products": "native" if torch.ops.mkldnn._is_mkldnn_bf16_supported() else "emulated",
        "architecture": platform.machine(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "tok4d": __version__,
    }


if __name__ == "__main__":
    main()
