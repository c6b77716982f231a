"""Splatting against cases worked out by hand, on both CPU backends."""

from __future__ import annotations

import math

import pytest
import torch
from splat_scenes import lens, one_gaussian, together

from tok4d_mesh3d.splatting import rasterize

SIZE, FOCAL = 21, 100.0  # the middle pixel's centre is the principal point
MIDDLE = (10, 10)
VARIANCE = (0.1 * FOCAL / 2) ** 2  # of `one_gaussian` in square pixels: 25
FACTOR = VARIANCE / (VARIANCE + 0.1)  # sqrt(det0 / det1) of a round splat


@pytest.fixture(params=["numba", "torch"])
def draw(request):
    """`rasterize` with an unmoved camera and the test's own lens; gives the image `[3, H, W]` and alpha `[H, W]`."""

    def drawn(scene, size=SIZE, **options):
        pose = torch.eye(4, dtype=torch.float64)[None]
        options = {"backend": request.param, **options}
        images, alphas = rasterize(**scene, world_to_camera=pose, intrinsics=lens(FOCAL, size, size),
                                   width=size, height=size, **options)  # fmt: skip
        assert images.shape == (1, 3, size, size)
        assert alphas.shape == (1, 1, size, size)
        return images[0], alphas[0, 0]

    return drawn


def close(found, wanted, tolerance=1e-12):
    assert found.item() == pytest.approx(wanted, abs=tolerance, rel=1e-9)


def test_one_gaussian(draw):
    image, alpha = draw(one_gaussian(opacities=[0.6], colors=[0.9, 0.5, -2.0]))
    for column, row in (MIDDLE, (13, 9), (0, 20)):
        squared = (column - 10) ** 2 + (row - 10) ** 2
        wanted = 0.6 * FACTOR * math.exp(-0.5 * squared / (VARIANCE + 0.1))
        close(alpha[row, column], wanted)
        for channel, color in enumerate((0.9, 0.5, -2.0)):
            close(image[channel, row, column], wanted * color)


def test_gradients_of_one_gaussian(draw):
    """alpha = o f exp(-d^2 / 2v) at d pixels to the right: v = (F s / z)^2 + 0.1 and f = (v - 0.1) / v."""
    scene = {name: value.requires_grad_() for name, value in one_gaussian(opacities=[0.6]).items()}
    image, alpha = draw(scene)
    d, v = 4, VARIANCE + 0.1
    value = alpha[10, 14].item()
    (image[0, 10, 14]).backward()
    grad = {name: tensor.grad[0] for name, tensor in scene.items()}
    close(grad["colors"][0], value)
    close(grad["colors"][1], 0)
    close(grad["opacities"], value / 0.6)
    close(grad["means"][0], value * d / v * FOCAL / 2)  # a step of the mean is F / z pixels
    close(grad["means"][1], 0)
    # Nearer means larger in both directions: each variance s^2 F^2 / z^2 falls by 2 / z of itself a step.
    across, down = (0.5 / VARIANCE - 0.5 / v + 0.5 * (d / v) ** 2), (0.5 / VARIANCE - 0.5 / v)
    close(grad["means"][2], value * (across + down) * VARIANCE * -2 / 2)
    close(grad["scales"][0], value * across * 2 * VARIANCE / 0.1)
    close(grad["scales"][1], value * down * 2 * VARIANCE / 0.1)
    close(grad["scales"][2], 0)
    assert grad["quaternions"].abs().max() < 1e-12, "a round Gaussian looks the same however it is turned"


def test_two_gaussians_overlap(draw):
    behind = one_gaussian(means=[0.0, 0.0, 4.0], scales=[0.2] * 3, opacities=[0.7], colors=[0.0, 1.0, 0.5])
    front = one_gaussian(opacities=[0.4], colors=[1.0, 0.0, 0.25])
    scene = {name: value.requires_grad_() for name, value in together(behind, front).items()}
    image, alpha = draw(scene)
    a, b = 0.4 * FACTOR, 0.7 * FACTOR  # both are 5 pixels wide
    for channel, wanted in enumerate((a, (1 - a) * b, a * 0.25 + (1 - a) * b * 0.5)):
        close(image[channel, 10, 10], wanted)
    close(alpha[10, 10], 1 - (1 - a) * (1 - b))
    image[2, 10, 10].backward()
    close(scene["opacities"].grad[1], FACTOR * (0.25 - b * 0.5))
    close(scene["opacities"].grad[0], FACTOR * (1 - a) * 0.5)
    close(scene["colors"].grad[0, 2], (1 - a) * b)


def test_equal_depths_go_by_index(draw):
    red = one_gaussian(opacities=[0.9], colors=[1.0, 0.0, 0.0])
    green = one_gaussian(opacities=[0.9], colors=[0.0, 1.0, 0.0])
    a = 0.9 * FACTOR
    for first, second, order in ((red, green, (0, 1)), (green, red, (1, 0))):
        image, _ = draw(together(first, second))
        close(image[order[0], 10, 10], a)
        close(image[order[1], 10, 10], a * (1 - a))


def test_background(draw):
    color = torch.tensor([0.2, 0.5, 2.0], dtype=torch.float64, requires_grad=True)
    scene = one_gaussian(opacities=[0.6], colors=[0.1, 0.2, 0.3])
    scene["opacities"].requires_grad_()
    black, alpha = draw(scene)
    image, same = draw(scene, background=color)
    torch.testing.assert_close(image, black + (1 - alpha) * color[:, None, None])
    assert torch.equal(alpha, same)
    image[:, 10, 10].sum().backward()
    torch.testing.assert_close(color.grad, (1 - alpha[10, 10]).detach().expand(3))
    close(scene["opacities"].grad, FACTOR * (0.6 - 2.7))  # what is in front less what it hides


def test_alpha_stays_below_one_and_has_no_gradient_there(draw):
    scene = one_gaussian(opacities=[1.0])
    scene["opacities"].requires_grad_()
    image, alpha = draw(scene, filter_2d=0.0)
    close(alpha[10, 10], 0.999)
    image[:, 10, 10].sum().backward()
    assert float(scene["opacities"].grad) == 0
    assert draw(scene)[1][10, 10].item() == pytest.approx(FACTOR)  # 0.996


def test_a_pixel_ends_before_the_splat_that_would_close_it(draw):
    """0.95 leaves 0.05, 0.0025, 0.000125; a fourth would leave too little, and the faint one behind it is not seen."""
    layers = [one_gaussian(means=[0.0, 0.0, 2 + i / 1000], opacities=[0.95]) for i in range(4)]
    faint = one_gaussian(means=[0.0, 0.0, 2.1], opacities=[0.1], colors=[100.0] * 3)
    _, alpha = draw(together(*layers, faint), filter_2d=0.0)
    close(1 - alpha[10, 10], 0.05**3)
    _, alpha = draw(together(*layers[:3], faint), filter_2d=0.0)
    close(1 - alpha[10, 10], 0.05**3 * 0.9)  # alone, it leaves enough


def test_contributions_below_one_in_255_are_skipped(draw):
    weak, strong = (one_gaussian(opacities=[x / 255]) for x in (0.99, 1.01))
    assert float(draw(weak, filter_2d=0.0)[1].abs().max()) == 0
    assert float(draw(strong, filter_2d=0.0)[1][10, 10]) == pytest.approx(1.01 / 255)
    _, alpha = draw(one_gaussian(opacities=[0.5]), size=61)
    rows, columns = torch.meshgrid(torch.arange(61) - 30, torch.arange(61) - 30, indexing="ij")
    full = 0.5 * FACTOR * torch.exp(-0.5 * (rows**2 + columns**2) / (VARIANCE + 0.1))
    wanted = torch.where(full >= 1 / 255, full, 0.0)
    assert 0 < int((wanted > 0).sum()) < 61 * 61
    torch.testing.assert_close(alpha, wanted.double(), atol=1e-6, rtol=0)


@pytest.mark.parametrize(("depth", "drawn"), [(-2.0, False), (0.0, False), (0.0099, False), (0.0101, True)])
def test_nothing_nearer_than_a_hundredth_is_drawn(draw, depth, drawn):
    _, alpha = draw(one_gaussian(means=[0.0, 0.0, depth]))
    assert bool(alpha.max() > 0.5) == drawn


def test_x_is_right_and_y_is_down(draw):
    _, alpha = draw(one_gaussian(means=[0.1, 0.06, 2.0], scales=[0.01] * 3))
    assert divmod(int(alpha.argmax()), SIZE) == (13, 15)  # row, column: F / z = 50 pixels a unit


def test_quaternions_turn_from_x_to_y(draw):
    """45 degrees about z, on a rod along x: it runs to the lower right."""
    half = math.radians(45) / 2
    rod = one_gaussian(scales=[0.1, 0.005, 0.005], quaternions=[3 * math.cos(half), 0.0, 0.0, 3 * math.sin(half)])
    _, alpha = draw(rod)
    assert float(alpha[14, 14]) > 0.1
    assert float(alpha[6, 14]) == 0


def test_the_filter_keeps_a_splat_s_light(draw):
    """A splat one pixel wide, off the pixels' centres, made wider: its sum stays the area below the sharp one, 2 pi.

    Skipping what is below 1/255 cuts a disc whose rim has this height off from the tails: 2 pi det1^(1/2) / 255.
    """
    scene = one_gaussian(scales=[0.02] * 3, means=[0.003, 0.004, 2.0])
    for variance in (0.5, 2.0):
        _, alpha = draw(scene, filter_2d=variance)
        assert float(alpha.sum()) == pytest.approx(2 * math.pi * (1 - (1 + variance) / 255), rel=2e-3)


def test_no_gaussians_and_no_views(draw):
    empty = {name: value[:0].requires_grad_() for name, value in one_gaussian().items()}
    image, alpha = draw(empty, background=torch.tensor([0.1, 0.2, 0.3]))
    assert alpha.max().item() == 0
    torch.testing.assert_close(image[:, 3, 4], torch.tensor([0.1, 0.2, 0.3], dtype=image.dtype))
    image.sum().backward()
    assert empty["means"].grad.shape == (0, 3)


@pytest.mark.parametrize("backend", ["numba", "torch"])
def test_no_views(backend):
    scene = {name: value.requires_grad_() for name, value in one_gaussian().items()}
    images, alphas = rasterize(**scene, world_to_camera=torch.zeros(0, 4, 4), intrinsics=torch.zeros(0, 3, 3),
                               width=5, height=4, backend=backend)  # fmt: skip
    assert images.shape == (0, 3, 4, 5)
    assert alphas.shape == (0, 1, 4, 5)
    images.sum().backward()
