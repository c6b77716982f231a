"""Where a run's curves and pictures go: TensorBoard in the run's folder, Weights & Biases."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tok4d.errors import ConfigError, unknown_name
from tok4d.training.parallel import is_first
from tok4d.weights.folder import write_text

if TYPE_CHECKING:
    from pytorch_lightning.loggers import Logger

PROJECT = "tok4d"


def make_loggers(names: Sequence[str], out: Path, config: Mapping[str, Any] | None = None) -> list[Logger]:
    """The loggers of a run.

    Args:
        names: of `LOGGERS`; none at all is fine.
        out: run folder.
        config: the resolved configuration, for a logger that shows it.

    Raises:
        ConfigError: for a name that is not known, or a logger whose package is not installed.
    """
    check_loggers(names)
    return [LOGGERS[name](out, config or {}) for name in dict.fromkeys(names)]


def check_loggers(names: Sequence[str]) -> None:
    """Raise ConfigError for a name that is not known, or a logger whose package is not installed."""
    for name in names:
        if name not in LOGGERS:
            raise ConfigError(f"loggers: {unknown_name('logger', name, LOGGERS)}")
    if "wandb" in names:
        _wandb()


def close_loggers(names: Sequence[str]) -> None:
    """End what is open beyond a stage, and hand over what is not sent yet."""
    if "wandb" in names:
        _wandb().finish()


def _tensorboard(out: Path, config: Mapping[str, Any]) -> Logger:
    from pytorch_lightning.loggers import TensorBoardLogger

    return TensorBoardLogger(out, name="logs", version="")


def _weights_and_biases(out: Path, config: Mapping[str, Any]) -> Logger:
    """Account, server and offline mode are the package's own affair: `wandb login`, `WANDB_MODE=offline`, ..."""
    from pytorch_lightning.loggers import WandbLogger

    _wandb()
    logging.getLogger("wandb").setLevel(logging.ERROR)
    identity = _identity(out) if is_first() else None
    logger = WandbLogger(name=out.resolve().name, save_dir=out, project=PROJECT, id=identity, resume="allow")
    logger.log_hyperparams(dict(config))
    return logger


def _identity(out: Path) -> str:
    """The run's id there, kept in the run's folder, so that a run that is continued is one run."""
    path = out / "wandb" / "id"
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, secrets.token_hex(8))
    return path.read_text().strip()


def _wandb() -> Any:
    try:
        import wandb
    except ImportError as error:
        raise ConfigError(f'loggers: wandb needs the package "wandb" ({error}); pip install wandb') from error
    return wandb


LOGGERS: dict[str, Callable[[Path, Mapping[str, Any]], Logger]] = {
    "tensorboard": _tensorboard,
    "wandb": _weights_and_biases,
}
