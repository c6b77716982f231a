"""Reports of real runs of small codecs over made pictures, and the parts of a page."""

from __future__ import annotations

import json
import re
import shutil
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
import pyarrow.parquet as parquet
import pytest
import torch
import yaml
from bench_made import pictures
from PIL import Image
from typer.testing import CliRunner

from tok4d.errors import DataError, Tok4dError
from tok4d.modality import Sample
from tok4d.testing import tiny_tokenizer
from tok4d_bench.cli.app import app
from tok4d_bench.compare.runs import find_runs
from tok4d_bench.report.build import Asked, write_report
from tok4d_bench.report.charts import Series, bars, histogram, plot, ticks
from tok4d_bench.report.media import LEAST_SCALE, error_maps
from tok4d_bench.report.values import PerSample, chosen, per_sample
from tok4d_bench.runner import Work, run_suite
from tok4d_bench.subjects import load_subject
from tok4d_bench.suite import load_suite

COUNT = 7


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A suite file, seven pictures, and runs of two rates of JPEG and of the originals."""
    folder = tmp_path_factory.mktemp("made")
    data = {"source": "image/folder", "options": {"path": str(pictures(folder / "data", COUNT, 32))}}
    task = {"data": data, "measures": ["psnr", "rate"], "inner_batch": 4, "nulls": ["identity", "pca"]}
    (folder / "made.yaml").write_text(yaml.safe_dump({"name": "made", "tasks": {"noise": task}}))
    suite = load_suite(folder / "made.yaml")
    for spec in ("identity", "jpeg,bpp=4", "jpeg,bpp=8"):
        run_suite(suite, load_subject(spec), Work(folder / "runs"))
    return folder


def test_samples_are_those_of_the_run(made: Path, tmp_path: Path) -> None:
    found = write_report(find_runs([made / "runs"]), tmp_path, Asked(suites=[str(made / "made.yaml")]))
    assert found.said == []
    table = parquet.read_table(made / "runs/made/jpeg_4bpp/noise/samples.parquet").to_pydict()
    order = np.argsort(table["psnr.psnr"])
    wanted = {"best": order[-1], "median": order[COUNT // 2], "worst": order[0]}
    assert {one.rank: one.key for one in found.exhibits} == {rank: table["key"][i] for rank, i in wanted.items()}
    for one in found.exhibits:
        assert [len(pair) for pair in one.pairs] == [2, 2]  # the originals are no reconstruction to show
        original = np.asarray(Image.open(tmp_path / one.original.picture))
        assert np.array_equal(original, np.asarray(Image.open(one.key)))
        restored = np.asarray(Image.open(tmp_path / one.pairs[0][0].picture)).astype(float)
        mse = ((original.astype(float) - restored) ** 2).mean()
        told = 10 * np.log10(255**2 / mse)
        assert one.pairs[0][0].title == f"jpeg@4bpp, psnr {told:.4g} dB"


def test_the_page_refers_to_what_is_there(made: Path, tmp_path: Path) -> None:
    found = write_report(find_runs([made / "runs"]), tmp_path, Asked(suites=[str(made / "made.yaml")]))
    page = (tmp_path / "index.html").read_text()
    sources = re.findall(r'(?:src|poster|href)="([^"#]+)"', page)
    assert len(sources) == 3 * 5
    assert all((tmp_path / source).is_file() for source in sources)
    assert not re.search(r"https?://", page)
    assert page.count("<img") == len(re.findall(r'<img[^>]* alt="[^"]+"', page))
    assert found.missing_nulls == ["pca (noise)"]
    assert "pca (noise)" in page
    assert [chart.name for chart in found.distributions] == ["psnr, dB"]
    assert [chart.labels for chart in found.rates] == [["jpeg"]]


def test_another_model_or_other_data_is_said_and_not_shown(made: Path, tmp_path: Path) -> None:
    path = made / "runs/made/jpeg_8bpp/results.json"
    kept = path.read_text()
    try:
        content = json.loads(kept)
        content["subject"]["digest"] = "0" * 64
        path.write_text(json.dumps(content))
        found = write_report(find_runs([made / "runs"]), tmp_path, Asked(suites=[str(made / "made.yaml")]))
    finally:
        path.write_text(kept)
    assert [len(one.pairs) for one in found.exhibits] == [1, 1, 1]
    assert len(found.said) == 1
    assert "jpeg@8bpp: no subject of digest 000000000000" in found.said[0]
    pictures(made / "data", COUNT + 1, 32)
    try:
        found = write_report(find_runs([made / "runs"]), tmp_path, Asked(suites=[str(made / "made.yaml")]))
    finally:
        (made / "data" / f"{COUNT:02d}.png").unlink()
    assert found.exhibits == []
    assert all("the data here is not that of" in text for text in found.said)


def test_a_figure_that_is_not_the_same_any_more_is_said(made: Path, tmp_path: Path) -> None:
    path = made / "runs/made/jpeg_4bpp/noise/samples.parquet"
    kept = path.read_bytes()
    table = parquet.read_table(path)
    place = table.column_names.index("psnr.psnr")
    values = table["psnr.psnr"].to_numpy().copy()
    order = np.argsort(values)
    values[order[0]] -= 1
    values[order[-1]] += 1  # the mean stays
    try:
        parquet.write_table(table.set_column(place, "psnr.psnr", [values]), path)
        runs = find_runs([made / "runs/made/jpeg_4bpp"])
        found = write_report(runs, tmp_path, Asked(suites=[str(made / "made.yaml")]))
    finally:
        path.write_bytes(kept)
    assert len(found.said) == 2
    assert all("made again" in text for text in found.said)


def test_a_suite_that_is_not_known_costs_the_samples_alone(made: Path, tmp_path: Path) -> None:
    found = write_report(find_runs([made / "runs"]), tmp_path, Asked())
    assert found.exhibits == []
    assert any("give its file with --suite" in text for text in found.said)
    assert len(found.distributions) == 1


def test_the_command(made: Path, tmp_path: Path) -> None:
    arguments = ["report", str(made / "runs"), "-o", str(tmp_path / "page"), "--samples", "0", "--json"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert found["samples"] == 0
    assert (tmp_path / "page/index.html").is_file()


def test_a_metric_that_is_not_there_is_an_error(made: Path, tmp_path: Path) -> None:
    arguments = ["report", str(made / "runs"), "-o", str(tmp_path / "page"), "--suite", str(made / "made.yaml")]
    result = CliRunner().invoke(app, [*arguments, "--by", "psnrr"])
    assert result.exit_code == 1
    assert "unknown metric with values per sample 'psnrr'. Did you mean 'psnr'" in result.stderr
    assert not (tmp_path / "page").exists()
    assert CliRunner().invoke(app, [*arguments, "--by", "psnr"]).exit_code == 0


def test_a_model_is_found_from_anywhere_and_missed_by_name(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run names the whole path of its folder; one that is gone is said to be, with the way out."""
    from tok4d_bench.report.remake import Remaker

    tiny_tokenizer().save_pretrained(tmp_path / "here/m")
    monkeypatch.chdir(tmp_path / "here")
    subject = load_subject("m")
    assert subject.spec == str(tmp_path / "here/m")
    assert load_subject("tok4d:m,cached_steps=1").spec == f"tok4d:{tmp_path}/here/m,cached_steps=1"
    assert load_subject("jpeg,bpp=1").spec == "jpeg,bpp=1"
    run_suite(load_suite(made / "made.yaml"), subject, Work(tmp_path / "runs", limit=1))
    monkeypatch.chdir(tmp_path)
    (run,) = find_runs([tmp_path / "runs"])
    assert Remaker({}, [], {}).subject(run).digest == subject.digest
    (tmp_path / "here/m").rename(tmp_path / "moved")
    with pytest.raises(Tok4dError, match=r"its folder .*/here/m is not there any more; give the model with -m"):
        Remaker({}, [], {}).subject(run)
    run.content["spec"] = "m"  # as runs of before name it
    with pytest.raises(Tok4dError, match="its folder m is not there any more; give the model with -m"):
        Remaker({}, ["jpeg,bpp=1"], {}).subject(run)
    assert Remaker({}, [str(tmp_path / "moved")], {}).subject(run).digest == subject.digest


def test_values_whose_mean_is_not_the_figure_are_not_shown(made: Path) -> None:
    (run,) = find_runs([made / "runs/made/jpeg_4bpp"])
    assert [one.metric for one in per_sample(run, "noise")] == ["psnr"]
    for record in run.content["results"]:
        record["value"] = 1.0
    assert per_sample(run, "noise") == []


def test_values_that_were_deleted_are_missed(made: Path, tmp_path: Path) -> None:
    shutil.copytree(made / "runs/made/jpeg_4bpp", tmp_path / "run")
    (tmp_path / "run/noise/samples.parquet").unlink()
    (run,) = find_runs([tmp_path])
    with pytest.raises(DataError, match=r"samples.parquet: is not there any more; the command of the run makes it"):
        per_sample(run, "noise")


def values(*numbers: float, higher: bool = True) -> PerSample:
    record = {"metric": "m", "unit": "", "higher_is_better": higher}
    return PerSample(record, "m", "m", np.arange(len(numbers)), [str(i) for i in numbers], np.array(numbers))


def test_best_median_and_worst() -> None:
    assert chosen(values(3, 1, 5, 2, 4)) == {"best": 2, "median": 0, "worst": 1}
    assert chosen(values(3, 1, 5, 2, 4, higher=False)) == {"best": 1, "median": 0, "worst": 2}
    assert chosen(values(3, 1, 5, 2, 4), 2) == {
        "best": 2,
        "best 2": 4,
        "median": 0,
        "worst": 1,
        "worst 2": 3,
    }
    assert chosen(values(7)) == {"best": 0}
    assert chosen(values(1, np.nan, 2)) == {"best": 2, "worst": 0}


def test_error_maps_have_one_scale() -> None:
    original = Sample("image", {"image": torch.zeros(3, 40, 40)})
    near, far = torch.zeros(3, 40, 40), torch.full((3, 40, 40), 0.4)
    near[:, :, 20:] = 0.2
    restored = {"near": Sample("image", {"image": near}), "far": Sample("image", {"image": far})}
    maps, scale = error_maps(original, restored)
    assert scale == pytest.approx(0.2)  # of the range 2: the larger of two in the middle
    colours = {name: ((one.data["image"] + 1) * 127.5).round() for name, one in maps.items()}
    assert colours["far"][:, 0, 0].tolist() == [252, 255, 200]
    assert colours["near"][:, 0, 0].tolist() == [0, 0, 4]
    assert colours["near"][:, 0, 30].tolist() == [203, 74, 65]  # half way
    assert error_maps(original, {"same": original})[1] == LEAST_SCALE
    assert error_maps(original, {"cut": Sample("image", {"image": near[:, :4]})}) == ({}, 0.0)


@pytest.mark.parametrize(
    ("low", "high", "wanted"),
    [
        (0, 10, [0, 2, 4, 6, 8, 10]),
        (0.93, 1.0, [0.94, 0.96, 0.98, 1.0]),
        (-3, 3, [-2, 0, 2]),
        (28.3, 28.4, [28.3, 28.32, 28.34, 28.36, 28.38, 28.4]),
    ],
)
def test_ticks(low: float, high: float, wanted: list[float]) -> None:
    assert ticks(low, high) == pytest.approx(wanted)


def test_charts_are_whole() -> None:
    drawn = [
        histogram([Series("a<b>", np.array([1.0, 2.0, np.nan])), Series("c", np.array([1.5]))], "x & y"),
        histogram([Series("one", np.array([5.0, 5.0]))], "equal"),
        plot([Series("q", np.array([[1.0, 30.0], [0.5, 25.0]]))], "bits", "dB"),
        bars([0.0, 0.5, 1.0], "group", "share"),
    ]
    for svg in drawn:
        root = ElementTree.fromstring(svg)
        assert root.get("aria-label")
        numbers = re.findall(r"-?\d+\.\d+", " ".join(e.get("points", "") for e in root))
        assert all(0 <= float(number) <= 480 for number in numbers)
    assert histogram([Series("none", np.array([np.nan]))], "x") == ""
    heights = [float(bar.get("height", "nan")) for bar in ElementTree.fromstring(drawn[3]) if bar.tag == "rect"]
    assert heights[0] == 0
    assert heights[2] == pytest.approx(2 * heights[1], abs=0.11)
    line = next(e for e in ElementTree.fromstring(drawn[2]) if e.tag == "polyline")
    across = [float(point.split(",")[0]) for point in line.get("points", "").split()]
    assert across == sorted(across)
