"""Metrics of 3D assets: what decoded Gaussians look like from the target's cameras, and where they are.

V = views, H, W = height and width, P = points. Those of pictures and places apply to reconstructions with Gaussians of
targets with pictures; `psnr` of the voxels applies to all. Lengths are in units of the cube's side.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from tok4d.errors import Tok4dError
from tok4d.metrics import SampleMean, SamplePSNR, decibels
from tok4d.modality import Sample
from tok4d.ssim import ssim
from tok4d_mesh3d.lifting import depth_points
from tok4d_mesh3d.renders import render_depth, shared_render
from tok4d_mesh3d.samples import VOXELS, cameras_of, has_gaussians, has_views

COVERED = 0.5  # coverage from which a pixel counts as the asset's
POINTS = 50_000  # of a surface, and centres of Gaussians, that distances are measured between
MIN_OPACITY = 0.05  # Gaussians below it are invisible and stand nowhere
NEAR = 0.02  # distance up to which a point counts as found
FAR = 3**0.5  # the cube's diagonal: the distance to what is not there


class _AssetMean(SampleMean):
    """Mean over samples of a score of whole samples."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__("views", **kwargs)

    @abstractmethod
    def compare(self, reconstruction: Sample, target: Sample) -> float:
        """Score of one reconstruction with Gaussians and its target with pictures."""

    def applies(self, reconstruction: Sample, target: Sample) -> bool:
        return has_gaussians(reconstruction) and has_views(target)

    def update(self, reconstruction: Sequence[Sample], target: Sequence[Sample]) -> None:
        """Add one batch.

        Raises:
            Tok4dError: when the lists do not match, a sample has no Gaussians or pictures, or a value is not finite.
        """
        if len(reconstruction) != len(target):
            raise Tok4dError(f"{len(reconstruction)} reconstructions for {len(target)} targets; give one each")
        for one, other in zip(reconstruction, target, strict=True):
            if not self.applies(one, other):
                raise Tok4dError(
                    f"{type(self).__name__}: {other.key!r} lacks decoded Gaussians or the target's pictures"
                )
            self.total += self.compare(one, other)
            self.count += 1

    def score(self, reconstruction: Tensor, target: Tensor) -> float:
        raise NotImplementedError("compares samples, not tensors")


class ViewPSNR(_AssetMean):
    """PSNR in dB over all pixels of all views, one mean squared error a sample; an empty background flatters it."""

    def compare(self, reconstruction: Sample, target: Sample) -> float:
        drawn = shared_render(reconstruction, target)
        return decibels(float(_squares(drawn.images, drawn.wanted).mean()))


class ForegroundPSNR(_AssetMean):
    """PSNR in dB over the pixels that the target's asset covers, if only in part."""

    def compare(self, reconstruction: Sample, target: Sample) -> float:
        drawn = shared_render(reconstruction, target)
        inside = (drawn.masks > 0).expand_as(drawn.wanted)
        return decibels(float(_squares(drawn.images, drawn.wanted)[inside].mean())) if bool(inside.any()) else 0.0


class ViewSSIM(_AssetMean):
    """Mean over views of SSIM, at most 1; see `tok4d.ssim.ssim`."""

    def compare(self, reconstruction: Sample, target: Sample) -> float:
        drawn = shared_render(reconstruction, target)
        return float(ssim(drawn.images, drawn.wanted).mean())


class ViewPerceptual(_AssetMean):
    """Mean over views of any distance of pictures, LPIPS say.

    Args:
        distance: two tensors `[N, 3, H, W]` in [-1, 1] -> `[N]`; lower is nearer.

    Raises:
        Tok4dError: when used, for a distance that gives another shape.
    """

    higher_is_better = False

    def __init__(self, distance: Callable[[Tensor, Tensor], Tensor], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.distance = distance

    @torch.no_grad()
    def compare(self, reconstruction: Sample, target: Sample) -> float:
        drawn = shared_render(reconstruction, target)
        found = self.distance(drawn.images.clamp(-1, 1), drawn.wanted.clamp(-1, 1))
        if found.shape != (len(drawn.wanted),):
            raise Tok4dError(f"a distance of {len(drawn.wanted)} pictures must be [N], got {tuple(found.shape)}")
        return float(found.double().mean())


class MaskIoU(_AssetMean):
    """Intersection over union, over all views, of the pixels at least half covered; 1 when both cover nothing."""

    def compare(self, reconstruction: Sample, target: Sample) -> float:
        drawn = shared_render(reconstruction, target)
        ours, theirs = drawn.alphas >= COVERED, drawn.masks >= COVERED
        union = int((ours | theirs).sum())
        return int((ours & theirs).sum()) / union if union else 1.0


class DepthError(_AssetMean):
    """Mean absolute difference of depth over pixels where both sides have one; the cube's side where none has."""

    higher_is_better = False

    def compare(self, reconstruction: Sample, target: Sample) -> float:
        ours, theirs = render_depth(reconstruction, target), target.data["depth"]
        both = (ours > 0) & (theirs > 0)
        return float((ours - theirs)[both].abs().double().mean()) if bool(both.any()) else 1.0


class Chamfer(_AssetMean):
    """Chamfer distance of the Gaussians' centres and the surface that the views show.

    Mean of the two mean distances to the nearest point of the other side. Gaussians of an opacity below 0.05 are left
    out; where that leaves none it is the cube's diagonal. At most 50,000 points a side, evenly spaced.
    """

    higher_is_better = False

    def compare(self, reconstruction: Sample, target: Sample) -> float:
        there, back = _distances(reconstruction, target)
        return (float(there.mean()) + float(back.mean())) / 2


class FScore(_AssetMean):
    """F-score of the Gaussians' centres and the surface: harmonic mean of the shares within 0.02 of the other side."""

    def compare(self, reconstruction: Sample, target: Sample) -> float:
        there, back = _distances(reconstruction, target)
        precision, recall = float((there <= NEAR).double().mean()), float((back <= NEAR).double().mean())
        return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


METRICS: dict[str, Callable[[], Any]] = {
    "psnr": lambda: SamplePSNR(VOXELS),
    "view_psnr": ViewPSNR,
    "view_psnr_foreground": ForegroundPSNR,
    "view_ssim": ViewSSIM,
    "mask_iou": MaskIoU,
    "depth_error": DepthError,
    "chamfer": Chamfer,
    "f_score": FScore,
}


def _squares(images: Tensor, wanted: Tensor) -> Tensor:
    """Squared differences in float64, values clamped as they would be when written."""
    return (images.clamp(-1, 1).double() - wanted.clamp(-1, 1).double()).square()


def _distances(reconstruction: Sample, target: Sample) -> tuple[Tensor, Tensor]:
    """Distances from centres to the surface and from the surface to centres, float64."""
    from scipy.spatial import cKDTree

    solid = reconstruction.data["opacities"] >= MIN_OPACITY
    centres = _spaced(reconstruction.data["means"][solid].detach().cpu().double())
    surface = _spaced(depth_points(target.data["depth"].cpu(), _on_cpu(target)).double())
    if not len(centres) or not len(surface):
        nothing = torch.full((1,), 0.0 if len(centres) == len(surface) else FAR, dtype=torch.float64)
        return nothing, nothing
    there = cKDTree(surface.numpy()).query(centres.numpy())[0]
    back = cKDTree(centres.numpy()).query(surface.numpy())[0]
    return torch.from_numpy(there), torch.from_numpy(back)


def _on_cpu(target: Sample) -> Any:
    cameras = cameras_of(target)
    return type(cameras)(cameras.world_to_camera.cpu(), cameras.intrinsics.cpu())


def _spaced(points: Tensor) -> Tensor:
    """At most `POINTS` of the points `[P, 3]`, evenly spaced in their order."""
    if len(points) <= POINTS:
        return points
    return points[torch.linspace(0, len(points) - 1, POINTS, dtype=torch.float64).round().long()]
