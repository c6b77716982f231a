"""Does reconstructing a clip cost memory by its length? Peak memory and seconds per frame of `tok4d reconstruct`.

    python -m tok4d_bench.long_video -o benchmarks/results/long_video.json

The first 64 and all 720 frames of one 1920 x 1080 clip (recipe `clips-long`), shrunk to 256 px, through the preset
`tiny` with random weights, as processes of their own, alternating. Bars: 1.1 for both ratios.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tok4d_bench.speed import machine
from tok4d_bench.speed_report import print_line

LIMIT = 1.1


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description="Memory and time of reconstruction by length")
    parser.add_argument("--clip", type=Path, help="default: the long clip of the recipe clips-long")
    parser.add_argument("--frames", default="64,720", help="comma-separated, the shortest first")
    parser.add_argument("--size", type=int, default=256, help="shorter side")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("-o", "--out", type=Path, help="JSON file; a Markdown table is written beside it")
    args = parser.parse_args(arguments)
    command = ["python", "-m", "tok4d_bench.long_video", *(sys.argv[1:] if arguments is None else arguments)]
    lengths = [int(n) for n in args.frames.split(",")]
    report = {
        "command": shlex.join(command),
        "machine": machine(),
        **measure(args.clip, lengths, args.size, args.repeats),
    }
    print_line(markdown(report))
    if args.out is not None:
        from tok4d.weights.folder import write_text

        write_text(args.out, json.dumps(report, indent=1) + "\n")
        write_text(args.out.with_suffix(".md"), markdown(report) + "\n")


def measure(clip: Path | None, lengths: Sequence[int], size: int, repeats: int) -> dict[str, Any]:
    """Every length `repeats` times in turn; medians and the ratios of the longest to the shortest."""
    from tok4d.model.tokenizer import Tokenizer

    path = _long_clip() if clip is None else clip
    runs: dict[int, list[dict[str, float]]] = {length: [] for length in lengths}
    with tempfile.TemporaryDirectory() as folder:
        Tokenizer.from_preset("tiny").save_pretrained(Path(folder) / "model")
        for _ in range(repeats):
            for length in lengths:
                runs[length].append(_run(path, Path(folder), length, size))
    rows: list[dict[str, Any]] = [
        {"frames": length, **{key: statistics.median(run[key] for run in some) for key in some[0]}, "runs": some}
        for length, some in runs.items()
    ]
    first, last = rows[0], rows[-1]
    per_frame = (last["cpu_seconds"] - _start(rows)) / last["frames"]
    return {
        "clip": path.name,
        "size": size,
        "rows": rows,
        "memory_ratio": last["peak_mb"] / first["peak_mb"],
        "seconds_per_frame_ratio": (last["cpu_seconds"] / last["frames"]) / (first["cpu_seconds"] / first["frames"]),
        "cpu_seconds_per_frame": per_frame,
        "limit": LIMIT,
    }


def _start(rows: Sequence[dict[str, Any]]) -> float:
    """CPU seconds that do not depend on the length (imports, the model), by a line through the two ends."""
    first, last = rows[0], rows[-1]
    if last["frames"] == first["frames"]:
        return 0.0
    slope = (last["cpu_seconds"] - first["cpu_seconds"]) / (last["frames"] - first["frames"])
    return float(first["cpu_seconds"] - slope * first["frames"])


def _run(clip: Path, folder: Path, frames: int, size: int) -> dict[str, float]:
    """One process: peak resident memory in MB, CPU and wall seconds."""
    import time

    command = [sys.executable, "-m", "tok4d.cli.main", "reconstruct", str(clip), "-m", str(folder / "model")]
    command += ["-o", str(folder / "out"), "--read", f"frames={frames}", "--read", f"size={size}", "--json"]
    began = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        out = process.stdout.read()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"tok4d reconstruct failed with code {process.returncode}: {out}")
    (row,) = json.loads(out)["files"]
    assert row["metrics"], "every frame was measured"
    return {
        "peak_mb": usage.ru_maxrss / 1024,
        "cpu_seconds": usage.ru_utime + usage.ru_stime,
        "seconds": time.perf_counter() - began,
    }


def _long_clip() -> Path:
    from tok4d.data.fetch import ensure

    recipe, folder = ensure("clips-long", print_line)
    names = [item.file for item in recipe.items]
    return folder / max(names, key=lambda name: (folder / name).stat().st_size)


def markdown(report: dict[str, Any]) -> str:
    """The report as a table."""
    lines = [
        f"| {row['frames']} | {row['peak_mb']:.0f} | {row['cpu_seconds']:.1f} | "
        f"{1000 * row['cpu_seconds'] / row['frames']:.1f} | {row['seconds']:.1f} |"
        for row in report["rows"]
    ]
    held = {True: "held", False: "NOT held"}
    memory, seconds, limit = report["memory_ratio"], report["seconds_per_frame_ratio"], report["limit"]
    return "\n".join(
        [
            "# Reconstruction of a long clip",
            "",
            f"`{report['command']}`",
            "",
            f"{report['clip']}, 1920 x 1080 shrunk to {report['size']} px, preset `tiny`, one process each, medians of "
            f"{len(report['rows'][0]['runs'])}; torch {report['machine']['torch']}.",
            "",
            "| frames | peak memory, MB | CPU s | CPU ms a frame | wall s |",
            "|---|---|---|---|---|",
            *lines,
            "",
            f"Peak memory, longest over shortest: {memory:.3f} (bar {limit}: {held[memory <= limit]}). "
            f"CPU seconds per frame, starting up included: {seconds:.3f} (bar {limit}: {held[seconds <= limit]}).",
        ]
    )


if __name__ == "__main__":
    main()
