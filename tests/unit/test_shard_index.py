"""Indices of shards, object storage, and the order that keeps to few shards."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from typer.testing import CliRunner

from tok4d.cli.main import app
from tok4d.config.schema import StageConfig, TaskConfig
from tok4d.data import shard_entries, shard_index, shards
from tok4d.data.batches import Batch, StageBatches
from tok4d.data.order import BlockOrder
from tok4d.data.shard_index import index_file, read_index, write_index
from tok4d.data.shards import expand, index_shard
from tok4d.data.storage import Stored, is_url
from tok4d.errors import ConfigError, DataError, Tok4dError
from tok4d_image.shards import ImageShards

PATCH = (1, 4, 4)
SHARDS, EACH = 5, 4


def png(number: int, side: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (side, 8), (number * 7 % 256, number, 0)).save(buffer, "PNG")
    return buffer.getvalue()


def tar(first: int, count: int) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as out:
        for number in range(first, first + count):
            parts = {"png": png(number, 8 + number), "txt": f"picture {number}".encode(), "cls": b"%d" % (number % 3)}
            parts["json"] = b'{"author": "me"}'
            for extension, content in parts.items():
                info = tarfile.TarInfo(f"set/{number:04d}.{extension}")
                info.size = len(content)
                out.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for shard in range(SHARDS):
        (tmp_path / f"s-{shard:03d}.tar").write_bytes(tar(shard * EACH, EACH))
    return tmp_path


@pytest.fixture
def bucket(folder: Path) -> Iterator[str]:
    """The same shards in fsspec's memory."""
    system = fsspec.filesystem("memory")
    for path in folder.iterdir():
        system.pipe_file(f"/bucket/{path.name}", path.read_bytes())
    yield "memory://bucket"
    system.rm("/bucket", recursive=True)


def no_scan(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reading a tar's headers fails from now on."""

    def refuse(shard: object) -> None:
        raise AssertionError(f"{shard} was scanned")

    monkeypatch.setattr(shard_entries, "index_shard", refuse)


def test_an_index_holds_what_the_headers_hold_and_takes_their_place(folder: Path, monkeypatch):
    shard = folder / "s-001.tar"
    written = write_index(shard)
    assert written == index_shard(shard)
    content = json.loads((folder / "s-001.tar.index").read_text())
    assert (content["format"], content["version"]) == ("tok4d-shard-index", 1)
    assert content["size"] == shard.stat().st_size
    first, size = content["samples"]["set/0005"]["txt"]
    assert shard.read_bytes()[first : first + size] == b"picture 5"
    plain = ImageShards("image", path=str(folder))
    assert len(plain) == SHARDS * EACH
    for path in expand(str(folder)):
        write_index(path)
    no_scan(monkeypatch)
    source = ImageShards("image", path=str(folder))
    assert list(source.entries) == list(plain.entries)
    assert torch.equal(source.load(7).data["image"], plain.load(7).data["image"])
    assert (source.load(7).caption, source.load(7).label) == ("picture 7", 1)
    assert sorted(path.name for path in folder.iterdir())[:2] == ["s-000.tar", "s-000.tar.index"], "nothing else stays"


def test_a_stale_index_is_refused_with_the_command_that_renews_it(folder: Path):
    shard = folder / "s-000.tar"
    write_index(shard)
    os.utime(shard, ns=(1, 1))
    renew = rf"s-000\.tar\.index: belongs to another content of the shard .*tok4d data index {shard}"
    with pytest.raises(DataError, match=renew):
        len(ImageShards("image", path=str(folder)))
    write_index(shard)
    assert len(ImageShards("image", path=str(folder))) == SHARDS * EACH
    shard.write_bytes(tar(0, 2))
    with pytest.raises(DataError, match="belongs to another content"):
        read_index(shard)


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text[:40],
        lambda text: "[]",
        lambda text: text.replace("tok4d-shard-index", "other"),
        lambda text: text.replace('"version":1', '"version":2'),
        lambda text: text.replace('"txt":[', '"txt":[-'),
        lambda text: text.replace('"txt":[', '"txt":[99999999'),
        lambda text: text.replace('"txt":[', '"txt":[0.5,'),
        lambda text: text.replace('"samples"', '"other"'),
        lambda text: "\udcff",
    ],
)
def test_a_damaged_index_is_refused(folder: Path, damage):
    shard = folder / "s-000.tar"
    write_index(shard)
    path = index_file(shard)
    path.write_bytes(damage(path.read_text()).encode(errors="surrogateescape"))
    with pytest.raises(DataError, match=r"s-000\.tar\.index: is damaged .* renew it with: tok4d data index"):
        read_index(shard)
    write_index(shard)
    assert read_index(shard) == index_shard(shard)


def test_a_shard_that_changes_meanwhile_gets_no_index(folder: Path, monkeypatch):
    shard = folder / "s-000.tar"

    def slow(path: Path) -> list:
        os.utime(path, ns=(1, 1))
        return []

    monkeypatch.setattr(shard_index, "index_shard", slow)
    with pytest.raises(DataError, match="changed while it was indexed"):
        write_index(shard)
    assert not index_file(shard).exists()


def test_the_command_indexes_what_needs_it(folder: Path):
    def run(*more: str) -> tuple[int, dict]:
        result = CliRunner().invoke(app, ["data", "index", *more, "--json"])
        return result.exit_code, json.loads(result.stdout)

    code, said = run(str(folder / "s-{000..001}.tar"), str(folder / "s-001.tar"))
    assert code == 0
    assert [(Path(one["shard"]).name, one["written"], one["samples"], one["members"]) for one in said["shards"]] == [
        ("s-000.tar", True, 4, 16),
        ("s-001.tar", True, 4, 16),
    ]
    os.utime(folder / "s-001.tar", ns=(1, 1))
    assert [one["written"] for one in run(str(folder))[1]["shards"]] == [False, True, True, True, True]
    assert all(one["written"] for one in run(str(folder), "--force")[1]["shards"])
    (folder / "bad.tar").write_bytes(b"no tar" * 200)
    code, said = run(str(folder), str(folder / "none.tar"))
    assert code == 1
    assert len(said["shards"]) == SHARDS
    assert {Path(one["file"]).name for one in said["failures"]} == {"bad.tar", "none.tar"}
    assert not (folder / "bad.tar.index").exists()


@pytest.mark.parametrize("indexed", [False, True])
@pytest.mark.parametrize("kind", ["memory", "file"])
def test_stored_shards_give_the_samples_of_local_ones(folder: Path, bucket: str, monkeypatch, kind: str, indexed: bool):
    base = bucket if kind == "memory" else f"file://{folder}"
    local = ImageShards("image", path=str(folder))
    assert len(local) == SHARDS * EACH
    if indexed:
        result = CliRunner().invoke(app, ["data", "index", f"{base}/s-{{000..004}}.tar"])
        assert result.exit_code == 0, result.output
        no_scan(monkeypatch)
    for pattern in ("s-{000..004}.tar", "s-*.tar", ""):
        source = ImageShards("image", path=f"{base}/{pattern}")
        assert [entry.key for entry in source.entries] == [entry.key for entry in local.entries]
        for index in (0, 13):
            ours, theirs = source.load(index), local.load(index)
            assert torch.equal(ours.data["image"], theirs.data["image"])
            assert (ours.caption, ours.label, ours.meta) == (theirs.caption, theirs.label, theirs.meta)
            assert source.shape(index) == tuple(theirs.data["image"].shape)
    assert is_url(source.key(13))
    assert source.key(13).endswith("/s-003.tar:set/0013")


def test_a_stored_sample_is_read_by_ranges(folder: Path, bucket: str, monkeypatch):
    source = ImageShards("image", path=f"{bucket}/s-*.tar", cache_mb=0)
    assert len(source) == SHARDS * EACH
    asked: list[int] = []
    system = type(fsspec.filesystem("memory"))
    cat = system.cat_file

    def counted(self, path, start=None, end=None, **options):
        asked.append(end - start)
        return cat(self, path, start=start, end=end, **options)

    monkeypatch.setattr(system, "cat_file", counted)
    monkeypatch.setattr(system, "open", None)
    source.load(6)
    spans = source.entries[6].members
    assert sorted(asked) == sorted(span.size for span in spans.values())


def test_long_members_come_in_pieces(bucket: str, folder: Path, monkeypatch):
    monkeypatch.setattr(shards, "_STORED_CHUNK", 100)
    monkeypatch.setattr(shards, "_CHUNK", 64)
    copies = []
    for shard in (Stored(f"{bucket}/s-002.tar"), folder / "s-002.tar"):
        buffer = io.BytesIO()
        shards.copy_member(index_shard(shard)[1], "png", buffer)
        copies.append(buffer.getvalue())
    assert copies[0] == copies[1] == png(9, 17)


def test_what_is_wrong_with_stored_shards_is_said(bucket: str):
    with pytest.raises(DataError, match=r"memory://bucket/s-005\.tar: no such file"):
        len(ImageShards("image", path=f"{bucket}/s-{{003..005}}.tar"))
    with pytest.raises(DataError, match=r"no file that ends with \.tar"):
        expand(f"{bucket}/t-*.tar")
    with pytest.raises(Tok4dError, match="nope:// URLs cannot be opened: Protocol not known: nope"):
        len(ImageShards("image", path="nope://x/a.tar"))
    source = ImageShards("image", path=f"{bucket}/s-000.tar")
    assert len(source) == EACH
    system = fsspec.filesystem("memory")
    system.pipe_file("/bucket/s-000.tar", system.cat_file("/bucket/s-000.tar")[:540])
    with pytest.raises(DataError, match="is shorter than when it was indexed"):
        source.load(3)
    with pytest.raises(DataError, match=r"memory://bucket/s-000\.tar: is truncated"):
        index_shard(Stored(f"{bucket}/s-000.tar"))


def test_a_stored_index_is_stale_when_the_shard_was_put_anew(bucket: str):
    shard = Stored(f"{bucket}/s-000.tar")
    write_index(shard)
    assert read_index(shard) == index_shard(shard)
    content = shard.read()
    shard.write(content)
    with pytest.raises(DataError, match=r"s-000\.tar\.index: belongs to another content"):
        read_index(shard)


def test_fsspec_is_imported_on_first_use():
    code = (
        "import sys, tok4d.data.storage as s; s.stamp_of(s.Path('.')); print(*({'fsspec', 'torch'} & {*sys.modules}))"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert said.stdout.split() == []


@given(st.lists(st.integers(1, 9), min_size=1, max_size=12), st.integers(1, 5), st.integers(0, 2**62))
def test_blocks_are_a_permutation_that_stays_in_its_windows(counts: list[int], window: int, key: int):
    order = BlockOrder(counts, window, key)
    found = [order.at(place) for place in range(sum(counts))]
    assert sorted(found) == list(range(sum(counts)))
    block_of = [block for block, count in enumerate(counts) for _ in range(count)]
    seen = [block_of[sample] for sample in found]
    changes: list[set[int]] = []
    start = 0
    while start < len(seen):  # a window ends where all samples of `window` blocks have come
        blocks: set[int] = set()
        end = start
        while end < len(seen) and len(blocks | {seen[end]}) <= window:
            blocks.add(seen[end])
            end += 1
        assert end == len(seen) or sum(counts[block] for block in blocks) == end - start
        changes.append(blocks)
        start = end
    assert sum(map(len, changes)) == len(counts), "no block comes in two windows"


def served(path: Path, rank: int = 0, world: int = 1, seed: int = 5) -> list[Batch]:
    options = {"path": str(path), "order": "blocks", "window": 2, "cache_mb": 0}
    stage = StageConfig(steps=15, tasks={"one": TaskConfig("image/shards", options, batch=4)})
    batches = StageBatches(stage, "images", seed, PATCH, rank, world)
    return [batches[step] for step in range(15)]


def test_blocks_over_processes_and_epochs(folder: Path):
    whole = served(folder)
    keys = [key for batch in whole for key in batch.keys]
    epochs = [keys[start : start + 20] for start in (0, 20, 40)]
    assert all(len(set(epoch)) == 20 for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]
    for epoch in epochs:
        for start, stop in ((0, 8), (8, 16), (16, 20)):
            assert len({key.partition(":")[0] for key in epoch[start:stop]}) == (stop - start) // EACH
    assert keys != [key for batch in served(folder, seed=6) for key in batch.keys]
    halves = [served(folder, rank, 2) for rank in (0, 1)]
    for batch, even, odd in zip(whole, *halves, strict=True):
        assert (even.keys, odd.keys) == (batch.keys[::2], batch.keys[1::2])


def test_orders_and_windows_that_do_not_exist():
    with pytest.raises(ConfigError, match="unknown order of shards 'block'"):
        ImageShards("image", path="x", order="block")
    with pytest.raises(ConfigError, match="window must be a whole number of shards of at least 1, got 0"):
        ImageShards("image", path="x", window=0)
