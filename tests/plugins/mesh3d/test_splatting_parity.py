"""The compiled kernels against the reference in torch, against numpy pixel by pixel, and against finite differences."""

from __future__ import annotations

import pytest
import torch
from splat_scenes import HEIGHT, KINDS, NAMES, WIDTH, by_hand, cameras, random_scene

from tok4d_mesh3d.splatting import numba_backend, rasterize

VIEW = {"width": WIDTH, "height": HEIGHT}


def splat(scene, backend, seed=0, dtype=torch.float64, **options):
    """Images, alphas, and the gradients of a random weighting of both, by name."""
    leaves = {name: value.detach().clone().requires_grad_() for name, value in scene.items()}
    background = torch.tensor([0.3, -0.2, 1.5], dtype=dtype, requires_grad=True)
    poses, lenses = cameras(seed)
    images, alphas = rasterize(
        **leaves,
        world_to_camera=poses,
        intrinsics=lenses,
        background=background,
        backend=backend,
        **{**VIEW, **options},
    )
    rng = torch.Generator().manual_seed(seed)
    weights = [torch.randn(x.shape, generator=rng, dtype=torch.float64) for x in (images, alphas)]
    ((images * weights[0]).sum() + (alphas * weights[1]).sum()).backward()
    grads = {name: leaf.grad for name, leaf in leaves.items()}
    return {"images": images.detach(), "alphas": alphas.detach(), **grads, "background": background.grad}


def apart(found, wanted):
    """Largest difference, over the largest value."""
    return float((found - wanted).abs().max() / wanted.abs().max().clamp_min(1e-12))


@pytest.mark.parametrize("kind", [*KINDS, "mixed"])
@pytest.mark.parametrize("seed", range(3))
def test_kernels_equal_the_reference(kind, seed):
    scene = random_scene(kind, 100 if kind == "large" else 300, seed=10 * seed)
    found, wanted = splat(scene, "numba", seed), splat(scene, "torch", seed)
    for name, value in wanted.items():
        limit = 1e-5 if name in ("images", "alphas") else 1e-4
        assert apart(found[name], value) < limit * 1e-2, name  # far inside of what is promised
        assert torch.isfinite(found[name]).all(), name
    assert wanted["alphas"].max() > 0.004, "there is something to see"


@pytest.mark.parametrize("seed", range(2))
def test_every_gaussian_s_gradient_equals_the_reference(seed):
    """Row by row: a faint or far one is not hidden behind the largest."""
    scene = random_scene("plain", 60, seed=seed)
    found, wanted = splat(scene, "numba", seed), splat(scene, "torch", seed)
    for name in NAMES:
        rows = wanted[name].reshape(60, -1).norm(dim=1)
        error = (found[name] - wanted[name]).reshape(60, -1).norm(dim=1)
        assert int((rows > 0).sum()) > 40, name
        assert (error <= 1e-7 * rows).all(), name


@pytest.mark.parametrize("backend", ["numba", "torch"])
@pytest.mark.parametrize("kind", ["plain", "crowded"])
def test_images_equal_numpy_pixel_by_pixel(backend, kind):
    scene = random_scene(kind, 24, seed=3)
    poses, lenses = cameras(3)
    images, alphas = rasterize(
        **scene, world_to_camera=poses, intrinsics=lenses, filter_2d=0.3, backend=backend, **VIEW
    )
    for view in range(2):
        wanted = torch.from_numpy(by_hand(scene, poses[view], lenses[view], WIDTH, HEIGHT, 0.3))
        found = torch.cat([images[view], alphas[view]])
        assert wanted[3].max() > 0.3
        assert (found - wanted).abs().max() < 1e-6  # the Jacobian is numeric


def mixed_pixels(images, alphas):
    """Five random sums over all pixels: a Jacobian that is quick to compare."""
    pixels = torch.cat([images.flatten(), alphas.flatten()])
    rng = torch.Generator().manual_seed(0)
    return torch.randn(5, len(pixels), generator=rng, dtype=pixels.dtype) @ pixels


def assert_gradients(run, leaves):
    """As finite differences say; no contribution is so near 1/255 that a step would change whether it counts."""
    run(*leaves).sum().backward()
    for leaf in leaves:
        assert (leaf.grad.reshape(len(leaf), -1).norm(dim=1) > 1e-6).float().mean() > 0.7, "not all is out of sight"
    assert torch.autograd.gradcheck(run, leaves, eps=1e-7, atol=1e-5, rtol=1e-5)


def test_gradients_equal_finite_differences():
    scene = random_scene("plain", 6, seed=5)
    poses, lenses = cameras(5)

    def run(*values):
        return mixed_pixels(*rasterize(*values, poses, lenses, **VIEW, filter_2d=0.2, backend="numba"))

    assert_gradients(run, [scene[name].requires_grad_() for name in NAMES])


def test_gradients_of_gaussians_outside_of_the_view_equal_finite_differences():
    """Wide ones, centred where the Jacobian's direction is held: left, right, above and below of the image."""
    scene = random_scene("plain", 8, seed=6)
    places = [
        [-3, 0, 1],
        [3, 0.3, 1.1],
        [0, -3, 1.2],
        [0.2, 3, 1.3],
        [-3, -3, 1.5],
        [3, 3, 1.6],
        [-2, 0, 0.3],
        [0, 2, 0.4],
    ]
    scene["means"] = torch.tensor(places, dtype=torch.float64)
    scene["scales"] = scene["scales"] * 0 + torch.tensor([1.0, 1.3, 0.8], dtype=torch.float64)
    _, lenses = cameras(6, 1)
    pose = torch.eye(4, dtype=torch.float64)[None]

    def run(*values):
        return mixed_pixels(*rasterize(*values, pose, lenses, **VIEW, backend="numba"))

    assert_gradients(run, [scene[name].requires_grad_() for name in NAMES])


def test_reference_gives_gradients_of_cameras():
    scene = random_scene("plain", 6, seed=7)
    poses, lenses = cameras(7)

    def run(rows, matrices):
        pose = torch.cat([rows, poses[:, 3:]], 1)
        kept = matrices * (lenses > 0)
        return mixed_pixels(*rasterize(**scene, world_to_camera=pose, intrinsics=kept, **VIEW))

    assert_gradients(run, [poses[:, :3].clone().requires_grad_(), lenses.clone().requires_grad_()])


@pytest.mark.parametrize("kind", ["plain", "crowded", "mixed"])
def test_float32_is_close_to_float64(kind):
    """A contribution of almost 1/255 may count in one precision only: such pixels are few."""
    scene = random_scene(kind, 400, seed=2)
    wanted = splat(scene, "torch")
    single = {name: value.float() for name, value in scene.items()}
    found = splat(single, "numba", dtype=torch.float32)
    assert found["images"].dtype == torch.float32
    off = (found["images"] - wanted["images"]).abs()
    assert off.mean() < 1e-5
    assert (off > 1e-4).float().mean() < 0.02
    for name in NAMES:
        error = (found[name] - wanted[name]).norm() / wanted[name].norm()
        assert error < 5e-3, (name, error)


def test_extreme_values_stay_finite():
    """Everything from almost nothing to as large as a picture can hold many times, in float32."""
    scene = random_scene("plain", 600, seed=9, dtype=torch.float32)
    rng = torch.Generator().manual_seed(9)
    for name, low, high in (("means", -6, 5), ("scales", -20, 5), ("quaternions", -12, 12), ("colors", -9, 6)):
        powers = torch.rand(600, 1, generator=rng) * (high - low) + low
        scene[name] = scene[name] * 10.0**powers
    scene["opacities"][::3] = 0.0
    scene["scales"][1::3, 2] = 0.0
    for name, value in splat(scene, "numba", dtype=torch.float32).items():
        assert torch.isfinite(value).all(), name


def test_bands_at_a_time_do_not_change_gradients(monkeypatch):
    scene = random_scene("mixed", 200, seed=4)
    whole = splat(scene, "numba", height=61)
    groups = set()
    plain = numba_backend.sum_pairs

    def noting(members, pairs, gradients):
        groups.add(len(pairs))
        plain(members, pairs, gradients)

    monkeypatch.setattr(numba_backend, "sum_pairs", noting)
    for limit in (50, 200, 400, 600):
        monkeypatch.setattr(numba_backend, "PAIRS", limit)
        pieces = splat(scene, "numba", height=61)
        for name, value in whole.items():
            assert torch.equal(value, pieces[name]), name
    assert len(groups) > 10, "groups of many sizes"


def test_order_by_depth_is_stable():
    rng = torch.Generator().manual_seed(0)
    depths = (torch.rand(5000, generator=rng) * 300).round() / 7 + 0.01  # many ties
    for dtype in (torch.float32, torch.float64):
        wanted = torch.argsort(depths.to(dtype), stable=True)
        assert torch.equal(torch.from_numpy(numba_backend.by_depth(depths.to(dtype).numpy())), wanted)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_drawn_in_float32(dtype):
    scene = {name: value.to(dtype) for name, value in random_scene("plain", 50, seed=8).items()}
    poses, lenses = cameras(8)
    drawn = [
        rasterize(**{name: value.to(cast) for name, value in scene.items()}, world_to_camera=poses, intrinsics=lenses,
                  **VIEW)[0]
        for cast in (dtype, torch.float32)
    ]  # fmt: skip
    assert drawn[0].dtype == torch.float32
    assert torch.equal(*drawn)


@pytest.mark.gpu
def test_gsplat_equals_the_reference():
    """On CUDA: images, alphas and gradients. Few pixels differ, where a contribution is almost 1/255."""
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    pytest.importorskip("gsplat")
    scene = {name: value.float() for name, value in random_scene("plain", 400, seed=2).items()}
    wanted = splat({name: value.double() for name, value in scene.items()}, "torch")
    poses, lenses = (x.float().cuda() for x in cameras(0))
    leaves = {name: value.cuda().requires_grad_() for name, value in scene.items()}
    images, alphas = rasterize(
        **leaves, world_to_camera=poses, intrinsics=lenses, background=torch.tensor([0.3, -0.2, 1.5]).cuda(), **VIEW
    )
    rng = torch.Generator().manual_seed(0)
    weights = [torch.randn(x.shape, generator=rng, dtype=torch.float64).cuda() for x in (images, alphas)]
    ((images * weights[0]).sum() + (alphas * weights[1]).sum()).backward()
    assert ((images.cpu() - wanted["images"]).abs() > 1e-3).float().mean() < 0.01
    assert ((alphas.cpu() - wanted["alphas"]).abs() > 1e-3).float().mean() < 0.01
    for name in NAMES:
        error = (leaves[name].grad.cpu() - wanted[name]).norm() / wanted[name].norm()
        assert error < 1e-2, (name, error)
