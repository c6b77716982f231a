"""Differentiable splatting: images of 3D Gaussians, by gsplat on CUDA and by compiled kernels on the CPU.

N = Gaussians, V = views, H = height, W = width. Importing this package compiles nothing and imports neither backend.
"""

from __future__ import annotations

from importlib import import_module
from types import ModuleType

import torch
from torch import Tensor

from tok4d.errors import Tok4dError, unknown_name
from tok4d_mesh3d.splatting.inputs import Scene

BACKENDS = ("auto", "gsplat", "numba", "torch")

__all__ = ["BACKENDS", "choose_backend", "rasterize"]


def rasterize(
    means: Tensor,
    quaternions: Tensor,
    scales: Tensor,
    opacities: Tensor,
    colors: Tensor,
    world_to_camera: Tensor,
    intrinsics: Tensor,
    width: int,
    height: int,
    *,
    background: Tensor | None = None,
    filter_2d: float = 0.1,
    backend: str = "auto",
) -> tuple[Tensor, Tensor]:
    """Draw 3D Gaussians (Kerbl et al. 2023, arXiv 2308.04079), antialiased (Yu et al. 2024, arXiv 2311.16493).

    Sorted by the depth of their centres (equal depths by index) and blended front to back. Alpha is at most 0.999,
    contributions below 1/255 are skipped, and a pixel ends before the splat that would leave 1e-4 or less of the light
    behind it. Centres nearer than 0.01 are not drawn. Results of the CPU backends do not depend on the number of
    threads.

    Args:
        means: centres in the world `[N, 3]`.
        quaternions: rotations w, x, y, z `[N, 4]`, of any length but 0.
        scales: standard deviations along the Gaussians' own axes `[N, 3]`, at least 0.
        opacities: `[N]` in [0, 1].
        colors: RGB `[N, 3]`, of any range, not clamped (`Gaussians.rgb`, for decoded assets).
        world_to_camera: rigid `[V, 4, 4]`; a camera looks along its z, x is right and y down (OpenCV).
        intrinsics: `[V, 3, 3]` in pixels, without skew; the first pixel's centre is at (0.5, 0.5).
        width, height: of the images, in pixels.
        background: RGB `[3]` behind everything; None: black.
        filter_2d: variance in square pixels added to every splat, whose opacity falls so that its light is the same.
        backend: `gsplat` (CUDA, float32), `numba` (CPU), `torch` (the slow reference, float64 inside); `auto`: gsplat
            on CUDA, numba on the CPU, but torch there when a camera requires a gradient.

    Returns:
        images `[V, 3, H, W]` over the background, and alphas `[V, 1, H, W]` in [0, 1]; float32, or float64 if one
        of the Gaussians' tensors is. Differentiable once in all five tensors of the Gaussians and in the background;
        in world_to_camera with `gsplat` and `torch`; in intrinsics with `torch`.

    Raises:
        Tok4dError: for shapes, values, devices or types that cannot be drawn, a backend that cannot run on them, or
            one whose library is missing, with what to install.
    """
    scene = Scene(
        means,
        quaternions,
        scales,
        opacities,
        colors,
        world_to_camera,
        intrinsics,
        background,
        width,
        height,
        filter_2d,
    ).checked()
    backend = choose_backend(backend, scene)
    with torch.autocast(scene.means.device.type, enabled=False):
        if backend == "gsplat":
            from tok4d_mesh3d.splatting import gsplat_backend

            return gsplat_backend.rasterize(_library("gsplat", "pip install gsplat"), scene)
        images, alphas = _on_black(backend, scene)
        if scene.background is not None:
            images = images + (1 - alphas) * scene.background[:, None, None]
        return images, alphas


def _on_black(backend: str, scene: Scene) -> tuple[Tensor, Tensor]:
    if backend == "torch":
        from tok4d_mesh3d.splatting import oracle

        return oracle.rasterize(scene)
    _library("numba", 'pip install "tok4d[mesh3d]"')
    from tok4d_mesh3d.splatting import numba_backend

    return numba_backend.rasterize(scene)


def choose_backend(name: str, scene: Scene) -> str:
    """The backend that draws a scene: `name`, or what `auto` stands for.

    Raises:
        Tok4dError: for an unknown name, or a backend that cannot draw this scene, with the reason.
    """
    if name not in BACKENDS:
        raise Tok4dError(unknown_name("splatting backend", name, BACKENDS))
    device, precision = scene.means.device.type, scene.means.dtype
    moving = scene.needs_gradient("world_to_camera", "intrinsics")
    if name == "auto":
        on_cpu = "torch" if moving else "numba"
        name = "gsplat" if device == "cuda" else on_cpu
    reason = {
        "gsplat": (device != "cuda" and f"runs on CUDA, the tensors are on {device}")
        or (precision == torch.float64 and "draws in float32, got float64: call .float() or choose 'torch'")
        or (scene.needs_gradient("intrinsics") and "gives no gradient of the intrinsics; 'torch' does"),
        "numba": (device != "cpu" and f"runs on the CPU, the tensors are on {device}: move them, or choose 'torch'")
        or (moving and "gives no gradient of the cameras; 'torch' does"),
        "torch": device == "mps" and "needs float64, which mps has not: move the tensors to the CPU",
    }[name]
    if reason:
        raise Tok4dError(f"splatting backend {name!r} {reason}")
    return name


def _library(module: str, install: str) -> ModuleType:
    """An optional library; the error says how to get it."""
    try:
        return import_module(module)
    except ImportError as error:
        raise Tok4dError(f"splatting backend {module!r} cannot be imported ({error}): {install}") from error
