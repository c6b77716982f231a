"""Measures against scikit-image, lpips, torchmetrics and scipy on real data: photos of scikit-image, clips of bars.

The recipe `clips` holds one video as it was and coded badly (carphone): a fixed case whose figures stand here.
"""

from __future__ import annotations

import io
import warnings

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from tok4d.data.fetch import ensure
from tok4d.modality import Sample
from tok4d.networks import load_network
from tok4d.networks.base import FeatureNetwork
from tok4d.plugins.registry import modality
from tok4d_bench.contracts import Restored
from tok4d_bench.measures import base
from tok4d_bench.measures.frechet import FrechetDistance, VideoDistance
from tok4d_bench.measures.kernel import KernelDistance
from tok4d_bench.measures.memory import measure_pairs
from tok4d_bench.measures.pictures import LPIPS, MSSSIM, PSNR, SSIM, PooledPSNR

skimage_data = pytest.importorskip("skimage.data")
PHOTOS = ("astronaut", "chelsea", "coffee", "rocket")
FRAMES = 2
CARPHONE = {
    "psnr": 23.117833,
    "psnr_pooled": 23.110108,
    "ssim": 0.708864,
    "ms_ssim": 0.862339,
    "lpips_alex": 0.248194,
    "FD-TransNetV2": 0.078703,
    "FD-TransNetV2/null": 0.082962,
}


def signed(levels: np.ndarray) -> Tensor:
    return torch.from_numpy(levels.copy()).permute(2, 0, 1).float() / 127.5 - 1


def jpeg(levels: np.ndarray, quality: int) -> np.ndarray:
    stored = io.BytesIO()
    Image.fromarray(levels).save(stored, "JPEG", quality=quality)
    return np.asarray(Image.open(stored).convert("RGB"))


@pytest.fixture(scope="module")
def photos() -> list[tuple[np.ndarray, np.ndarray]]:
    """Photos of 192x224 pixels and their JPEGs of quality 20, 8 bits."""
    originals = [getattr(skimage_data, name)()[40:232, 60:284, :3] for name in PHOTOS]
    return [(levels, jpeg(levels, 20)) for levels in originals]


@pytest.fixture(scope="module")
def carphone() -> tuple[list[Sample], list[Restored]]:
    folder = ensure("clips")[1]
    pristine, distorted = (
        modality("video").read(folder / f"carphone_{kind}.mp4") for kind in ("pristine", "distorted")
    )
    pieces = [slice(start, start + FRAMES) for start in range(0, 120, 12)]
    return [_cut(pristine, piece) for piece in pieces], [Restored(_cut(distorted, piece)) for piece in pieces]


def _cut(video: Sample, piece: slice) -> Sample:
    return Sample("video", {"video": video.data["video"][piece]}, key=f"frames from {piece.start}")


def samples(pairs: list[tuple[np.ndarray, np.ndarray]]) -> tuple[list[Sample], list[Restored]]:
    made = [[Sample("image", {"image": signed(levels)}) for levels in side] for side in zip(*pairs, strict=True)]
    return made[0], [Restored(sample) for sample in made[1]]


def ssim_map(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """scikit-image's map with the border mirrored as ours is: it sees the mirrored pixels, then they are cut off."""
    from skimage.metrics import structural_similarity

    around = ((16, 16), (16, 16), (0, 0))
    a, b = (np.pad(x / 255.0, around, mode="reflect") for x in (one, other))
    options = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "data_range": 1.0}
    found: np.ndarray = structural_similarity(a, b, channel_axis=2, full=True, **options)[1]
    return found[16:-16, 16:-16]


def test_psnr_and_ssim_are_those_of_scikit_image(photos: list[tuple[np.ndarray, np.ndarray]]) -> None:
    from skimage.metrics import peak_signal_noise_ratio

    values = [v[0].value for v in measure_pairs([PSNR(), PooledPSNR(), SSIM()], *samples(photos))]
    assert values[0] == pytest.approx(np.mean([peak_signal_noise_ratio(a, b) for a, b in photos]), abs=1e-5)
    stacked = (np.stack(side) for side in zip(*photos, strict=True))
    assert values[1] == pytest.approx(peak_signal_noise_ratio(*stacked), abs=1e-5)
    assert values[2] == pytest.approx(np.mean([ssim_map(a, b).mean() for a, b in photos]), abs=1e-6)


def test_ms_ssim_is_that_of_torchmetrics(photos: list[tuple[np.ndarray, np.ndarray]]) -> None:
    from torchmetrics.functional.image import multiscale_structural_similarity_index_measure as theirs

    ours = measure_pairs([MSSSIM()], *samples(photos[:2]))[0][0].value
    pairs = [[(signed(x).double()[None] + 1) / 2 for x in pair] for pair in photos[:2]]
    wanted = [float(theirs(b, a, data_range=1.0)) for a, b in pairs]
    assert ours == pytest.approx(np.mean(wanted), abs=1e-6)


@pytest.mark.parametrize("net", ["vgg", "alex"])
def test_lpips_is_that_of_the_package(net: str, photos: list[tuple[np.ndarray, np.ndarray]]) -> None:
    lpips = pytest.importorskip("lpips")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = lpips.LPIPS(net=net, pnet_rand=True, verbose=False)
    trunk = load_network({"vgg": "vgg16", "alex": "alexnet"}[net])
    weights = {f"{name.split('.', 1)[1]}": tensor for name, tensor in trunk.state_dict().items() if "features" in name}
    pairs = [(a[:96, :112], b[:96, :112]) for a, b in photos[:2]]
    with torch.no_grad():
        for name, parameter in theirs.net.named_parameters():
            parameter.copy_(weights[name.split(".", 1)[1]])
        wanted = [float(theirs(signed(a)[None], signed(b)[None])) for a, b in pairs]
    (value,) = measure_pairs([LPIPS(net)], *samples(pairs))[0]
    assert value.value == pytest.approx(np.mean(wanted), abs=1e-6)
    assert value.metric == f"lpips_{net}"


class First32(FeatureNetwork):
    """Means of the first 32 channels of VGG16's relu2_2: quick, and few enough for a full rank."""

    name, width, preprocessing, least = "first32", 32, "as vgg16", 4

    def __init__(self) -> None:
        super().__init__()
        self.layers = load_network("vgg16").features[:9]

    def features(self, samples: Tensor) -> Tensor:
        found: Tensor = self.layers(samples).mean((2, 3))[:, :32]
        return found


class Levels(torch.nn.Module):
    """A network of ours as torchmetrics calls one: with 8-bit pictures, telling its width."""

    def __init__(self) -> None:
        super().__init__()
        self.network = First32().freeze()
        self.num_features = self.network.width

    def forward(self, pictures: Tensor) -> Tensor:
        found: Tensor = self.network(pictures.float() / 127.5 - 1)
        return found


def crops(side: int) -> list[np.ndarray]:
    photos = [getattr(skimage_data, name)()[..., :3] for name in PHOTOS]
    return [
        photo[top : top + side, left : left + side]
        for photo in photos
        for top in range(0, photo.shape[0] - side + 1, 64)
        for left in range(0, photo.shape[1] - side + 1, 64)
    ]


def test_frechet_and_kernel_distance_are_those_of_torchmetrics_and_scipy(monkeypatch: pytest.MonkeyPatch) -> None:
    from scipy.linalg import sqrtm
    from torchmetrics.image.fid import FrechetInceptionDistance

    theirs = Levels()
    monkeypatch.setattr(base, "load_network", lambda name, source="", device="cpu": theirs.network)
    pairs = [(levels, jpeg(levels, 10)) for levels in crops(32)]
    assert len(pairs) > 5 * theirs.num_features
    originals, restored = samples(pairs)
    measures = [FrechetDistance("vgg16-features", pca=10), KernelDistance("vgg16-features")]
    found = {value.metric: value for values in measure_pairs(measures, originals, restored) for value in values}
    metric = FrechetInceptionDistance(feature=theirs, antialias=False)
    sides = [torch.from_numpy(np.stack(side)).permute(0, 3, 1, 2) for side in zip(*pairs, strict=True)]
    for real, side in zip((True, False), sides, strict=True):
        metric.update(side, real=real)
    assert found["FD-VGG16"].value == pytest.approx(float(metric.compute()), rel=1e-4)
    with torch.no_grad():
        y, x = (theirs(side).double().numpy() for side in sides)
    s1, s2 = np.cov(x.T), np.cov(y.T)
    total = ((x.mean(0) - y.mean(0)) ** 2).sum() + np.trace(s1 + s2 - 2 * sqrtm(s1 @ s2).real)
    assert found["FD-VGG16"].value == pytest.approx(float(total), rel=1e-5)
    k = [(a @ b.T / 32 + 1) ** 3 for a, b in ((y, y), (x, x), (y, x), (x, y))]
    off = ~np.eye(len(x), dtype=bool)
    assert found["KD-VGG16"].value == pytest.approx(float((k[0] + k[1] - k[2] - k[3])[off].mean()), rel=1e-5)
    parts = [found[f"FD-VGG16-pca-10/{part}"].value for part in ("mean", "covariance")]
    assert sum(parts) == pytest.approx(found["FD-VGG16-pca-10"].value)  # type: ignore[arg-type]


def test_carphone(carphone: tuple[list[Sample], list[Restored]]) -> None:
    """One MSE a clip, SSIM and LPIPS per frame: recorded figures, PSNR and SSIM also from scikit-image."""
    from skimage.metrics import peak_signal_noise_ratio

    videos = [
        [((s.data["video"].numpy() + 1) * 127.5).round().astype(np.uint8) for s in (one, other.sample)]
        for one, other in zip(*carphone, strict=True)
    ]
    measures = [PSNR(), PooledPSNR(), SSIM(), MSSSIM(), LPIPS("alex"), VideoDistance("transnetv2", frames=2)]
    found = {v.metric: v for values in measure_pairs(measures, *carphone) for v in values}
    assert found["psnr"].value == pytest.approx(np.mean([peak_signal_noise_ratio(a, b) for a, b in videos]), abs=1e-4)
    frames = [pair for video in videos for pair in zip(*video, strict=True)]
    maps = [ssim_map(*(frame.transpose(1, 2, 0) for frame in pair)).mean() for pair in frames]
    assert found["ssim"].value == pytest.approx(np.mean(maps), abs=1e-6)
    assert {name: found[name].value for name in CARPHONE} == pytest.approx(CARPHONE, rel=1e-4)
    assert found["FD-TransNetV2/mean"].value is None  # 10 clips cannot tell a covariance of 1024 features
