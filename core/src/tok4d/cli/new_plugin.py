"""`tok4d new-plugin`: write a plugin project that works, for its author to change."""

from __future__ import annotations

import keyword
import re
import shutil
import tempfile
from pathlib import Path
from string import Template
from typing import Annotated

import typer

from tok4d import __version__
from tok4d.cli.console import emit
from tok4d.errors import DataError, PluginError

TEMPLATES = Path(__file__).parent / "templates" / "new_plugin"
SUFFIX = ".tmpl"  # keeps linters and type checkers away from files that are not Python yet
_NAME = re.compile(r"[a-z][a-z0-9]*(_[a-z0-9]+)*")
MAX_NAME = 24


def new_plugin(
    name: str = typer.Argument(..., help="Name of the modality: lower-case letters, digits and underscores."),
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Project folder; tok4d_NAME here if not given.")
    ] = None,
    as_json: bool = typer.Option(False, "--json", help="Give JSON alone on stdout."),
) -> None:
    """Write a plugin project: a small modality that works, the conformance kit as its tests, and a curriculum."""
    check_name(name)
    folder = out or Path(f"tok4d_{name}")
    files = write_project(name, folder)
    result = {"name": name, "package": f"tok4d_{name}", "folder": str(folder), "files": files}
    emit(result, as_json, lambda: _render(folder, files))


def check_name(name: str) -> None:
    """Refuse names that cannot be a modality's.

    Raises:
        typer.BadParameter: for a name that is no lower-case identifier.
        PluginError: for a name that an installed plugin, modality or package already has.
    """
    from importlib.util import find_spec

    from tok4d.plugins.registry import modalities, records

    if keyword.iskeyword(name):
        raise typer.BadParameter(f"{name!r} is a word of Python itself; choose another", param_hint="NAME")
    if not _NAME.fullmatch(name) or len(name) > MAX_NAME:
        proposal = re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")[:MAX_NAME]
        usable = _NAME.fullmatch(proposal) and not keyword.iskeyword(proposal)
        hint = f"; {proposal!r} would do" if usable else ""
        raise typer.BadParameter(
            f"{name!r} must be lower-case letters, digits and single underscores, starting with a letter, at most "
            f"{MAX_NAME} in all{hint}",
            param_hint="NAME",
        )
    taken = {record.name for record in records()} | set(modalities())
    if name in taken:
        raise PluginError(f"there is already a plugin or modality {name!r}; taken: {', '.join(sorted(taken))}")
    if find_spec(f"tok4d_{name}") is not None:
        raise PluginError(f"a package tok4d_{name} is already installed; choose another name")


def write_project(name: str, folder: Path) -> list[str]:
    """Fill the templates into a new folder, all or nothing; gives the files' relative paths.

    Raises:
        DataError: when the folder exists and is not empty, or cannot be written.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise DataError(folder, "exists already and is not an empty folder; choose another with -o")
    try:
        folder.absolute().parent.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(dir=folder.absolute().parent, prefix=".new-plugin-"))
        try:
            files = _fill(name, staging / "project")
            if folder.exists():
                folder.rmdir()
            (staging / "project").rename(folder)
        finally:
            shutil.rmtree(staging, ignore_errors=True)
    except OSError as error:
        raise DataError(folder, f"cannot be written: {error.strerror}") from error
    return files


def _fill(name: str, folder: Path) -> list[str]:
    values = {
        "name": name,
        "package": f"tok4d_{name}",
        "distribution": f"tok4d-{name.replace('_', '-')}",
        "class_name": "".join(part.capitalize() for part in name.split("_")) + "Modality",
        "version": __version__,
    }
    files = []
    for source in sorted(TEMPLATES.rglob(f"*{SUFFIX}")):
        relative = source.relative_to(TEMPLATES).as_posix().removesuffix(SUFFIX)
        relative = relative.replace("PACKAGE", values["package"]).replace("NAME", name).replace("dot-", ".")
        target = folder / relative
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(Template(source.read_text(encoding="utf-8")).substitute(values), encoding="utf-8")
        files.append(relative)
    return files


def _render(folder: Path, files: list[str]) -> None:
    for file in files:
        typer.echo(folder / file)
    typer.echo(f'\nNext:\n  cd {folder}\n  pip install -e ".[dev]"\n  pytest\nThen follow README.md.')
