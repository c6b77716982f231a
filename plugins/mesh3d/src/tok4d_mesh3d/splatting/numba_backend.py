"""The CPU backend: compiled kernels over threads, with a backward of their own.

N = Gaussians, V = views, M = visible splats of a view, front to back, P = (splat, band) pairs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.autograd.function import once_differentiable

from tok4d_mesh3d.splatting.blend_kernels import (
    COLUMNS,
    GRADIENTS,
    backward_band,
    blend_band,
    list_bands,
    sum_pairs,
)
from tok4d_mesh3d.splatting.compiled import in_parallel
from tok4d_mesh3d.splatting.inputs import Scene
from tok4d_mesh3d.splatting.project_kernels import project, project_backward

RANGE = 16384  # Gaussians a call
PAIRS = 4_000_000  # pairs whose gradients are kept at a time: 144 MB in float32

Array = NDArray[Any]


@dataclass(frozen=True, eq=False)
class View:
    """One view's splats, front to back, and which of them touch which band of rows.

    Attributes:
        order: `[M]` Gaussian of every splat, by depth, equal depths by index.
        splats, boxes: `[M, 10]` and `[M, 4]`, see blend_kernels.py.
        offsets, members: band b's splats are `members[offsets[b] : offsets[b + 1]]`.
    """

    order: Array
    splats: Array
    boxes: Array
    offsets: Array
    members: Array


def see(gaussians: Array, camera: Array, width: int, height: int, threads: int) -> View:
    """Project the Gaussians `[N, 14]` into one view."""
    count = len(gaussians)
    splats, depths = np.empty((count, COLUMNS), gaussians.dtype), np.empty(count, gaussians.dtype)
    boxes = np.empty((count, 4), np.int32)

    def work(part: int) -> None:
        first = part * RANGE
        project(first, min(first + RANGE, count), gaussians, camera, width, height, splats, boxes, depths)

    in_parallel(work, -(-count // RANGE), threads)
    seen = np.flatnonzero(boxes[:, 0] <= boxes[:, 1])
    order = seen[by_depth(depths[seen])]
    boxes = boxes[order]
    offsets, members = list_bands(boxes, height)
    return View(order, splats[order], boxes, offsets, members)


def by_depth(depths: Array) -> Array:
    """Stable order of positive depths.

    In float32, bits of positive numbers sort as the numbers do: with the index behind them no two keys are equal, and
    numpy's vectorised sort, which is not stable, is ten times as fast as a stable one.
    """
    if depths.dtype != np.float32:
        return np.argsort(depths, kind="stable")
    keys = depths.view(np.uint32).astype(np.uint64) << np.uint64(32)
    keys |= np.arange(len(depths), dtype=np.uint64)
    keys.sort()
    return (keys & np.uint64(0xFFFFFFFF)).astype(np.int64)


def blend(view: View, image: Array, alpha: Array, threads: int) -> None:
    """Write `image` `[3, H, W]` on black and `alpha` `[1, H, W]`."""

    def work(band: int) -> None:
        blend_band(band, view.offsets, view.members, view.splats, view.boxes, image, alpha)

    in_parallel(work, len(view.offsets) - 1, threads)


def blend_backward(view: View, image: Array, alpha: Array, grad_image: Array, grad_alpha: Array, threads: int) -> Array:
    """Gradients of the splats `[M, 9]`, some bands at a time."""
    gradients = np.zeros((len(view.splats), GRADIENTS), image.dtype)
    offsets, bands = view.offsets, len(view.offsets) - 1
    band = 0
    while band < bands:
        start = band
        band = max(start + 1, int(np.searchsorted(offsets, offsets[start] + PAIRS, side="right")) - 1)
        pairs = np.empty((offsets[band] - offsets[start], GRADIENTS), image.dtype)

        def work(i: int, start: int = start, pairs: Array = pairs) -> None:
            rows = pairs[offsets[start + i] - offsets[start] :]
            backward_band(
                start + i, offsets, view.members, view.splats, view.boxes, image, alpha, grad_image, grad_alpha, rows
            )

        in_parallel(work, band - start, threads)
        sum_pairs(view.members[offsets[start] : offsets[band]], pairs, gradients)
    return gradients


def rasterize(scene: Scene) -> tuple[Tensor, Tensor]:
    """Images `[V, 3, H, W]` on black and alphas `[V, 1, H, W]`, on as many threads as torch has."""
    parts = [scene.means, scene.quaternions, scene.scales, scene.opacities[:, None], scene.colors]
    lenses = scene.intrinsics[:, [0, 1, 0, 1], [0, 1, 2, 2]]
    blur = lenses.new_full((len(lenses), 1), scene.filter_2d)
    cameras = torch.cat([scene.world_to_camera[:, :3].flatten(1), lenses, blur], 1)
    images, alphas = Splatting.apply(torch.cat(parts, 1), cameras.detach(), scene.width, scene.height)
    return images, alphas


class Splatting(torch.autograd.Function):
    """All views of packed Gaussians `[N, 14]`; keeps no more than these and its results for the backward."""

    @staticmethod
    def forward(ctx: Any, gaussians: Tensor, cameras: Tensor, width: int, height: int) -> tuple[Tensor, Tensor]:
        images = gaussians.new_empty(len(cameras), 3, height, width)
        alphas = gaussians.new_empty(len(cameras), 1, height, width)
        threads = torch.get_num_threads()
        for camera, image, alpha in zip(cameras.numpy(), images.numpy(), alphas.numpy(), strict=True):
            blend(see(gaussians.numpy(), camera, width, height, threads), image, alpha, threads)
        ctx.save_for_backward(gaussians, cameras, images, alphas)
        return images, alphas

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_images: Tensor, grad_alphas: Tensor) -> tuple[Tensor, None, None, None]:
        gaussians, cameras, images, alphas = ctx.saved_tensors
        height, width = images.shape[2:]
        threads = torch.get_num_threads()
        source, out = gaussians.numpy(), torch.zeros_like(gaussians)
        arrays = (t.contiguous().numpy() for t in (cameras, images, alphas, grad_images, grad_alphas))
        for camera, image, alpha, grad_image, grad_alpha in zip(*arrays, strict=True):
            view = see(source, camera, width, height, threads)
            gradients = blend_backward(view, image, alpha, grad_image, grad_alpha, threads)
            _project_backward(view, source, camera, (width, height), gradients, out.numpy(), threads)
        return out, None, None, None


def _project_backward(
    view: View, gaussians: Array, camera: Array, size: tuple[int, int], gradients: Array, out: Array, threads: int
) -> None:
    count = len(gradients)

    def work(part: int) -> None:
        first = part * RANGE
        last = min(first + RANGE, count)
        project_backward(first, last, gaussians, camera, *size, view.order, view.splats, gradients, out)

    in_parallel(work, -(-count // RANGE), threads)
