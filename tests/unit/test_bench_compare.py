"""Comparisons of results made by hand: what is best, what differs, seeds, published figures, Markdown."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from bench_documents import record, write_run
from typer.testing import CliRunner

from tok4d.errors import DataError
from tok4d_bench.cli.app import app
from tok4d_bench.compare.build import compare
from tok4d_bench.compare.markdown import figure, markdown
from tok4d_bench.compare.model import Cell, Comparison, Row
from tok4d_bench.compare.runs import find_runs, seedless


def row(comparison: Comparison, metric: str) -> Row:
    (found,) = [row for row in comparison.rows if row.metric == metric]
    return found


def best(comparison: Comparison, metric: str) -> list[bool]:
    return [cell is not None and cell.best for cell in row(comparison, metric).cells]


def test_best_by_the_direction_of_each_metric(tmp_path: Path) -> None:
    down, none = {"higher_is_better": False}, {"higher_is_better": None}

    rates = [record("bits_per_pixel", value, **down) for value in (0.5, 0.7)]
    write_run(
        tmp_path, "a", [record("psnr", 30.0), record("lpips", 0.2, **down), record("tokens", 1.0, **none), rates[0]]
    )
    write_run(
        tmp_path, "b", [record("psnr", 31.0), record("lpips", 0.3, **down), record("tokens", 2.0, **none), rates[1]]
    )
    found = compare(find_runs([tmp_path]))
    assert [column.label for column in found.columns] == ["a", "b"]
    assert best(found, "psnr") == [False, True]
    assert best(found, "lpips") == [True, False]
    assert best(found, "tokens") == [False, False]
    assert best(found, "bits_per_pixel") == [False, False]  # what they spend
    assert found.differences == []


def test_a_damaged_run_is_named_and_the_others_are_compared(tmp_path: Path) -> None:
    write_run(tmp_path, "a", [record("psnr", 30.0)])
    write_run(tmp_path, "b", [record("psnr", 31.0)])
    (damaged,) = tmp_path.rglob("b/results.json")
    damaged.write_text(damaged.read_text()[:40])
    broken: list[DataError] = []
    assert [run.label for run in find_runs([tmp_path], broken)] == ["a"]
    assert [error.path for error in broken] == [str(damaged)]
    assert "is not JSON" in broken[0].reason
    assert broken[0].reason.endswith("remove it, and the command of the run makes it again")
    done = CliRunner().invoke(app, ["compare", str(tmp_path)])
    assert done.exit_code == 1
    assert "30.00" in done.stdout
    assert done.stderr.splitlines()[-1] == f"left out: {broken[0]}"
    with pytest.raises(DataError, match="is not JSON"):
        find_runs([damaged], broken)


def test_rows_of_several_suites_say_of_which(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    write_run(tmp_path / "x", "a", [record("psnr", 30.0)], suite="one")
    write_run(tmp_path / "y", "b", [record("psnr", 31.0)], suite="two")
    done = CliRunner().invoke(app, ["compare", str(tmp_path)])
    rows = [line.split() for line in done.stdout.splitlines() if "psnr" in line]
    assert [row[0] for row in rows] == ["one", "two"]


@pytest.mark.parametrize("null", ["identity", "splats", "random"])
def test_what_codes_nothing_does_not_compete(tmp_path: Path, null: str) -> None:
    for name, value in (("a", 30.0), ("b", 31.0), (null, 100.0)):
        subject = {"name": name, "digest": name * 64, "facts": {"kind": null} if name == null else {}}
        write_run(tmp_path, name, [record("psnr", value)], subject=subject)
    assert best(compare(find_runs([tmp_path])), "psnr") == [False, True, False]


def test_every_difference_of_protocol_is_listed_and_marked(tmp_path: Path) -> None:
    other = {"measure": {"name": "psnr", "window": 11}, "data": {"crop": 224}, "seed": 0}
    write_run(tmp_path, "a", [record("psnr", 30.0), record("ssim", 0.9)])
    write_run(tmp_path, "b", [record("psnr", 29.0), record("ssim", 0.8, n=9)])
    write_run(tmp_path, "c", [record("psnr", 40.0, protocol=other), record("ssim", 0.7)])
    found = compare(find_runs([tmp_path]))
    told = {(one.key, tuple(one.where)): dict(one.values) for one in found.differences}
    assert told == {
        ("data.crop", ("photos psnr",)): {"256": ("a", "b"), "224": ("c",)},
        ("measure.window", ("photos psnr",)): {"not in its protocol": ("a", "b"), "11": ("c",)},
        ("samples that count", ("photos ssim",)): {"10": ("a", "c"), "9": ("b",)},
    }
    cells = row(found, "psnr").cells
    assert [cell.differs for cell in cells if cell] == [False, False, True]
    assert best(found, "psnr") == [True, False, False]  # not c: another protocol
    text = markdown(found)
    assert "| **30.00** | 29.00 | 40.00 ≠ |" in text
    assert "| data.crop | 256 (a, b); 224 (c) | photos psnr |" in text


def test_two_runs_of_different_protocols_have_no_best(tmp_path: Path) -> None:
    write_run(tmp_path, "a", [record("psnr", 30.0)])
    write_run(tmp_path, "b", [record("psnr", 31.0, protocol={"data": {"crop": 128}})])
    assert best(compare(find_runs([tmp_path])), "psnr") == [False, False]


def test_seeds_become_mean_and_deviation(tmp_path: Path) -> None:
    for seed, value in enumerate((30.0, 31.0, 35.0)):
        protocol = {"measure": {"name": "psnr"}, "seed": seed}
        write_run(tmp_path, f"tiny-seed{seed}", [record("psnr", value, stderr=0.5, protocol=protocol)])
    (column,) = (found := compare(find_runs([tmp_path]), seeds=True)).columns
    assert column.label == "tiny (3 seeds)"
    (cell,) = row(found, "psnr").cells
    assert cell is not None
    assert cell.value == 32.0
    assert cell.runs == 3
    assert cell.spread == pytest.approx(7.0**0.5)  # (4 + 1 + 9) / 2
    assert found.differences == []
    apart = compare(find_runs([tmp_path]))
    assert [one.key for one in apart.differences] == ["seed"]


def test_seeds_of_different_protocols_have_no_mean(tmp_path: Path) -> None:
    write_run(tmp_path, "tiny_s0", [record("psnr", 30.0)])
    write_run(tmp_path, "tiny_s1", [record("psnr", 31.0, protocol={"data": {"crop": 128}})])
    (cell,) = row(compare(find_runs([tmp_path]), seeds=True), "psnr").cells
    assert cell is not None
    assert cell.value is None
    assert "differ in their protocol" in cell.note


@pytest.mark.parametrize(
    ("name", "without"),
    [
        ("tiny-seed1", "tiny"),
        ("tiny_s2", "tiny"),
        ("pca,seed=3", "pca"),
        ("seed4", "seed4"),
        ("siglip2-s16x", "siglip2-s16x"),
        ("vits16", "vits16"),
        ("a-seed1-b", "a-b"),
    ],
)
def test_names_without_their_seeds(name: str, without: str) -> None:
    assert seedless(name) == without


def test_one_name_of_two_models_is_named(tmp_path: Path) -> None:
    write_run(tmp_path / "x", "tiny", [record("psnr", 30.0)], digest="1" * 64)
    write_run(tmp_path / "y", "tiny", [record("psnr", 31.0)], digest="2" * 64)
    found = compare(find_runs([tmp_path]))
    assert [column.label for column in found.columns] == ["tiny (11111111)", "tiny (22222222)"]
    assert any("tiny names 2 different models" in remark for remark in found.remarks)


def test_one_model_in_two_runs_is_told_apart_by_folder(tmp_path: Path) -> None:
    for folder in ("x", "y"):
        write_run(tmp_path / folder, "tiny", [record("psnr", 30.0)], digest="1" * 64)
    labels = [run.label for run in find_runs([tmp_path, tmp_path / "x"])]
    assert labels == ["tiny (x)", "tiny (y)"]


def test_published_figures_stand_beside_with_what_is_unknown(tmp_path: Path) -> None:
    anchors = {"table": "table4_image_recon", "columns": {"psnr": "in_psnr"}}
    task = {"data": {"source": "image/photos"}, "measures": ["psnr"], "anchors": anchors}
    suite = tmp_path / "made.yaml"
    suite.write_text(yaml.safe_dump({"name": "made", "tasks": {"photos": task}}))
    write_run(tmp_path, "a", [record("psnr", 30.0), record("ssim", 0.9)])
    found = compare(find_runs([tmp_path]), ["SD-VAE"], suites=[str(suite)])
    assert [(column.label, column.kind) for column in found.columns] == [("a", "run"), ("SD-VAE †", "published")]
    values = [[None if cell is None else cell.value for cell in one.cells] for one in found.rows]
    assert values == [[30.0, 26.26], [0.9, None]]
    (source,) = found.sources
    assert source.unknown == ("data.crop", "measure.name", "seed")
    assert "resize + centre-crop to 256x256" in markdown(found)
    none = compare(find_runs([tmp_path]), ["SD-VAE"])
    assert len(none.columns) == 1
    assert any("suite made is not known here" in remark for remark in none.remarks)


def test_markdown_is_stable_and_escapes(tmp_path: Path) -> None:
    why = {"task": "photos", "what": "lpips", "why": "a | b", "fix": "<c>"}
    write_run(tmp_path, "a|b", [record("psnr", 30.0, stderr=0.126, unit="dB", note="few *samples*")], skipped=[why])
    text = markdown(compare(find_runs([tmp_path])))
    assert text == markdown(compare(find_runs([tmp_path])))
    assert "| photos | psnr (dB) ↑ | 10 | 30.00 ± 0.13 |" in text
    assert "a\\|b" in text
    assert "a \\| b" in text
    assert "\\<c\\>" in text
    assert "few \\*samples\\*" in text


@pytest.mark.parametrize(
    ("cell", "shown"),
    [
        (None, "-"),
        (Cell(None), "-"),
        (Cell(28.414, 0.126), "28.41 ± 0.13"),
        (Cell(0.90174, 0.0275), "0.9017 ± 0.0275"),
        (Cell(3.0), "3.0000"),
    ],
)
def test_figures(cell: Cell | None, shown: str) -> None:
    assert figure(cell) == shown


def test_the_command_writes_and_prints(tmp_path: Path) -> None:
    write_run(tmp_path, "a", [record("psnr", 30.0)])
    write_run(tmp_path, "b", [record("psnr", 31.0)])
    runner = CliRunner()
    for name in ("x.md", "deep/x.html"):
        result = runner.invoke(app, ["compare", str(tmp_path), "-o", str(tmp_path / name), "--json"])
        assert result.exit_code == 0, result.output
        found = json.loads(result.stdout)
        assert found["rows"][0]["cells"]["b"]["value"] == 31.0
        assert found["rows"][0]["cells"]["b"]["best"]
        assert "31.00" in (tmp_path / name).read_text()
    result = runner.invoke(app, ["compare", str(tmp_path / "a"), str(tmp_path / "b" / "results.json")])
    assert result.exit_code == 0
    assert "31.00" in result.stdout


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{", "JSON"),
        ('{"schema": 1}', "needs"),
        ("", "JSON"),
    ],
)
def test_files_that_are_no_results(content: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "results.json").write_text(content)
    with pytest.raises(DataError, match=said):
        find_runs([tmp_path])


def test_figures_without_their_keys(tmp_path: Path) -> None:
    path = write_run(tmp_path, "a", [record("psnr", 30.0)])
    content = json.loads(path.read_text())
    del content["results"][0]["value"]
    path.write_text(json.dumps(content))
    with pytest.raises(DataError, match="value"):
        find_runs([tmp_path])


def test_a_folder_without_results(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"holds no results\.json"):
        find_runs([tmp_path])
