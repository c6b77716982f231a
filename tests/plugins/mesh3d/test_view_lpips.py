"""LPIPS of rendered views: a value by the package's formula on the views that are drawn, and what is left out."""

from __future__ import annotations

from pathlib import Path

import pytest
from made_assets import box_sample, voxel_cloud, with_data

from tok4d.losses.perceptual import LPIPS
from tok4d.modality import Sample
from tok4d_bench.contracts import Restored, Subject, UnsuitedError, Value
from tok4d_bench.measures.memory import measure_pairs
from tok4d_bench.measures.views import ViewLPIPS
from tok4d_mesh3d import renders


@pytest.fixture
def target(tmp_path: Path) -> Sample:
    return box_sample(tmp_path)


@pytest.fixture
def cloud(target: Sample) -> Sample:
    data = {name: target.data[name] for name in ("voxels", "coords")} | voxel_cloud(target)
    return Sample("mesh3d", data, key="cloud", meta={"resolution": 8})


def figures(originals: list[Sample], restored: list[Sample], measure: ViewLPIPS | None = None) -> Value:
    (found,) = measure_pairs([measure or ViewLPIPS("alex")], originals, [Restored(one) for one in restored])
    (value,) = found
    return value


def test_the_value_is_lpips_of_the_views(networks: Path, cloud: Sample, target: Sample) -> None:
    drawn = renders.render(cloud, target)
    distance = LPIPS("alex")(drawn.images.clamp(-1, 1), drawn.wanted.clamp(-1, 1))
    value = figures([target], [cloud])
    assert (value.metric, value.n, value.higher_is_better) == ("mesh3d/view_lpips_alex", 1, False)
    assert value.value == pytest.approx(float(distance.double().mean()), rel=1e-5)
    assert value.value > 0.01
    exact = with_data(target, {"views": drawn.images, "masks": drawn.alphas})
    assert figures([exact], [cloud]).value == pytest.approx(0, abs=1e-6)


def test_views_are_drawn_once_beside_other_measures(
    networks: Path, cloud: Sample, target: Sample, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tok4d_bench.adapter import make_measure

    calls: list[int] = []
    monkeypatch.setattr(renders, "draw", lambda *a, real=renders.draw: calls.append(1) or real(*a))
    lpips = make_measure("mesh3d/view_lpips", {"net": "alex"})
    measure_pairs([lpips, make_measure("mesh3d/view_psnr", {})], [target], [Restored(cloud)])
    assert len(calls) == 1


def test_assets_without_pictures_or_gaussians_do_not_count(networks: Path, cloud: Sample, target: Sample) -> None:
    voxels = Sample("mesh3d", {name: target.data[name] for name in ("voxels", "coords")}, key="voxels")
    one = figures([target, target, voxels], [cloud, voxels, cloud])
    assert (one.n, one.value) == (1, figures([target], [cloud]).value)
    assert "2 of 3 samples do not apply" in one.note
    with pytest.raises(UnsuitedError, match="none of 1 samples and reconstructions has what mesh3d/view_lpips_alex"):
        figures([target], [voxels])


def test_missing_weights_leave_this_measure_out_and_say_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cloud: Sample, target: Sample
) -> None:
    from tok4d_bench.contracts import Suite, TaskSpec
    from tok4d_bench.runner import Work, run_suite

    class Cloud(Subject):
        """Gives every asset grey balls."""

        name, digest, reconstructs = "cloud", "0" * 64, ("mesh3d",)

        def reconstruct(self, samples):  # type: ignore[no-untyped-def]
            return [Restored(with_data(one, voxel_cloud(one))) for one in samples]

    monkeypatch.setenv("TOK4D_CACHE", str(tmp_path / "empty"))
    options = {"count": 1, "resolution": 8, "views": 6, "size": 48, "targets": 2, "target_size": 32, "cache_gb": 0}
    data = {"source": "mesh3d/solids", "options": options}
    measures = ["mesh3d/view_psnr", {"mesh3d/view_lpips": {"net": "vgg"}}]
    task = TaskSpec(data=data, prepare={"round": False}, measures=measures, inner_batch=1)
    document = run_suite(Suite("made", 1, "", {"one": task}), Cloud(), Work(tmp_path / "out"))
    assert document is not None
    assert [record.metric for record in document.results] == ["mesh3d/view_psnr"]
    (left_out,) = document.skipped
    assert left_out["what"] == "mesh3d/view_lpips(net=vgg): network vgg16"
    assert "not on this machine" in left_out["why"]
    assert left_out["fix"] == "tok4d weights fetch vgg16-lpips"


def test_the_3d_suites_report_it_beside_the_published_figures() -> None:
    from tok4d_bench.anchors import ALL, anchor_columns
    from tok4d_bench.suite import load_suite, measure_entries

    for name in ("3d-recon", "mini-3d"):
        tasks = [spec for spec in load_suite(name).tasks.values() if spec.kind == "reconstruction"]
        assert all(("mesh3d/view_lpips", {"net": "vgg"}) in measure_entries(spec) for spec in tasks), name
    (toys,) = load_suite("3d-recon").tasks.values()
    published = {one.method: one.values for one in anchor_columns(toys.anchors, [ALL])}
    assert published["Trellis-SLAT"][ViewLPIPS("vgg").name] == 0.054  # AToken, arXiv 2509.14476, Table 8
    assert published["AToken-So/C"][ViewLPIPS("vgg").name] == 0.062


def test_its_protocol_names_network_and_pictures(networks: Path) -> None:
    facts = ViewLPIPS("alex").protocol()
    assert facts["network"] == "alexnet"
    assert "cameras" in facts["pictures"]
    assert ViewLPIPS("alex").protocol() != ViewLPIPS("alex", size=64).protocol()
