"""Checks that need plugins: every preset, source, option and loss that a curriculum names, before any work."""

from __future__ import annotations

import torch

from tok4d.config.loader import load_preset
from tok4d.config.schema import Curriculum, TaskConfig
from tok4d.data.build import build_source
from tok4d.errors import ConfigError, Tok4dError
from tok4d.losses.objective import Objective
from tok4d.model.tokenizer import Tokenizer
from tok4d.plugins.registry import modality

DEFAULT_LOSSES = {"l1": 1.0, "l2": 10.0, "kl": 1e-8}


def check_curriculum(curriculum: Curriculum) -> None:
    """Look up everything that the stages name, so that a typo in the last one does not wait for hours of training.

    Raises:
        ConfigError: for a preset, part to freeze, source, option or loss that does not exist, naming stage and task.
    """
    config = load_preset(curriculum.model.preset, curriculum.model.overrides)
    with torch.device("meta"):
        model = Tokenizer(config)
    for name in curriculum.order:
        stage = curriculum.stages[name]
        for part, tasks in (("tasks", stage.tasks), ("validation", stage.validation)):
            for key, task in tasks.items():
                try:
                    build_source(task)
                    task_objective(task)
                except Tok4dError as error:
                    raise ConfigError(f"stages.{name}.{part}.{key}: {error}") from error
        model.freeze(stage.freeze)


def task_objective(task: TaskConfig) -> Objective:
    """Objective of a task as its modality makes it: of its own losses, else L1 + 10 L2 + a trace of KL."""
    return modality(task.source.split("/")[0]).objective(dict(task.losses) or DEFAULT_LOSSES)
