"""Cost of reading a clip against bare decord decoding and one resize, in CPU seconds on one thread.

    python -m tok4d_bench.video_reading -o benchmarks/results/video-reading.json    # fetches the recipe clips-long
    python -m tok4d_bench.video_reading --file clip.mp4 --frames 100                # prints only

The reading path opens the file (probing and indexing included), decodes all frames and shrinks them through
`tok4d_video.reading`. Bare decord opens it, takes every frame with `next()`, the cheapest way it has, and shrinks it
with one `torch.nn.functional.interpolate`, antialiased on bytes as in the path. The sides alternate; the figure is the
ratio of the medians of their CPU seconds, bare over path: the bar is 0.9.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from tok4d import __version__
from tok4d.data.fetch import ensure
from tok4d_video.decord_reader import import_decord
from tok4d_video.reading import open_clip
from tok4d_video.resizing import Resize

RECIPE, FILE = "clips-long", "video.mp4"
BAR = 0.9
Use = Callable[[torch.Tensor], None]


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line."""
    args = _parser().parse_args(arguments)
    torch.set_num_threads(1)
    path = args.file or ensure(RECIPE)[1] / FILE
    report = measure(path, args.frames, args.short, args.repeats)
    text = json.dumps(report, indent=1)
    sys.stdout.write(text + "\n")
    if args.out is not None:
        args.out.write_text(text + "\n", encoding="utf-8")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Reading a clip against bare decord decoding and one resize")
    parser.add_argument("--file", type=Path, help=f"default: {FILE} of the recipe {RECIPE}")
    parser.add_argument("--frames", type=int, default=0, help="frames from the start; 0: all")
    parser.add_argument("--short", type=int, default=256, help="shorter side of the resized frames")
    parser.add_argument("--repeats", type=int, default=5, help="rounds after one warm-up")
    parser.add_argument("-o", "--out", type=Path, help="JSON file")
    return parser


def measure(path: Path, frames: int, short: int, repeats: int) -> dict[str, Any]:
    """CPU seconds of all sides in every round, their medians, and the ratios to bare decord.

    Raises:
        DataError: when the clip cannot be read.
    """
    resize = Resize(short=short)
    with open_clip(path) as clip:
        count = min(len(clip), frames or len(clip))
        size, chosen = (clip.height, clip.width), clip.reader
    sides: dict[str, Callable[[Use], None]] = {
        "bare": lambda use: _bare(path, count, resize.result(*size), use),
        "decord": lambda use: _path(path, "decord", count, resize, use),
        "pyav": lambda use: _path(path, "pyav", count, resize, use),
    }
    if chosen == "pyav":
        del sides["decord"]
    sums = {name: _sum(side) for name, side in sides.items()}  # the warm-up; all must read the same
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(repeats):
        for name in sorted(sides, reverse=number % 2 == 0):
            start = time.process_time()
            sides[name](lambda frames: None)
            seconds[name].append(round(time.process_time() - start, 3))
    medians = {name: statistics.median(row) for name, row in seconds.items()}
    ratios = {name: round(medians["bare"] / middle, 3) for name, middle in medians.items() if name != "bare"}
    return {
        "clip": path.name, "size": list(size), "frames": count, "short": short, "reader": chosen, "threads": 1,
        "same_pixels": len(set(sums.values())) == 1,
        "cpu_seconds": seconds, "median_cpu_seconds": medians, "ratio": ratios, "bar": BAR,
        "within": ratios[chosen] >= BAR,
        "machine": {"architecture": platform.machine(), "torch": torch.__version__, "tok4d": __version__},
    }  # fmt: skip


def _sum(side: Callable[[Use], None]) -> int:
    """Sum of all values that a side reads."""
    sums: list[int] = []
    side(lambda frames: sums.append(int(frames.sum())))
    return sum(sums)


def _bare(path: Path, count: int, size: tuple[int, int], use: Use) -> None:
    video = import_decord().VideoReader(str(path), num_threads=1)
    for _ in range(count):
        planes = torch.from_dlpack(video.next().to_dlpack())[None].permute(0, 3, 1, 2)
        use(F.interpolate(planes, size=size, mode="bilinear", align_corners=False, antialias=True))


def _path(path: Path, reader: str, count: int, resize: Resize, use: Use) -> None:
    with open_clip(path, reader=reader) as clip:
        for chunk in clip.stream(indices=range(count), resize=resize):
            use(chunk)


if __name__ == "__main__":
    main()
