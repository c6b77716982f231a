"""LPIPS, Gram and teacher against their formulas in numpy, on a small random trunk."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from loss_inputs import SmallTrunk, noise
from torch import Tensor, nn

from tok4d.errors import ConfigError, Tok4dError
from tok4d.losses import LPIPS, GramLoss, TeacherPerceptual
from tok4d.losses.pictures import resized

TRUNK = SmallTrunk()
X, Y = noise(3, 3, 20, 28), noise(3, 3, 20, 28, seed=1)


def made(name: str, size: int | None = None) -> nn.Module:
    if name == "lpips":
        return LPIPS(size=size, trunk=TRUNK, heads=TRUNK.heads())
    kind = {"gram": GramLoss, "teacher": TeacherPerceptual}[name]
    return kind("small", size=size, trunk=TRUNK)


def activations(pictures: Tensor) -> list[np.ndarray]:
    return [activation.double().numpy() for activation in TRUNK(pictures)]


def lpips_by_hand(x: Tensor, y: Tensor) -> list[float]:
    total = np.zeros(len(x))
    for a, b, head in zip(activations(x), activations(y), TRUNK.heads(), strict=True):
        a, b = (z / (np.sqrt((z**2).sum(1, keepdims=True)) + 1e-10) for z in (a, b))
        total += ((a - b) ** 2 * head.double().numpy()).sum(1).mean((1, 2))
    return total.tolist()


def gram_by_hand(x: Tensor, y: Tensor) -> list[float]:
    total = np.zeros(len(x))
    for a, b in zip(activations(x), activations(y), strict=True):
        for i in range(len(x)):
            (c, h, w), grams = a[i].shape, []
            for z in (a[i], b[i]):
                flat = z.reshape(c, h * w)
                grams.append(flat @ flat.T / (c * h * w))
            total[i] += ((grams[0] - grams[1]) ** 2).mean()
    return total.tolist()


def teacher_by_hand(x: Tensor, y: Tensor) -> list[float]:
    a, b = activations(x)[-1], activations(y)[-1]
    found = []
    for i in range(len(x)):
        p, q = (z[i].reshape(z.shape[1], -1).T for z in (a, b))
        lengths = np.linalg.norm(p, axis=1) * np.linalg.norm(q, axis=1)
        assert lengths.min() > 0
        found.append((1 - (p * q).sum(1) / lengths).mean() + np.abs(p - q).mean())
    return found


@pytest.mark.parametrize(
    ("name", "expected"),
    [("lpips", lpips_by_hand(X, Y)), ("gram", gram_by_hand(X, Y)), ("teacher", teacher_by_hand(X, Y))],
)
def test_values_by_hand(name: str, expected: list[float]) -> None:
    found = made(name)(X, Y)
    assert found.shape == (3,)
    assert found.tolist() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("name", ["lpips", "gram", "teacher"])
def test_equal_pictures_cost_nothing_others_something(name: str) -> None:
    loss = made(name)
    assert loss(X, X).tolist() == [0.0, 0.0, 0.0]
    near, far = loss(X + 0.1 * Y, X), loss(X + 0.5 * Y, X)
    assert bool((near > 0).all())
    assert bool((near < far).all())
    torch.testing.assert_close(loss(X, Y), loss(Y, X))


@pytest.mark.parametrize("name", ["lpips", "gram", "teacher"])
def test_a_picture_alone_or_in_company(name: str) -> None:
    loss = made(name)
    alone = torch.cat([loss(X[i : i + 1], Y[i : i + 1]) for i in (2, 0, 1)])
    torch.testing.assert_close(alone, loss(X, Y)[[2, 0, 1]], rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("name", ["lpips", "gram", "teacher"])
def test_gradients_in_float64(name: str) -> None:
    trunk = SmallTrunk().double()
    heads = [head.double() for head in trunk.heads()]
    kinds = {
        "lpips": LPIPS(trunk=trunk, heads=heads),
        "gram": GramLoss(trunk=trunk),
        "teacher": TeacherPerceptual("small", trunk=trunk),
    }
    x, y = noise(2, 3, 8, 9).double().requires_grad_(), noise(2, 3, 8, 9, seed=1).double()
    assert torch.autograd.gradcheck(lambda z: kinds[name](z, y), (x,), eps=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", ["lpips", "gram", "teacher"])
@pytest.mark.parametrize("bf16", [False, True])
@pytest.mark.parametrize("wanted", ["black", "white", "grey", "zeros of the trunk", "thousands", "noise"])
@pytest.mark.parametrize("got", ["black", "grey", "thousands"])
def test_finite_wherever_pictures_are(name: str, bf16: bool, wanted: str, got: str) -> None:
    pictures = {
        "black": torch.full((1, 3, 16, 16), -1.0),
        "white": torch.full((1, 3, 16, 16), 1.0),
        "grey": torch.zeros(1, 3, 16, 16),
        "zeros of the trunk": torch.full((1, 3, 16, 16), -1e3),
        "thousands": 1e3 * noise(1, 3, 16, 16),
        "noise": noise(1, 3, 16, 16),
    }
    x = pictures[got].clone().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        value = made(name)(x, pictures[wanted])
    value.sum().backward()
    assert value.dtype == torch.float32
    assert bool(value.isfinite().all())
    assert bool(x.grad.isfinite().all())
    assert bool((value >= 0).all())


def test_features_that_are_all_zero_have_gradients() -> None:
    """The root of their length has none at zero."""

    class Dead(SmallTrunk):
        def forward(self, images: Tensor) -> list[Tensor]:
            return [0.0 * activation for activation in super().forward(images)]

    x = X.clone().requires_grad_()
    LPIPS(trunk=Dead(), heads=TRUNK.heads())(x, Y).sum().backward()
    assert bool((x.grad == 0).all())


def test_size_interpolates_both_pictures() -> None:
    small = made("lpips", size=12)
    torch.testing.assert_close(small(X, Y), made("lpips")(resized(X, 12), resized(Y, 12)))
    expected = torch.nn.functional.interpolate(X, (40, 40), mode="bilinear", align_corners=False)
    torch.testing.assert_close(resized(X, 40), expected, rtol=1e-5, atol=1e-6)
    square = X[..., :20]
    assert resized(square, 20) is square
    halved = resized(torch.tensor([[-1.0, 1.0]]).repeat(1, 3, 8, 4), 4)
    assert float(halved[..., 1:-1].abs().max()) < 0.1, "lines of one pixel average out"


def test_networks_stay_outside_of_the_module() -> None:
    loss = made("lpips")
    assert list(loss.parameters()) == []
    assert loss.state_dict() == {}
    assert all(parameter.grad is None for parameter in TRUNK.parameters())


def test_what_cannot_be_compared() -> None:
    with pytest.raises(ConfigError, match=r"LPIPS compares two float \[N, 3, H, W\]"):
        made("lpips")(X, X[:1])
    with pytest.raises(ConfigError, match=r"\[3, 1, 20, 28\]"):
        made("gram")(X[:, :1], X[:, :1])
    with pytest.raises(ConfigError, match=r"torch\.int32"):
        made("teacher")(X, X.int())
    with pytest.raises(Tok4dError, match="small needs at least 4x4 pixels, got 3x28"):
        made("gram")(X[:, :, :3], X[:, :, :3])
    with pytest.raises(ConfigError, match="unknown LPIPS network 'vgg19'"):
        LPIPS("vgg19")
    with pytest.raises(ConfigError, match=r"unknown network 'vgg17'. Did you mean 'vgg16'"):
        TeacherPerceptual("vgg17")
    with pytest.raises(ConfigError, match="take a trunk: network: vgg16"):
        TeacherPerceptual()
    with pytest.raises(ConfigError, match="got network 'vgg16' and source 'folder'"):
        TeacherPerceptual("vgg16", "folder")
