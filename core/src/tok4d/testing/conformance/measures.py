"""Checks of metrics and previews."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch

from tok4d.metrics import applies
from tok4d.modality import Modality, Sample
from tok4d.testing.conformance.base import Case, copy_of, describe, fail, perturbed, scaled


def _applying(modality: Modality, samples: list[Sample]) -> list[tuple[str, Callable[[], Any]]]:
    """Metrics that compare samples like these; test those for other samples (decoded by a head, say) beside the kit."""
    found = modality.metrics().items()
    return [(name, make) for name, make in found if all(applies(make(), sample, sample) for sample in samples)]


def _value(factory: Callable[[], Any], got: list[Sample], expected: list[Sample], one_by_one: bool = False) -> float:
    metric = factory()
    pairs = [([a], [b]) for a, b in zip(got, expected, strict=True)] if one_by_one else [(got, expected)]
    for left, right in pairs:
        metric.update(left, right)
    return float(metric.compute())


class MetricChecks(Case):
    """Every metric of the modality."""

    def test_metrics_order_reconstructions(self, modality: Modality, samples: list[Sample]) -> None:
        worse = [perturbed(sample, modality.field) for sample in samples]
        for name, factory in _applying(modality, samples):
            upwards = getattr(factory(), "higher_is_better", "nothing")
            if upwards not in (True, False, None):
                fail(f"metric {name!r} must set higher_is_better to True, False or None (best at 0), got {upwards!r}")
            best = _value(factory, [copy_of(sample) for sample in samples], samples)
            value = _value(factory, worse, samples)
            if not math.isfinite(best) or not math.isfinite(value):
                fail(f"metric {name!r} gives {best} on identical and {value} on noisy input; bound it, say at 100 dB")
            if upwards is None:
                best, value = -abs(best), -abs(value)
            if best == value or (best > value) != (upwards is not False):
                fail(
                    f"metric {name!r} gives {best:.6g} on identical and {value:.6g} on noisy input, but "
                    f"higher_is_better is {upwards}; identical input must be best"
                )

    def test_metrics_do_not_depend_on_the_batch(self, modality: Modality, samples: list[Sample]) -> None:
        worse = [perturbed(sample, modality.field) for sample in samples]
        for name, factory in _applying(modality, samples):
            together, alone = (_value(factory, worse, samples, one_by_one) for one_by_one in (False, True))
            if not math.isclose(together, alone, rel_tol=1e-6, abs_tol=1e-9):
                fail(f"metric {name!r} gives {together:.9g} in one batch and {alone:.9g} one by one; sum over samples")

    def test_metric_factories_make_fresh_metrics(self, modality: Modality) -> None:
        for name, factory in modality.metrics().items():
            if factory() is factory():
                fail(f"metric {name!r}: the factory gives the same object twice; make a new metric on every call")


class PreviewChecks(Case):
    """Pictures for reports and logs."""

    def test_preview(self, modality: Modality, samples: list[Sample]) -> None:
        from PIL import Image

        for index, sample in enumerate(samples):
            before = sample.data[modality.field].clone()
            for factor, what in ((1.0, "as it is"), (100.0, "with values out of range, as a reconstruction has them")):
                where = f"{describe(index, sample)}, {what}"
                try:
                    pictures = modality.preview(scaled(sample, modality.field, factor))
                except Exception as error:
                    fail(f"{where}: preview raised {type(error).__name__}: {error}")
                if not isinstance(pictures, list) or not all(isinstance(p, Image.Image) for p in pictures):
                    fail(f"{where}: preview must give a list of PIL images, got {pictures!r}")
                if any(min(picture.size) < 1 for picture in pictures):
                    fail(f"{where}: preview gave a picture without pixels")
            modality.preview(sample)
            if not torch.equal(before, sample.data[modality.field]):
                fail(f"{describe(index, sample)}: preview changed the sample; work on a copy")
