"""The layouts of real data sets by name. Light: lists of them load no torch."""

from __future__ import annotations

from typing import NamedTuple

from tok4d_bench.contracts import TaskSpec


class Layout(NamedTuple):
    """A layout: "module:function" of (folder, split), its default split, and what people give as its folder."""

    target: str
    split: str
    folder: str


LAYOUTS = {
    "imagenet": Layout("tok4d_bench.data.imagenet:imagenet", "val", "the folder with val/ of ILSVRC 2012"),
    "coco": Layout("tok4d_bench.data.captioned:coco", "val2017", "the folder with val2017/ and annotations/"),
    "flickr30k": Layout(
        "tok4d_bench.data.captioned:flickr30k", "test", "the folder with flickr30k-images/ and dataset_flickr30k.json"
    ),
    "davis": Layout("tok4d_bench.data.clips:davis", "all", "the folder with JPEGImages/ and ImageSets/"),
    "tokenbench": Layout("tok4d_bench.data.clips:tokenbench", "all", "the folder with TokenBench's videos"),
    "msrvtt": Layout("tok4d_bench.data.clips:msrvtt", "1k-a", "the folder with videos/ and MSRVTT_JSFUSION_test.csv"),
    "msvd": Layout("tok4d_bench.data.clips:msvd", "test", "the folder with YouTubeClips/ and AllVideoDescriptions.txt"),
    "toys4k": Layout("tok4d_bench.data.assets:toys4k", "all", "the folder with a folder of meshes for every category"),
}


def data_name(spec: TaskSpec) -> str:
    """The name by which `--data NAME=FOLDER` gives the folder of a task's data."""
    return str(spec.data.get("name") or spec.data.get("layout") or spec.data.get("source"))
