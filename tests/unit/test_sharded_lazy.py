"""Opening many shards reads little and holds little; what their samples are does not change by it."""

from __future__ import annotations

import json
import pickle
import random
from itertools import groupby
from pathlib import Path

import fsspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_shards import EACH, NBYTES, write_made, write_old, write_tar
from typer.testing import CliRunner

from tok4d.cli.main import app
from tok4d.data import shard_entries, shard_index
from tok4d.data.shard_entries import Entries
from tok4d.data.shard_index import index_file, read_index, write_index
from tok4d.data.shard_split import digests_of, on_side
from tok4d.data.shards import Entry, Span, expand, index_shard, read_member
from tok4d.data.source import split_groups
from tok4d.data.storage import Stored
from tok4d_image.shards import ImageShards


def eager(shards: list[Path], extensions: tuple[str, ...]) -> list[Entry]:
    return [entry for shard in shards for entry in index_shard(shard) if entry.first_of(extensions)]


@pytest.fixture
def made(tmp_path: Path) -> list[Path]:
    return write_made(tmp_path, 9)


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of shards whose index was read as a whole, as they come."""
    found: list[str] = []

    def counted(shard: Path, *rest: object) -> object:
        found.append(shard.name)
        return shard_index.read_listing(shard, *rest)

    monkeypatch.setattr(shard_entries, "read_listing", counted)
    return found


SAMPLES = st.lists(
    st.tuples(st.sampled_from("abcdefghé"), st.sets(st.sampled_from(["png", "jpg", "txt", "seg.png"]), min_size=1)),
    max_size=7,
    unique_by=lambda sample: sample[0],
)
LAYOUTS = {"none": lambda shard: None, "old": write_old, "new": write_index}


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(SAMPLES, st.sampled_from(sorted(LAYOUTS))), min_size=1, max_size=7),
    st.sampled_from(["all", "train", "val"]),
    st.integers(1, 3),
    st.integers(0, 99),
)
def test_samples_are_those_of_reading_everything(tmp_path_factory, made_up, split: str, least: int, seed: int):
    folder = tmp_path_factory.mktemp("set")
    shards = []
    for number, (samples, layout) in enumerate(made_up):
        members = [(f"{key}.{name}", f"{number}{key}{name}".encode()) for key, names in samples for name in names]
        shards.append(write_tar(folder / f"{number}.tar", members))
        LAYOUTS[layout](shards[-1])
    every = eager(shards, ("jpg", "png"))
    wanted = [every[i] for i in split_groups([entry.key for entry in every], split, 3, 1)]
    found = Entries(shards, ("jpg", "png"), least, 0)
    assert len(found) == len(every)
    if split != "all":
        found.keep_side(split, 3, 1)
    assert found.counts() == [len(list(group)) for _, group in groupby(wanted, key=lambda entry: entry.shard)]
    copy = pickle.loads(pickle.dumps(found))
    for entries in (found, copy):
        assert list(entries) == wanted
        for index in random.Random(seed).choices(range(len(wanted)), k=20) if wanted else []:
            entry = entries[index]
            assert list(entry.members) == list(wanted[index].members)
            name = entry.first_of(("jpg", "png"))
            assert read_member(entry, name).decode() == f"{entry.shard.stem}{entry.key}{name}"
    assert found[1:] == wanted[1:]
    assert (found[-1] == wanted[-1]) if wanted else True
    with pytest.raises(IndexError):
        found[len(wanted)]


@given(st.lists(st.text(max_size=2), max_size=30), st.sampled_from(["train", "val"]), st.integers(1, 7))
def test_sides_are_those_of_split_groups(groups: list[str], split: str, folds: int):
    groups = [group for group in groups if group.isprintable()]
    for fold in range(folds):
        side = on_side(digests_of(groups), split, folds, fold)
        assert side.nonzero()[0].tolist() == split_groups(groups, split, folds, fold)


def test_opening_reads_the_first_bytes_of_each_index_alone(made: list[Path], loads: list[str], monkeypatch):
    asked: list[int | None] = []

    def counted(shard: Path, size: int | None = None) -> bytes:
        asked.append(size)
        return content(shard, size)

    content = shard_index._content
    monkeypatch.setattr(shard_index, "_content", counted)
    assert index_file(made[0]).stat().st_size == 16546
    source = ImageShards("image", path=str(made[0].parent))
    assert len(source) == 9 * EACH == 3600
    assert asked == [16384] * 9
    assert loads == []
    assert source.main(2 * EACH + 5)[0] == Entry(made[2], "001805", {"txt": Span(512, 3), "png": Span(2029, 7)})
    assert asked == [16384] * 9 + [None]
    assert loads == ["m-02.tar"]


def test_of_object_storage_the_first_bytes_are_asked_for(made: list[Path], monkeypatch):
    monkeypatch.setattr(shard_index, "_HEAD_BYTES", 512)
    system = fsspec.filesystem("memory")
    for shard in made:
        system.pipe_file(f"/lazy/{shard.name}", bytes(1 << 20))
        stamp = Stored(f"memory://lazy/{shard.name}").stamp()
        text = index_file(shard).read_text().replace(f'"{shard.stat().st_mtime_ns}"', json.dumps(stamp.version))
        system.pipe_file(f"/lazy/{shard.name}.index", text.encode())
    asked: list[tuple[int | None, int | None]] = []
    cat = type(system).cat_file

    def counted(self, path, start=None, end=None, **options):
        asked.append((start, end))
        return cat(self, path, start=start, end=end, **options)

    monkeypatch.setattr(type(system), "cat_file", counted)
    source = ImageShards("image", path="memory://lazy/m-{00..08}.tar")
    assert len(source) == 3600
    assert asked == [(0, 512)] * 9
    assert source.key(EACH) == "memory://lazy/m-01.tar:001400"
    assert asked[9:] == [(0, None)]
    assert len(ImageShards("image", path="memory://lazy/m-{00..08}.tar", split="val")) == 720  # a fifth
    system.rm("/lazy", recursive=True)


def test_few_indices_are_held(made: list[Path], loads: list[str]):
    bounds = {(2, 0): 2, (1, 3 * NBYTES): 3, (1, 3 * NBYTES - 1): 2, (4, NBYTES): 4, (1, 10 * NBYTES): 9}
    for (least, budget), held in bounds.items():
        entries = Entries(made, ("png",), least, budget)
        sizes = set()
        for index in range(0, len(entries), EACH // 4):
            assert entries[index].shard == made[index // EACH]
            sizes.add(len(entries._recent))
            assert entries._recent.nbytes == len(entries._recent) * NBYTES
        assert sizes == set(range(1, held + 1)), (least, budget)
    loads.clear()
    entries = Entries(made, ("png",), 2, 0)
    for shard in (0, 1, 0, 2, 0, 1):  # 0 stays, since it was used after 1
        assert entries[shard * EACH].shard == made[shard]
    assert loads == ["m-00.tar", "m-01.tar", "m-02.tar", "m-01.tar"]


def test_an_epoch_in_blocks_reads_every_index_once_and_holds_two_windows(made: list[Path], loads: list[str]):
    source = ImageShards("image", path=str(made[0].parent), order="blocks", window=2)
    seen = set()
    for start in range(0, 3600, 300):  # 600 to 899 are of two windows
        for _ in ("its tokens", "the samples"):
            for offset in range(start, start + 300):
                seen.add(source.main(source.ordered(offset, 7))[0].key)
                assert len(source.entries._recent) <= 4
    assert len(seen) == 3600
    assert sorted(loads) == [shard.name for shard in made]


def test_a_worker_gets_the_names_and_counts_alone(made: list[Path], loads: list[str]):
    source = ImageShards("image", path=str(made[0].parent))
    keys = [source.key(index) for index in range(len(source))]
    carried = pickle.dumps(source)
    assert len(carried) < 9 * 200 + 1500 < 3600
    loads.clear()
    copy = pickle.loads(carried)
    assert len(copy.entries._recent) == 0
    assert [copy.key(index) for index in range(len(copy))] == keys
    assert sorted(loads) == [shard.name for shard in made]


def test_samples_without_a_main_member_are_left_out_of_indexed_shards(tmp_path: Path, loads: list[str]):
    write_tar(tmp_path / "a.tar", [("1.txt", b""), ("2.png", b"x"), ("3.txt", b""), ("4.jpg", b"x"), ("5.cls", b"")])
    write_tar(tmp_path / "b.tar", [("1.txt", b"")])
    write_tar(tmp_path / "c.tar", [("6.png", b"x")])
    for shard in expand(str(tmp_path)):
        write_index(shard)
    entries = Entries(expand(str(tmp_path)), ("jpg", "png"), 1, 0)
    assert (len(entries), entries.counts()) == (3, [2, 1])
    assert [entry.key for entry in entries] == ["2", "4", "6"]
    assert loads == ["a.tar", "c.tar"]


def test_shards_that_are_named_twice(made: list[Path]):
    entries = Entries([made[0], made[0], made[1], made[0]], ("png",), 2, 0)
    assert (len(entries), entries.counts()) == (4 * EACH, [2 * EACH, EACH, EACH])
    assert entries[EACH] == entries[0] == entries[3 * EACH]


def test_the_command_renews_an_index_without_kinds(tmp_path: Path):
    shard = write_tar(tmp_path / "a.tar", [("1.png", b"x"), ("2.png", b"x"), ("2.txt", b"y")])
    write_old(shard)
    assert read_index(shard) == index_shard(shard)
    for written in (True, False):
        result = CliRunner().invoke(app, ["data", "index", str(shard), "--json"])
        assert [one["written"] for one in json.loads(result.stdout)["shards"]] == [written]
    assert json.loads(index_file(shard).read_text())["kinds"] == [[["png"], 1], [["png", "txt"], 1]]


def test_an_index_with_many_kinds_is_read_as_a_whole(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(shard_index, "_HEAD_BYTES", 200)
    shard = write_tar(tmp_path / "a.tar", [(f"{i}.{name}", b"x") for i in range(40) for name in ("png", f"{i}.txt")])
    write_index(shard)
    entries = Entries([shard], ("png",), 1, 0)
    assert list(entries) == index_shard(shard)
    assert len(read_index(shard)) == 40


def test_names_that_are_no_utf8(tmp_path: Path):
    shard = write_tar(tmp_path / "a.tar", [("\udcff.png", b"x"), ('q"},\n.png', b"y"), ("é.png", b"z")])
    assert list(Entries([shard], ("png",), 1, 0)) == index_shard(shard)
    write_index(shard)
    assert read_index(shard) == index_shard(shard) == list(Entries([shard], ("png",), 1, 0))
    assert [entry.key for entry in Entries([shard], ("png",), 1, 0)] == ["\udcff", 'q"},\n', "é"]
