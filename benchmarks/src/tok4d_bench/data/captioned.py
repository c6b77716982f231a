"""Pictures with captions: COCO 2017 and Flickr30k, whole or by Karpathy's split.

coco/val2017/000000000139.jpg + annotations/captions_val2017.json
coco/{val2014,train2014}/COCO_val2014_*.jpg + dataset_coco.json           Karpathy's 5,000 `test` pictures
flickr30k/flickr30k-images/1000092795.jpg + results_20130124.token        one line `name#0<tab>caption` each
flickr30k/... + dataset_flickr30k.json                                    Karpathy's 1,000 `test` pictures
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tok4d.errors import DataError, unknown_name
from tok4d_bench.data.listing import IMAGES, Item, Listing, files_of, first_there, read_json, read_text, refuse

CAPTIONS = 5  # of every picture that retrieval counts (Karpathy & Fei-Fei, arXiv 1412.2306)
KARPATHY = ("dataset_coco.json", "dataset.json")
KARPATHY_FLICKR = ("dataset_flickr30k.json", "dataset.json")
TOKENS = ("results_20130124.token", "results.token", "results.csv")
_FLICKR = ("flickr30k-images", "flickr30k_images", "images")


def coco(folder: Path, split: str = "val2017") -> Listing:
    """COCO's pictures of `val2017` (with captions where annotations are there), or a Karpathy split (`test`, `val`).

    Raises:
        DataError: for another tree, saying what was expected and found.
    """
    if split in ("test", "val", "train", "restval"):
        table = first_there(folder, [*KARPATHY, *(f"annotations/{name}" for name in KARPATHY)])
        if table is None:
            raise refuse(folder, f"dataset_coco.json of Karpathy's split {split!r} beside val2014/ and train2014/")
        return Listing("image", _karpathy(table, split, folder))
    pictures = first_there(folder, [split, f"images/{split}"])
    files = files_of(pictures or folder / split, IMAGES)
    if pictures is None or not files:
        raise refuse(folder, f"{split}/ with *.jpg (and annotations/captions_{split}.json)")
    table = first_there(folder, [f"annotations/captions_{split}.json", f"captions_{split}.json"])
    if table is None:
        note = f"no captions: annotations/captions_{split}.json is not there"
        return Listing("image", tuple(Item(path.name, path) for path in files), notes=(note,))
    captions = _coco_captions(table)
    items = tuple(Item(path.name, path, tuple(captions.get(path.name, ()))) for path in files)
    return Listing("image", items)


def flickr30k(folder: Path, split: str = "test") -> Listing:
    """Flickr30k's pictures: a Karpathy split (`test` has 1,000), or `all` with the captions of results.token.

    Raises:
        DataError: for another tree, saying what was expected and found.
    """
    pictures = first_there(folder, _FLICKR) or folder
    if split != "all":
        table = first_there(folder, KARPATHY_FLICKR)
        if table is None:
            raise refuse(folder, f"dataset_flickr30k.json of Karpathy's split {split!r} beside flickr30k-images/")
        return Listing("image", _karpathy(table, split, pictures))
    table = first_there(folder, TOKENS)
    files = files_of(pictures, IMAGES)
    if table is None or not files:
        raise refuse(folder, "flickr30k-images/*.jpg and results_20130124.token")
    captions = _token_captions(table)
    return Listing("image", tuple(Item(path.name, path, tuple(captions.get(path.name, ()))) for path in files))


def _karpathy(table: Path, split: str, folder: Path) -> tuple[Item, ...]:
    """Pictures of one split, the first five captions each."""
    content = read_json(table)
    entries = content.get("images") if isinstance(content, dict) else None
    if not isinstance(entries, list):
        raise DataError(table, "must be a mapping with a list 'images', as Karpathy's splits are")
    items = []
    splits = set()
    for entry in entries:
        try:
            splits.add(str(entry["split"]))
            if entry["split"] != split:
                continue
            captions = tuple(str(sentence["raw"]).strip() for sentence in entry["sentences"])[:CAPTIONS]
            name, home = str(entry["filename"]), str(entry.get("filepath", ""))
        except (TypeError, KeyError) as error:
            raise DataError(table, f"an entry of 'images' lacks {error}") from None
        items.append(Item(name, _inside(table, folder, home, name), captions))
    if not items:
        raise DataError(table, unknown_name("split", split, splits))
    return tuple(items)


def _inside(table: Path, folder: Path, home: str, name: str) -> Path:
    """A path that an annotation file gives: never outside of its data set."""
    relative = Path(home) / name
    if relative.is_absolute() or ".." in relative.parts:
        raise DataError(table, f"names a file outside of the data set: {relative}")
    beside = folder / relative
    return beside if beside.exists() or not home else next((p for p in (folder / name,) if p.exists()), beside)


def _coco_captions(table: Path) -> dict[str, list[str]]:
    content: Any = read_json(table)
    try:
        names = {entry["id"]: str(entry["file_name"]) for entry in content["images"]}
        found: dict[str, list[str]] = {}
        for entry in sorted(content["annotations"], key=lambda entry: entry["id"]):
            found.setdefault(names[entry["image_id"]], []).append(str(entry["caption"]).strip())
    except (TypeError, KeyError) as error:
        raise DataError(table, f"is not COCO's file of captions: it lacks {error}") from None
    return {name: captions[:CAPTIONS] for name, captions in found.items()}


def _token_captions(table: Path) -> dict[str, list[str]]:
    """From lines `name#0<tab>caption`, or Kaggle's `name| 0| caption`."""
    found: dict[str, list[str]] = {}
    for number, line in enumerate(read_text(table).splitlines(), 1):
        if not line.strip() or line.startswith("image_name"):
            continue
        name, separator, rest = line.partition("\t" if "\t" in line else "|")
        if not separator:
            raise DataError(table, f"line {number} is no 'name#0<tab>caption'")
        caption = rest if "\t" in line else rest.partition("|")[2]
        found.setdefault(name.partition("#")[0].strip(), []).append(caption.strip())
    return {name: captions[:CAPTIONS] for name, captions in found.items()}
