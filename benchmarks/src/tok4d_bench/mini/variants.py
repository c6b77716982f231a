"""Controls of a curriculum: the same stages with the tasks of one modality alone.

`steps` gives a modality as many steps as it has in the whole curriculum, `compute` as many as all modalities together.
"""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from typing import Any

from tok4d.config.loader import load_curriculum, to_mapping
from tok4d.config.schema import Curriculum, StageConfig
from tok4d.data.order import MixtureSchedule, seed_of
from tok4d.errors import ConfigError, unknown_name

WHOLE = "curriculum"
BUDGETS = ("steps", "compute")
HOSTS = ("image", "video", "mesh3d")
VARIANTS = (WHOLE, *(f"{host}-steps" for host in HOSTS), *(f"{host}-compute" for host in HOSTS))


def variant(curriculum: Curriculum, name: str) -> Curriculum:
    """`curriculum`, or `MODALITY-steps` and `MODALITY-compute`.

    A control keeps the modality's tasks, their weights among themselves, losses, optimisers and riders of its own
    modality; a stage without a task of it is left out. Channels and codes come when they come in the curriculum; what
    begins after the first stage begins with the channels of its own first stage, at the PCA of its patches. Nothing is
    slowed: there is no switch between modalities to protect.

    Raises:
        ConfigError: for another name, or a modality that the curriculum does not have.
    """
    if name == WHOLE:
        return curriculum
    host, _, budget = name.partition("-")
    if budget not in BUDGETS:
        raise ConfigError(unknown_name("variant", name, [WHOLE, *(f"image-{kind}" for kind in BUDGETS)]))
    made = deepcopy(curriculum)
    made.order, made.stages = [], {}
    for key in curriculum.order:
        stage = deepcopy(curriculum.stages[key])
        for part in ("tasks", "every_step", "validation"):
            kept = {task: value for task, value in getattr(stage, part).items() if value.source.startswith(f"{host}/")}
            setattr(stage, part, kept)
        if not stage.tasks:
            continue
        if budget == "steps":
            stage.steps = steps_of(curriculum.seed, key, curriculum.stages[key], set(stage.tasks))
        made.order.append(key)
        made.stages[key] = stage
    if not made.order:
        raise ConfigError(f"curriculum {curriculum.name!r} has no task of modality {host!r}")
    if budget == "compute":
        whole = sum(curriculum.stages[key].steps for key in curriculum.order)
        own = sum(stage.steps for stage in made.stages.values())
        for stage in made.stages.values():
            stage.steps = round(stage.steps * whole / own)
    _begin(curriculum, made)
    return made.check()


def steps_of(seed: int, name: str, stage: StageConfig, tasks: set[str]) -> int:
    """How many steps of a stage have one of these tasks."""
    schedule = MixtureSchedule(seed_of(seed, "stage", name), {key: task.weight for key, task in stage.tasks.items()})
    return max(1, sum(schedule.task(step) in tasks for step in range(stage.steps)))


def _begin(curriculum: Curriculum, made: Curriculum) -> None:
    """Channels of the first stage that is left; growth afterwards needs no basis for clips where all are of a kind."""
    first = made.order[0]
    before = [curriculum.stages[key] for key in curriculum.order[: curriculum.order.index(first) + 1]]
    grown = [stage.latent for stage in before if stage.latent is not None]
    if grown and before[0] is not curriculum.stages[first]:
        made.model.overrides = {**made.model.overrides, "latent": grown[-1]}
    for key in made.order:
        stage = made.stages[key]
        stage.optimizer.slow = []
        if key == first:
            stage.latent, stage.grow, stage.repeat_first_frame = None, "random", False
        elif stage.grow == "clips":
            stage.grow = "scores"


def changed(shipped: str, run: str, used: Mapping[str, Any]) -> list[str]:
    """What a run was given besides preset and seed, as for `tok4d train`: `["stages.images.steps=400", ...]`.

    Args:
        shipped: name of the curriculum.
        run: name of the run, which ends with its variant.
        used: the resolved configuration of the run.

    Raises:
        ConfigError: for a name with another end.
    """
    kind = next((name for name in VARIANTS if run.endswith(f"-{name}")), None)
    if kind is None:
        raise ConfigError(f"{run!r} is no name of a run: it must end with its variant, one of {', '.join(VARIANTS)}")
    given = [f"model.preset={used['model']['preset']}", f"seed={used['seed']}"]
    before, now = _flat(to_mapping(variant(load_curriculum(shipped, given), kind))), _flat(used)
    differ = [name for name in now if name != "workers" and now[name] != before.get(name)]
    return [f"{name}={now[name]}" for name in differ]


def _flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    leaves: dict[str, Any] = {}
    for key, value in tree.items():
        leaves |= _flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return leaves
