"""Measures of what a sample is coded as: use of the codebook, and the rate.

n = samples of a group, T = tokens, G = groups of a code.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import numpy as np

from tok4d.errors import ConfigError
from tok4d.modality import Sample
from tok4d.plugins.registry import modality
from tok4d_bench.contracts import BenchData, ChunkReader, Columns, Measure, Restored, Subject, Value
from tok4d_bench.measures.base import BOOTSTRAP, mean_value, nothing
from tok4d_bench.statistics.blocks import column
from tok4d_bench.statistics.codes import as_row, code_use, from_rows, uniform_use

CODES, GROUPS = "codes", "groups"
METRICS = ("codebook/usage", "codebook/entropy", "codebook/perplexity")


class Codebook(Measure):
    """Share of the codes seen, entropy and perplexity of a discrete model, the mean over its groups.

    At a fixed number of tokens, the first ones: all three grow with it, and a model of more tokens a sample would look
    better. Where there are fewer, the figures say at how many they were taken and do not compare. Beside each stands
    its null, what a uniform code of the same size has at so many tokens.

    Args:
        tokens: how many.
        of_sample: at most so many of one sample, evenly spaced.

    Raises:
        ConfigError: for numbers below 1.
    """

    def __init__(self, tokens: int = 100_000, of_sample: int = 256) -> None:
        if tokens < 1 or of_sample < 1:
            raise ConfigError(f"codebook: tokens {tokens} and of_sample {of_sample} must be at least 1")
        self.tokens, self.of_sample = tokens, of_sample

    def protocol(self) -> dict[str, Any]:
        return {
            "implementation": "tok4d_bench.statistics.codes",
            "version": 1,
            "tokens": self.tokens,
            "of_sample": self.of_sample,
        }

    def columns(self, originals: Sequence[Sample], results: Sequence[Restored]) -> Columns:
        """Codes of every sample as a row, its groups beside it; no columns of codes for continuous latents."""
        found = [one.codes for one in results]
        if any(codes is None for codes in found):
            return {GROUPS: np.zeros(len(found))}
        rows = [as_row(codes.numpy(force=True), self.of_sample) for codes in found if codes is not None]
        return {
            CODES: np.stack(rows),
            GROUPS: np.array([codes.shape[1] for codes in found if codes is not None], float),
        }

    def finish(self, chunks: ChunkReader, data: BenchData, subject: Subject) -> list[Value]:
        groups = np.unique(column(chunks(GROUPS), GROUPS))
        if not len(groups) or groups[0] == 0:
            why = "no samples" if not len(groups) else f"{subject.name} gives no codes"
            return [nothing(name, why) for name in METRICS]
        codes = self._first(chunks, int(groups[0]))
        if not len(codes):
            return [nothing(name, "the samples have no tokens") for name in METRICS]
        used = code_use(codes)
        note = f"at {len(codes)} tokens" + ("" if len(codes) == self.tokens else f", fewer than {self.tokens}")
        sizes = vocabulary(subject)
        found = [
            Value("codebook/entropy", _mean([one.bits for one in used]), len(codes), None, True, "bits", note),
            Value("codebook/perplexity", _mean([one.perplexity for one in used]), len(codes), None, True, "", note),
        ]
        if len(sizes) != len(used):
            return [nothing("codebook/usage", f"{subject.name} does not say how many codes it has", unit="%"), *found]
        usage = 100 * _mean([one.seen / size for one, size in zip(used, sizes, strict=True)])
        return [Value("codebook/usage", usage, len(codes), None, True, "%", note), *found, *_nulls(sizes, codes, note)]

    def _first(self, chunks: ChunkReader, groups: int) -> np.ndarray:
        parts: list[np.ndarray] = []
        count = 0
        for piece in chunks(CODES):
            parts.append(from_rows(piece[CODES], groups)[: self.tokens - count])
            count += len(parts[-1])
            if count >= self.tokens:
                break
        return np.concatenate(parts)


def _nulls(sizes: Sequence[int], codes: np.ndarray, note: str) -> list[Value]:
    """The same three figures of codes drawn evenly from as many: at few tokens they are below the most there can be."""
    even = [uniform_use(size, len(codes)) for size in sizes]
    known = {
        "usage": (100 * _mean([share for share, _ in even]), "%"),
        "entropy": (_mean([bits for _, bits in even]), "bits"),
        "perplexity": (_mean([2**bits for _, bits in even]), ""),
    }
    why = f"expected of a uniform code, {note}"
    return [Value(f"codebook/{n}/null", value, len(codes), None, None, unit, why) for n, (value, unit) in known.items()]


def vocabulary(subject: Subject) -> list[int]:
    """Codes of every group, by the `quantizer` of the subject's facts (`{groups, levels}`); empty where it has none."""
    quantizer = subject.facts().get("quantizer")
    if not isinstance(quantizer, dict):
        return []
    return [prod(quantizer["levels"])] * int(quantizer["groups"])


class Rate(Measure):
    """Bits per pixel (of every frame), and tokens a sample where there are some. Continuous latents have no rate.

    The mean over samples of each one's own bits per pixel; for data without pictures, bits per value.
    """

    def protocol(self) -> dict[str, Any]:
        return {"implementation": "tok4d_bench.measures.codes.Rate", "version": 1, "error": BOOTSTRAP}

    def columns(self, originals: Sequence[Sample], results: Sequence[Restored]) -> Columns:
        bits = [np.nan if one.bits is None else float(one.bits) for one in results]
        return {
            "bits": np.array(bits, dtype=np.float64),
            "pixels": np.array([pixels(sample) for sample in originals], dtype=np.float64),
            "tokens": np.array([one.tokens for one in results], dtype=np.float64),
        }

    def finish(self, chunks: ChunkReader, data: BenchData, subject: Subject) -> list[Value]:
        bits, size, tokens = (column(chunks(name), name) for name in ("bits", "pixels", "tokens"))
        if not len(bits):
            return [nothing("bits_per_pixel", "no samples", unit="bits", higher_is_better=False)]
        if np.isnan(bits).all():
            why = f"{subject.name} gives no bits: {subject.no_bits}"
            rate = nothing("bits_per_pixel", why, n=len(bits), unit="bits", higher_is_better=False)
        else:
            rate = mean_value("bits_per_pixel", bits / size, unit="bits", higher_is_better=False)
        if not tokens.any():  # codecs and files have none: no figure, rather than zero
            return [rate]
        return [rate, mean_value("tokens_per_sample", tokens, higher_is_better=None)]


def pixels(sample: Sample) -> int:
    """Pixels of all of a sample's pictures, or values of its main tensor where it has none."""
    owner = modality(sample.modality)
    found = owner.pictures(sample)
    return sample.data[owner.field].numel() if found is None else found.shape[0] * found.shape[2] * found.shape[3]


def _mean(values: Sequence[float]) -> float:
    return float(sum(values) / len(values))
