"""Measures of pairs, codes and time: against sums by hand; means, errors and what does not apply."""

from __future__ import annotations

import math
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from tok4d.errors import ConfigError, DataError, Tok4dError
from tok4d.modality import Sample
from tok4d_bench.contracts import Measure, Restored, Subject, Timed, Value
from tok4d_bench.measures.codes import Codebook, Rate
from tok4d_bench.measures.memory import MemoryData, MemoryReader, measure_pairs
from tok4d_bench.measures.pictures import LPIPS, MSSSIM, PSNR, SSIM, PooledPSNR
from tok4d_bench.measures.speed import Speed
from tok4d_bench.peak import Peak
from tok4d_bench.statistics.bootstrap import mean, mean_error, statistic_error
from tok4d_bench.statistics.codes import as_row, code_use, from_rows


def image(seed: int, size: tuple[int, int] = (24, 32), key: str = "") -> Sample:
    rng = torch.Generator().manual_seed(seed)
    return Sample("image", {"image": torch.rand(3, *size, generator=rng) * 2 - 1}, key=key or f"image {seed}")


def clip(seed: int, frames: int = 3) -> Sample:
    rng = torch.Generator().manual_seed(seed)
    return Sample("video", {"video": torch.rand(frames, 3, 24, 24, generator=rng) * 2 - 1}, key=f"clip {seed}")


def noisy(sample: Sample, amount: float, seed: int = 9) -> Restored:
    rng = torch.Generator().manual_seed(seed)
    name, x = next(iter(sample.data.items()))
    return Restored(Sample(sample.modality, {name: x + amount * torch.randn(x.shape, generator=rng)}))


def figures(measure: Measure, originals: list[Sample], restored: list[Restored]) -> dict[str, Value]:
    return {value.metric: value for value in measure_pairs([measure], originals, restored)[0]}


@pytest.fixture(scope="module")
def pairs() -> tuple[list[Sample], list[Restored]]:
    originals = [image(i, (24 + i % 3, 32)) for i in range(10)]
    return originals, [noisy(x, 0.05 * (i + 1), i) for i, x in enumerate(originals)]


def test_psnr_both_ways(pairs: tuple[list[Sample], list[Restored]]) -> None:
    originals, restored = pairs
    x = [s.data["image"].double().numpy() for s in originals]
    y = [r.sample.data["image"].double().numpy().clip(-1, 1) for r in restored]
    each = [10 * math.log10(4 / np.mean((a - b) ** 2)) for a, b in zip(x, y, strict=True)]
    squares = sum(((a - b) ** 2).sum() for a, b in zip(x, y, strict=True))
    found = figures(PSNR(), originals, restored)["psnr"]
    assert (found.value, found.n, found.unit) == (pytest.approx(np.mean(each), abs=1e-9), 10, "dB")
    assert found.stderr == pytest.approx(np.std(each, ddof=1) / math.sqrt(10), rel=0.15)
    pooled = figures(PooledPSNR(), originals, restored)["psnr_pooled"]
    assert pooled.value == pytest.approx(10 * math.log10(4 * sum(a.size for a in x) / squares), abs=1e-9)
    assert pooled.value < found.value  # the mean of logarithms is at most the logarithm of the mean
    assert pooled.stderr is not None
    assert 0 < pooled.stderr < 3


def test_exact_copies_and_clips() -> None:
    originals = [clip(0), clip(1)]
    exact = [Restored(s) for s in originals]
    values = [v[0] for v in measure_pairs([PSNR(), PooledPSNR(), SSIM(), MSSSIM()], originals, exact)]
    assert [v.value for v in values] == [100, 100, pytest.approx(1, abs=1e-12), pytest.approx(1, abs=1e-12)]
    a, b = originals[0].data["video"], noisy(originals[0], 0.1).sample.data["video"]
    one = [Restored(Sample("video", {"video": b}))]
    frames = [
        figures(m(), [Sample("image", {"image": x})], [Restored(Sample("image", {"image": y}))])[m.name].value
        for x, y in zip(a, b, strict=True)
        for m in (SSIM, MSSSIM)
    ]
    assert figures(SSIM(), originals[:1], one)["ssim"].value == pytest.approx(np.mean(frames[0::2]), abs=1e-12)
    assert figures(MSSSIM(), originals[:1], one)["ms_ssim"].value == pytest.approx(np.mean(frames[1::2]), abs=1e-12)


def test_order_changes_no_bit(pairs: tuple[list[Sample], list[Restored]]) -> None:
    originals, restored = pairs
    order = [3, 1, 4, 0, 9, 2, 6, 5, 8, 7]
    measures = [PSNR(), PooledPSNR(), SSIM()]
    turned = measure_pairs(measures, [originals[i] for i in order], [restored[i] for i in order])
    assert turned == measure_pairs(measures, originals, restored)


def test_what_cannot_be_compared_is_named() -> None:
    x = image(0, key="a.png")
    with pytest.raises(DataError, match=r"a\.png: image \[3, 24, 32\] was reconstructed as \[3, 24, 31\]"):
        figures(PSNR(), [x], [Restored(Sample("image", {"image": x.data["image"][..., 1:]}))])
    with pytest.raises(DataError, match=r"a\.png: 2304 reconstructed values are not finite"):
        figures(PSNR(), [x], [Restored(Sample("image", {"image": x.data["image"] * torch.nan}))])
    with pytest.raises(DataError, match=r"not finite"):
        figures(SSIM(), [x], [Restored(Sample("image", {"image": x.data["image"] * torch.nan}))])
    with pytest.raises(Tok4dError, match="0 reconstructions for 1 originals"):
        measure_pairs([PSNR()], [x], [])
    with pytest.raises(ConfigError, match="Did you mean 'vgg'"):
        LPIPS(net="vgg1")
    empty = PSNR().finish(MemoryReader({"psnr": np.zeros(0)}), MemoryData([]), Discrete())
    assert (empty[0].value, empty[0].n, empty[0].note) == (None, 0, "no samples")


def test_lpips_names_its_network_and_says_what_it_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    from tok4d.networks.catalogue import Availability

    assert (LPIPS().name, LPIPS(net="alex").name) == ("lpips_vgg", "lpips_alex")
    monkeypatch.setattr(
        "tok4d_bench.measures.base.available", lambda name: Availability(False, "/nowhere", f"fetch {name}")
    )
    network, _ = LPIPS(net="alex").requirements()
    assert (network.what, network.fix) == ("network alexnet", "fetch alexnet")
    assert "/nowhere" in network.missing


# --- means and errors -------------------------------------------------------------------------------------------


def test_bootstrap_is_the_classical_error_and_always_the_same() -> None:
    values = np.random.default_rng(0).normal(size=400)
    found = mean_error(values)
    assert found == pytest.approx(values.std(ddof=1) / 20, rel=0.05)
    assert mean_error(values[::-1]) == found
    assert mean(values[::-1]) == mean(values) == math.fsum(values) / 400
    assert mean_error(values, seed=1) != found
    ratio = statistic_error(np.stack([values + 5, np.ones(400)], 1), lambda m: m[:, 0] / m[:, 1])
    assert ratio == pytest.approx(values.std(ddof=1) / 20, rel=0.1)


def test_bootstrap_in_pieces_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(1).normal(size=50)
    whole = mean_error(values)
    monkeypatch.setattr("tok4d_bench.statistics.bootstrap.DRAWS", 170)
    assert mean_error(values) == whole


def test_bad_values_have_no_error() -> None:
    assert mean_error(np.array([3.0])) is None
    assert mean_error(np.full(5, 3.0)) == 0
    with pytest.raises(Tok4dError, match="NaN or infinity"):
        mean_error(np.array([1.0, np.nan]))
    with pytest.raises(Tok4dError, match="no values"):
        mean([])
    with pytest.raises(Tok4dError, match="1 replicates"):
        mean_error(np.ones(3), replicates=1)


# --- codes, rate and time ---------------------------------------------------------------------------------------


class Discrete(Subject):
    name, digest = "discrete", "0"

    def facts(self) -> dict[str, object]:
        return {"quantizer": {"groups": 2, "levels": [2, 2]}}


def coded(codes: list[list[int]], bits: float | None = 16.0) -> Restored:
    return Restored(image(0), bits, len(codes), torch.tensor(codes, dtype=torch.int32))


def test_codebook_at_a_fixed_number_of_tokens() -> None:
    results = [coded([[0, 1], [1, 1]]), coded([[2, 1], [3, 1]]), coded([[0, 0], [0, 0]])]
    measure = Codebook(tokens=4)
    reader = MemoryReader(measure.columns([image(0)] * 3, results))
    found = {v.metric: v for v in measure.finish(reader, MemoryData([]), Discrete())}
    # the first four tokens: group 0 has all four codes equally often, group 1 has one of four
    assert found["codebook/usage"].value == pytest.approx(100 * (4 / 4 + 1 / 4) / 2)
    assert found["codebook/entropy"].value == pytest.approx((2 + 0) / 2)
    assert found["codebook/perplexity"].value == pytest.approx((4 + 1) / 2)
    assert found["codebook/usage"].note == "at 4 tokens"
    assert {v.n for v in found.values()} == {4}
    few = Codebook(tokens=100).finish(reader, MemoryData([]), Discrete())
    assert all("at 6 tokens, fewer than 100" in v.note for v in few)


def test_codes_of_samples_of_any_length() -> None:
    codes = np.arange(20).reshape(10, 2)
    row = as_row(codes, 4)
    assert from_rows(row[None], 2).tolist() == [[0, 1], [4, 5], [10, 11], [14, 15]]  # evenly spaced
    assert from_rows(np.stack([as_row(codes[:3], 4), row]), 2).shape == (7, 2)
    assert [u.seen for u in code_use(codes)] == [10, 10]
    with pytest.raises(Tok4dError, match="16777216 is beyond"):
        as_row(np.array([[1 << 24]]), 1)
    with pytest.raises(Tok4dError, match="at least one token"):
        code_use(np.zeros((0, 2), dtype=int))


def test_continuous_latents_have_neither_codes_nor_rate() -> None:
    restored = [Restored(image(i), None, 6) for i in range(3)]
    originals = [image(i) for i in range(3)]
    for value in measure_pairs([Codebook()], originals, restored)[0]:
        assert value.value is None
        assert "no codes" in value.note
    rate, tokens = measure_pairs([Rate()], originals, restored)[0]
    assert rate.value is None
    assert "no rate" in rate.note
    assert tokens.value == 6


def test_what_is_not_coded_has_neither_rate_nor_tokens() -> None:
    from tok4d_bench.score.pairs import FilesSubject
    from tok4d_bench.subjects.identity import Identity

    originals = [image(i) for i in range(3)]
    restored = [Restored(one) for one in originals]
    for subject, why in (
        (Identity(), "identity gives no bits: the originals themselves are not coded"),
        (FilesSubject(Path("rec"), {}), "rec gives no bits: .*give the folder of the coded files with --coded"),
    ):
        (rate,) = measure_pairs([Rate()], originals, restored, subject)[0]
        assert rate.value is None
        assert re.fullmatch(why, rate.note)


PEAKS = """
import torch
from tok4d_bench.peak import Peak
first = Peak()
made = torch.ones(50_000_000)
del made
large = first.bytes()
second = Peak()
made = torch.ones(1_000_000)
print("none" if second.lifelong else large - second.bytes())
"""


def test_a_peak_is_not_that_of_what_was_before() -> None:
    done = subprocess.run([sys.executable, "-c", PEAKS], capture_output=True, text=True, check=True, timeout=120)
    if done.stdout.strip() == "none":
        pytest.skip("this system does not forget a peak")
    assert int(done.stdout) > 150_000_000


def test_a_peak_of_the_whole_process_is_said_to_be_one(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("tok4d.training.memory.CLEAR", tmp_path)  # a folder: it cannot be written to
    peak = Peak()
    assert peak.lifelong
    assert peak.bytes() > 1_000_000
    results = [Timed(Restored(image(0)), 1.0, 1.0, peak.bytes(), peak.lifelong)]
    reader = MemoryReader(Speed().columns([image(0)], results))
    notes = {value.metric: value.note for value in Speed().finish(reader, MemoryData([]), Discrete())}
    assert "does not forget a peak" in notes["peak_memory"]


def test_rate_is_the_mean_over_samples_of_bits_per_pixel() -> None:
    originals = [image(0, (16, 16)), image(1, (16, 32)), clip(2, 4)]
    restored = [Restored(originals[0], 512.0, 1), Restored(originals[1], 512.0, 2), Restored(originals[2], 2304.0, 9)]
    rate, tokens = measure_pairs([Rate()], originals, restored)[0]
    assert rate.value == pytest.approx((512 / 256 + 512 / 512 + 2304 / (4 * 24 * 24)) / 3)
    assert (rate.higher_is_better, tokens.value) == (False, 4)


def test_speed_leaves_the_warm_up_out() -> None:
    results = [Timed(Restored(image(0), None, 10), s, 2 * s, 5_000_000 + i) for i, s in enumerate([9.0, 1.0, 2.0, 3.0])]
    measure = Speed(warm_up=1)
    reader = MemoryReader(measure.columns([image(0, (100, 100))] * 4, results))
    found = {v.metric: v.value for v in measure.finish(reader, MemoryData([]), Discrete())}
    assert found == {
        "samples_per_second": 0.5,
        "tokens_per_second": 5.0,
        "seconds_per_sample": 2.0,
        "cpu_seconds_per_sample": 4.0,
        "megapixels_per_second": pytest.approx(0.005),
        "peak_memory": pytest.approx(5.000003),
    }
    assert Speed(warm_up=9).finish(reader, MemoryData([]), Discrete())[0].value == pytest.approx(4 / 15)
    assert not Speed.reproducible
