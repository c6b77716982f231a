"""Modalities with one fault each in metrics, previews, files, sources, objective or class attributes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from rows import MAGIC, Ramps, Rows

from tok4d.errors import DataError
from tok4d.metrics import SamplePSNR
from tok4d.modality import Sample


class Score(SamplePSNR):
    """A metric with one fault."""

    def __init__(self, fault: str) -> None:
        super().__init__("row")
        self.fault = fault

    def compute(self):
        if self.fault in ("nan", "direction"):
            return super().compute() * {"nan": float("nan"), "direction": -1}[self.fault]
        return super().compute()

    def update(self, reconstruction, target):
        super().update(reconstruction, target)
        if self.fault == "batch":
            self.count += 1


class Measured(Rows):
    def __init__(self, fault):
        self.fault = fault
        self.metric = Score("")

    def metrics(self):
        return {"bad": lambda: self.metric if self.fault == "shared" else Score(self.fault)}


class PreviewArrays(Rows):
    def preview(self, sample):
        return [sample.data["row"].numpy()]


class PreviewOverflows(Rows):
    def preview(self, sample):
        if sample.data["row"].abs().max() > 1:
            raise ValueError("out of range")
        return super().preview(sample)


class LeaksErrors(Rows):
    def read(self, path, **options):
        raw = Path(path).read_bytes()
        assert raw[:4] == MAGIC
        return super().read(path)


class NamelessError(Rows):
    def read(self, path, **options):
        try:
            return super().read(path)
        except DataError as error:
            raise DataError("file", error.reason) from error


class AcceptsCutFiles(Rows):
    def read(self, path, **options):
        try:
            return super().read(path)
        except DataError:
            raw = Path(path).read_bytes() if Path(path).is_file() else b""
            if raw[:4] != MAGIC or len(raw) < 12:
                raise
            values = np.frombuffer(raw[8 : len(raw) // 4 * 4], "<f4").astype(np.float32)
            return Sample(self.name, {"row": torch.from_numpy(values)})


class Wraps(Rows):
    def write(self, sample, path):
        bytes_ = (sample.data["row"] * 127).round().to(torch.int32).to(torch.int8)
        super().write(Sample("rows", {"row": bytes_.float() / 127}), path)


class ForgetsTheGain(Rows):
    """Keeps in meta what belongs into the Origin."""

    def read(self, path, **options):
        sample = super().read(path)
        return Sample(self.name, {"row": sample.data["row"] / 2}, meta={"gain": 2})

    def write(self, sample, path):
        super().write(Sample("rows", {"row": sample.data["row"] * sample.meta.get("gain", 1)}), path)


class LeavesFiles(Rows):
    def write(self, sample, path):
        super().write(sample, path)
        Path(f"{path}.tmp").touch()


class OwnName(Rows):
    def write(self, sample, path):
        super().write(sample, f"{path}.rows")


@dataclass
class Moody(Ramps):
    """Draws from a generator of its own."""

    def __post_init__(self):
        self.own = np.random.default_rng(0)

    def load(self, index, rng=None):
        return Sample("rows", {"row": torch.from_numpy(self.own.random(5, np.float32))})


@dataclass
class Nameless(Ramps):
    def key(self, index):
        return ""


class WithSource(Rows):
    def __init__(self, factory):
        self.factory = factory

    def sources(self):
        return {"bad": self.factory}


class NoObjective(Rows):
    def objective(self, config):
        from tok4d.losses.objective import Loss

        return lambda target, restored, encoded: Loss(restored[0].data["row"].new_zeros((), requires_grad=True), {})


class Shouts(Rows):
    suffixes = (".ROWS",)


class Spaced(Rows):
    name = "my rows"
