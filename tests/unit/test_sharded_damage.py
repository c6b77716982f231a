"""Indices of shards that are damaged or changed: what shows when a source is opened, and what when a sample is read."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from made_shards import EACH, write_made, write_old, write_tar

from tok4d.data.shard_entries import Entries
from tok4d.data.shard_index import index_file, read_index, write_index
from tok4d.data.shards import index_shard
from tok4d.errors import DataError
from tok4d_image.shards import ImageShards


@pytest.fixture
def made(tmp_path: Path) -> list[Path]:
    return write_made(tmp_path, 9)


def edited(shard: Path, change: Callable[[str], str]) -> None:
    path = index_file(shard)
    path.write_text(change(path.read_text()))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda text: text[:-9], r"16,537 bytes instead of 16,546"),
        (lambda text: text.replace(f",{EACH}]]", ",-1]]"), r"\[16398, -1\] bytes and samples of each kind"),
        (lambda text: text.replace('"kinds":[', '"kinds":[7,'), "TypeError"),
        (lambda text: text.replace('"version":1', '"version":2'), "no tok4d-shard-index of version 1"),
    ],
)
def test_a_wrong_first_line_or_length_is_refused_at_once(made: list[Path], change, reason: str):
    edited(made[3], change)
    with pytest.raises(DataError, match=rf"m-03\.tar\.index: is damaged \(.*{reason}.*renew it with: tok4d data index"):
        len(ImageShards("image", path=str(made[0].parent)))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda text: text.replace("[2029,7]", "[2029 7]"), "JSONDecodeError"),
        (lambda text: text.replace("[2029,7]", "[9e29,7]"), r"member 001405\.png lies at \[9e\+29, 7\] of 1048576"),
        (lambda text: text.replace("[2029,7]", '[2029,"]'), "JSONDecodeError"),
        (lambda text: text.replace('"png":[2029', '"pnG":[2029'), "sample 001405 has no member that its kinds promise"),
        (lambda text: text.replace(f",{EACH}]]", f",{EACH - 1}]]"), "400 samples instead of 399"),
    ],
)
def test_damage_further_on_is_refused_when_the_sample_is_asked_for(made: list[Path], change, reason: str):
    edited(made[1], change)
    source = ImageShards("image", path=str(made[1]))
    assert len(source) in (EACH, EACH - 1)
    with pytest.raises(DataError, match=rf"m-01\.tar\.index: is damaged \(.*{reason}.*renew it"):
        source.load(5)
    with pytest.raises(DataError, match=r"m-01\.tar\.index: is damaged"):
        read_index(made[1])


def test_kinds_that_are_not_those_of_the_samples(tmp_path: Path):
    shard = write_tar(tmp_path / "a.tar", [("1.txt", b""), ("2.png", b"x"), ("3.png", b"x")])
    write_index(shard)
    edited(shard, lambda text: text.replace('[["png"],2],[["txt"],1]', '[["png"],1],[["txt"],2]'))
    with pytest.raises(DataError, match="2 samples count, 1 by its kinds"):
        Entries([shard], ("png",), 1, 0)[0]
    with pytest.raises(DataError, match="its kinds are not those of its samples"):
        read_index(shard)


def test_an_index_that_is_another_one_meanwhile_is_refused(made: list[Path]):
    source = ImageShards("image", path=str(made[0].parent))
    assert len(source) == 3600
    edited(made[4], lambda text: text.replace('"size":1048576', '"size":1048577'))
    with pytest.raises(DataError, match=r"m-04\.tar\.index: has changed since the source was opened"):
        source.load(4 * EACH)
    index_file(made[5]).unlink()
    with pytest.raises(DataError, match=r"m-05\.tar\.index: .*No such file") as caught:
        source.load(5 * EACH)
    assert isinstance(caught.value.__cause__, FileNotFoundError), "whoever asks sees whether to try again"


@pytest.mark.parametrize(
    ("span", "reason"),
    [
        ("[-512,1]", r"member 2\.png lies at \[-512, 1\] of \d+"),
        ("[512,-1]", r"member 2\.png lies at \[512, -1\] of \d+"),
        ("[1,99999999]", r"member 2\.png lies at \[1, 99999999\] of \d+"),
        ("[512,1.0]", r"member 2\.png lies at \[512, 1\.0\] of \d+"),
        ("[512,true]", r"member 2\.png lies at \[512, True\] of \d+"),
        ("[512]", "TypeError"),
        ("[512,1,1]", "TypeError"),
        ('"ab"', r"member 2\.png lies at \['a', 'b'\] of \d+"),
        ("7", "TypeError"),
    ],
)
def test_a_wrong_span_of_an_index_without_kinds_is_refused_at_once(tmp_path: Path, span: str, reason: str):
    shard = write_tar(tmp_path / "a.tar", [("1.png", b"x"), ("2.png", b"y"), ("2.txt", b"z")])
    write_old(shard)
    second = index_shard(shard)[1].members["png"]
    assert second == (1536, 1)
    edited(shard, lambda text: text.replace("[1536,1]", span))
    for opened in (lambda: len(ImageShards("image", path=str(shard))), lambda: read_index(shard)):
        with pytest.raises(DataError, match=rf"a\.tar\.index: is damaged \(.*{reason}.*renew it"):
            opened()
