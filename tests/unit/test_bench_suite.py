"""Suite files: all that are shipped load and name only what there is; typos and wrong types fail by name."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from tok4d.errors import ConfigError, Tok4dError
from tok4d.plugins import registry
from tok4d.plugins.loader import Entry
from tok4d_bench.adapter import MetricMeasure, label_of, make_measure
from tok4d_bench.contracts import Suite, TaskSpec
from tok4d_bench.data.layouts import LAYOUTS, data_name
from tok4d_bench.prepare import Prepare
from tok4d_bench.suite import known_suites, load_suite, measure_entries, parse_suite, select, suite_names

SHIPPED = sorted(path.stem for path in (Path(__file__).parents[2] / "benchmarks/src/tok4d_bench/suites").glob("*.yaml"))
TASK = {"data": {"source": "image/shapes"}, "measures": ["psnr"]}


def suite(**task: object) -> dict[str, object]:
    return {"tasks": {"one": {**TASK, **task}}}


def test_suites_of_every_kind_are_shipped() -> None:
    assert {"image-recon", "video-recon", "3d-recon", "image-zero-shot", "image-retrieval", "video-retrieval"} <= set(
        SHIPPED
    )
    assert {"3d-zero-shot", "codebook", "probe", "speed", "smoke", "mini-images", "mini-video", "mini-3d"} <= set(
        SHIPPED
    )
    assert set(SHIPPED) <= set(suite_names())


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_suite_names_only_what_there_is(name: str) -> None:
    loaded = load_suite(name)
    assert loaded.name == name
    assert loaded.summary
    for spec in loaded.tasks.values():
        Prepare.parse(spec.prepare)
        if "source" in spec.data:
            assert registry.source_factory(spec.data["source"])
        else:
            assert spec.data["layout"] in LAYOUTS
        for entry, options in measure_entries(spec):
            make_measure(entry, options)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (suite(mesures=["psnr"]), "Did you mean 'measures'"),
        (suite(kind="reconstrution"), "Did you mean 'reconstruction'"),
        (suite(measures="psnr"), "key of a task 'measures' must be a list"),
        (suite(inner_batch="8"), "key of a task 'inner_batch' must be a whole number"),
        (suite(inner_batch=True), "key of a task 'inner_batch' must be a whole number"),
        (suite(inner_batch=0), r"inner_batch must be in \[1, "),
        (suite(measures=[]), "has no measures"),
        (suite(measures=[{"psnr": {}, "ssim": {}}]), "a measure must be a name or"),
        (suite(data={}), "one of them"),
        (suite(data={"layout": "coco", "source": "image/shapes"}), "one of them"),
        ({"tasks": {}}, "has no tasks"),
        ({"tasks": {"one": 3}}, "must be a mapping of keys, got 3"),
        ({**suite(), "sumary": "x"}, "Did you mean 'summary'"),
        ({**suite(), "name": "other"}, "calls itself 'other'"),
        ({**suite(), "version": "1"}, "key of a suite 'version' must be a whole number"),
    ],
)
def test_mistakes_are_named_with_their_place(content: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigError, match=words) as caught:
        parse_suite(content, "mine", "folder/mine.yaml")
    assert str(caught.value).startswith("folder/mine.yaml: ")


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("lpips", {"nett": "vgg"}, "measure lpips: unknown option 'nett'. Did you mean 'net'"),
        ("lpips", {"size": 0}, "lpips: size 0 must be at least 16"),
        ("lpips", {"size": 30, "net": "alex"}, "lpips: size 30 must be at least 31"),
        ("lpips", {"size": "big"}, "measure lpips: option 'size' must be a whole number or left out, got 'big'"),
        ("frechet", {"network": 5}, "measure frechet: option 'network' must be text, got 5"),
        ("frechet", {"pca": 2.5}, "measure frechet: option 'pca' must be a whole number, got 2.5"),
        ("retrieval", {"at": 5}, "measure retrieval: option 'at' must be a list of a whole number each, got 5"),
        ("psnr", {"peak": 1}, "measure psnr: unknown option 'peak'"),
    ],
)
def test_options_of_a_measure_are_checked(name: str, options: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        make_measure(name, options)


def test_a_file_by_path_and_an_unknown_name(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(suite(inner_batch=3)))
    assert load_suite(path).tasks["one"] == TaskSpec(data=TASK["data"], measures=["psnr"], inner_batch=3)
    with pytest.raises(ConfigError, match="Did you mean 'smoke'"):
        load_suite("smok")
    with pytest.raises(ConfigError, match="no such suite file"):
        load_suite(tmp_path / "other.yaml")


@pytest.mark.parametrize("form", ["path", "mapping", "suite", "function"])
def test_suites_of_the_hook(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, form: str) -> None:
    (tmp_path / "any.yaml").write_text(yaml.safe_dump(suite()))
    made = {
        "path": tmp_path / "any.yaml",
        "mapping": suite(),
        "suite": Suite("mine", 3, "", {"one": TaskSpec(**TASK)}),  # type: ignore[arg-type]
        "function": lambda: tmp_path / "any.yaml",
    }[form]
    monkeypatch.setitem(registry._host().tables["suites"], "mine", Entry("made:up", "bench"))
    monkeypatch.setattr("tok4d.plugins.registry.resolve", lambda target: made)
    loaded = load_suite("mine")
    assert loaded.tasks["one"].measures == ["psnr"]
    assert loaded.version == (3 if form == "suite" else 1)
    assert "mine" in suite_names()


def test_a_hook_that_gives_something_else_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(registry._host().tables["suites"], "mine", Entry("made:up", "bench"))
    monkeypatch.setattr("tok4d.plugins.registry.resolve", lambda target: 3)
    with pytest.raises(ConfigError, match="suite 'mine' of a plugin is a int"):
        load_suite("mine")


def test_tasks_are_chosen_in_the_suites_order() -> None:
    smoke = load_suite("smoke")
    assert list(select(smoke, ["video", "image"])) == ["image", "video"]
    assert list(select(smoke, [])) == list(smoke.tasks)
    with pytest.raises(ConfigError, match="Did you mean 'image'"):
        select(smoke, ["imge"])


def test_names_of_data_and_measures() -> None:
    assert data_name(TaskSpec(data={"layout": "coco"})) == "coco"
    assert data_name(TaskSpec(data={"layout": "coco", "name": "small"})) == "small"
    assert label_of("lpips", {"net": "vgg", "size": 64}) == "lpips(net=vgg,size=64)"
    assert label_of("psnr", {}) == "psnr"


def test_any_metric_of_a_modality_is_a_measure() -> None:
    measure = make_measure("video/temporal", {})
    assert isinstance(measure, MetricMeasure)
    assert measure.protocol()["implementation"] == "tok4d_video.metrics.VideoTemporal"
    with pytest.raises(Tok4dError, match="Did you mean 'image/psnr'"):
        make_measure("image/psnrr", {})
    with pytest.raises(ConfigError, match="takes no options, got net"):
        make_measure("image/psnr", {"net": 1})
    with pytest.raises(ConfigError, match=r"measure lpips: .*nett"):
        make_measure("lpips", {"nett": "vgg"})


def test_suites_of_several_files_and_by_name(tmp_path: Path) -> None:
    for name in ("mine", "smoke"):
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump({**suite(), "name": name, "version": 7}))
    files = [str(tmp_path / f"{name}.yaml") for name in ("mine", "smoke")]
    found = known_suites(["smoke", "image-recon", "gone"], files)
    assert {name: one.version for name, one in found.items()} == {"mine": 7, "smoke": 7, "image-recon": 1}
    with pytest.raises(ConfigError, match="no such suite file"):
        known_suites([], [str(tmp_path / "gone.yaml")])
