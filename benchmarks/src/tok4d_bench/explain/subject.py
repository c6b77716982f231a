"""What is explained: a model, an objective, and some batches of held-out samples.

T = packed tokens, W = patch width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from tok4d.config.schema import TaskConfig
from tok4d.data.batch import Batch, Loaded, collate
from tok4d.data.build import build_source
from tok4d.data.source import Source
from tok4d.errors import ConfigError, DataError, unknown_name
from tok4d.losses.objective import Loss, Objective
from tok4d.modality import Sample
from tok4d.model.bottleneck import Encoded
from tok4d.model.tokenizer import Tokenizer
from tok4d.tokens import TokenSet
from tok4d.training.check import task_objective
from tok4d.training.stage_loss import targets, unpatchify
from tok4d_bench.prepare import Prepare, is_pictures


@dataclass(frozen=True)
class Pass:
    """One batch through the model and back.

    Attributes:
        targets, reconstructions: samples.
        encoded: posterior and features.
        patches: the decoder's output `[T, W]`, what the terms' first gradients are taken at.
    """

    targets: list[Sample]
    reconstructions: list[Sample]
    encoded: Encoded
    patches: Tensor


@dataclass(frozen=True)
class Case:
    """A model with what it is asked to minimise, and data that it was not trained on.

    Attributes:
        batches: of one task.
        bad: files that could not be used.
    """

    model: Tokenizer
    objective: Objective
    batches: Sequence[Batch]
    bad: tuple[str, ...]

    def run(self, batch: Batch) -> Pass:
        """Encode and decode, by FSQ codes where the model has some, else by posterior means: nothing is drawn."""
        target = targets(batch)
        encoded = self.model.encode(batch.tokens, pool=self.objective.pools)
        latents = encoded.latents("mean") if self.model.quantizer is None else self.model.quantize(encoded).latents()
        patches = self.model.decode(latents)
        return Pass(target, self._samples(batch, patches), encoded, patches.feats)

    def loss(self, batch: Batch) -> Loss:
        """The objective on one batch."""
        done = self.run(batch)
        return self.objective(done.targets, done.reconstructions, done.encoded)

    def _samples(self, batch: Batch, patches: TokenSet) -> list[Sample]:
        return unpatchify(self.model, batch, patches)


def make_case(model: Tokenizer, task: TaskConfig, limit: int, side: int = 0, device: Any = "cpu") -> Case:
    """A case from a task as curricula name it.

    Args:
        task: source, options, batch and losses; no losses: the default objective.
        limit: samples at most; the first ones of the source, without augmentation.
        side: pictures and clips are resized and cut to squares of this side; 0: as they are.

    Raises:
        ConfigError: for a source, option or loss that does not exist.
        DataError: when no sample can be used.
    """
    objective = task_objective(task)
    loaded: list[Loaded] = []
    bad: list[str] = []
    source = build_source(task)
    prepare = Prepare(short=side, crop=side)
    for index in range(len(source)):
        if len(loaded) == limit:
            break
        try:
            loaded.append(_load(source, index, model, prepare))
        except DataError as error:
            bad.append(str(error))
    if not loaded:
        raise DataError(task.source, f"no sample could be used: {bad[0] if bad else 'it has none'}")
    starts = range(0, len(loaded), task.batch)
    parts = [loaded[start : start + task.batch] for start in starts]
    batches = [collate(-1, "explain", source.modality, part, [0] * len(part), ()).to(device) for part in parts]
    return Case(model.requires_grad_(True), objective.to(device), batches, tuple(bad))


def _load(source: Source, index: int, model: Tokenizer, prepare: Prepare) -> Loaded:
    sample = source.load(index)
    if is_pictures(sample.data[source.host.field]):
        sample = prepare.apply(sample)
    host = source.host.configured(model.config.inputs.get(source.modality, {}))
    tokens = host.patchify(sample, model.patch_size).validate()
    return Loaded(tokens, source.key(index), host.extras(sample), sample.caption, sample.label)


def task_of(
    curriculum: str | None, stage: str | None, task: str | None, source: str | None, changes: Mapping[str, Any]
) -> TaskConfig:
    """The task to explain: that of a curriculum, with another source or other values where they are given.

    Args:
        curriculum: its name or path; None: `source` with the defaults.
        stage, task: their names; None: the last stage, its first task.
        source: None: the task's own, held out as a validation task of the stage with that source has it.
        changes: further fields of `TaskConfig`.

    Raises:
        ConfigError: for names that do not exist, with the nearest, and when there is neither curriculum nor source.
    """
    from tok4d.config.loader import load_curriculum

    if curriculum is None:
        if source is None:
            raise ConfigError("nothing to explain the model on: give --data SOURCE, or --curriculum NAME")
        if stage is not None or task is not None:
            raise ConfigError("--stage and --task choose within a curriculum: give --curriculum NAME too")
        return replace(TaskConfig(source=source, batch=8), **changes)
    found = load_curriculum(curriculum)
    chosen = _named(f"stage of {curriculum}", found.stages, stage, found.order[-1] if found.order else None)
    tasks = {**chosen.tasks, **chosen.every_step}
    base = _named(f"task of {curriculum}", tasks, task, None)
    if source is not None:
        return replace(base, **{"source": source, "options": {}, **changes})
    held_out = next((one for one in chosen.validation.values() if one.source == base.source), None)
    options = base.options if held_out is None else held_out.options
    return replace(base, **{"options": dict(options), **changes})


def _named(what: str, known: Mapping[str, Any], name: str | None, default: str | None) -> Any:
    if name is None:
        name = default if default is not None else next(iter(known))
    if name not in known:
        raise ConfigError(unknown_name(what, name, known))
    return known[name]
