"""Trunks, features, resizing and names, on made weights: nothing is fetched."""

from __future__ import annotations

import copy
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torchvision.models import alexnet
from torchvision.models.vgg import cfgs, make_layers

from tok4d import networks
from tok4d.errors import ConfigError, DataError, Tok4dError
from tok4d.networks import FeatureNetwork, Trunk, available, load_network, lpips_heads
from tok4d.networks.catalogue import NETWORKS, WEIGHTS
from tok4d.networks.effnet import EffNetLite0, timm_names
from tok4d.networks.load import _networks
from tok4d.networks.resize import levels, like_tensorflow_1, short_side
from tok4d.networks.transnetv2 import TransNetV2
from tok4d.networks.trunks import SCALE, SHIFT, Vgg16Trunk

TAPS = {"vgg16": (3, 8, 15, 22, 29), "alexnet": (1, 4, 7, 9, 11)}  # ReLUs in torchvision's layers
SIDES = {"vgg16": 16, "alexnet": 31}  # below these a pooling layer has nothing left


@pytest.fixture(scope="module", autouse=True)
def forget() -> Iterator[None]:
    """What is loaded here from made files is nobody else's."""
    before = dict(_networks)
    yield
    _networks.clear()
    _networks.update(before)


@pytest.fixture(scope="module")
def layers() -> dict[str, nn.Sequential]:
    """torchvision's layers, with weights under which activations keep their size."""
    torch.manual_seed(0)
    made = {"vgg16": make_layers(cfgs["D"]), "alexnet": alexnet().features}
    for layer in [layer for sequence in made.values() for layer in sequence if isinstance(layer, nn.Conv2d)]:
        nn.init.kaiming_normal_(layer.weight)
        nn.init.uniform_(layer.bias, -0.1, 0.1)
    return made


@pytest.fixture(scope="module")
def files(layers: dict[str, nn.Sequential], tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """State dicts as torchvision saves them, a part of the classifier too."""
    folder = tmp_path_factory.mktemp("networks")
    for name, sequence in layers.items():
        state = {f"features.{key}": value for key, value in sequence.state_dict().items()}
        torch.save({**state, "classifier.0.weight": torch.zeros(4, 4)}, folder / f"{name}.pth")
    return {name: str(folder / f"{name}.pth") for name in layers}


@pytest.mark.parametrize("name", TAPS)
def test_trunks_give_torchvisions_activations(name: str, layers, files) -> None:
    trunk = load_network(name, files[name])
    assert isinstance(trunk, Trunk)
    images = torch.rand(2, 3, 50, 70) * 2 - 1
    x = (images - torch.tensor(SHIFT)[:, None, None]) / torch.tensor(SCALE)[:, None, None]
    expected = []
    for index, layer in enumerate(layers[name][: TAPS[name][-1] + 1]):
        x = layer(x)
        if index in TAPS[name]:
            expected.append(x.detach().clone())
    found = trunk(images)
    assert tuple(x.shape[1] for x in found) == trunk.channels
    for a, b in zip(found, expected, strict=True):
        assert torch.equal(a.relu(), a)
        torch.testing.assert_close(a, b)


def test_the_normalisation_by_hand() -> None:
    """Two convolutions that pass red on: what comes out is (red + 0.03) / 0.458, never below zero."""
    trunk = Vgg16Trunk()
    for index in (0, 2):
        nn.init.zeros_(trunk.features[index].weight)
        nn.init.zeros_(trunk.features[index].bias)
        trunk.features[index].weight.data[0, 0, 1, 1] = 1
    image = torch.zeros(1, 3, 16, 16)
    image[0, 0, 0, :3] = torch.tensor([-1, 0.5, -0.03])
    found = trunk(image)[0][0, 0, 0, :4]
    torch.testing.assert_close(found, torch.tensor([0, 0.53 / 0.458, 0, 0.03 / 0.458]))


def test_one_frozen_object_for_everyone(files) -> None:
    trunk = load_network("vgg16", files["vgg16"])
    assert load_network("vgg16", files["vgg16"], torch.device("cpu")) is trunk
    assert load_network("alexnet", files["alexnet"]) is not trunk
    assert not any(parameter.requires_grad for parameter in trunk.parameters())
    around = nn.Sequential(trunk, nn.BatchNorm2d(3)).train()
    assert not any(module.training for module in trunk.modules())
    assert around[1].training
    assert {tensor.dtype for tensor in trunk.state_dict().values()} == {torch.float32}
    assert (trunk.name, trunk.width) == ("vgg16", 0)
    assert "BSD" in trunk.licence


def test_weights_are_float32_whatever_the_file_has(layers, tmp_path: Path) -> None:
    state = {f"features.{key}": value.double() for key, value in layers["alexnet"].state_dict().items()}
    torch.save(state, tmp_path / "double.pth")
    trunk = load_network("alexnet", str(tmp_path / "double.pth"))
    assert {tensor.dtype for tensor in trunk.state_dict().values()} == {torch.float32}
    (tmp_path / "double.pth").write_bytes(b"another")
    assert all(bool(x.isfinite().all()) for x in trunk(torch.zeros(1, 3, 40, 40)))


def test_gradients_reach_the_images_and_nothing_else(files) -> None:
    exact = copy.deepcopy(load_network("alexnet", files["alexnet"])).double()
    image = torch.rand(1, 3, 40, 40, dtype=torch.float64) * 2 - 1

    def loss(x: torch.Tensor) -> torch.Tensor:
        return sum(activation.square().mean() for activation in exact(x))

    image.requires_grad_()
    (gradient,) = torch.autograd.grad(loss(image), image)
    assert all(parameter.grad is None for parameter in exact.parameters())
    direction = torch.randn_like(image)
    step = 1e-7
    slope = (loss(image + step * direction) - loss(image - step * direction)) / (2 * step)
    torch.testing.assert_close((gradient * direction).sum(), slope, rtol=1e-4, atol=1e-8)


def test_bf16_autocast(files) -> None:
    trunk = load_network("alexnet", files["alexnet"])
    image = (torch.rand(1, 3, 64, 64) * 2 - 1).requires_grad_()
    plain = trunk(image)
    with torch.autocast("cpu", torch.bfloat16):
        rough = trunk(image)
    assert {x.dtype for x in rough} == {torch.bfloat16}
    for a, b in zip(rough, plain, strict=True):
        assert float((a - b).detach().norm() / b.detach().norm()) < 0.03
    sum(x.float().mean() for x in rough).backward()
    assert image.grad is not None
    assert bool(image.grad.isfinite().all())


def test_features_are_means_of_the_last_activation(files) -> None:
    network, trunk = (load_network(name, files["vgg16"]) for name in ("vgg16-features", "vgg16"))
    assert isinstance(network, FeatureNetwork)
    images = (torch.rand(3, 3, 48, 33) * 2 - 1).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        found = network(images)
    assert (found.shape, found.dtype, network.width) == ((3, 512), torch.float32, 512)
    torch.testing.assert_close(found, trunk(images.float())[-1].flatten(2).mean(2))
    assert network(images[:0]).shape == (0, 512)
    assert not any(parameter.requires_grad for parameter in network.parameters())


def test_digests_name_weights_and_preprocessing(files, monkeypatch: pytest.MonkeyPatch) -> None:
    trunk = load_network("alexnet", files["alexnet"])
    digest = trunk.digest
    assert len(digest) == 64
    assert copy.deepcopy(trunk).digest == digest
    other = copy.deepcopy(trunk)
    del other.__dict__["digest"]
    assert other.digest == digest
    del other.__dict__["digest"]
    next(iter(other.parameters())).data.view(-1)[0] += 1
    assert other.digest != digest
    again = copy.deepcopy(trunk)
    del again.__dict__["digest"]
    monkeypatch.setattr(type(trunk), "preprocessing", "another")
    assert again.digest != digest
    assert load_network("vgg16", files["vgg16"]).digest != digest


@pytest.mark.parametrize("name", SIDES)
def test_what_is_no_batch_of_images(name: str, files) -> None:
    trunk, side = load_network(name, files[name]), SIDES[name]
    assert len(trunk(torch.zeros(1, 3, side, side))) == 5
    with pytest.raises(Tok4dError, match=f"{name} needs at least {side}x{side} pixels, got {side - 1}x40"):
        trunk(torch.zeros(1, 3, side - 1, 40))
    for wrong in (torch.zeros(3, 64, 64), torch.zeros(1, 4, 64, 64), torch.zeros(1, 3, 64, 64, dtype=torch.uint8)):
        with pytest.raises(Tok4dError, match=r"takes floats \[N, 3, H, W\] in \[-1, 1\], got \["):
            trunk(wrong)


def test_names_and_files_that_are_wrong(files, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"unknown network 'vgg'\. Did you mean 'vgg16'"):
        load_network("vgg")
    with pytest.raises(ConfigError, match="Did you mean 'effnet-lite0'"):
        available("effnet-lite")
    with pytest.raises(DataError, match=r"alexnet\.pth: .* lacks features\.2\.weight"):
        load_network("vgg16", files["alexnet"])
    with pytest.raises(DataError, match="no such file"):
        load_network("vgg16", str(tmp_path / "none.safetensors"))
    with pytest.raises(AttributeError, match="no attribute 'resnet'"):
        _ = networks.resnet


def test_heads_come_from_the_lpips_package(monkeypatch: pytest.MonkeyPatch) -> None:
    for net, name, channels in (
        ("vgg", "vgg16", (64, 128, 256, 512, 512)),
        ("alex", "alexnet", (64, 192, 384, 256, 256)),
    ):
        heads = lpips_heads(net)
        assert [tuple(head.shape) for head in heads] == [(1, count, 1, 1) for count in channels]
        assert all(bool((head >= 0).all()) and float(head.sum()) > 0 for head in heads)
        assert all(torch.equal(a, b) for a, b in zip(heads, lpips_heads(name), strict=True))
    with pytest.raises(ConfigError, match=r"unknown LPIPS network 'vgg19'\. Did you mean 'vgg16'"):
        lpips_heads("vgg19")
    monkeypatch.setattr("tok4d.networks.heads.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r'pip install "tok4d\[bench\]"'):
        lpips_heads("vgg")


def test_short_side() -> None:
    images = torch.arange(2 * 3 * 4 * 8, dtype=torch.float32).reshape(2, 3, 4, 8)
    assert torch.equal(short_side(images, 4, "bilinear", antialias=False), images[..., 2:6])
    assert torch.equal(short_side(images.mT, 4, "bilinear", antialias=True), images.mT[..., 2:6, :])
    halved = short_side(images, 2, "bilinear", antialias=False)  # at half the size, means of 2x2 pixels
    torch.testing.assert_close(halved, F.avg_pool2d(images, 2)[..., 1:3])
    assert short_side(torch.zeros(1, 3, 1000, 3), 4, "bicubic", antialias=True).shape == (1, 3, 4, 4)


def test_like_tensorflow_1_by_hand() -> None:
    """Position i of 4 reads 2 pixels at i * 2/4 = 0, 0.5, 1, 1.5; beyond the last there is only the last."""
    images = torch.tensor([[0.0, 8.0], [4.0, 12.0]])[None, None]
    row = torch.tensor([0.0, 4, 8, 8])
    expected = torch.stack([row, row + 2, row + 4, row + 4])
    assert torch.equal(like_tensorflow_1(images, 4)[0, 0], expected)
    assert torch.equal(like_tensorflow_1(images, 2), images)


def test_levels_by_hand() -> None:
    found = levels(torch.tensor([-2.0, -1, -0.999, 0.001, 1, 3]))
    assert found.tolist() == [0, 0, 0, 128, 255, 255]
    with pytest.raises(Tok4dError, match=r"images of \[2\] hold NaN"):
        levels(torch.tensor([0, torch.nan]))


def test_transnetv2_on_clips_of_any_size() -> None:
    torch.manual_seed(0)
    network = TransNetV2().freeze()
    clips = torch.rand(2, 5, 3, 40, 30) * 2 - 1
    found = network(clips)
    assert found.shape == (2, 1024)
    assert torch.equal(found[1], network(clips[1:])[0])
    small = levels(F.interpolate(clips[0], (27, 48), mode="bilinear", antialias=True))
    torch.testing.assert_close(found[0], network.frames(small[None])[0].mean(0))
    assert network(clips[:0]).shape == (0, 1024)
    with pytest.raises(Tok4dError, match="at least one frame"):
        network(clips[:, :0])
    with pytest.raises(Tok4dError, match=r"\[N, F, 3, H, W\]"):
        network(clips[0])


def test_colour_histograms_count() -> None:
    """Two colours in a picture of 27x48, 8 shades a channel: 5 >> 5 = 0 and 255 >> 5 = 7."""
    from tok4d.networks.transnetv2 import _histograms

    pixels = torch.full((1, 1, 3, 27, 48), 5.0)
    pixels[0, 0, :, 0, :10] = torch.tensor([255.0, 0, 40])[:, None]
    counts = _histograms(pixels)[0, 0]
    assert (int(counts[0]), int(counts[7 * 64 + 0 * 8 + 1]), int(counts.sum())) == (27 * 48 - 10, 10, 27 * 48)


def test_names_of_effnets_layers() -> None:
    zero = torch.zeros(1)
    names = {
        "_conv_stem.weight": "conv_stem.weight",
        "_bn0.bias": "bn1.bias",
        "_blocks.0._project_conv.weight": "blocks.0.0.conv_pw.weight",
        "_blocks.2._bn0.running_var": "blocks.1.1.bn1.running_var",
        "_blocks.15._project_conv.weight": "blocks.6.0.conv_pwl.weight",
        "_fc.bias": "classifier.bias",
        "_blocks.16._bn0.bias": "_blocks.16._bn0.bias",
        "else": "else",
    }
    assert list(timm_names(dict.fromkeys(names, zero))) == list(names.values())


def test_effnet_needs_timm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(ConfigError, match=r'effnet-lite0 needs the package timm: pip install "tok4d\[bench\]"'):
        EffNetLite0()


def test_asking_what_is_there_loads_no_torch() -> None:
    code = (
        "import sys; from tok4d.networks import available; from tok4d.networks.catalogue import WEIGHTS;"
        "assert all(available(name).how for name in WEIGHTS); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_numbers_of_a_picture_survive_numpy() -> None:
    """uint8 -> [-1, 1] -> uint8 is exact for all 256 values."""
    values = np.arange(256, dtype=np.uint8)
    assert np.array_equal(levels(torch.from_numpy(values).float() / 127.5 - 1).numpy(), values)


def test_the_page_names_every_network_and_all_weights() -> None:
    page = (Path(__file__).parents[2] / "docs" / "weights.md").read_text(encoding="utf-8")
    rows = [tuple(cell.strip() for cell in line.split("|")[1:3]) for line in page.splitlines() if line.startswith("|")]
    assert {(f"`{entry.name}`", f"`{entry.weights}`") for entry in NETWORKS.values()} <= set(rows)
    assert [name for name, weights in WEIGHTS.items() if name not in page or weights.file not in page] == []
