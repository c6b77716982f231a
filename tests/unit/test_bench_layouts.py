"""Layouts of real data sets on tiny trees of exactly their shape, and what a wrong tree is told."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from PIL import Image

from tok4d.errors import ConfigError, DataError
from tok4d.modality import Sample
from tok4d.plugins.registry import modality
from tok4d_bench.contracts import TaskSpec
from tok4d_bench.data.assets import toys4k
from tok4d_bench.data.build import MissingDataError, open_data
from tok4d_bench.data.captioned import coco, flickr30k
from tok4d_bench.data.clips import davis, msrvtt, msvd, tokenbench
from tok4d_bench.data.imagenet import imagenet
from tok4d_bench.data.listing import Listing
from tok4d_bench.data.samples import ListedData


def picture(path: Path, size: tuple[int, int] = (40, 30), colour: str = "red") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path)


def text(path: Path, content: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content, encoding="utf-8")


def labels(listing: Listing) -> dict[str, int | None]:
    return {item.key: item.label for item in listing.items}


MAPPING = "n01440764 tench, Tinca tinca\nn01443537 goldfish, Carassius auratus\nn01484850 great white shark\n"


@pytest.fixture
def by_class(tmp_path: Path) -> Path:
    """Pictures in folders of classes; file names run across classes, as the real ones do."""
    for number, synset in enumerate(["n01443537", "n01440764", "n01443537"], 1):
        picture(tmp_path / f"val/{synset}/ILSVRC2012_val_0000000{number}.JPEG")
    text(tmp_path / "LOC_synset_mapping.txt", MAPPING)
    return tmp_path


def test_imagenet_by_folders_of_classes(by_class: Path) -> None:
    found = imagenet(by_class)
    assert [item.key[-6] for item in found.items] == ["1", "2", "3"]
    assert [item.label for item in found.items] == [1, 0, 1]
    assert found.classes == ("tench", "goldfish", "great white shark")
    assert not found.notes
    assert labels(imagenet(by_class / "val")) == labels(found)


def test_imagenet_flat_with_kaggles_table(tmp_path: Path) -> None:
    root = tmp_path / "ILSVRC/Data/CLS-LOC/val"
    for number in (1, 2):
        picture(root / f"ILSVRC2012_val_0000000{number}.JPEG")
    rows = [
        "ImageId,PredictionString",
        "ILSVRC2012_val_00000002,n01440764 1 2 3 4",
        "ILSVRC2012_val_00000001,n01484850 1 2 3 4 ",
    ]
    text(tmp_path / "LOC_val_solution.csv", "\n".join(rows))
    text(tmp_path / "LOC_synset_mapping.txt", MAPPING)
    assert [item.label for item in imagenet(tmp_path).items] == [2, 0]


@pytest.mark.parametrize("lines", ["a.JPEG n01443537\nb.JPEG n01440764\n", "n01443537\nn01440764\n"])
def test_imagenet_flat_with_a_list(tmp_path: Path, lines: str) -> None:
    picture(tmp_path / "val/a.JPEG")
    picture(tmp_path / "val/b.JPEG")
    text(tmp_path / "val.txt", lines)
    index = {"0": ["n01440764", "tench"], "1": ["n01443537", "goldfish"], "2": ["n01484850", "great_white_shark"]}
    text(tmp_path / "imagenet_class_index.json", json.dumps(index))
    found = imagenet(tmp_path)
    assert labels(found) == {"a.JPEG": 1, "b.JPEG": 0}
    assert found.classes[2] == "great white shark"


def test_imagenet_without_names_says_so(by_class: Path) -> None:
    (by_class / "LOC_synset_mapping.txt").unlink()
    found = imagenet(by_class)
    assert found.classes == ()
    assert "no names of classes" in found.notes[0]


def test_a_wrong_imagenet_is_told_what_was_expected_and_found(tmp_path: Path) -> None:
    picture(tmp_path / "val/a.JPEG")
    with pytest.raises(DataError, match=r"expected val/ with a folder.*found val/"):
        imagenet(tmp_path)
    text(tmp_path / "val.txt", "b.JPEG n01440764\n")
    with pytest.raises(DataError, match=r"no class for 1 of 1 pictures, such as a.JPEG"):
        imagenet(tmp_path)
    text(tmp_path / "val.txt", "n01440764\nn01440764\n")
    with pytest.raises(DataError, match="has 2 classes for 1 pictures"):
        imagenet(tmp_path)
    with pytest.raises(DataError, match="no such folder"):
        imagenet(tmp_path / "nowhere")
    text(tmp_path / "val.txt", "n0\n")
    text(tmp_path / "LOC_synset_mapping.txt", MAPPING)
    with pytest.raises(DataError, match="has no class 'n0'"):
        imagenet(tmp_path)


COCO = {
    "images": [{"id": 7, "file_name": "000000000007.jpg"}, {"id": 9, "file_name": "000000000009.jpg"}],
    "annotations": [
        {"id": 3, "image_id": 9, "caption": "a bus "},
        {"id": 1, "image_id": 9, "caption": "the bus"},
        {"id": 2, "image_id": 7, "caption": "a cat"},
    ],
}


def test_coco_val2017_with_captions_in_order_of_their_ids(tmp_path: Path) -> None:
    for number in (7, 9):
        picture(tmp_path / f"val2017/00000000000{number}.jpg")
    assert "no captions" in coco(tmp_path).notes[0]
    text(tmp_path / "annotations/captions_val2017.json", json.dumps(COCO))
    found = coco(tmp_path)
    assert [item.captions for item in found.items] == [("a cat",), ("the bus", "a bus")]
    text(tmp_path / "annotations/captions_val2017.json", '{"images": [{"id": 7}]}')
    with pytest.raises(DataError, match="lacks 'file_name'"):
        coco(tmp_path)


def karpathy(split: str, name: str, home: str = "", count: int = 6) -> dict[str, object]:
    entry = {"split": split, "filename": name, "sentences": [{"raw": f"{name} {i}"} for i in range(count)]}
    return entry | ({"filepath": home} if home else {})


def test_karpathys_splits_have_five_captions_each(tmp_path: Path) -> None:
    picture(tmp_path / "val2014/COCO_val2014_1.jpg")
    entries = [karpathy("val", "x.jpg", "val2014"), karpathy("test", "COCO_val2014_1.jpg", "val2014")]
    text(tmp_path / "dataset_coco.json", json.dumps({"images": entries}))
    (item,) = coco(tmp_path, "test").items
    assert item.path.is_file()
    assert len(item.captions) == 5
    with pytest.raises(DataError, match=r"Did you mean 'test'|unknown split 'restval'"):
        coco(tmp_path, "restval")
    text(tmp_path / "dataset_coco.json", json.dumps({"images": [karpathy("test", "../../etc/passwd")]}))
    with pytest.raises(DataError, match="outside of the data set"):
        coco(tmp_path, "test")
    with pytest.raises(DataError, match="expected train2017/"):
        coco(tmp_path, "train2017")


def test_flickr30k_by_split_and_by_tokens(tmp_path: Path) -> None:
    picture(tmp_path / "flickr30k-images/1.jpg")
    picture(tmp_path / "flickr30k-images/2.jpg")
    with pytest.raises(DataError, match=r"dataset_flickr30k.json"):
        flickr30k(tmp_path)
    entries = [karpathy("test", "2.jpg", count=5), karpathy("train", "1.jpg", count=5)]
    text(tmp_path / "dataset_flickr30k.json", json.dumps({"images": entries}))
    assert [item.key for item in flickr30k(tmp_path).items] == ["2.jpg"]
    text(tmp_path / "results_20130124.token", "1.jpg#0\tA dog .\n1.jpg#1\tOne dog .\n2.jpg#0\tA man .\n")
    assert [item.captions for item in flickr30k(tmp_path, "all").items] == [("A dog .", "One dog ."), ("A man .",)]
    text(tmp_path / "results_20130124.token", "1.jpg A dog\n")
    with pytest.raises(DataError, match="line 1 is no"):
        flickr30k(tmp_path, "all")


@pytest.fixture
def davis_folder(tmp_path: Path) -> Path:
    for clip, frames in (("bear", 5), ("dog", 3)):
        for number in range(frames):
            picture(tmp_path / f"JPEGImages/480p/{clip}/{number:05d}.jpg", colour=f"rgb({number * 40}, 0, 0)")
    text(tmp_path / "ImageSets/2017/val.txt", "dog\n")
    text(tmp_path / "ImageSets/2016/trainval.txt", "/JPEGImages/480p/bear/00000.jpg /Annotations/480p/bear/00000.png\n")
    return tmp_path


def test_davis_is_read_as_clips_of_its_frames(davis_folder: Path) -> None:
    assert [item.key for item in davis(davis_folder).items] == ["bear", "dog"]
    assert [item.key for item in davis(davis_folder, "val").items] == ["dog"]
    assert [item.key for item in davis(davis_folder, "trainval").items] == ["bear"]
    spec = TaskSpec(data={"layout": "davis"}, prepare={"frames": 3, "short": 15, "crop": 15}, measures=["psnr"])
    data = open_data(spec, {"davis": davis_folder})
    sample = data.load(0)
    assert sample.key == "bear"
    assert sample.data["video"].shape == (3, 3, 15, 15)
    reds = (sample.data["video"][:, 0].mean((1, 2)) + 1) * 127.5
    assert torch.allclose(reds, torch.tensor([0.0, 80.0, 160.0]), atol=2)  # frames 0, 2 and 4 of five
    with pytest.raises(DataError, match=r"expected JPEGImages/1080p/NAME/00000.jpg; found ImageSets/, JPEGImages/"):
        davis(davis_folder, resolution="1080p")
    text(davis_folder / "ImageSets/2017/val.txt", "cat\n")
    with pytest.raises(DataError, match=r"names 1 clips that .* has not, such as 'cat'"):
        davis(davis_folder, "val")


def test_frames_of_different_sizes_are_a_bad_sample(davis_folder: Path) -> None:
    picture(davis_folder / "JPEGImages/480p/dog/00001.jpg", (20, 20))
    data = open_data(TaskSpec(data={"layout": "davis"}, measures=["psnr"]), {"davis": davis_folder})
    with pytest.raises(DataError, match="frames of different sizes"):
        data.load(1)
    timed = TaskSpec(data={"layout": "davis"}, prepare={"fps": 8.0}, measures=["psnr"])
    with pytest.raises(DataError, match="no times"):
        open_data(timed, {"davis": davis_folder}).load(0)


def clip(path: Path, frames: int = 9, grey: float = 0.0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    ramp = torch.linspace(-0.9, 0.9, frames)[:, None, None, None] + grey * torch.ones(frames, 3, 32, 48)
    modality("video").write(Sample("video", {"video": ramp}, 8.0), path)


def test_tokenbench_finds_clips_below_and_by_list(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"expected videos .*found nothing"):
        tokenbench(tmp_path)
    clip(tmp_path / "bdd100k/a.mp4")
    clip(tmp_path / "egoexo4d/b.mp4")
    assert [item.key for item in tokenbench(tmp_path).items] == ["bdd100k/a.mp4", "egoexo4d/b.mp4"]
    text(tmp_path / "short.txt", "b\nbdd100k/a.mp4\n")
    assert [item.key for item in tokenbench(tmp_path, "short").items] == ["egoexo4d/b.mp4", "bdd100k/a.mp4"]
    text(tmp_path / "short.txt", "c\n")
    with pytest.raises(DataError, match="names 1 clips that are not there, such as 'c'"):
        tokenbench(tmp_path, "short")


def test_msrvtt_takes_eight_frames_of_the_clips_of_1k_a(tmp_path: Path) -> None:
    clip(tmp_path / "videos/all/video7020.mp4", 15)
    with pytest.raises(DataError, match=r"MSRVTT_JSFUSION_test.csv"):
        msrvtt(tmp_path)
    text(
        tmp_path / "MSRVTT_JSFUSION_test.csv",
        'key,vid_key,video_id,sentence\nret0,msr7020,video7020,"a man, talking"\n',
    )
    spec = TaskSpec(
        kind="retrieval", data={"layout": "msrvtt"}, prepare={"frames": 8, "short": 16}, measures=["retrieval"]
    )
    data = open_data(spec, {"msrvtt": tmp_path})
    assert data.captions(0) == ("a man, talking",)
    video = data.load(0).data["video"]
    assert video.shape == (8, 3, 16, 24)
    whole = modality("video").read(tmp_path / "videos/all/video7020.mp4").data["video"]
    wanted = whole[[0, 2, 4, 6, 8, 10, 12, 14]].mean((1, 2, 3))  # i * 14 / 7
    assert torch.allclose(video.mean((1, 2, 3)), wanted, atol=0.02)
    text(tmp_path / "MSRVTT_JSFUSION_test.csv", "video_id,sentence\nvideo1,a man\n")
    with pytest.raises(DataError, match="names 'video1', which is not among the 1 videos"):
        msrvtt(tmp_path)
    text(tmp_path / "MSRVTT_JSFUSION_test.csv", "video,sentence\n")
    with pytest.raises(DataError, match="has no column 'video_id'"):
        msrvtt(tmp_path)


def test_msvd_has_all_sentences_of_a_clip(tmp_path: Path) -> None:
    for name in ("-4wsuPCjDBc_5_15", "other_1_2"):
        clip(tmp_path / f"YouTubeClips/{name}.avi")
    sentences = "# Microsoft\n-4wsuPCjDBc_5_15 a squirrel eats\n-4wsuPCjDBc_5_15 a squirrel\nother_1_2 a car\n"
    text(tmp_path / "AllVideoDescriptions.txt", sentences)
    with pytest.raises(DataError, match=r"expected test_list.txt"):
        msvd(tmp_path)
    text(tmp_path / "test_list.txt", "-4wsuPCjDBc_5_15\n")
    (item,) = msvd(tmp_path).items
    assert item.captions == ("a squirrel eats", "a squirrel")
    assert len(msvd(tmp_path, "all").items) == 2


OBJ = "v 0 0 0\nv 1 0 0\nv 0 1 0\nv 0 0 1\nf 1 3 2\nf 1 2 4\nf 2 3 4\nf 3 1 4\n"


def test_toys4k_takes_one_mesh_of_each_instance(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="expected CATEGORY/INSTANCE/mesh"):
        toys4k(tmp_path)
    text(tmp_path / "fire_truck/fire_truck_000/mesh.blend", "")
    with pytest.raises(DataError, match="Blender"):
        toys4k(tmp_path)
    text(tmp_path / "fire_truck/fire_truck_001/mesh.obj", OBJ)
    text(tmp_path / "apple/apple_000/mesh.ply", "")
    text(tmp_path / "apple/apple_000/mesh.obj", OBJ)
    text(tmp_path / "apple/apple_003.obj", OBJ)
    found = toys4k(tmp_path)
    assert found.classes == ("apple", "fire truck")
    assert labels(found) == {"apple/apple_000": 0, "apple/apple_003": 0, "fire_truck/fire_truck_001": 1}
    assert found.items[0].path.suffix == ".obj"


def test_toys4ks_assets_come_with_pictures_from_held_out_cameras(tmp_path: Path) -> None:
    text(tmp_path / "apple/apple_000/mesh.obj", OBJ)
    options = {"resolution": 8, "views": 4, "size": 32, "targets": 2, "target_size": 32, "cache_gb": 0.0}
    spec = TaskSpec(data={"layout": "toys4k", "options": options}, measures=["mesh3d/psnr"])
    data = open_data(spec, {"toys4k": tmp_path})
    sample = data.load(0)
    assert sample.data["views"].shape == (2, 3, 32, 32)
    assert (sample.key, sample.label, sample.caption) == ("apple/apple_000", 0, "apple")


def test_data_that_is_not_given_says_how_to_give_it() -> None:
    with pytest.raises(MissingDataError, match=r"give it with --data coco=FOLDER, the folder with val2017/"):
        open_data(TaskSpec(data={"layout": "coco"}, measures=["psnr"]), {})
    with pytest.raises(ConfigError, match="Did you mean 'coco'"):
        open_data(TaskSpec(data={"layout": "cocoa"}, measures=["psnr"]), {})
    with pytest.raises(ConfigError, match="Did you mean 'split'"):
        open_data(TaskSpec(data={"layout": "coco", "splt": "x"}, measures=["psnr"]), {})


def test_a_limit_is_spread_over_all_samples(by_class: Path) -> None:
    spec = TaskSpec(data={"layout": "imagenet"}, measures=["psnr"])
    whole, part = (open_data(spec, {"imagenet": by_class}, limit) for limit in (0, 2))
    assert [part.key(i)[-6] for i in range(len(part))] == ["1", "2"]
    assert len(whole) == 3
    assert part.protocol()["samples"] == 2
    assert part.protocol()["of"] == 3


def test_the_digest_follows_files_names_captions_and_labels(by_class: Path) -> None:
    spec = TaskSpec(data={"layout": "imagenet"}, measures=["psnr"])

    def digest() -> str:
        return open_data(spec, {"imagenet": by_class}).digest

    first = digest()
    assert first == digest()
    picture(by_class / "val/n01440764/ILSVRC2012_val_00000002.JPEG", (400, 300))
    second = digest()
    moved = by_class / "val/n01484850/ILSVRC2012_val_00000003.JPEG"
    moved.parent.mkdir()
    (by_class / "val/n01443537/ILSVRC2012_val_00000003.JPEG").rename(moved)
    assert len({first, second, digest()}) == 3


def test_digests_follow_what_files_hold_and_not_their_names_and_sizes(tmp_path: Path, davis_folder: Path) -> None:
    def digests() -> list[str]:
        sources = [{"source": "image/folder", "options": {"path": str(tmp_path / "flat")}}]
        sources += [{"source": "image/manifest", "options": {"path": str(tmp_path / "flat/list.csv")}}]
        tasks = [*(TaskSpec(data=data) for data in sources), TaskSpec(data={"layout": "davis"})]
        return [open_data(task, {"davis": davis_folder}).digest for task in tasks]

    text(tmp_path / "flat/list.csv", "path,caption\na.bmp,one\n")
    picture(tmp_path / "flat/a.bmp", colour="red")
    frame = davis_folder / "JPEGImages/480p/dog/00001.jpg"
    first, sizes = digests(), [path.stat().st_size for path in (tmp_path / "flat/a.bmp", frame)]
    assert digests() == first
    picture(tmp_path / "flat/a.bmp", colour="blue")
    held = bytearray(frame.read_bytes())
    held[-3] ^= 1
    frame.write_bytes(held)
    assert sizes == [path.stat().st_size for path in (tmp_path / "flat/a.bmp", frame)]
    assert all(now != before for now, before in zip(digests(), first, strict=True))


def test_a_file_that_is_gone_is_a_bad_sample(by_class: Path) -> None:
    data = open_data(TaskSpec(data={"layout": "imagenet"}, measures=["psnr"]), {"imagenet": by_class})
    assert isinstance(data, ListedData)
    data.item(1).path.unlink()
    with pytest.raises(DataError, match="no such file"):
        data.load(1)
