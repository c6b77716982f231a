"""Measures by name: those that plugins register, and the metrics of any modality (`image/psnr`, `mesh3d/view_psnr`).

n = samples of a group.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tok4d.errors import ConfigError
from tok4d.modality import Sample
from tok4d.options import build
from tok4d.plugins.registry import metric_factory, names, provider
from tok4d_bench.contracts import MEASURE_KINDS, BenchData, ChunkReader, Columns, Measure, Subject, UnsuitedError, Value


class MetricMeasure(Measure):
    """A torchmetrics metric over lists of samples, one sample at a time; the figure is the mean of its values.

    Args:
        name: as in `image/psnr`.
        factory: makes a fresh metric.
    """

    def __init__(self, name: str, factory: Any) -> None:
        self.name, self.factory = name, factory

    def protocol(self) -> dict[str, Any]:
        metric = self.factory()
        return {"implementation": f"{type(metric).__module__}.{type(metric).__qualname__}", "mean": "of samples"}

    def columns(self, originals: Sequence[Sample], results: Sequence[Any]) -> Columns:
        """`value` float64 `[n]`; NaN where the metric compares no samples like these (assets without pictures)."""
        from tok4d.metrics import applies

        values = np.full(len(originals), np.nan)
        for place, (original, result) in enumerate(zip(originals, results, strict=True)):
            metric = self.factory()
            if applies(metric, result.sample, original):
                metric.update([result.sample], [original])
                values[place] = float(metric.compute())
        return {"value": values}

    def finish(self, chunks: ChunkReader, data: BenchData, subject: Subject) -> list[Value]:
        from tok4d_bench.statistics.bootstrap import mean, mean_error

        values = np.concatenate([piece["value"] for piece in chunks("value")])
        kept = values[~np.isnan(values)]
        higher = getattr(self.factory(), "higher_is_better", None)
        if not len(kept):
            raise UnsuitedError(f"none of {len(values)} samples and reconstructions has what {self.name} compares")
        note = "" if len(kept) == len(values) else f"{len(values) - len(kept)} samples have nothing to compare"
        return [Value(self.name, mean(kept), len(kept), mean_error(kept), higher, note=note)]


def make_measure(name: str, options: Mapping[str, Any]) -> Measure:
    """A measure by name.

    Args:
        name: a registered measure, or a metric of a modality.
        options: arguments of its constructor.

    Raises:
        PluginError: for an unknown name, with the nearest.
        ConfigError: for options that it does not take, with the nearest, or of another type.
    """
    found = metric_factory(name)
    if isinstance(found, type) and issubclass(found, Measure):
        measure = build(f"measure {name}", found, options)
        if measure.kind not in MEASURE_KINDS:
            raise ConfigError(f"measure {name} is of kind {measure.kind!r}; it must be one of {MEASURE_KINDS}")
        return measure
    if options:
        raise ConfigError(f"metric {name} takes no options, got {', '.join(map(str, options))}")
    return MetricMeasure(name, found)


def label_of(name: str, options: Mapping[str, Any]) -> str:
    """How results name a measure with its options: `lpips(net=vgg)`."""
    return f"{name}({','.join(f'{key}={value}' for key, value in options.items())})" if options else name


def measure_rows() -> list[tuple[str, str]]:
    """Registered measures and their plugins, for listing."""
    return [(name, provider("metrics", name)) for name in names("metrics")]
