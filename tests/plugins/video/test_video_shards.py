"""Clips in WebDataset tars: the same as from files, compared with the webdataset package, and damaged."""

from __future__ import annotations

import io
import json
import tarfile
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
from made_clips import exact

from tok4d.errors import DataError
from tok4d_video.reading import Clip
from tok4d_video.shards import VideoShards
from tok4d_video.sources import VideoFolder


def write_tar(path: Path, members: list[tuple[str, bytes]]) -> Path:
    with tarfile.open(path, "w") as tar:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    names = ["0.mp4", "1.mkv", "2.mp4", "3.mkv"]
    return [exact(tmp_path / name, count=10 + i) for i, name in enumerate(names)]


@pytest.fixture
def shards(tmp_path: Path, files: list[Path]) -> Path:
    folder = tmp_path / "shards"
    folder.mkdir()
    for part in range(2):
        members = []
        for number in (2 * part, 2 * part + 1):
            facts = {"caption": "from json", "label": number, "author": "me"}
            members += [
                (f"set/{number:04d}{files[number].suffix}", files[number].read_bytes()),
                (f"set/{number:04d}.json", json.dumps(facts).encode()),
            ]
            members += [(f"set/{number:04d}.txt", b"from text\n")] * part
        write_tar(folder / f"v-{part:03d}.tar", members)
    return folder


@pytest.fixture(autouse=True)
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "scratch"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


@pytest.mark.parametrize("cache_mb", [0, 256])
def test_the_same_clips_as_from_files(shards: Path, files: list[Path], scratch: Path, cache_mb: int) -> None:
    options = {"frames": 4, "resolutions": [24], "size": 16, "cache_mb": cache_mb}
    source = VideoShards("video", path=str(shards / "v-{000..001}.tar"), **options)
    assert len(source) == 4
    for index in (3, 0, 2, 1, 3, 0):
        sample = source.load(index, np.random.default_rng(index))
        plain = VideoFolder("video", path=str(files[index]), **options).load(0, np.random.default_rng(index))
        assert torch.equal(sample.data["video"], plain.data["video"])
        assert (sample.caption, sample.label) == ("from text" if index > 1 else "from json", index)
        assert sample.meta["json"]["author"] == "me"
        assert sample.meta["clip_frames"] == 10 + index
        assert sample.key == source.key(index) == f"{shards}/v-{index // 2:03d}.tar:set/{index:04d}"
    assert not list(scratch.iterdir())


def test_same_samples_as_the_webdataset_package(shards: Path, tmp_path: Path) -> None:
    webdataset = pytest.importorskip("webdataset")
    ours = VideoShards("video", path=str(shards), frames=100)
    theirs = list(webdataset.WebDataset(str(shards / "v-{000..001}.tar"), shardshuffle=False))
    assert [entry.key for entry in ours.entries] == [sample["__key__"] for sample in theirs]
    for index, sample in enumerate(theirs):
        (tmp_path / "x.mkv").write_bytes(sample.get("mp4") or sample["mkv"])
        plain = VideoFolder("video", path=str(tmp_path / "x.mkv"), frames=100).load(0)
        assert torch.equal(ours.load(index).data["video"], plain.data["video"])
        assert ours.load(index).meta["json"] == json.loads(sample["json"])


def test_bad_clips_name_shard_and_member_and_leave_nothing(files: list[Path], tmp_path: Path, scratch: Path) -> None:
    whole = files[0].read_bytes()
    members = [("a.mp4", whole[:700]), ("b.mp4", b""), ("c.webm", b"no clip"), ("d.mp4", whole), ("e.txt", b"alone")]
    source = VideoShards("video", path=str(write_tar(tmp_path / "x.tar", members)), frames=4)
    assert [entry.key for entry in source.entries] == list("abcd")
    for index, name in enumerate(("a.mp4", "b.mp4", "c.webm")):
        with pytest.raises(DataError, match=rf"^{tmp_path}/x\.tar:{name}: "):
            source.load(index)
    assert source.load(3).data["video"].shape[0] == 4
    assert not list(scratch.iterdir())


def test_a_frame_that_cannot_be_decoded_names_the_member(
    files: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(self: Clip, *_: object) -> object:
        raise DataError(self.path, "frame 3 cannot be decoded")

    path = write_tar(tmp_path / "x.tar", [("a.mp4", files[0].read_bytes())])
    monkeypatch.setattr(Clip, "stream", failing)
    with pytest.raises(DataError, match=rf"^{tmp_path}/x\.tar:a\.mp4: frame 3 cannot be decoded$"):
        VideoShards("video", path=str(path), frames=4).load(0)


def test_shards_that_changed_or_hold_no_clip(shards: Path, tmp_path: Path) -> None:
    source = VideoShards("video", path=str(shards / "v-000.tar"))
    assert len(source) == 2
    (shards / "v-000.tar").write_bytes((shards / "v-000.tar").read_bytes()[:2000])
    with pytest.raises(DataError, match="is shorter than when it was indexed"):
        source.load(0)
    with pytest.raises(DataError, match="no clip on the 'all' side"):
        len(VideoShards("video", path=str(write_tar(tmp_path / "x.tar", [("a.txt", b"1")]))))
    with pytest.raises(DataError, match="no such file"):
        len(VideoShards("video", path=str(shards / "v-{001..002}.tar")))


def test_splits_keep_a_sample_whole(shards: Path) -> None:
    sides = [VideoShards("video", path=str(shards), split=side, folds=2) for side in ("train", "val")]
    assert [len(side) for side in sides] == [2, 2]
    assert len({entry.key for side in sides for entry in side.entries}) == 4
