"""Folders of weights as `diffusers` and `transformers` publish them, local or by hub id."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tok4d.errors import DataError, Tok4dError
from tok4d.weights.hf_folder import from_hub

CONFIG = "config.json"


def locate(source: str, patterns: Sequence[str], complete: Callable[[Path], bool]) -> Path:
    """The folder itself, or that of a hub id in the local cache, fetched when it is not there yet.

    Args:
        patterns: files to fetch from the hub.
        complete: whether a folder holds what is needed.

    Raises:
        ConfigError: when it is neither, or the hub does not give it, with where it was looked for.
        DataError: for a local folder that is not complete.
    """
    local = Path(source).expanduser()
    if source and local.is_dir():
        if not complete(local):
            raise DataError(source, f"holds no {CONFIG} with safetensors beside it")
        return local
    return from_hub(source, patterns, complete, extra="baselines")


@contextmanager
def one_line(path: str | Path, what: str) -> Iterator[None]:
    """Turn whatever a library raises into one line about a folder."""
    try:
        yield
    except (Tok4dError, MemoryError):
        raise
    except Exception as error:  # libraries' errors have no common base
        said = " ".join(str(error).split())[:200]
        raise DataError(path, f"{what}: {type(error).__name__}: {said}") from error


@contextmanager
def quiet(logging: Any) -> Iterator[None]:
    """Keep a library's own messages and bars off the terminal (`diffusers.utils.logging` and its like)."""
    level = logging.get_verbosity()
    bars = getattr(logging, "is_progress_bar_enabled", lambda: True)()
    logging.set_verbosity(logging.CRITICAL)
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
