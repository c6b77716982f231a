"""Manifests in four formats: captions, labels, exact time spans, paths that may not leave; errors by line."""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from made_clips import exact, picture

from tok4d.data.rows import read_rows
from tok4d.errors import ConfigError, DataError, Tok4dError
from tok4d_video.manifest import VideoManifest
from tok4d_video.pixels import to_signed

ROWS = [
    {"path": "a.mp4", "caption": 'a "red", walking block', "label": 4, "start": None, "end": None},
    {"path": "sub/b.mp4", "caption": "größer\nzwei Zeilen", "label": 2, "start": 0.2, "end": 0.6},
    {"path": "a.mp4", "caption": None, "label": None, "start": 0.48, "end": None},
]


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    if path.suffix == ".jsonl":
        path.write_text("\n\n".join(json.dumps(row) for row in rows) + "\n", encoding="utf-8")
    elif path.suffix == ".parquet":
        arrow = pytest.importorskip("pyarrow")
        parquet = pytest.importorskip("pyarrow.parquet")
        parquet.write_table(arrow.Table.from_pylist(rows), path)
    else:
        with path.open("w", newline="", encoding="utf-8-sig") as file:
            writer = csv.DictWriter(file, list(rows[0]), delimiter="\t" if path.suffix == ".tsv" else ",")
            writer.writeheader()
            writer.writerows(rows)
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "sub").mkdir()
    exact(tmp_path / "a.mp4", count=24)
    exact(tmp_path / "sub" / "b.mp4", count=24)
    return tmp_path


@pytest.mark.parametrize("suffix", ["csv", "tsv", "jsonl", "parquet"])
def test_rows_with_captions_labels_and_exact_spans(folder: Path, suffix: str) -> None:
    path = write(folder / f"list.{suffix}", ROWS)
    source = VideoManifest("video", path=str(path), frames=24)
    samples = [source.load(index) for index in range(len(source))]
    assert [s.caption for s in samples] == ['a "red", walking block', "größer\nzwei Zeilen", None]
    assert [s.label for s in samples] == [4, 2, None]
    # 25 frames a second: [0.2, 0.6) are frames 5 to 14; 0.48 s is frame 12
    assert [s.meta["frame_numbers"] for s in samples] == [list(range(24)), list(range(5, 15)), list(range(12, 24))]
    wanted = to_signed(torch.from_numpy(np.stack([picture(i) for i in range(5, 15)])))
    assert torch.equal(samples[1].data["video"], wanted)
    assert [source.key(i) for i in range(3)] == ["a.mp4", "sub/b.mp4@0.2-0.6s", "a.mp4@0.48-s"]
    assert [s.key for s in samples] == [source.key(i) for i in range(3)]


def test_training_stays_inside_the_span(folder: Path) -> None:
    path = write(folder / "list.jsonl", [{"path": "a.mp4", "start": 0.2, "end": 0.6}])
    source = VideoManifest("video", path=str(path), frames=4, strides=[1, 3])
    taken = [source.load(0, np.random.default_rng(seed)).meta["frame_numbers"] for seed in range(40)]
    assert {min(numbers) for numbers in taken} >= {5, 6}
    assert min(map(min, taken)) == 5
    assert max(map(max, taken)) == 14
    assert {numbers[1] - numbers[0] for numbers in taken} == {1, 2, 3}


def test_class_names_are_numbered_over_all_rows(folder: Path) -> None:
    rows = [{"path": "a.mp4", "label": "run"}, {"path": "sub/b.mp4", "label": "dive"}, {"path": "c.mp4", "label": ""}]
    path = write(folder / "list.csv", rows)
    assert [row.label for row in read_rows(path)] == [1, 0, None]
    sides = [VideoManifest("video", path=str(path), split=side, folds=3).rows for side in ("train", "val")]
    assert {row.path: row.label for side in sides for row in side} == {"a.mp4": 1, "sub/b.mp4": 0, "c.mp4": None}


def test_rows_of_one_file_or_group_stay_together(tmp_path: Path) -> None:
    spans = [{"path": f"{n}.mp4", "start": s, "end": s + 1, "group": ""} for n in range(8) for s in range(3)]
    groups = [{"path": f"g{n}.mp4", "start": 0, "end": 1, "group": f"scene {n // 4}"} for n in range(8)]
    path = write(tmp_path / "list.csv", spans + groups)
    for fold in range(5):
        train, val = (VideoManifest("video", path=str(path), split=s, fold=fold).rows for s in ("train", "val"))
        assert len(train) + len(val) == 32
        assert not {row.path for row in train} & {row.path for row in val}
        assert not {row.group for row in train if row.group} & {row.group for row in val if row.group}


@pytest.mark.parametrize("named", ["../secret.mp4", "sub/../../secret.mp4", "/etc/hostname"])
def test_paths_may_not_leave_the_folder(folder: Path, named: str) -> None:
    inner = folder / "inner"
    inner.mkdir()
    (inner / "sub").mkdir()
    exact(folder / "secret.mp4", count=4)
    path = write(inner / "list.csv", [{"path": named}])
    with pytest.raises(DataError, match=r"list\.csv: line 2: .* is outside of the manifest's folder"):
        len(VideoManifest("video", path=str(path)))
    allowed = VideoManifest("video", path=str(path), outside=True, frames=4)
    assert len(allowed) == 1
    if named.endswith(".mp4"):
        assert allowed.load(0).data["video"].shape[0] == 4


def test_links_may_not_leave_the_folder(folder: Path) -> None:
    inner = folder / "inner"
    inner.mkdir()
    (inner / "link.mp4").symlink_to(folder / "a.mp4")
    (inner / "near.mp4").symlink_to("own.mp4")
    exact(inner / "own.mp4", count=4)
    path = write(inner / "list.csv", [{"path": "link.mp4"}, {"path": "near.mp4"}])
    source = VideoManifest("video", path=str(path), frames=4)
    with pytest.raises(DataError, match=r"link\.mp4: is a link to outside"):
        source.load(0)
    assert source.load(1).data["video"].shape[0] == 4
    assert VideoManifest("video", path=str(path), outside=True, frames=4).load(0).data["video"].shape[0] == 4


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", "file,caption\na.mp4,x\n", "has no column 'path'; it has file, caption"),
        ("a.csv", "", "has no column 'path'; it has none"),
        ("a.csv", "path,caption\n", "has no rows"),
        ("a.csv", "path,path\na.mp4,b.mp4\n", "has the columns path twice"),
        ("a.csv", "path,caption\na.mp4,x,y\n", "line 2: has 3 values for 2 columns"),
        ("a.csv", 'path,caption\na.mp4,"x\n', r"cannot be read \(unexpected end of data\)"),
        ("a.csv", "path,start,end\na.mp4,0,1\na.mp4,2,1\n", "line 3: end must come after start, got 2 to 1 s"),
        ("a.csv", "path,start\na.mp4,soon\n", "line 2: start must be a number of seconds from 0 on, got 'soon'"),
        ("a.csv", "path,start\na.mp4,-1\n", "start must be a number of seconds from 0 on"),
        ("a.csv", "path,end\na.mp4,inf\n", "end must be a number of seconds"),
        ("a.csv", "path,end\na.mp4,nan\n", "end must be a number of seconds"),
        ("a.csv", "path,caption\n,x\n", "line 2: path must name a file, got None"),
        ("a.csv", "path\na.mp4\nb.mp4\n./a.mp4\n", r"names the same file twice: \./a\.mp4 \(lines 2 and 4\)$"),
        ("a.csv", b"path\n\xff\xfe\n", "cannot be read"),
        ("a.jsonl", '{"path": "a.mp4"}\n{"path": \n', "line 2: is no JSON"),
        ("a.jsonl", '["a.mp4"]\n', "line 1: must hold an object, got list"),
        ("a.jsonl", '{"path": "a.mp4"}\n{"file": "b.mp4"}\n', "line 2: has no column 'path'; it has file"),
        ("a.jsonl", '{"path": 7}\n', "line 1: path must be text, got 7"),
        ("a.jsonl", '{"path": "a\\u0000.mp4"}\n', "line 1: path must name a file"),
        ("a.jsonl", '{"path": "a.mp4", "caption": ["x"]}\n', "line 1: caption must be text"),
        ("a.jsonl", '{"path": "a.mp4", "end": true}\n', "line 1: end must be a number of seconds"),
        ("a.jsonl", "[" * 100_000, "cannot be read|is no JSON"),
        ("a.txt", "a.mp4\n", r"unknown kind of manifest '\.txt'.*\.csv"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, name: str, content: str | bytes, message: str) -> None:
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(DataError, match=message):
        len(VideoManifest("video", path=str(path)))


def test_duplicates_are_counted(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", [{"path": "a.mp4"} for _ in range(9)])
    with pytest.raises(DataError, match=r"twice: a\.mp4 \(lines 2 and 3\), .* and 5 more$"):
        read_rows(path)


def test_missing_manifest_files_and_spans(folder: Path) -> None:
    with pytest.raises(ConfigError, match="needs the option path"):
        VideoManifest("video")
    with pytest.raises(DataError, match=r"none\.csv: no such file"):
        len(VideoManifest("video", path=str(folder / "none.csv")))
    rows = [{"path": "gone.mp4", "start": ""}, {"path": "a.mp4", "start": 7}]
    source = VideoManifest("video", path=str(write(folder / "list.csv", rows)))
    with pytest.raises(DataError, match=r"gone\.mp4: no such file"):
        source.load(0)
    with pytest.raises(DataError, match=r"a\.mp4: .*7\.0 s begins after the last frame.*line 3 of the manifest"):
        source.load(1)
    with pytest.raises(DataError, match=r"no row on the 'val' side of the split \(1 in all\)"):
        len(VideoManifest("video", path=str(write(folder / "one.csv", rows[:1])), split="val", fold=3))


def test_parquet_without_pyarrow_and_damaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.parquet"
    path.write_bytes(b"PAR1 nothing PAR1")
    with monkeypatch.context() as patched:
        patched.setitem(sys.modules, "pyarrow", None)
        with pytest.raises(Tok4dError, match="pip install pyarrow"):
            read_rows(path)
    pytest.importorskip("pyarrow")
    with pytest.raises(DataError, match=r"a\.parquet"):
        read_rows(path)
