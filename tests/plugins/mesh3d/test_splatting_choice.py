"""Which backend draws, what each is given, and what is refused."""

from __future__ import annotations

import subprocess
import sys
from types import ModuleType, SimpleNamespace

import pytest
import torch
from splat_scenes import HEIGHT, NAMES, WIDTH, cameras, random_scene

from tok4d.errors import Tok4dError
from tok4d_mesh3d.splatting import choose_backend, gsplat_backend, rasterize
from tok4d_mesh3d.splatting.inputs import Scene


def arguments(**changes):
    poses, lenses = cameras(0)
    given = {**random_scene("plain", 5, seed=0), "world_to_camera": poses, "intrinsics": lenses}
    return {**given, "width": WIDTH, "height": HEIGHT, **changes}


def refusal(**changes):
    with pytest.raises(Tok4dError) as error:
        rasterize(**arguments(**changes))
    return str(error.value)


def changed(name, index, value):
    tensor = arguments()[name].clone()
    tensor[index] = value
    return {name: tensor}


WRONG = [
    ({"means": torch.zeros(5, 2)}, "means of 5 Gaussians in 2 views must be (5, 3), got (5, 2)"),
    ({"means": torch.tensor(1.0)}, "means of 0 Gaussians"),
    ({"colors": torch.zeros(4, 3)}, "colors of 5 Gaussians in 2 views must be (5, 3), got (4, 3)"),
    ({"opacities": torch.zeros(5, 1)}, "must be (5,), got (5, 1)"),
    ({"intrinsics": torch.eye(3)[None]}, "intrinsics of 5 Gaussians in 2 views must be (2, 3, 3)"),
    ({"world_to_camera": torch.eye(4)}, "world_to_camera of 5 Gaussians in 4 views must be (4, 4, 4), got (4, 4)"),
    ({"background": torch.zeros(1, 3)}, "background of 5 Gaussians in 2 views must be (3,), got (1, 3)"),
    ({"means": torch.zeros(5, 3, dtype=torch.int64)}, "means must be a tensor of floating point, got torch.int64"),
    ({"background": (0, 0, 0)}, "background must be a tensor of floating point, got tuple"),
    ({"colors": torch.zeros(5, 3, device="meta")}, "means are on cpu, colors on meta"),
    (changed("means", (1, 2), float("nan")), "means must be finite, got 1 values that are not"),
    (changed("scales", 3, float("inf")), "scales must be finite, got 3 values"),
    (changed("intrinsics", (0, 0, 0), float("nan")), "intrinsics must be finite"),
    (changed("opacities", 2, 1.5), "opacities must be in [0, 1], got"),
    (changed("opacities", 2, -0.5), "are they logits?"),
    (changed("scales", (4, 1), -3.0), "scales must be at least 0, got -3: are they logarithms?"),
    (changed("quaternions", 3, 0.0), "quaternion 3 is no rotation: its length is 0"),
    (changed("quaternions", 3, 1e20), "quaternion 3 is no rotation: its length is 2e+20"),
    (changed("world_to_camera", (1, 3, 0), 2.0), "is it transposed?"),
    (changed("intrinsics", (1, 0, 1), 0.1), "without skew"),
    (changed("intrinsics", (0, 2, 2), 2.0), "intrinsics must be [[fx, 0, cx]"),
    (changed("intrinsics", (1, 1, 1), -30.0), "focal lengths in intrinsics must be positive"),
    ({"width": 0}, "width must be a whole number of pixels in [1, 16384], got 0"),
    ({"height": 3.5}, "height must be a whole number of pixels in [1, 16384], got 3.5"),
    ({"height": 10**6}, "got 1000000"),
    ({"filter_2d": -0.1}, "filter_2d must be a variance in square pixels, at least 0, got -0.1"),
    ({"filter_2d": float("nan")}, "got nan"),
    ({"backend": "nunba"}, "unknown splatting backend 'nunba'. Did you mean 'numba'? Available: auto, gsplat, numba"),
    ({"backend": "gsplat"}, "splatting backend 'gsplat' runs on CUDA, the tensors are on cpu"),
]


@pytest.mark.parametrize(("changes", "text"), WRONG, ids=[text[:40] for _, text in WRONG])
def test_refused_with_the_reason(changes, text):
    assert text in refusal(**changes)


def test_the_reference_refuses_what_it_has_no_memory_for(monkeypatch):
    monkeypatch.setattr("tok4d_mesh3d.splatting.oracle.MAX_PAIRS", 100)
    text = refusal(backend="torch")
    assert "pairs of pixels and splats in one view, more than 100: use backend='numba'" in text


@pytest.mark.parametrize(
    ("module", "text"), [("numba", 'pip install "tok4d[mesh3d]"'), ("gsplat", "pip install gsplat")]
)
def test_a_missing_library_is_named_with_what_to_install(monkeypatch, module, text):
    monkeypatch.setitem(sys.modules, module, None)
    if module == "gsplat":  # as if the tensors were on CUDA
        monkeypatch.setattr(
            "tok4d_mesh3d.splatting.choose_backend", lambda name, scene: "gsplat" if name == "auto" else name
        )
    found = refusal()
    assert f"splatting backend {module!r} cannot be imported" in found
    assert text in found


def scene_on(device, dtype=torch.float32, gradients=()):
    """What `choose_backend` looks at."""
    means = SimpleNamespace(device=torch.device(device), dtype=dtype)
    return SimpleNamespace(means=means, needs_gradient=lambda *names: bool({*names} & {*gradients}))


@pytest.mark.parametrize(
    ("scene", "wanted"),
    [
        (scene_on("cpu"), "numba"),
        (scene_on("cpu", torch.float64), "numba"),
        (scene_on("cpu", gradients=["world_to_camera"]), "torch"),
        (scene_on("cpu", gradients=["intrinsics"]), "torch"),
        (scene_on("cuda"), "gsplat"),
        (scene_on("cuda:1", gradients=["world_to_camera"]), "gsplat"),
    ],
)
def test_auto(scene, wanted):
    assert choose_backend("auto", scene) == wanted


@pytest.mark.parametrize(
    ("name", "scene", "reason"),
    [
        ("auto", scene_on("mps"), "'numba' runs on the CPU, the tensors are on mps"),
        ("torch", scene_on("mps"), "'torch' needs float64"),
        ("numba", scene_on("cuda"), "'numba' runs on the CPU, the tensors are on cuda"),
        ("numba", scene_on("cpu", gradients=["intrinsics"]), "'numba' gives no gradient of the cameras; 'torch' does"),
        ("auto", scene_on("cuda", torch.float64), "'gsplat' draws in float32, got float64"),
        ("auto", scene_on("cuda", gradients=["intrinsics"]), "'gsplat' gives no gradient of the intrinsics"),
    ],
)
def test_a_backend_that_cannot_says_why(name, scene, reason):
    with pytest.raises(Tok4dError, match=reason):
        choose_backend(name, scene)


def test_without_gradients_moving_cameras_are_drawn_by_numba():
    poses, _ = cameras(0)
    scene = Scene(**arguments(world_to_camera=poses.requires_grad_()), background=None, filter_2d=0.1)
    assert choose_backend("auto", scene) == "torch"
    with torch.no_grad():
        assert choose_backend("auto", scene) == "numba"


def fake_gsplat(calls):
    """A module with gsplat's `rasterization`, as its documentation has it, drawn by the reference."""

    def rasterization(means, quats, scales, opacities, colors, viewmats, Ks, width, height, near_plane=0.01,
                      far_plane=1e10, radius_clip=0.0, eps2d=0.3, sh_degree=None, packed=True, tile_size=16,
                      backgrounds=None, render_mode="RGB", sparse_grad=False, absgrad=False,
                      rasterize_mode="classic"):  # fmt: skip
        calls.append({"near_plane": near_plane, "rasterize_mode": rasterize_mode, "backgrounds": backgrounds})
        gaussians = {"means": means, "quaternions": quats, "scales": scales, "opacities": opacities, "colors": colors}
        assert all(tensor.dtype == torch.float32 for tensor in (*gaussians.values(), viewmats, Ks))
        images, alphas = rasterize(
            **gaussians, world_to_camera=viewmats, intrinsics=Ks, width=width, height=height, filter_2d=eps2d,
            backend="torch", background=None if backgrounds is None else backgrounds[0],
        )  # fmt: skip
        return images.permute(0, 2, 3, 1), alphas.permute(0, 2, 3, 1), {}

    module = ModuleType("gsplat")
    module.rasterization = rasterization
    return module


@pytest.mark.parametrize("background", [None, torch.tensor([0.1, 0.7, 0.3])])
def test_gsplat_is_called_as_documented(monkeypatch, background):
    calls = []
    monkeypatch.setitem(sys.modules, "gsplat", fake_gsplat(calls))
    single = {name: value.float() for name, value in random_scene("plain", 40, seed=1).items()}
    given = arguments(**single, background=background, filter_2d=0.25)
    wanted = rasterize(**given, backend="torch")
    with monkeypatch.context() as patch:
        patch.setattr("tok4d_mesh3d.splatting.choose_backend", lambda name, scene: "gsplat" if name == "auto" else name)
        leaves = {name: given[name].requires_grad_() for name in NAMES}
        images, alphas = rasterize(**{**given, **leaves})
    assert images.shape == (2, 3, HEIGHT, WIDTH)
    assert alphas.shape == (2, 1, HEIGHT, WIDTH)
    assert torch.equal(images, wanted[0])
    assert torch.equal(alphas, wanted[1])
    images.sum().backward()
    assert all(leaf.grad.abs().sum() > 0 for leaf in leaves.values())
    assert calls[0]["near_plane"] == 0.01
    assert calls[0]["rasterize_mode"] == "antialiased"
    assert background is None or calls[0]["backgrounds"].shape == (2, 3)


@pytest.mark.parametrize("views", [0, 2])
def test_gsplat_is_not_called_with_nothing(views):
    calls = []
    none = {name: arguments()[name][:0].float().requires_grad_() for name in NAMES}
    poses, lenses = (x[:views].float() for x in cameras(0))
    scene = Scene(*none.values(), poses, lenses, torch.tensor([0.1, 0.2, 0.3]), WIDTH, HEIGHT, 0.1)
    images, alphas = gsplat_backend.rasterize(fake_gsplat(calls), scene)
    assert not calls
    assert images.shape == (views, 3, HEIGHT, WIDTH)
    assert alphas.shape == (views, 1, HEIGHT, WIDTH)
    assert (images == torch.tensor([0.1, 0.2, 0.3])[:, None, None]).all()
    images.sum().backward()


def test_importing_compiles_nothing():
    code = "import sys, tok4d_mesh3d.splatting; print([m for m in ('numba', 'gsplat') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
