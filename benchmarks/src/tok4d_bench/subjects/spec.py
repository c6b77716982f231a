"""How a subject is named on the command line: a model folder, or `KIND:SOURCE,option=value,...`."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tok4d.errors import ConfigError

MODEL = "tok4d"  # the kind of a model folder that is named by its path alone
OPEN, CLOSED = "[{(", "]})"


@dataclass(frozen=True)
class SubjectSpec:
    """A subject as asked for.

    Attributes:
        kind: what `tok4d bench list` shows under baselines.
        source: folder, hub id or data source; empty where the kind needs none.
        options: the rest, values read as YAML.
        text: as it was written.
    """

    kind: str
    source: str
    options: dict[str, Any] = field(default_factory=dict)
    text: str = ""


def parse_spec(text: str, kinds: Collection[str]) -> SubjectSpec:
    """Read `KIND`, `KIND:SOURCE`, `KIND:SOURCE,option=value,...` or the path of a model folder.

    A folder that is there wins over everything but the name of a kind. Commas inside of brackets part no options, so
    that `pca:image/photos,options={size: 64, limit: 200}` has two.

    Args:
        kinds: names of the kinds there are.

    Raises:
        ConfigError: for an option that is not `name=value`, one given twice, or a value that is no YAML.
    """
    if text not in kinds and Path(text).expanduser().is_dir():
        return SubjectSpec(MODEL, text, {}, text)
    head, *rest = _parts(text)
    kind, _, source = head.partition(":")
    if kind not in kinds:
        kind, source = (MODEL, head) if _is_path(head) else (kind, source)
    return SubjectSpec(kind, source, _options(rest, text), text)


def lasting(asked: SubjectSpec, names: Collection[str]) -> str:
    """The spec with the whole path of its folder, so that it holds in another working directory.

    Args:
        names: sources of samples, which a folder of the same name is not meant by.
    """
    path = Path(asked.source).expanduser()
    if not asked.source or asked.source in names or not path.exists():
        return asked.text
    place = asked.text.find(asked.source)
    whole = str(path.resolve())
    if "," in whole and asked.options:
        return asked.text  # it would be read as an option
    return asked.text[:place] + whole + asked.text[place + len(asked.source) :]


def gone(asked: SubjectSpec, kinds: Collection[str]) -> str:
    """The folder that a spec of a run names and that is not there; empty: none is missing."""
    folder = asked.source if asked.kind in kinds else asked.text
    is_folder = asked.kind == MODEL or asked.kind not in kinds or Path(folder).is_absolute()
    return folder if is_folder and not Path(folder).expanduser().exists() else ""


def _is_path(head: str) -> bool:
    """Whether something that is no kind can only be meant as a folder."""
    return "/" in head.partition(":")[0] or Path(head).expanduser().is_dir()


def _options(items: list[str], text: str) -> dict[str, Any]:
    import yaml

    options: dict[str, Any] = {}
    for item in items:
        name, equals, value = (part.strip() for part in item.partition("="))
        if not name or not equals:
            raise ConfigError(f"-m {text}: {item!r} is no option; options are name=value, parted by commas")
        if name in options:
            raise ConfigError(f"-m {text}: option {name!r} is given twice")
        try:
            options[name] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise ConfigError(f"-m {text}: {value!r} of option {name!r} is no YAML value") from error
    return options


def _parts(text: str) -> Iterator[str]:
    """Split at commas that stand in no bracket."""
    depth, start = 0, 0
    for place, letter in enumerate(text):
        depth += (letter in OPEN) - (letter in CLOSED)
        if letter == "," and depth <= 0:
            yield text[start:place]
            start = place + 1
    yield text[start:]
