"""Fréchet and kernel distances as measures: figures, parts, nulls, warnings, clips; on a small random network."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm
from torch import Tensor

from tok4d.errors import ConfigError, DataError
from tok4d.modality import Sample
from tok4d.networks.base import FeatureNetwork, VideoNetwork
from tok4d_bench.contracts import ChunkReader, Columns, Restored, Subject, Value
from tok4d_bench.measures import base
from tok4d_bench.measures.features import GOT, WANTED
from tok4d_bench.measures.frechet import FrechetDistance, VideoDistance
from tok4d_bench.measures.kernel import KernelDistance
from tok4d_bench.measures.memory import MemoryData, MemoryReader, measure_pairs


class Small(FeatureNetwork):
    """Five random directions of an 8x8 picture."""

    name, width, preprocessing = "small", 5, "none"

    def __init__(self) -> None:
        super().__init__()
        self.map = torch.nn.Linear(192, 5)
        torch.nn.init.normal_(self.map.weight, std=0.2, generator=torch.Generator().manual_seed(0))
        torch.nn.init.zeros_(self.map.bias)

    def features(self, samples: Tensor) -> Tensor:
        found: Tensor = self.map(samples.flatten(1))
        return found


class Clips(VideoNetwork):
    """First, middle and last frame's mean, and the number of frames."""

    name, width, preprocessing = "clips", 4, "none"

    def features(self, samples: Tensor) -> Tensor:
        frames = samples.mean((2, 3, 4))
        ends = frames[:, [0, frames.shape[1] // 2, -1]]
        return torch.cat([ends, torch.full((len(samples), 1), float(samples.shape[1]))], 1)


@pytest.fixture(autouse=True)
def networks(monkeypatch: pytest.MonkeyPatch) -> None:
    made = {"effnet-lite0": Small().freeze(), "inception-v3-fid": Small().freeze(), "i3d": Clips().freeze()}
    made["transnetv2"] = made["i3d"]
    monkeypatch.setattr(base, "load_network", lambda name, source="", device="cpu": made[name])


class Nobody(Subject):
    name, digest = "nobody", ""


def pictures(n: int, seed: int) -> list[Sample]:
    rng = torch.Generator().manual_seed(seed)
    return [Sample("image", {"image": torch.rand(3, 8, 8, generator=rng) * 2 - 1}, key=f"{i}") for i in range(n)]


def worse(samples: list[Sample], amount: float = 0.5) -> list[Restored]:
    rng = torch.Generator().manual_seed(99)
    made = [s.data["image"] + amount * torch.randn(3, 8, 8, generator=rng) for s in samples]
    return [Restored(Sample("image", {"image": x})) for x in made]


def features(samples: list[Sample]) -> np.ndarray:
    stacked = torch.stack([s.data["image"] for s in samples]).clamp(-1, 1)
    return Small()(stacked).detach().double().numpy()


def by_scipy(x: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    s1, s2 = np.atleast_2d(np.cov(x.T)), np.atleast_2d(np.cov(y.T))
    return float(((x.mean(0) - y.mean(0)) ** 2).sum()), float(np.trace(s1 + s2 - 2 * sqrtm(s1 @ s2).real))


def figures(values: list[Value]) -> dict[str, Value]:
    return {value.metric: value for value in values}


def test_distance_parts_null_and_error() -> None:
    originals = pictures(60, 0)
    restored = worse(originals)
    found = figures(measure_pairs([FrechetDistance("effnet-lite0")], originals, restored)[0])
    name = "FD-EffNetLite0"
    assert set(found) == {name, f"{name}/mean", f"{name}/covariance", f"{name}/null"}
    x, y = features([r.sample for r in restored]), features(originals)
    mean, covariance = by_scipy(x, y)
    assert found[name].value == pytest.approx(mean + covariance, rel=1e-4)  # float32 features
    assert found[f"{name}/mean"].value == pytest.approx(mean, rel=1e-4)
    assert found[f"{name}/covariance"].value == pytest.approx(covariance, rel=1e-4)
    assert found[f"{name}/null"].value == pytest.approx(sum(by_scipy(y[0::2], y[1::2])), rel=1e-4)
    assert (found[name].n, found[name].higher_is_better, found[name].note) == (60, False, "")
    kept = [np.setdiff1d(np.arange(60), np.arange(g, 60, 10)) for g in range(10)]
    left = np.array([sum(by_scipy(x[k], y[k])) for k in kept])
    assert found[name].stderr == pytest.approx(np.sqrt(9 / 10 * ((left - left.mean()) ** 2).sum()), rel=1e-3)


def test_networks_compute_where_the_runner_says(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(base, "load_network", lambda name, source, device: asked.append((name, source, device)))
    measure = FrechetDistance("effnet-lite0", source="/x")
    measure.device = "cuda:1"
    with pytest.raises(ConfigError, match="NoneType, this measure needs a FeatureNetwork"):
        measure.protocol()
    assert asked == [("effnet-lite0", "/x", "cuda:1")]


def test_only_inception_is_called_fid() -> None:
    assert FrechetDistance().name == "fid"
    assert KernelDistance().name == "kid"
    assert VideoDistance().name == "fvd"
    assert FrechetDistance("vgg16-features").name == "FD-VGG16"
    assert KernelDistance("effnet-lite0").name == "KD-EffNetLite0"
    assert VideoDistance("transnetv2").name == "FD-TransNetV2"


def test_few_samples_are_said_and_parts_are_not_given() -> None:
    originals = pictures(20, 1)
    found = figures(measure_pairs([FrechetDistance(pca=2)], originals, worse(originals))[0])
    assert "20 samples for 5 features: fewer than 10 a feature" in found["fid"].note
    assert found["fid/mean"].value is None
    assert "give pca: 2" in found["fid/mean"].note
    y, x = features(originals), features([r.sample for r in worse(originals)])
    axes = np.linalg.eigh(np.cov(y.T))[1][:, ::-1][:, :2]
    mean, covariance = by_scipy(x @ axes, y @ axes)
    assert found["fid-pca-2/mean"].value == pytest.approx(mean, rel=1e-3)
    assert found["fid-pca-2/covariance"].value == pytest.approx(covariance, rel=1e-3)
    assert found["fid-pca-2"].note == ""
    few = figures(measure_pairs([FrechetDistance()], originals[:4], worse(originals[:4]))[0])
    assert "rank-deficient" in few["fid"].note
    assert measure_pairs([FrechetDistance()], originals[:3], worse(originals[:3]))[0][0].value is None


def wide(n: int, d: int) -> tuple[MemoryReader, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    y = rng.normal(size=(n, d)).astype(np.float32)
    x = (y + 0.3 * rng.normal(size=(n, d))).astype(np.float32)
    return MemoryReader({WANTED: y, GOT: x}), x.astype(np.float64), y.astype(np.float64)


def test_more_features_than_samples_lose_nothing_by_the_short_cut() -> None:
    reader, x, y = wide(12, 100)
    found = figures(FrechetDistance().finish(reader, MemoryData([]), Nobody()))
    a, b = x - x.mean(0), y - y.mean(0)
    root = np.linalg.svd(a @ b.T / 11, compute_uv=False).sum()
    exact = ((x.mean(0) - y.mean(0)) ** 2).sum() + (np.trace(a @ a.T) + np.trace(b @ b.T)) / 11 - 2 * root
    assert found["fid"].value == pytest.approx(exact, rel=1e-10)
    same = MemoryReader({WANTED: y, GOT: y})
    assert FrechetDistance().finish(same, MemoryData([]), Nobody())[0].value == pytest.approx(0, abs=1e-9)
    flat = MemoryReader({WANTED: np.ones((6, 20)), GOT: np.ones((6, 20))})
    assert FrechetDistance().finish(flat, MemoryData([]), Nobody())[0].value == 0


class InPieces(ChunkReader):
    """The same columns in pieces of some length."""

    def __init__(self, reader: MemoryReader, length: int) -> None:
        self.whole, self.n, self.length = reader, reader.n, length

    def __call__(self, *names: str):  # type: ignore[no-untyped-def]
        (columns,) = self.whole(*names)
        for start in range(0, self.n, self.length):
            yield {name: values[start : start + self.length] for name, values in columns.items()}

    def indices(self) -> np.ndarray:
        return np.arange(self.n)


def test_pieces_change_no_bit() -> None:
    reader, _, _ = wide(70, 6)
    for measure in (FrechetDistance(pca=3), KernelDistance(), KernelDistance(subsets=7, subset_size=20)):
        whole = measure.finish(reader, MemoryData([]), Nobody())
        for length in (1, 7, 64):
            assert measure.finish(InPieces(reader, length), MemoryData([]), Nobody()) == whole


def test_kernel_distance_of_all_and_of_subsets() -> None:
    reader, x, y = wide(60, 6)
    (found,) = KernelDistance().finish(reader, MemoryData([]), Nobody())
    k = [(a @ b.T / 6 + 1) ** 3 for a, b in ((y, y), (x, x), (y, x), (x, y))]
    off = ~np.eye(60, dtype=bool)
    exact = (k[0] + k[1] - k[2] - k[3])[off].mean()
    assert found.value == pytest.approx(exact, rel=1e-9)
    assert (found.note, found.n) == ("all samples at once", 60)
    assert found.stderr is not None
    (some,) = KernelDistance(subsets=40, subset_size=30).finish(reader, MemoryData([]), Nobody())
    assert some.note == "40 subsets of 30"
    assert some.value == pytest.approx(exact, abs=3 * found.stderr)
    assert some.stderr is not None
    assert 0.2 < some.stderr / found.stderr < 5
    other = KernelDistance(subsets=40, subset_size=30, seed=1).finish(reader, MemoryData([]), Nobody())[0]
    assert other.value != some.value


def clip(frames: int, fill: float) -> Sample:
    steps = torch.linspace(0, fill, frames).view(-1, 1, 1, 1)
    return Sample("video", {"video": steps.expand(frames, 3, 8, 8).contiguous()}, key=f"{frames}")


def test_clips_are_cut_or_their_last_frame_repeated() -> None:
    measure = VideoDistance(frames=4)
    rows = measure.reference([clip(2, 0.5), clip(9, 0.8)])[WANTED]
    np.testing.assert_allclose(rows, [[0, 0.5, 0.5, 4], [0, 0.2, 0.3, 4]], atol=1e-6)
    whole = VideoDistance(frames=0).reference([clip(2, 0.5), clip(9, 0.8)])[WANTED]
    np.testing.assert_allclose(whole, [[0, 0.5, 0.5, 2], [0, 0.4, 0.8, 9]], atol=1e-6)
    assert measure.protocol()["frames"] != VideoDistance(frames=8).protocol()["frames"]


def test_features_of_mixed_sizes_keep_their_order() -> None:
    class Mean(FeatureNetwork):
        name, width = "mean", 1

        def features(self, samples: Tensor) -> Tensor:
            return samples.mean((1, 2, 3))[:, None]

    sizes = [(4, 4), (8, 4), (4, 4), (8, 4), (2, 2)]
    values = [torch.full((1, 3, *size), i / 10) for i, size in enumerate(sizes)]
    found = base.by_size([(x,) for x in values], Mean(), at_once=1)
    assert [round(float(x), 6) for x in found] == [0, 0.1, 0.2, 0.3, 0.4]


def test_large_pictures_go_through_a_network_few_at_a_time() -> None:
    seen = []

    def call(x: Tensor) -> Tensor:
        seen.append(len(x))
        return x.flatten(1).mean(1)

    found = base.by_size([(torch.arange(5.0).view(5, 1, 1, 1).expand(5, 3, 512, 512),)], call)
    assert seen == [4, 1], "four of 512 px are as many values as sixteen of 256"
    assert found[0].tolist() == [0, 1, 2, 3, 4]
    base.by_size([(torch.zeros(2, 3, 1024, 2048),)], call)
    assert seen[2:] == [1, 1], "one is the least"


def test_wrong_uses_are_refused() -> None:
    with pytest.raises(ConfigError, match="groups 3 must be even"):
        FrechetDistance(groups=3)
    with pytest.raises(ConfigError, match="pca 9 is more than the 5 features"):
        measure_pairs([FrechetDistance(pca=9)], pictures(8, 0), worse(pictures(8, 0)))
    with pytest.raises(ConfigError, match="subsets 1 must be 0 or 2"):
        KernelDistance(subsets=1)
    with pytest.raises(ConfigError, match="frames -1"):
        VideoDistance(frames=-1)
    with pytest.raises(DataError, match="is a clip of 2 frames: effnet-lite0 sees pictures"):
        FrechetDistance("effnet-lite0").reference([clip(2, 1)])
    with pytest.raises(ConfigError, match="needs a VideoNetwork"):
        base.pretrained("effnet-lite0", "", VideoNetwork)
    missing = FrechetDistance("effnet-lite0", source="/nowhere/x.pth").requirements()[0]
    assert missing.missing == "/nowhere/x.pth: no such file"


def test_protocol_names_all_that_matters() -> None:
    def flat(columns: Columns | dict[str, object]) -> str:
        return str(sorted(columns.items()))

    changed = [FrechetDistance(), FrechetDistance(pca=2), FrechetDistance(groups=4), FrechetDistance("effnet-lite0")]
    changed += [KernelDistance(), KernelDistance(seed=1), KernelDistance(subsets=3), KernelDistance(subset_size=9)]  # type: ignore[list-item]
    assert len({flat(measure.protocol()) for measure in changed}) == len(changed)
