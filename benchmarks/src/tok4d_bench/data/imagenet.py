"""ImageNet-1k's validation pictures: by folders of classes, or flat with a table.

    val/n01440764/ILSVRC2012_val_00000293.JPEG          as most scripts sort them
    ILSVRC/Data/CLS-LOC/val/ILSVRC2012_val_*.JPEG       as Kaggle has them, with LOC_val_solution.csv
    val/*.JPEG + val.txt or synset file                 flat, one line `name class` each

Names of classes come from LOC_synset_mapping.txt, or imagenet_class_index.json; without either, classes have no names.
"""

from __future__ import annotations

from pathlib import Path

from tok4d.errors import DataError
from tok4d_bench.data.listing import (
    IMAGES,
    Item,
    Listing,
    files_of,
    first_there,
    folders_of,
    read_csv,
    read_json,
    read_text,
    refuse,
)

SOLUTIONS = "LOC_val_solution.csv"
MAPPINGS = ("LOC_synset_mapping.txt", "imagenet_class_index.json")
LISTS = ("val.txt", "imagenet_2012_validation_synset_labels.txt", "synsets.txt")
_EXPECTED = (
    "val/ with a folder of pictures for every class (n01440764, ...), or val/*.JPEG beside LOC_val_solution.csv or a "
    "list of 'file class' lines (val.txt)"
)


def imagenet(folder: Path, split: str = "val") -> Listing:
    """The pictures of a split, in order of their file names.

    Args:
        folder: where `val/` is; `val/` itself will do.
        split: name of the folder.

    Raises:
        DataError: for another tree, saying what was expected and found.
    """
    places = [split, f"ILSVRC/Data/CLS-LOC/{split}", f"Data/CLS-LOC/{split}"]
    pictures = first_there(folder, places) or folder
    sorted_by_class = [path for path in folders_of(pictures) if files_of(path, IMAGES)]
    if sorted_by_class:
        pairs = [(path, home.name) for home in sorted_by_class for path in files_of(home, IMAGES)]
    else:
        flat = files_of(pictures, IMAGES)
        if not flat:
            raise refuse(folder, _EXPECTED)
        homes = _flat_classes(folder, pictures, flat)
        pairs = [(path, homes[path.stem]) for path in flat]
    pairs.sort(key=lambda pair: pair[0].name)
    synsets, names = _names(folder, pictures, sorted({synset for _, synset in pairs}))
    place = {synset: label for label, synset in enumerate(synsets)}
    items = tuple(Item(path.name, path, label=place[synset]) for path, synset in pairs)
    notes = () if names else (f"no names of classes: none of {', '.join(MAPPINGS)} is there",)
    return Listing("image", items, names, notes=notes)


def _flat_classes(folder: Path, pictures: Path, files: list[Path]) -> dict[str, str]:
    """Class by stem of the file name, from a table."""
    around = (folder, folder.parent, pictures.parent)
    solution = next((path for place in around if (path := place / SOLUTIONS).is_file()), None)
    if solution is not None:
        table = solution
        rows = read_csv(solution, ("ImageId", "PredictionString"))
        found = {row["ImageId"]: row["PredictionString"].partition(" ")[0] for row in rows}
    else:
        listed = next((path for place in around for name in LISTS if (path := place / name).is_file()), None)
        if listed is None:
            raise refuse(folder, _EXPECTED)
        table = listed
        lines = [line.split() for line in read_text(listed).splitlines() if line.strip()]
        if all(len(line) == 1 for line in lines):  # the order of the files is all there is
            if len(lines) != len(files):
                raise DataError(listed, f"has {len(lines)} classes for {len(files)} pictures")
            found = {path.stem: line[0] for path, line in zip(files, lines, strict=True)}
        else:
            found = {Path(line[0]).stem: line[1] for line in lines if len(line) == 2}
    if missing := [path.name for path in files if path.stem not in found]:
        raise DataError(table, f"has no class for {len(missing)} of {len(files)} pictures, such as {missing[0]}")
    return found


def _names(folder: Path, pictures: Path, synsets: list[str]) -> tuple[list[str], tuple[str, ...]]:
    """All classes in the order of labels, and their names, the first of several."""
    around = (folder, folder.parent, pictures.parent)
    path = next((path for place in around for name in MAPPINGS if (path := place / name).is_file()), None)
    if path is None:
        numbers = all(synset.isdecimal() for synset in synsets)
        return (sorted(synsets, key=int) if numbers else synsets), ()
    if path.suffix == ".json":
        content = read_json(path)
        try:
            rows = [(str(content[key][0]), str(content[key][1]).replace("_", " ")) for key in sorted(content, key=int)]
        except (TypeError, ValueError, KeyError, IndexError):
            raise DataError(path, "must map numbers to [synset, name]") from None
    else:
        lines = [line.strip().partition(" ") for line in read_text(path).splitlines() if line.strip()]
        rows = [(line[0], line[2].split(",")[0].strip()) for line in lines]
    known = [synset for synset, _ in rows]
    if all(synset.isdecimal() for synset in synsets) and synsets:
        known = [str(number) for number in range(len(rows))]
    if unknown := [synset for synset in synsets if synset not in known]:
        raise DataError(path, f"has no class {unknown[0]!r} ({len(unknown)} in all), which the pictures have")
    return known, tuple(name for _, name in rows)
