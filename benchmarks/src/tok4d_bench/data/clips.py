"""Clips: DAVIS, TokenBench, MSRVTT's 1K-A split and MSVD.

DAVIS/JPEGImages/Full-Resolution/bear/00000.jpg + ImageSets/2017/val.txt      (or 1080p, 480p)
tokenbench/**/*.mp4 (+ a list of names)
MSRVTT/videos/all/video7020.mp4 + MSRVTT_JSFUSION_test.csv                     columns video_id, sentence
MSVD/YouTubeClips/*.avi + AllVideoDescriptions.txt + test_list.txt
"""

from __future__ import annotations

from pathlib import Path

from tok4d.errors import DataError
from tok4d_bench.data.listing import (
    IMAGES,
    VIDEOS,
    Item,
    Listing,
    files_of,
    first_there,
    folders_of,
    read_csv,
    read_text,
    refuse,
)

RESOLUTIONS = ("Full-Resolution", "1080p", "480p")
MSRVTT_TABLES = ("MSRVTT_JSFUSION_test.csv", "msrvtt_test_1k.csv")
_VIDEO_FOLDERS = ("videos/all", "videos", "TestVideo", "all", "YouTubeClips", "YouTubeClips/videos")


def davis(folder: Path, split: str = "all", resolution: str = "") -> Listing:
    """DAVIS's clips as folders of frames, at the best resolution that is there.

    Args:
        split: `all` sequences, or one of ImageSets (`val`, `train`), 2017's before 2016's.
        resolution: `1080p`, `Full-Resolution` or `480p` instead.

    Raises:
        DataError: for another tree, saying what was expected and found.
    """
    home = first_there(folder, [f"JPEGImages/{name}" for name in ([resolution] if resolution else RESOLUTIONS)])
    if home is None:
        raise refuse(folder, f"JPEGImages/{resolution or '(Full-Resolution|1080p|480p)'}/NAME/00000.jpg")
    clips = {path.name: path for path in folders_of(home) if files_of(path, IMAGES)}
    if not clips:
        raise refuse(home, "a folder of frames 00000.jpg, 00001.jpg, ... for every clip")
    if split == "all":
        return Listing("video", tuple(Item(name, path) for name, path in clips.items()), frames=True)
    table = first_there(folder, [f"ImageSets/{year}/{split}.txt" for year in ("2017", "2016", resolution or "1080p")])
    if table is None:
        raise refuse(folder / "ImageSets", f"2017/{split}.txt or 2016/{split}.txt")
    names = [line.split()[0] for line in read_text(table).splitlines() if line.strip()]
    # 2016's lists name every frame; of those the folder counts.
    names = list(dict.fromkeys(Path(name).parent.name if "/" in name else name for name in names))
    if missing := [name for name in names if name not in clips]:
        raise DataError(table, f"names {len(missing)} clips that {home} has not, such as {missing[0]!r}")
    return Listing("video", tuple(Item(name, clips[name]) for name in names), frames=True)


def tokenbench(folder: Path, split: str = "all") -> Listing:
    """TokenBench's clips: all videos below the folder, or those that `SPLIT.txt` names, by path or name.

    Raises:
        DataError: for another tree, saying what was expected and found.
    """
    files = sorted(p for p in folder.rglob("*") if p.suffix.lower() in VIDEOS) if folder.is_dir() else []
    files = [path for path in files if path.is_file() and not path.name.startswith(".")]
    if not files:
        raise refuse(folder, "videos (*.mp4) in this folder or below")
    keys = {path.relative_to(folder).as_posix(): path for path in files}
    if split == "all":
        return Listing("video", tuple(Item(key, path) for key, path in keys.items()))
    table = folder / f"{split}.txt"
    if not table.is_file():
        raise refuse(folder, f"{split}.txt, a list of the clips of this split")
    names = [line.strip() for line in read_text(table).splitlines() if line.strip()]
    by_name = {path.name: key for key, path in keys.items()} | {path.stem: key for key, path in keys.items()}
    found = [name if name in keys else by_name.get(name, "") for name in names]
    if "" in found:
        raise DataError(table, f"names {found.count('')} clips that are not there, such as {names[found.index('')]!r}")
    return Listing("video", tuple(Item(key, keys[key]) for key in found))


def msrvtt(folder: Path, split: str = "1k-a") -> Listing:
    """MSRVTT's 1K-A test split (arXiv 1804.03160): 1,000 clips, one sentence each.

    Raises:
        DataError: for another tree or split, saying what was expected and found.
    """
    table = first_there(folder, MSRVTT_TABLES)
    if split != "1k-a" or table is None:
        raise refuse(folder, f"{MSRVTT_TABLES[0]} of the split 1k-a (got {split!r}), and videos/all/videoNNNN.mp4")
    files = _videos(folder)
    items = []
    for row in read_csv(table, ("video_id", "sentence")):
        name = row["video_id"]
        if name not in files:
            raise DataError(table, f"names {name!r}, which is not among the {len(files)} videos below {folder}")
        items.append(Item(name, files[name], (row["sentence"],)))
    return Listing("video", tuple(items))


def msvd(folder: Path, split: str = "test") -> Listing:
    """MSVD's clips with all their English sentences.

    Args:
        split: `all`, or a split of which `SPLIT_list.txt` names the clips (670 in `test`).

    Raises:
        DataError: for another tree, saying what was expected and found.
    """
    captions = first_there(folder, ["AllVideoDescriptions.txt", "raw-captions.txt"])
    files = _videos(folder)
    if captions is None or not files:
        raise refuse(folder, "YouTubeClips/*.avi and AllVideoDescriptions.txt")
    sentences: dict[str, list[str]] = {}
    for line in read_text(captions).splitlines():
        name, _, sentence = line.strip().partition(" ")
        if sentence and not name.startswith("#"):
            sentences.setdefault(name, []).append(sentence.strip())
    names = sorted(set(sentences) & set(files))
    if split != "all":
        table = folder / f"{split}_list.txt"
        if not table.is_file():
            raise refuse(folder, f"{split}_list.txt, which names the clips of this split (or split: all)")
        names = [Path(line.strip()).stem for line in read_text(table).splitlines() if line.strip()]
        if missing := [name for name in names if name not in files or name not in sentences]:
            raise DataError(table, f"names {len(missing)} clips without a file or sentences, such as {missing[0]!r}")
    return Listing("video", tuple(Item(name, files[name], tuple(sentences[name])) for name in names))


def _videos(folder: Path) -> dict[str, Path]:
    """Video files by stem, in the first of the usual folders that has some."""
    for place in (*_VIDEO_FOLDERS, "."):
        if found := files_of(folder / place, VIDEOS):
            return {path.stem: path for path in found}
    return {}
