"""The beginning of a stage: what it changes in the model, in weights, averages and AdamW's moments alike.

L = latent channels, T = packed tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from tok4d.config.loader import load_preset
from tok4d.config.schema import Curriculum, FSQConfig, StageConfig, TokenizerConfig
from tok4d.data.batches import Batch, StageBatches
from tok4d.errors import ConfigError
from tok4d.model.pca import PatchPCA
from tok4d.model.tokenizer import Tokenizer
from tok4d.training.optim import AveragedWeights
from tok4d.training.start import patches_of, sample_patches
from tok4d.weights.growth import (
    amplified,
    discrete_config,
    new_rows,
    rebuilt,
    repeat_first_frame,
    rescaled,
    widened,
    wider_config,
)
from tok4d.weights.linear_growth import grow_scores
from tok4d.weights.linear_modes import add_clips

LATENT_BATCHES = 8
MAX_TOKENS = 200_000
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
        _fill(curriculum, stage, learned, before)
    if stage.quantizer is not None:
        scale = torch.ones(learned.model.config.latent)
        if learned.model.quantizer is None:
            scale = latent_scale(learned.averaged(), first_batches(curriculum, name, learned.model))
        entering = learned.model.quantizer is None
        learned = quantize(learned, stage.quantizer, scale)
        if entering:
            gain = level_gain(learned.averaged(), first_batches(curriculum, name, learned.model))
            learned = _changed(
                learned,
                learned.model.config,
                lambda key, value: amplified(key, value, gain),
                lambda key, value, kind: amplified(key, value, gain, POWERS[kind]),
            )
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


def quantize(learned: Learned, quantizer: FSQConfig, scale: Tensor) -> Learned:
    """FSQ, with a scale of the latents `[L]` folded into the layers around it."""
    return _changed(
        learned,
        discrete_config(learned.model.config, quantizer),
        lambda name, value: rescaled(name, value, scale),
        lambda name, value, key: rescaled(name, value, scale, POWERS[key]),
    )


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
    """The first batches of a stage, of all processes together: up to 8 steps, or 200,000 tokens."""
    stage = curriculum.stages[name]
    batches = StageBatches(stage, name, curriculum.seed, model.patch_size, inputs=model.config.inputs)
    total = 0
    for index in range(min(LATENT_BATCHES, stage.steps) * batches.parts):
        if total >= MAX_TOKENS:
            return
        batch = batches[index]
        total += batch.tokens.num_tokens
        yield batch


@torch.no_grad()
def latent_scale(model: Tokenizer, batches: Iterator[Batch]) -> Tensor:
    """Root mean square of every latent channel's posterior mean, `[L]`.

    About zero and not about the mean, since the mean stays: tanh sees both.
    """
    total, count = torch.zeros(model.config.latent, dtype=torch.float64), 0
    for batch in batches:
        mean = model.encode(batch.tokens, pool=False).posterior.mean
        total += mean.double().square().sum(0)
        count += len(mean)
    return (total / max(1, count)).sqrt().clamp_min(1e-6).float()


@torch.no_grad()
def level_gain(model: Tokenizer, batches: Iterator[Batch]) -> Tensor:
    """By how much every channel's codes fall short of what they stand for, `[L]`: least squares over posterior means.

    FSQ bends and bounds a value, so that its codes are smaller; the decoder expects the value.
    """
    products, squares = (torch.zeros(model.config.latent, dtype=torch.float64) for _ in range(2))
    for batch in batches:
        encoded = model.encode(batch.tokens, pool=False)
        codes = model.quantize(encoded).values.double()
        products += (codes * encoded.posterior.mean.double()).sum(0)
        squares += codes.square().sum(0)
    return (products / squares.clamp_min(1e-6)).clamp(0.1, 10.0).float()


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
    learned.both(lambda model: add_clips(model, pictures, clips, stills, moving, begun))
