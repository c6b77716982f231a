"""Speed and memory of a subject: what the runner's clock saw. These figures are of a machine, and never bit-identical.

n = samples of a group.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from tok4d.errors import ConfigError
from tok4d.modality import Sample
from tok4d_bench.contracts import BenchData, ChunkReader, Columns, Measure, Subject, Timed, Value
from tok4d_bench.measures.base import nothing
from tok4d_bench.measures.codes import pixels
from tok4d_bench.statistics.blocks import column

MEGA = 1e6
PEAK = "of the process while it reconstructs, with data and what earlier subjects left, or of its CUDA device"
LIFELONG = "; of all that it did before too: this system does not forget a peak"


class Speed(Measure):
    """Samples, tokens and megapixels a second of encoding and decoding, seconds a sample, and peak memory.

    Rates are totals over total time; the median over samples of the seconds stands beside them, since one slow moment
    spoils a mean. The first samples warm up, and count only where there are no others.

    Args:
        warm_up: samples that do not count.

    Raises:
        ConfigError: for a negative number.
    """

    kind: ClassVar[str] = "timing"
    reproducible: ClassVar[bool] = False

    def __init__(self, warm_up: int = 8) -> None:
        if warm_up < 0:
            raise ConfigError(f"speed: warm_up {warm_up} must be at least 0")
        self.warm_up = warm_up

    def protocol(self) -> dict[str, Any]:
        return {"implementation": "tok4d_bench.measures.speed", "version": 2, "warm_up": self.warm_up}

    def columns(self, originals: Sequence[Sample], results: Sequence[Timed]) -> Columns:
        return {
            "seconds": np.array([one.seconds for one in results], dtype=np.float64),
            "cpu_seconds": np.array([one.cpu_seconds for one in results], dtype=np.float64),
            "peak_bytes": np.array([one.peak_bytes for one in results], dtype=np.float64),
            "lifelong": np.array([one.lifelong for one in results], dtype=np.float64),
            "tokens": np.array([one.restored.tokens for one in results], dtype=np.float64),
            "pixels": np.array([pixels(sample) for sample in originals], dtype=np.float64),
        }

    def finish(self, chunks: ChunkReader, data: BenchData, subject: Subject) -> list[Value]:
        names = ("seconds", "cpu_seconds", "peak_bytes", "lifelong", "tokens", "pixels")
        seconds, cpu, peak, lifelong, tokens, size = (column(chunks(name), name) for name in names)
        kept = slice(self.warm_up if len(seconds) > self.warm_up else 0, None)
        n, total = len(seconds[kept]), float(seconds[kept].sum())
        if not n or total <= 0:
            return [nothing("samples_per_second", "no time was measured", unit="1/s")]
        found = [
            Value("samples_per_second", n / total, n, None, True, "1/s"),
            Value("seconds_per_sample", float(np.median(seconds[kept])), n, None, False, "s", "median"),
            Value("cpu_seconds_per_sample", float(np.median(cpu[kept])), n, None, False, "s", "median"),
            Value("megapixels_per_second", float(size[kept].sum()) / total / MEGA, n, None, True, "Mpx/s"),
            Value(
                "peak_memory",
                float(peak.max()) / MEGA,
                n,
                None,
                False,
                "MB",
                PEAK + (LIFELONG if lifelong.any() else ""),
            ),
        ]
        if tokens.any():
            found.insert(1, Value("tokens_per_second", float(tokens[kept].sum()) / total, n, None, True, "1/s"))
        return found
