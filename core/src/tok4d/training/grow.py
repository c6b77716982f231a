"""The beginning of a stage: what it changes in the model, in weights, averages and AdamW's moments alike.

L = latent channels, T = packed tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

from torch import Tensor

from tok4d.config.loader import load_preset
from tok4d.config.schema import Curriculum, FSQConfig, StageConfig, TokenizerConfig
from tok4d.data.batches import Batch, StageBatches
from tok4d.errors import ConfigError
from tok4d.model.pca import PatchPCA
from tok4d.model.tokenizer import Tokenizer
from tok4d.training.discrete import Entry, measure_entry
from tok4d.training.optim import AveragedWeights
from tok4d.training.parallel import prepare_blocks
from tok4d.training.start import patches_of, sample_patches
from tok4d.weights.growth import (
    amplified,
    discrete_config,
    new_rows,
    rebuilt,
    reordered,
    repeat_first_frame,
    rescaled,
    widened,
    wider_config,
)
from tok4d.weights.linear_growth import grow_scores
from tok4d.weights.linear_modes import add_clips
from tok4d.weights.linear_neurons import free_neurons

LATENT_BATCHES = 8
MAX_TOKENS = 200_000
MAX_SAMPLES, MAX_PART = 32, 32_768  # samples and tokens of one batch
POWERS = {"exp_avg": -1, "exp_avg_sq": -2}


@dataclass
class Learned:
    """What passes from stage to stage: a model, its averages (None: they start at the model), AdamW's moments."""

    model: Tokenizer
    ema: AveragedWeights | None = None
    moments: dict[str, Tensor] = field(default_factory=dict)

    def both(self, change: Callable[[Tokenizer], None]) -> None:
        """Apply a change in place to the weights and to the averages."""
        change(self.model)
        if self.ema is not None:
            self.ema.swap(self.model)
            change(self.model)
            self.ema.swap(self.model)

    def averaged(self) -> Tokenizer:
        """A copy of the model with the averages."""
        averages = {} if self.ema is None else self.ema.values
        return rebuilt(self.model.config, {**self.model.state_dict(), **averages}).eval()


def begin_stage(curriculum: Curriculum, name: str, learned: Learned) -> Learned:
    """The model as a stage asks for it: stills repeated, then more latent channels, then FSQ."""
    stage = curriculum.stages[name]
    if stage.repeat_first_frame:
        learned.both(repeat_first_frame)
    before = learned.model.config.latent
    if stage.latent is not None and stage.latent != before:
        learned = widen(learned, stage.latent, curriculum.seed)
    if stage.grow != "random":
        try:
            _fill(curriculum, stage, learned, before)
        except ConfigError as error:
            raise ConfigError(f"stages.{name}: {error}") from error
    if stage.quantizer is not None:
        if learned.model.quantizer is not None:
            return quantize(learned, stage.quantizer)
        batches = first_batches(curriculum, name, learned.model)
        measured = learned.averaged().requires_grad_(False)  # slopes are by the latents alone
        prepare_blocks(measured, recompute=True, compiled=False)
        return quantize(learned, stage.quantizer, measure_entry(measured, stage.quantizer, batches))
    return learned


def grown_config(curriculum: Curriculum, config: TokenizerConfig, name: str) -> TokenizerConfig:
    """What a model's configuration becomes when a stage begins.

    Raises:
        ConfigError: when the stage cannot begin with this model, naming the key.
    """
    stage = curriculum.stages[name]
    where = f"stages.{name}"
    try:
        if stage.grow != "random" and curriculum.init != "linear":
            raise ConfigError(
                f"grow: {stage.grow} continues a linear start; this curriculum has init: {curriculum.init}"
            )
        if stage.latent is not None:
            config = wider_config(config, stage.latent)
        if stage.quantizer is not None:
            return discrete_config(config, stage.quantizer)
        if config.quantizer is not None:
            config.quantizer.check(config.latent)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from error
    return config


def stage_configs(curriculum: Curriculum) -> Iterator[tuple[str, TokenizerConfig]]:
    """Every stage with the model's configuration in it.

    Raises:
        ConfigError: for a stage that cannot begin with the model before it.
    """
    config = load_preset(curriculum.model.preset, curriculum.model.overrides)
    for name in curriculum.order:
        config = grown_config(curriculum, config, name)
        yield name, config


def widen(learned: Learned, latent: int, seed: int) -> Learned:
    """More latent channels: small random rows in weights and averages alike, zero in the moments."""
    before = learned.model.config.latent
    config = wider_config(learned.model.config, latent)
    rows = new_rows(before, latent, config.encoder.width, seed)
    return _changed(
        learned,
        config,
        lambda name, value: widened(name, value, before, latent, rows),
        lambda name, value, _: widened(name, value, before, latent),
    )


def quantize(learned: Learned, quantizer: FSQConfig, entry: Entry | None = None) -> Learned:
    """FSQ, with an order, scale and gain of the latents folded into the layers around it."""
    config = discrete_config(learned.model.config, quantizer)
    if entry is None:
        return _changed(learned, config, lambda _, value: value, lambda _, value, __: value)
    return _changed(
        learned,
        config,
        lambda name, value: entered(name, value, entry),
        lambda name, value, key: entered(name, value, entry, POWERS[key]),
    )


def entered(name: str, value: Tensor, entry: Entry, power: int = 1) -> Tensor:
    """A tensor of a model whose latents become codes; `power` as in `rescaled`."""
    value = rescaled(name, reordered(name, value, entry.order), entry.scale, power)
    return amplified(name, value, entry.gain, power)


def _changed(
    learned: Learned,
    config: TokenizerConfig,
    weight: Callable[[str, Tensor], Tensor],
    moment: Callable[[str, Tensor, str], Tensor],
) -> Learned:
    """Everything passed through functions of (name, value) and, for moments, their kind."""
    model = rebuilt(config, {name: weight(name, value) for name, value in learned.model.state_dict().items()})
    ema = learned.ema
    if ema is not None:
        ema.values = {name: weight(name, value) for name, value in ema.values.items()}
    moments: dict[str, Tensor] = {}
    for full, value in learned.moments.items():
        name, _, key = full.rpartition("/")
        moments[full] = moment(name, value, key) if key in POWERS else value
    return replace(learned, model=model, ema=ema, moments=moments)


def first_batches(curriculum: Curriculum, name: str, model: Tokenizer) -> Iterator[Batch]:
    """The first batches of a stage, the same in every process: 8 steps, or 200,000 tokens, and one of every task.

    Of large batches only the first samples: they need not fit into memory as a step of many processes does.
    """
    stage = _smaller(curriculum.stages[name])
    batches = StageBatches(stage, name, curriculum.seed, model.patch_size, inputs=model.config.inputs)
    total, seen = 0, set[str]()
    for step in range(stage.steps):
        enough = step >= LATENT_BATCHES or total >= MAX_TOKENS
        if enough and len(seen) == len(stage.tasks):
            return
        task = batches.schedule.task(step)
        if enough and task in seen:
            continue
        seen.add(task)
        for part in range(batches.parts):
            for batch in _within(batches[step * batches.parts + part]):
                total += batch.tokens.num_tokens
                yield batch


def _smaller(stage: StageConfig) -> StageConfig:
    """The stage with no more than 32 samples a batch."""
    stage = replace(stage, micro=1, tasks=dict(stage.tasks), every_step=dict(stage.every_step))
    for tasks in (stage.tasks, stage.every_step):
        for key, task in tasks.items():
            tasks[key] = replace(task, batch=min(task.batch, MAX_SAMPLES), tokens=min(task.tokens, MAX_PART))
    return stage


def _within(batch: Batch) -> Iterator[Batch]:
    """The batch; one of too many tokens sample by sample, until there are enough."""
    if batch.tokens.num_tokens <= MAX_PART:
        yield batch
        return
    left = MAX_PART
    for one in batch.unpack():
        yield one
        left -= one.tokens.num_tokens
        if left <= 0:
            return


def _fill(curriculum: Curriculum, stage: StageConfig, learned: Learned, before: int) -> None:
    """Content for the new channels of a model that started linearly."""
    size, tasks = learned.model.patch_size, list(stage.tasks.values())
    begun = load_preset(curriculum.model.preset, curriculum.model.overrides).latent
    stills = patches_of(list(curriculum.stages[curriculum.order[0]].tasks.values()), size, curriculum)
    pictures = PatchPCA.fit(stills)
    if learned.model.config.latent > before:
        learned.both(lambda model: grow_scores(model, pictures, begun, before))
    if stage.grow == "scores":
        return
    wide = [task for task in tasks if sample_patches(task, size, 1, curriculum.seed).shape[1] > len(pictures.mean)]
    if not wide:
        raise ConfigError("grow: clips: no task of this stage has samples of more than one frame")
    moving = patches_of(wide, size, curriculum)
    clips = PatchPCA.fit(moving)
    free = free_neurons(learned.averaged())
    learned.both(lambda model: add_clips(model, pictures, clips, stills, moving, begun, free))
