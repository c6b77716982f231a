"""Pretrained networks against the packages they come from: LPIPS live, the others by goldens.

Weights come through their recipes into the shared cache, fetched on a machine that has none yet.
"""

from __future__ import annotations

import copy
import json
import warnings
from pathlib import Path

import pytest
import torch
from network_goldens import FILE, KEPT, images_of, made_weights, pixels
from photographs import jpeg, read
from torch import Tensor

from tok4d.networks import Trunk, load_network, lpips_heads
from tok4d.networks.effnet import EffNetLite0
from tok4d.networks.inception import InceptionV3
from tok4d.networks.transnetv2 import TransNetV2

GOLDEN = json.loads(FILE.read_text())


def distance(trunk: Trunk, heads: list[Tensor], one: Tensor, other: Tensor) -> Tensor:
    """LPIPS as its paper defines it (equation 1), in plain tensors."""
    total = torch.zeros(len(one))
    for a, b, weight in zip(trunk(one), trunk(other), heads, strict=True):
        a, b = (x / (x.square().sum(1, keepdim=True).sqrt() + 1e-10) for x in (a, b))
        total = total + ((a - b).square() * weight).sum(1).mean((1, 2))
    return total


@pytest.mark.parametrize(("net", "name"), [("vgg", "vgg16"), ("alex", "alexnet")])
def test_lpips_equals_the_lpips_package(net: str, name: str, photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lpips = pytest.importorskip("lpips")
    for start in ("kaiming_normal_", "kaiming_uniform_", "normal_"):  # seconds, for weights that are replaced
        monkeypatch.setattr(torch.nn.init, start, lambda tensor, *_, **__: tensor)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torchvision, to the package's author
        theirs = lpips.LPIPS(net=net, pnet_rand=True, verbose=False)
    trunk, heads = load_network(name), lpips_heads(net)
    assert isinstance(trunk, Trunk)
    convolutions = [module for module in theirs.net.modules() if isinstance(module, torch.nn.Conv2d)]
    own = [module for module in trunk.modules() if isinstance(module, torch.nn.Conv2d)]
    for module, ours in zip(convolutions, own, strict=True):
        module.load_state_dict(ours.state_dict())
    for head, layer in zip(heads, theirs.lins, strict=True):
        assert torch.equal(head, layer.model[1].weight)
    with torch.no_grad():
        for file, box in (("chelsea.png", (150, 70, 246, 166)), ("coffee.png", (160, 160, 271, 230))):
            image = read(photos / file, box)
            for other in (jpeg(image, 20), image.flip(3), torch.zeros_like(image)):
                expected = theirs(image, other).flatten()
                torch.testing.assert_close(distance(trunk, heads, image, other), expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize(("net", "name"), [("vgg", "vgg16"), ("alex", "alexnet")])
def test_lpips_grows_as_jpeg_gets_worse(net: str, name: str, photos: Path) -> None:
    image = read(photos / "chelsea.png", (132, 72, 260, 200))
    trunk, heads = load_network(name), lpips_heads(net)
    with torch.no_grad():
        values = [float(distance(trunk, heads, image, jpeg(image, quality))) for quality in (90, 50, 10, 2)]
        same = float(distance(trunk, heads, image, image))
    assert same == 0
    assert [0, *values] == sorted([0, *values])
    assert len(set(values)) == 4


def test_the_trunk_is_the_same_in_float64(photos: Path) -> None:
    """Float32 rounding alone separates the two: no layer works on a badly scaled input."""
    trunk = load_network("vgg16")
    exact = copy.deepcopy(trunk).double()
    image = read(photos / "rocket.jpg", (200, 100, 264, 164))
    with torch.no_grad():
        for a, b in zip(trunk(image), exact(image.double()), strict=True):
            assert b.dtype == torch.float64
            assert float((a - b).abs().max() / b.abs().max()) < 1e-5


def close(found: Tensor, name: str, part: str) -> None:
    expected = torch.tensor(GOLDEN[name][part])
    assert float(expected.std()) > 0.1
    torch.testing.assert_close(found[:, :KEPT], expected, atol=2e-4, rtol=2e-4)


def test_effnet_gives_the_logits_of_the_original_package() -> None:
    network = load_network("effnet-lite0")
    assert isinstance(network, EffNetLite0)
    images = images_of(pixels(2, 3, 224, 224))
    with torch.no_grad():
        close(network.logits(images), "effnet-lite0", "logits")
        close(network(images), "effnet-lite0", "features")


def test_transnetv2_gives_the_features_of_the_original_package() -> None:
    network = load_network("transnetv2")
    assert isinstance(network, TransNetV2)
    with torch.no_grad():
        close(network(images_of(pixels(2, 24, 3, 27, 48))), "transnetv2", "features")


def test_inception_gives_the_features_of_torch_fidelity(tmp_path: Path) -> None:
    """On made weights: FID's own are nobody's to ship. Pictures of 64x96 pass the resize too."""
    shapes = {name: tensor.shape for name, tensor in InceptionV3().state_dict().items()}
    torch.save(made_weights(shapes), tmp_path / "made.pth")
    network = load_network("inception-v3-fid", str(tmp_path / "made.pth"))
    with torch.no_grad():
        close(network(images_of(pixels(2, 3, 64, 96))), "inception-v3-fid", "features")


@pytest.mark.parametrize(
    ("file", "classes"),
    [
        ("chelsea.png", {"tabby, tabby cat", "tiger cat", "Egyptian cat"}),
        ("coffee.png", {"espresso"}),
        ("camera.png", {"tripod"}),
        ("rocket.jpg", {"missile", "projectile, missile", "space shuttle"}),
        ("motorcycle_left.png", {"moped", "motor scooter, scooter"}),
        ("china.jpg", {"palace", "monastery", "bell cote, bell cot"}),
    ],
)
def test_effnet_names_ordinary_photographs(file: str, classes: set[str], photos: Path) -> None:
    network = load_network("effnet-lite0")
    assert isinstance(network, EffNetLite0)
    assert len(network.class_names) == 1000
    with torch.no_grad():
        best = int(network.logits(read(photos / file)).argmax())
    assert network.class_names[best] in classes
