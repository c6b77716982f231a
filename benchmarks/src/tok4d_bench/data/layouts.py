"""The layouts of real data sets by name. Light: lists of them load no torch."""

from __future__ import annotations

from typing import NamedTuple

from tok4d_bench.contracts import TaskSpec


class Layout(NamedTuple):
    """A layout: "module:function" of (folder, split), its default split, what people give as its folder, modality."""

    target: str
    split: str
    folder: str
    modality: str = "image"


LAYOUTS = {
    "imagenet": Layout("tok4d_bench.data.imagenet:imagenet", "val", "the folder with val/ of ILSVRC 2012"),
    "coco": Layout("tok4d_bench.data.captioned:coco", "val2017", "the folder with val2017/ and annotations/"),
    "flickr30k": Layout(
        "tok4d_bench.data.captioned:flickr30k", "test", "the folder with flickr30k-images/ and dataset_flickr30k.json"
    ),
    "davis": Layout("tok4d_bench.data.clips:davis", "all", "the folder with JPEGImages/ and ImageSets/", "video"),
    "tokenbench": Layout("tok4d_bench.data.clips:tokenbench", "all", "the folder with TokenBench's videos", "video"),
    "msrvtt": Layout(
        "tok4d_bench.data.clips:msrvtt", "1k-a", "the folder with videos/ and MSRVTT_JSFUSION_test.csv", "video"
    ),
    "msvd": Layout(
        "tok4d_bench.data.clips:msvd", "test", "the folder with YouTubeClips/ and AllVideoDescriptions.txt", "video"
    ),
    "toys4k": Layout(
        "tok4d_bench.data.assets:toys4k", "all", "the folder with a folder of meshes for every category", "mesh3d"
    ),
}


def data_name(spec: TaskSpec) -> str:
    """The name by which `--data NAME=FOLDER` gives the folder of a task's data."""
    return str(spec.data.get("name") or spec.data.get("layout") or spec.data.get("source"))


def modality_of(spec: TaskSpec) -> str:
    """What a task measures, without opening its data; empty for a layout that is not known."""
    if "source" in spec.data:
        return str(spec.data["source"]).partition("/")[0]
    layout = LAYOUTS.get(str(spec.data.get("layout")))
    return "" if layout is None else layout.modality
