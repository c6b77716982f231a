"""What is in a run folder, and whether a curriculum goes on with it."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from tok4d.config.loader import from_mapping, read_yaml, to_mapping
from tok4d.config.schema import Curriculum
from tok4d.errors import ConfigError, DataError
from tok4d.training import checkpoint, parallel

log = logging.getLogger(__name__)

# What may differ between a run and its continuation: nothing here changes a weight, or no more than rounding does.
FREE_ON_RESUME = (
    "workers",
    "checkpoint_every",
    "log_every",
    "loggers",
    "validate_every",
    "max_bad",
    "on_nan",
    "max_nan",
    "strategy",
    "accelerator",
    "devices",
    "nodes",
    "asynchronous",
    "compile",
    "checkpoint_activations",
)


def last_checkpoint(curriculum: Curriculum, out: Path, processes: int) -> checkpoint.Checkpoint:
    """The newest checkpoint of a run of this curriculum.

    Raises:
        Tok4dError: for another configuration, or a broken checkpoint.
    """
    _refuse_other(curriculum, out / "curriculum.yaml")
    folder = checkpoint.newest(out / "checkpoints")
    if folder is None:
        raise DataError(out / "checkpoints", "holds no checkpoint")
    found = checkpoint.load(folder)
    if not (out / "checkpoints" / "last").exists() and parallel.rank() == 0:
        checkpoint.point_to(folder)
    for what, now, then in (
        ("threads", torch.get_num_threads(), found.state.threads),
        ("processes", processes, found.state.processes),
    ):
        if now != then:
            log.warning(
                "resuming with %d %s, not %d as before: sums round differently, so weights will not be the same bits",
                now,
                what,
                then,
            )
    return found


def _refuse_other(curriculum: Curriculum, path: Path) -> None:
    # Read through the schema, so that a run goes on also where keys have been added since.
    saved = _flat(to_mapping(from_mapping(Curriculum, read_yaml(path), str(path))))
    given = _flat(to_mapping(curriculum))
    differ = sorted(key for key in {**saved, **given} if key not in FREE_ON_RESUME and given.get(key) != saved.get(key))
    if differ:
        raise ConfigError(
            f"{path.parent} was trained with another configuration (differs in: {', '.join(differ)}); "
            "resume it with the one in its curriculum.yaml, or choose another folder"
        )


def _flat(data: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested keys joined by dots."""
    flat: dict[str, Any] = {}
    for key, value in data.items():
        if isinstance(value, Mapping) and value:
            flat.update(_flat(value, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def refuse_existing(out: Path, resume: bool) -> None:
    """Raise ConfigError for a folder that holds a run, or is none."""
    if (out / "checkpoints").exists() and any((out / "checkpoints").glob("*/training/state.json")) and not resume:
        raise ConfigError(f"{out} already holds a run; add --resume to continue it, or choose another folder")
    if out.exists() and not out.is_dir():
        raise ConfigError(f"{out} is not a folder")


def read_throughput(out: Path, total: int) -> dict[str, dict[str, Any]]:
    """How fast the stages of a run that is continued were; the one it stopped in is measured anew."""
    path = out / "throughput.json"
    return dict(_read(path)) if path.is_file() and total else {}


def read_results(out: Path, total: int) -> list[dict[str, Any]]:
    """Validation of the steps up to a checkpoint; later ones belong to a part that is trained again."""
    path = out / "results.json"
    if not path.is_file() or not total:
        return []
    return [row for row in _read(path) if row["step"] <= total]


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_text())
    except ValueError as error:
        raise DataError(path, f"is damaged ({error}); delete it to go on without the figures it held") from error
