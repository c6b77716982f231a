"""What the harness itself costs: reading, sizing, bookkeeping, writing, beside a subject and a measure that do nothing.

    python -m tok4d_bench.harness_cost -o benchmarks/results/harness_cost.json

Pictures of 256 px (the renders of `emoji3d`, and the same as JPEG) go through the whole runner with the identity as
subject and a measure whose column is a constant. CPU seconds of the process are counted, of two numbers of pictures:
their difference is free of what a run costs once. The least of several repeats counts: a machine that does other work
shares caches and cores, which only ever adds; bare decoding with Pillow stands beside as a yardstick. Peak memory is of
a process of its own each: it must not grow with the number of pictures. Must hold: at most 3 CPU seconds a 1,000
pictures.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import resource
import shlex
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

LIMIT = 3.0  # CPU seconds a 1,000 pictures


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description="CPU seconds of the benchmark harness beside subject and measures")
    parser.add_argument("-o", "--out", type=Path, help="file of the report; default: stdout alone")
    parser.add_argument("--counts", default="100,500", help="numbers of pictures, two")
    parser.add_argument("--formats", default="jpeg,webp")
    parser.add_argument("--repeats", type=int, default=15)
    args = parser.parse_args()
    counts = [int(count) for count in args.counts.split(",")]
    command = shlex.join(["python", "-m", "tok4d_bench.harness_cost", *sys.argv[1:]])
    report: dict[str, Any] = {"command": command, "limit": LIMIT}
    for suffix in args.formats.split(","):
        report[suffix] = measure(suffix, counts, args.repeats)
    from tok4d.training.manifest import code_state
    from tok4d_bench.results import machine_facts

    report |= code_state(Path(__file__).parent) | {"machine": machine_facts()}
    text = json.dumps(report, indent=1)
    if args.out:
        args.out.write_text(text + "\n", encoding="utf-8")
    sys.stdout.write(text + "\n")


def measure(suffix: str, counts: Sequence[int], repeats: int) -> dict[str, Any]:
    """CPU seconds and peak memory by number of pictures, and seconds a 1,000 pictures."""
    runs = []
    for count in counts:
        context = multiprocessing.get_context("spawn")
        with context.Pool(1) as pool:  # a process of its own: peaks never fall again
            runs.append(pool.apply(run_repeats, (suffix, count, repeats)))
    first, last = runs[0], runs[-1]
    spent = min(last["cpu_seconds"]) - min(first["cpu_seconds"])
    growth = last["peak_mb"] - first["peak_mb"]
    per_thousand = round(1000 * spent / (last["count"] - first["count"]), 3)
    bare = round(1000 * min(last["bare_decoding"]) / last["count"], 3)
    found = {"cpu_seconds_per_1000": per_thousand, "bare_decoding_per_1000": bare, "peak_growth_mb": round(growth, 1)}
    return {**found, "runs": runs}


def run_repeats(suffix: str, count: int, repeats: int) -> dict[str, Any]:
    """Runs over `count` pictures in this process."""
    from tok4d_bench.runner import Work, run_suite
    from tok4d_bench.subjects import load_subject

    spent, bare = [], []
    with tempfile.TemporaryDirectory() as home:
        pictures = make_pictures(Path(home) / "pictures", suffix, count)
        suite = make_suite(pictures)
        for number in range(repeats):
            bare.append(round(bare_decoding(pictures), 3))
            before = _cpu()
            run_suite(suite, load_subject("identity"), Work(Path(home) / f"out{number}"))
            spent.append(round(_cpu() - before, 3))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"count": count, "cpu_seconds": spent, "bare_decoding": bare, "peak_mb": round(peak, 1)}


def bare_decoding(pictures: Path) -> float:
    """CPU seconds of decoding the same files with Pillow and nothing else: how fast the machine is at the moment."""
    import numpy as np
    from PIL import Image

    before = _cpu()
    for path in sorted(pictures.iterdir()):
        with Image.open(path) as picture:
            np.asarray(picture.convert("RGB"))
    return _cpu() - before


def make_pictures(folder: Path, suffix: str, count: int) -> Path:
    """Files of 256 x 256 pixels with the content of real renders, distinct from each other."""
    from PIL import Image, ImageOps

    from tok4d.data.fetch import ensure

    _, source = ensure("emoji3d")
    renders = sorted(source.glob("*.webp"))
    folder.mkdir()
    for number in range(count):
        with Image.open(renders[number % len(renders)]) as found:
            picture = Image.new("RGB", found.size, "white")
            picture.paste(found, mask=found.convert("RGBA"))
        turned = ImageOps.mirror(picture) if number >= len(renders) else picture
        turned.resize((256, 256)).save(folder / f"{number:06d}.{suffix}", quality=92)
    return folder


def make_suite(pictures: Path) -> Any:
    """One task over the pictures, with a measure that costs nothing."""
    from tok4d.plugins import registry
    from tok4d.plugins.loader import Entry
    from tok4d_bench.contracts import Suite, TaskSpec

    registry.names("metrics")
    registry._host().tables["metrics"]["nothing"] = Entry("tok4d_bench.harness_cost:nothing", "bench")
    data = {"source": "image/folder", "options": {"path": str(pictures), "cache_mb": 0}}
    prepare = {"short": 256, "crop": 256}
    task = TaskSpec(data=data, prepare=prepare, measures=["nothing"], inner_batch=8)
    return Suite("cost", 1, "", {"pictures": task})


def _cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def __getattr__(name: str) -> Any:
    """The measure `nothing`, made on first use: this module's help needs no torch."""
    if name != "nothing":
        raise AttributeError(name)
    import numpy as np

    from tok4d_bench.contracts import Measure, Value

    class Nothing(Measure):
        """A column of ones."""

        kind: ClassVar[str] = "pair"

        def protocol(self) -> dict[str, Any]:
            return {"implementation": "nothing"}

        def columns(self, originals: Any, results: Any) -> Any:
            return {"one": np.ones(len(originals))}

        def finish(self, chunks: Any, data: Any, subject: Any) -> list[Value]:
            return [Value("ones", float(sum(piece["one"].sum() for piece in chunks("one"))), chunks.n)]

    return Nothing


if __name__ == "__main__":
    main()
