"""Metrics of decoded assets: known values, best for the best, the same for any batch."""

from __future__ import annotations

import math

import pytest
import torch
from made_assets import HOST, box_sample, voxel_cloud, with_data

from tok4d.errors import Tok4dError
from tok4d.metrics import CAP_DB, score_all
from tok4d.modality import Sample
from tok4d_mesh3d import metrics, renders
from tok4d_mesh3d.metrics import METRICS

PICTURES = ("view_psnr", "view_psnr_foreground", "view_ssim", "mask_iou", "depth_error", "chamfer", "f_score")


@pytest.fixture
def target(tmp_path) -> Sample:
    return box_sample(tmp_path)


@pytest.fixture
def cloud(target) -> Sample:
    """Voxels and Gaussians, as a model with a head restores them: no pictures."""
    data = {name: target.data[name] for name in ("voxels", "coords")} | voxel_cloud(target)
    return Sample("mesh3d", data, key="cloud", meta={"resolution": 8})


def drawn_target(cloud: Sample, target: Sample) -> Sample:
    """A target whose pictures are exactly those of the Gaussians."""
    seen = renders.render(cloud, target)
    depth = renders.render_depth(cloud, target)
    return with_data(target, {"views": seen.images, "masks": seen.alphas, "depth": depth})


def test_exact_copies_are_best_and_changes_are_worse(cloud, target):
    exact = drawn_target(cloud, target)
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(cloud.data["means"].shape, generator=generator)
    moved = with_data(cloud, {"means": cloud.data["means"] + 0.05 * noise, "colors": cloud.data["colors"] + noise})
    best, worse = score_all(METRICS, cloud, exact), score_all(METRICS, moved, exact)
    assert set(best) == set(METRICS)
    for name in PICTURES:
        upwards = METRICS[name]().higher_is_better
        assert (best[name] > worse[name]) == upwards, name
        assert best[name] != worse[name], name
    assert best["view_psnr"] == best["view_psnr_foreground"] == CAP_DB
    assert best["view_ssim"] == pytest.approx(1.0)
    assert best["mask_iou"] == 1.0
    assert best["depth_error"] == pytest.approx(0.0, abs=1e-6)


def test_they_do_not_depend_on_the_batch(cloud, target):
    exact = drawn_target(cloud, target)
    moved = with_data(cloud, {"means": cloud.data["means"] + 0.02})
    for name in PICTURES:
        together, alone = METRICS[name](), METRICS[name]()
        together.update([cloud, moved], [exact, target])
        alone.update([cloud], [exact])
        alone.update([moved], [target])
        assert float(together.compute()) == float(alone.compute()), name


def test_psnr_by_hand(cloud, target):
    exact = drawn_target(cloud, target)
    covered = exact.data["masks"] > 0
    # Off by 0.5 inside only: the whole picture's error is that times the share of it that is covered.
    off = with_data(exact, {"views": exact.data["views"].clamp(-0.4, 0.4) + 0.5 * covered})
    base = with_data(exact, {"views": exact.data["views"].clamp(-0.4, 0.4)})
    monkey = renders.Renders(base.data["views"], exact.data["masks"], off.data["views"], exact.data["masks"])
    cloud.__dict__["_renders"] = (
        tuple(cloud.data[n] for n in renders.GAUSSIANS) + tuple(off.data[n] for n in renders.PICTURES),
        monkey,
    )
    assert float(metrics.ForegroundPSNR().compare(cloud, off)) == pytest.approx(10 * math.log10(4 / 0.25), abs=1e-3)
    share = float(covered.float().mean())
    assert float(metrics.ViewPSNR().compare(cloud, off)) == pytest.approx(10 * math.log10(4 / 0.25 / share), abs=1e-3)


def test_iou_by_hand(cloud, target):
    seen = renders.render(cloud, target)
    half = seen.alphas.clone()
    half[..., 32:] = 0
    wanted = with_data(target, {"masks": half})
    share = float((half >= 0.5).sum() / (seen.alphas >= 0.5).sum())
    assert metrics.MaskIoU().compare(cloud, wanted) == pytest.approx(share)
    nothing = with_data(cloud, {"opacities": torch.full_like(cloud.data["opacities"], 1e-4)})
    assert metrics.MaskIoU().compare(nothing, with_data(target, {"masks": torch.zeros_like(half)})) == 1.0
    assert metrics.MaskIoU().compare(nothing, target) == 0.0


def test_places_by_hand(target):
    """Centres on the faces of the box, then 0.1 further out along x on the two faces across it."""
    side = torch.linspace(-0.5, 0.5, 81)
    u, v = (grid.flatten() for grid in torch.meshgrid(side, side, indexing="ij"))
    faces = [torch.stack([torch.full_like(u, s), u, v], 1).roll(axis, 1) for axis in range(3) for s in (-0.5, 0.5)]
    on = _points(torch.cat(faces))
    assert metrics.Chamfer().compare(on, target) < 0.01  # the lattice's own spacing is 0.0125
    assert metrics.FScore().compare(on, target) > 0.98
    out = _points(torch.cat(faces) * 1.2)
    there = 0.1  # most points of a face lie 0.1 before it, those beyond its edge a little more
    assert there < metrics.Chamfer().compare(out, target) < 1.3 * there
    assert metrics.FScore().compare(out, target) == 0.0
    faint = with_data(on, {"opacities": torch.full((len(on.data["means"]),), 0.01)})
    assert metrics.Chamfer().compare(faint, target) == pytest.approx(math.sqrt(3))
    assert metrics.FScore().compare(faint, target) == 0.0


def _points(means: torch.Tensor) -> Sample:
    count = len(means)
    return Sample(
        "mesh3d",
        {
            "means": means,
            "scales": torch.full((count, 3), 0.01),
            "quaternions": torch.tensor([1.0, 0, 0, 0]).repeat(count, 1),
            "opacities": torch.full((count,), 0.9),
            "colors": torch.zeros(count, 3),
        },
    )


def test_depth_by_hand(cloud, target):
    exact = drawn_target(cloud, target)
    depth = exact.data["depth"]
    later = with_data(exact, {"depth": torch.where(depth > 0, depth + 0.07, 0.0)})
    assert metrics.DepthError().compare(cloud, later) == pytest.approx(0.07, abs=1e-5)
    none = with_data(exact, {"depth": torch.zeros_like(depth)})
    assert metrics.DepthError().compare(cloud, none) == 1.0


def test_what_does_not_apply_is_left_out(cloud, target):
    voxels = Sample("mesh3d", {name: target.data[name] for name in ("voxels", "coords")})
    assert set(score_all(HOST.metrics(), voxels, target)) == {"psnr"}
    assert set(score_all(HOST.metrics(), cloud, voxels)) == {"psnr"}
    assert set(score_all(HOST.metrics(), cloud, target)) == set(METRICS)
    with pytest.raises(Tok4dError, match="lacks decoded Gaussians"):
        metrics.ViewPSNR().update([voxels], [target])
    empty = metrics.ViewPSNR()
    empty.update([], [])
    with pytest.raises(Tok4dError, match="no samples to average"):
        empty.compute()


def test_views_are_drawn_once_for_all_metrics(cloud, target, monkeypatch):
    calls = []
    monkeypatch.setattr(renders, "draw", lambda *a, real=renders.draw: calls.append(1) or real(*a))
    score_all(METRICS, cloud, target)
    assert len(calls) == 1
    changed = with_data(cloud, {"colors": cloud.data["colors"] + 1})
    assert score_all(METRICS, changed, target)["view_psnr"] != score_all(METRICS, cloud, target)["view_psnr"]
    cloud.data["colors"] = cloud.data["colors"] + 1
    assert score_all(METRICS, cloud, target)["view_psnr"] == score_all(METRICS, changed, target)["view_psnr"]


def test_broken_gaussians_are_seen_not_averaged(cloud, target):
    cloud.data["means"][3, 1] = float("nan")
    with pytest.raises(Tok4dError):
        metrics.ViewPSNR().update([cloud], [target])


def test_any_distance_of_pictures(cloud, target):
    exact = drawn_target(cloud, target)
    shifted = with_data(exact, {"views": (exact.data["views"] - 0.25).clamp(-1, 1)})

    def mean_distance(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return (a - b).abs().mean((1, 2, 3))

    def value(distance, other: Sample) -> float:
        metric = metrics.ViewPerceptual(distance)
        metric.update([cloud], [other])
        return float(metric.compute())

    assert value(mean_distance, exact) == 0
    wanted = (exact.data["views"].clamp(-1, 1) - shifted.data["views"]).abs().mean()
    assert value(mean_distance, shifted) == pytest.approx(float(wanted), rel=1e-5)
    with pytest.raises(Tok4dError, match=r"must be \[N\]"):
        value(lambda a, b: (a - b).abs(), exact)
