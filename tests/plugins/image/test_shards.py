"""WebDataset shards: compared with the webdataset package's own reading, and damaged in many ways."""

from __future__ import annotations

import io
import json
import tarfile
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests_image_files import VARIANTS, encoded, picture

from tok4d.data.shards import expand, index_shard
from tok4d.errors import ConfigError, DataError
from tok4d_image.shards import ImageShards


def write_tar(path: Path, members: list[tuple[str, bytes]]) -> Path:
    with tarfile.open(path, "w") as tar:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def members(first: int, count: int) -> list[tuple[str, bytes]]:
    found = []
    for number in range(first, first + count):
        found += [(f"set/{number:04d}.jpg", encoded("PNG", picture(8, 6 + number))), (f"set/{number:04d}.cls", b"7")]
        found.append((f"set/{number:04d}.txt", f"picture {number}\n".encode()))
    return found


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    for shard in range(3):
        write_tar(tmp_path / f"s-{shard:03d}.tar", members(4 * shard, 4))
    return tmp_path


@pytest.mark.parametrize("pattern", ["s-{000..002}.tar", "s-*.tar", ""])
def test_samples_in_order_with_caption_and_label(pattern: str, shards: Path) -> None:
    source = ImageShards("image", path=str(shards / pattern))
    assert len(source) == 12
    for index in (11, 0, 5):
        sample = source.load(index)
        assert sample.data["image"].shape == (3, 8, 6 + index)
        assert (sample.caption, sample.label) == (f"picture {index}", 7)
        assert sample.key == source.key(index) == f"{shards}/s-{index // 4:03d}.tar:set/{index:04d}"


def test_same_keys_and_bytes_as_the_webdataset_package(shards: Path) -> None:
    webdataset = pytest.importorskip("webdataset")
    odd = [
        ("a.b/x.seg.png", b"mask"),
        ("a.b/x.png", encoded("PNG")),
        (".hidden", b"1"),
        ("plain", b"2"),
        ("y.PNG", b"3"),
    ]
    path = write_tar(shards / "odd.tar", odd)
    theirs = list(webdataset.WebDataset(str(path), shardshuffle=False))
    ours = index_shard(path)
    assert {entry.key: sorted(entry.members) for entry in ours} == {
        sample["__key__"]: sorted(key for key in sample if not key.startswith("__")) for sample in theirs
    }


def test_json_beside_the_image_and_samples_without_one(tmp_path: Path) -> None:
    facts = {"caption": "from json", "label": 3, "author": "me"}
    path = write_tar(
        tmp_path / "a.tar",
        [
            ("a.png", encoded("PNG")),
            ("a.json", json.dumps(facts).encode()),
            ("b.txt", b"no image here"),
            ("c.webp", VARIANTS["webp"]()),
            ("c.json", b"{}"),
            ("c.txt", b"from text"),
        ],
    )
    source = ImageShards("image", path=str(path))
    assert [source.entries[i].key for i in range(len(source))] == ["a", "c"]
    assert (source.load(0).caption, source.load(0).label) == ("from json", 3)
    assert source.load(0).meta["json"]["author"] == "me"
    assert (source.load(1).caption, source.load(1).label) == ("from text", None)


@pytest.mark.parametrize(
    ("extension", "content"), [("json", b"{"), ("json", b"[]"), ("cls", b"cat"), ("txt", b"\xff\xfe\xfa")]
)
def test_unreadable_labels(extension: str, content: bytes, tmp_path: Path) -> None:
    path = write_tar(tmp_path / "a.tar", [("a.png", encoded("PNG")), (f"a.{extension}", content)])
    with pytest.raises(DataError, match=r"a\.tar:a: caption or label cannot be read"):
        ImageShards("image", path=str(path)).load(0)


def test_a_broken_image_names_shard_and_member(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "a.tar", [("a.png", encoded("PNG")[:300])])
    with pytest.raises(DataError, match=r"a\.tar:a\.png: is truncated"):
        ImageShards("image", path=str(path)).load(0)


def test_damaged_shards(shards: Path) -> None:
    content = (shards / "s-000.tar").read_bytes()
    cases = {
        "text.tar": (b"no tar at all" * 100, "is not a readable uncompressed tar"),
        "empty.tar": (b"", "is not a readable uncompressed tar"),
        "cut.tar": (content[:700], "is truncated"),
        "no-end.tar": (content[: index_shard(shards / "s-000.tar")[-1].members["txt"].start + 512], "is truncated"),
    }
    second = index_shard(shards / "s-000.tar")[1].members["jpg"].start - 512
    flipped = bytearray(content)
    flipped[second + 20] ^= 1  # a header in the middle: its checksum no longer fits
    cases["flipped.tar"] = (bytes(flipped), f"is damaged at byte {second}")
    for name, (broken, reason) in cases.items():
        (shards / name).write_bytes(broken)
        with pytest.raises(DataError, match=reason):
            index_shard(shards / name)


def test_compressed_doubled_and_missing(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w:gz") as tar:
        tar.addfile(tarfile.TarInfo("a.png"))
    with pytest.raises(DataError, match="uncompressed"):
        index_shard(tmp_path / "a.tar")
    twice = write_tar(tmp_path / "b.tar", [("a.png", b"1"), ("a.png", b"2")])
    with pytest.raises(DataError, match=r"holds a\.png twice"):
        index_shard(twice)
    with pytest.raises(DataError, match=r"x-001\.tar: no such file"):
        expand(str(tmp_path / "x-{001..003}.tar"))
    with pytest.raises(ConfigError, match=r"\{9\.\.3\}"):
        expand("x-{9..3}.tar")
    with pytest.raises(ConfigError, match="path"):
        expand("")
    with pytest.raises(DataError, match="no image on the 'all' side"):
        len(ImageShards("image", path=str(write_tar(tmp_path / "c.tar", [("a.txt", b"1")]))))


def test_ranges_keep_their_zeros(tmp_path: Path) -> None:
    for name in ("r-08-1.tar", "r-09-1.tar", "r-10-1.tar", "r-08-2.tar", "r-09-2.tar", "r-10-2.tar"):
        write_tar(tmp_path / name, [])
    found = [path.name for path in expand(str(tmp_path / "r-{08..10}-{1..2}.tar"))]
    assert found == ["r-08-1.tar", "r-08-2.tar", "r-09-1.tar", "r-09-2.tar", "r-10-1.tar", "r-10-2.tar"]


def test_a_shard_that_shrinks_later(shards: Path) -> None:
    source = ImageShards("image", path=str(shards / "s-000.tar"))
    assert len(source) == 4
    (shards / "s-000.tar").write_bytes((shards / "s-000.tar").read_bytes()[:600])
    with pytest.raises(DataError, match="is shorter than when it was indexed"):
        source.load(3)


def test_splits_keep_a_sample_whole(shards: Path) -> None:
    sides = [ImageShards("image", path=str(shards), split=side, folds=4) for side in ("train", "val")]
    assert [len(side) for side in sides] == [9, 3]
    assert not {e.key for e in sides[0].entries} & {e.key for e in sides[1].entries}


@settings(max_examples=80, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 4000), st.integers(1, 255)), max_size=5), st.integers(100, 12000))
def test_any_damage_gives_entries_or_one_error(tmp_path_factory, flips: list[tuple[int, int]], keep: int) -> None:
    path = tmp_path_factory.mktemp("fuzz") / "a.tar"
    write_tar(path, members(0, 2))
    content = bytearray(path.read_bytes()[:keep])
    for place, change in flips:
        if place < len(content):
            content[place] ^= change
    path.write_bytes(bytes(content))
    source = ImageShards("image", path=str(path))
    with suppress(DataError):  # anything else escapes and fails
        for index in range(len(source)):
            assert torch.isfinite(source.load(index).data["image"]).all()
