"""Checks that need plugins: every preset, source, option and loss that a curriculum names, before any work."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import takewhile
from pathlib import Path

import torch

from tok4d.config.loader import load_preset
from tok4d.config.schema import Curriculum, TaskConfig, TokenizerConfig
from tok4d.data.build import build_source
from tok4d.data.source import Source
from tok4d.errors import ConfigError, DataError, Tok4dError
from tok4d.losses.objective import Objective
from tok4d.model.tokenizer import Tokenizer
from tok4d.plugins.registry import modalities, modality
from tok4d.training.clips import check_clips
from tok4d.training.grow import stage_configs
from tok4d.training.loggers import check_loggers
from tok4d.training.parallel import refuse_unfit
from tok4d.weights.siglip2 import check_fits

DEFAULT_LOSSES = {"l1": 1.0, "l2": 10.0, "kl": 1e-8}


@dataclass(frozen=True)
class Problem:
    """Something that a curriculum cannot run with.

    Attributes:
        where: the key; empty where the reason names it.
        reason: what is wrong or missing, and what to do.
        cause: the error that said so.
    """

    where: str
    reason: str
    cause: Tok4dError

    def error(self) -> ConfigError:
        """To be raised."""
        error = ConfigError(f"{self.where}: {self.reason}" if self.where else self.reason)
        error.__cause__ = self.cause
        return error


def check_curriculum(curriculum: Curriculum, *, fresh: bool = True, files: bool = False) -> None:
    """Look up everything that the stages name, so that a typo in the last one does not wait for hours of training.

    Args:
        fresh: whether the run begins at its start; one that is continued has no need of what it started from.
        files: whether local files and folders must be there already, and may be looked into.

    Raises:
        ConfigError: for a preset, part to freeze or slow, source, option, loss or file that does not exist, naming
            stage and task;
            for a tower to start from that is missing or does not fit, a `rope_ramp` that cannot be run, or a
            `grow: clips` without clips or room for them.
    """
    for problem in problems(curriculum, fresh=fresh, files=files):
        raise problem.error()


def problems(curriculum: Curriculum, *, fresh: bool = True, files: bool = False) -> Iterator[Problem]:
    """Everything that `check_curriculum` refuses, one by one; what may ask a hub comes last.

    Raises:
        ConfigError: where a stage cannot begin with the model before it, so that later ones cannot be looked at.
    """
    for where, look in _checks(curriculum, fresh, files):
        try:
            look()
        except Tok4dError as error:
            yield Problem(where, str(error), error)


def _checks(curriculum: Curriculum, fresh: bool, files: bool) -> Iterator[tuple[str, Callable[[], object]]]:
    """Keys, and what looks at them."""
    config = load_preset(curriculum.model.preset, curriculum.model.overrides)
    yield "", partial(_check_ramps, curriculum, config)
    yield "", partial(refuse_unfit, curriculum)
    yield "", partial(check_loggers, curriculum.loggers)
    for name, options in config.inputs.items():
        if name in modalities() or name in curriculum.model.overrides.get("inputs", {}):  # others wait for their plugin
            yield f"model.overrides.inputs.{name}", partial(_check_inputs, name, options)
    with torch.device("meta"):
        model = Tokenizer(config)
    for name, grown in stage_configs(curriculum):
        stage = curriculum.stages[name]
        yield f"stages.{name}", partial(check_clips, curriculum, name, grown, look=files)
        parts = {"tasks": stage.tasks, "every_step": stage.every_step, "validation": stage.validation}
        for part, tasks in parts.items():
            for key, task in tasks.items():
                yield f"stages.{name}.{part}.{key}", partial(_check_task, task, files)
        yield f"stages.{name}", partial(model.freeze, stage.freeze)
        yield f"stages.{name}", partial(model.named_like, stage.optimizer.slow, "optimizer.slow")
    if fresh and curriculum.init == "siglip2":
        yield "init_from", partial(check_fits, config, curriculum.init_from)


def _check_inputs(name: str, options: Mapping[str, object]) -> None:
    modality(name).configured(options)


def _check_task(task: TaskConfig, files: bool) -> None:
    source = build_source(task)
    task_objective(task)
    if files:
        _check_place(source)


def _check_place(source: Source) -> None:
    """Refuse a local path that is not there; of a pattern, the folder it is in. Recipes and URLs wait until used."""
    path = getattr(source, "path", "")  # of other sources this may be a method, or nothing
    if not isinstance(path, str) or not path or "://" in path:
        return
    parts = Path(path).expanduser().parts
    fixed = Path(*takewhile(lambda part: not set(part) & set("*?[{"), parts))
    if not fixed.exists():
        raise DataError(fixed, "no such file or folder")


def _check_ramps(curriculum: Curriculum, config: TokenizerConfig) -> None:
    """A ramp starts from nothing and ends where RoPE acts in full; anything else would be a leap in training."""
    scale = config.rope_scale
    for position, name in enumerate(curriculum.order):
        stage, where = curriculum.stages[name], f"stages.{name}.rope_ramp"
        if not stage.rope_ramp:
            continue
        if config.positions == "table":
            raise ConfigError(f"{where}: this model has no RoPE (positions: table); use positions: joint, or no ramp")
        if stage.rope_ramp > stage.steps:
            raise ConfigError(f"{where}: {stage.rope_ramp} steps do not fit into the stage's {stage.steps}")
        if position and scale != 0:
            raise ConfigError(
                f"{where}: earlier stages train with rope_scale {scale:g}, and a ramp starts at 0; ramp in the first "
                "stage, or set model.overrides.rope_scale: 0"
            )
        scale = 1.0


def task_objective(task: TaskConfig) -> Objective:
    """Objective of a task as its modality makes it: of its own losses, else L1 + 10 L2 + a trace of KL."""
    return modality(task.source.split("/")[0]).objective(dict(task.losses) or DEFAULT_LOSSES)
