"""Fingerprints, stored columns, the results document and values per sample."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as parquet
import pytest
from bench_made import Blur

from tok4d.errors import DataError, Tok4dError
from tok4d_bench import planning
from tok4d_bench.adapter import make_measure
from tok4d_bench.contracts import Suite, TaskSpec, Value, flat_protocol
from tok4d_bench.data.build import open_data
from tok4d_bench.fingerprint import fingerprint
from tok4d_bench.planning import Plan, Settings, Slot, protocol_of
from tok4d_bench.results import Document, read_results, subject_folder, values_digest, write_samples
from tok4d_bench.store import PIECE, Part, Store, StoreReader, Writer

SPEC = {
    "kind": "reconstruction",
    "data": {"source": "image/shapes", "options": {"count": 6, "side": 32}},
    "prepare": {"short": 16, "crop": 16},
    "inner_batch": 4,
}


def protocol(settings: Settings = Settings(), limit: int = 0, **task: Any) -> dict[str, Any]:  # noqa: B008
    spec = TaskSpec(**{**SPEC, "measures": ["psnr"], **task})
    name = spec.measures[0]
    plan = Plan("one", spec, open_data(spec, {}, limit))
    return protocol_of(plan, name, make_measure(name, {}), settings)


CHANGES: dict[str, dict[str, Any]] = {
    "filter": {"prepare": {"short": 16, "crop": 16, "filter": "bilinear"}},
    "antialias": {"prepare": {"short": 16, "crop": 16, "antialias": False}},
    "crop": {"prepare": {"short": 16, "crop": 12}},
    "short": {"prepare": {"short": 20, "crop": 16}},
    "size": {"prepare": {"size": [16, 16]}},
    "enlarge": {"prepare": {"short": 16, "crop": 16, "enlarge": False}},
    "round": {"prepare": {"short": 16, "crop": 16, "round": False}},
    "split": {"data": {"source": "image/shapes", "split": "val", "options": {"count": 6, "side": 32}}},
    "option of the source": {"data": {"source": "image/shapes", "options": {"count": 6, "side": 32, "seed": 1}}},
    "inner batch": {"inner_batch": 3},
    "kind": {"kind": "codebook"},
    "measure": {"measures": ["ssim"]},
    "limit": {"limit": 3},
    "seed": {"settings": Settings(seed=1)},
    "threads": {"settings": Settings(threads=2)},
}


@pytest.mark.parametrize("changed", list(CHANGES))
def test_every_change_of_the_protocol_changes_the_fingerprint(changed: str) -> None:
    assert fingerprint(protocol(**CHANGES[changed])) != fingerprint(protocol())


def test_every_field_of_a_protocol_is_in_its_fingerprint() -> None:
    flat = flat_protocol(protocol())
    assert {
        "data.prepare.filter",
        "data.digest",
        "measure.range",
        "threads",
        "versions.torch",
        "versions.tok4d",
    } <= set(flat)
    for key in flat:
        assert fingerprint({**flat, key: "another"}) != fingerprint(flat), key
    assert fingerprint(flat) == fingerprint(protocol())


def test_the_network_and_its_digest_are_in_the_fingerprint(monkeypatch: pytest.MonkeyPatch) -> None:
    first = flat_protocol(make_measure("lpips", {"net": "vgg"}).protocol())
    assert any("digest" in key for key in first), first
    assert fingerprint(first) != fingerprint(make_measure("lpips", {"net": "alex"}).protocol())


def test_what_changes_no_figure_is_not_in_the_fingerprint() -> None:
    keys = " ".join(flat_protocol(protocol()))
    for word in ("batch_size", "workers", "processes", "rank", "device"):
        assert word not in keys


def part(first: int, count: int, bad: tuple[tuple[int, str], ...] = ()) -> Part:
    rows = np.arange(first, first + count, dtype=np.int64)
    return Part({"a": rows * 0.5, "v": np.stack([rows, -rows], 1).astype(np.float32), "s": rows.astype(str)}, rows, bad)


def test_pieces_do_not_depend_on_the_files(tmp_path: Path) -> None:
    total = 3 * PIECE + 17
    found = []
    for number, size in enumerate((16, 37, 64, total)):
        store = Store(tmp_path / str(number), size)
        for group, first in enumerate(range(0, total, size)):
            store.write(group, group, [part(first, min(size, total - first))])
        pieces = list(StoreReader([store])("a", "v", "s"))
        assert [len(piece["a"]) for piece in pieces] == [PIECE] * 3 + [17]
        found.append(np.concatenate([piece["v"] for piece in pieces]))
        assert [text for piece in pieces for text in piece["s"]] == [str(i) for i in range(total)]
    assert all(np.array_equal(one, found[0]) for one in found)
    assert np.array_equal(found[0][:, 0], np.arange(total))


def test_files_that_overlap_give_every_group_once(tmp_path: Path) -> None:
    store = Store(tmp_path, 4)
    store.write(0, 1, [part(0, 4), part(4, 4, ((6, "bad"),))])
    store.write(0, 0, [part(0, 4)])
    store.write(1, 3, [part(4, 4, ((6, "bad"),)), part(8, 4), part(12, 2, ((15, "worse"),))])
    reader = StoreReader([store])
    assert reader.indices().tolist() == list(range(14))
    assert reader.bad() == [(6, "bad"), (15, "worse")]
    assert store.groups() == {0, 1, 2, 3}


def test_a_writer_keeps_whole_groups_whatever_ends_the_work(tmp_path: Path) -> None:
    store = Store(tmp_path, 2)

    def work() -> None:
        with Writer(store) as writer:
            for group in (0, 1, 2, 8, 9):  # a block is eight groups
                writer.add(group, part(2 * group, 2))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        work()
    assert store.spans() == [(0, 2), (8, 9)]
    assert not [path for path in tmp_path.iterdir() if path.suffix != ".npz"]


def test_a_damaged_file_of_columns_is_named(tmp_path: Path) -> None:
    store = Store(tmp_path, 4)
    store.write(0, 0, [part(0, 4)])
    store.path(0, 0).write_bytes(store.path(0, 0).read_bytes()[:100])
    with pytest.raises(DataError, match=r"000000-000000.npz: stored columns cannot be read .* remove the file"):
        StoreReader([store])
    store.write(0, 0, [part(0, 4)])
    with pytest.raises(KeyError, match="no column 'b'; the piece has a"):
        list(StoreReader([store])("a", "b"))
    with pytest.raises(KeyError, match="no column 'c'; the piece has none"):
        list(StoreReader([store])("c"))


def document(tmp_path: Path, value: float | None = 1.5, reproducible: bool = True) -> Document:
    made = Document(Suite("made", 2, "", {}), Blur(), Settings())
    measure = make_measure("psnr", {})
    slot = Slot("psnr", measure, protocol(), Store(tmp_path, 4), None)
    if not reproducible:
        slot.measure = make_measure("speed", {})
    made.add("one", slot, [Value("psnr", value, 6, 0.25, True, "dB", "a note")])
    return made


def test_a_document_has_all_that_a_figure_needs(tmp_path: Path) -> None:
    document(tmp_path).write(tmp_path / "out/results.json")
    found = read_results(tmp_path / "out")
    (record,) = found["results"]
    assert record | {"fingerprint": ""} == {
        "task": "one", "metric": "psnr", "value": 1.5, "stderr": 0.25, "n": 6, "higher_is_better": True,
        "unit": "dB", "note": "a note", "fingerprint": "", "reproducible": True,
    }  # fmt: skip
    assert found["protocols"][record["fingerprint"]]["data"]["prepare"]["short"] == 16
    assert found["subject"]["digest"] == "0" * 64
    assert found["version"] == 2
    assert {"versions", "commit", "hardware", "threads", "seconds", "seed"} <= set(found)
    assert found["versions"]["torch"]
    assert found["hardware"]["cores"] >= 1


def test_the_digest_of_values_follows_figures_and_nothing_else(tmp_path: Path) -> None:
    content = document(tmp_path).as_dict()
    other = copy.deepcopy(content) | {"seconds": 99.0, "hardware": {}, "versions": {}, "commit": None}
    assert values_digest(other) == content["values"]
    other["results"][0]["value"] = np.nextafter(1.5, 2)
    assert values_digest(other) != content["values"]
    for key in ("skipped", "bad"):
        assert values_digest(content | {key: [{"task": "one"}]}) != content["values"]
    timed = [document(tmp_path, value, reproducible=False).as_dict()["values"] for value in (1.0, 2.0)]
    assert timed[0] == timed[1]


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_a_figure_that_is_not_finite_is_refused(tmp_path: Path, number: float) -> None:
    with pytest.raises(Tok4dError, match="task one, psnr: value is"):
        document(tmp_path, number)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "is not JSON"),
        ("[]", "is no results file"),
        ('{"schema": 1}', "is no results file"),
        (None, "cannot be read"),
    ],
)
def test_files_that_are_no_results_are_refused(tmp_path: Path, text: str | None, words: str) -> None:
    path = tmp_path / "results.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(DataError, match=words):
        read_results(path)
    document(tmp_path).write(path)
    path.write_text(json.dumps(json.loads(path.read_text()) | {"schema": 9}))
    with pytest.raises(DataError, match="has schema 9"):
        read_results(path)


def test_two_subjects_of_one_name_have_folders_of_their_own(tmp_path: Path) -> None:
    first, second = Blur("runs/a (last)", seed=1), Blur("runs/a (last)", seed=2)
    home = subject_folder(tmp_path, first)
    assert home.name == "runs_a_last"
    Document(Suite("made"), first, Settings()).write(home / "results.json")
    assert subject_folder(tmp_path, first) == home
    assert subject_folder(tmp_path, second) == tmp_path / f"runs_a_last-{second.digest[:8]}"


def test_values_per_sample_are_a_parquet_table(tmp_path: Path) -> None:
    spec = TaskSpec(**{**SPEC, "measures": ["psnr", "ssim"]})
    data = open_data(spec, {})
    slots = []
    for name in ("psnr", "ssim"):
        store = Store(tmp_path / name, 4)
        store.write(0, 0, [part(0, 4)])
        store.write(1, 1, [part(4, 1, ((5, "bad"),))])
        slots.append(Slot(name, make_measure(name, {}), {}, store, None))
    write_samples(tmp_path / "samples.parquet", data, slots)
    table = parquet.read_table(tmp_path / "samples.parquet")
    assert table.column_names == ["index", "key", "psnr.a", "psnr.s", "ssim.a", "ssim.s"]  # no vectors
    assert table.column("index").to_pylist() == [0, 1, 2, 3, 4]
    assert table.column("key").to_pylist() == [data.key(i) for i in range(5)]
    assert table.column("psnr.a").to_pylist() == [0.0, 0.5, 1.0, 1.5, 2.0]
    for slot in slots:
        slot.store = Store(tmp_path / "none", 4)
        slot.store.write(0, 1, [Part({}, np.zeros(0, np.int64), ((0, "bad"),))])
    write_samples(tmp_path / "samples.parquet", data, slots)
    assert parquet.read_table(tmp_path / "samples.parquet").num_rows == 0


def test_references_do_not_depend_on_the_subject_or_its_seed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOK4D_CACHE", str(tmp_path / "cache"))
    spec = TaskSpec(**{**SPEC, "measures": ["psnr_pooled"]})
    measure = make_measure("psnr_pooled", {})
    monkeypatch.setattr(type(measure), "reference", lambda self, originals: {}, raising=False)

    def slot(subject: Blur, **settings: int) -> Slot:
        plan = Plan("one", spec, open_data(spec, {}))
        return planning._slot(plan, "psnr_pooled", measure, subject, tmp_path, Settings(**settings))

    homes = [slot(Blur()), slot(Blur(seed=1)), slot(Blur(), seed=3)]
    assert len({str(one.reference.folder) for one in homes if one.reference}) == 1
    assert len({str(one.store.folder) for one in homes}) == 3
    threaded = slot(Blur(), threads=2)
    assert threaded.reference is not None
    assert homes[0].reference is not None
    assert threaded.reference.folder != homes[0].reference.folder
