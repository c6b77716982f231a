"""Schemas of presets and curricula. Light: no torch here, the CLI reads them.

A preset describes a tokenizer, a curriculum describes a training run. Both are plain dataclasses; the loader merges
YAML and dotlist overrides into them and refuses every key that they do not have.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from math import inf, prod
from typing import Any, Optional

from tok4d.errors import ConfigError

NORMS = ("layer", "rms")
POSITIONS = ("joint", "table", "rope")
TABLE_EXTENTS = ("grid", "tokens")
TABLE_RESIZES = ("bilinear", "bicubic")
WINDOWS = ("sample", "batch")
TEXT_TOWERS = ("siglip2", "minilm")
PRECISIONS = ("float32", "bf16")
INITS = ("none", "linear", "siglip2")
MAX_BLOCKS = 1000
MAX_LEVELS = 1000  # beyond, FSQ's rounding margin would reach past the outermost level
_STAGE_NAME = re.compile(r"\w[\w.-]*")  # part of the names of checkpoint folders


def _one_of(what: str, value: object, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ConfigError(f"{what} must be one of {', '.join(allowed)}, got {value!r}")


def _positive(what: str, value: float) -> None:
    if not 0 < value < inf:
        raise ConfigError(f"{what} must be positive, got {value}")


def _not_negative(what: str, value: float) -> None:
    if not 0 <= value < inf:
        raise ConfigError(f"{what} must be >= 0, got {value}")


@dataclass
class StackConfig:
    """One transformer stack (encoder or decoder)."""

    width: int = 192
    blocks: int = 4
    heads: int = 3
    mlp: int = 768
    norm: str = "layer"
    bias: bool = True
    qk_norm: bool = False

    def check(self, where: str) -> None:
        """Raise ConfigError for sizes that cannot work together."""
        for name in ("width", "blocks", "heads", "mlp"):
            _positive(f"{where}.{name}", getattr(self, name))
        if self.blocks > MAX_BLOCKS:
            raise ConfigError(f"{where}.blocks must be at most {MAX_BLOCKS}, got {self.blocks}")
        _one_of(f"{where}.norm", self.norm, NORMS)
        if self.width % self.heads:
            raise ConfigError(f"{where}: width {self.width} must be divisible by heads {self.heads}")
        if (self.width // self.heads) % 8:
            raise ConfigError(f"{where}: head dim {self.width // self.heads} must be divisible by 8 (4D RoPE)")


@dataclass
class FSQConfig:
    """Finite scalar quantisation: `groups` codebooks of `prod(levels)` codes each."""

    groups: int = 8
    levels: list[int] = field(default_factory=lambda: [4] * 6)

    def check(self, latent: int) -> None:
        """Raise ConfigError unless groups x dims fits the latent width."""
        _positive("quantizer.groups", self.groups)
        if not self.levels or min(self.levels) < 2 or max(self.levels) > MAX_LEVELS:
            raise ConfigError(f"quantizer.levels must be integers in [2, {MAX_LEVELS}], got {list(self.levels)}")
        if prod(self.levels) > 2**31 - 1:
            raise ConfigError(f"quantizer.levels {list(self.levels)} give more codes than an int32 index can hold")
        if self.groups * len(self.levels) != latent:
            raise ConfigError(
                f"quantizer needs latent = groups x levels, got {latent} != {self.groups} x {len(self.levels)}"
            )


@dataclass
class TextConfig:
    """The text tower that a model's embeddings are aligned with; what zero-shot classification compares them to.

    Attributes:
        kind: `siglip2` or `minilm`.
        source: folder or hub id of the tower's weights; empty for one that comes from a package registry.
        log_scale, bias: of the sigmoid loss, logit = exp(log_scale) * cosine + bias (the released models' constants;
            towers trained from scratch start at log 10 = 2.3026 and -10).
        width: of the tower's embeddings; when given, the model learns its own log-scale and bias, and a projection
            of its embedding where its encoder has another width. None: the constants above stay as they are.
    """

    kind: str = "siglip2"
    source: str = ""
    log_scale: float = 4.8438
    bias: float = -15.5625
    width: Optional[int] = None

    def check(self) -> None:
        """Raise ConfigError for an unknown tower or an unusable width."""
        _one_of("text.kind", self.kind, TEXT_TOWERS)
        if self.width is not None:
            _positive("text.width", self.width)


@dataclass
class TokenizerConfig:
    """A tokenizer: what a preset file holds.

    Attributes:
        name: the preset's name.
        parameters: expected parameter count, tested for every shipped preset; None in derived configurations.
        patch_size: frames, height, width of a patch.
        latent: latent channels L.
        positions: `joint` (table and 4D RoPE), `table`, or `rope`.
        table_extent: grid of the position table: `grid` = the sample's own, kept when tokens are dropped; `tokens` =
            largest coordinate present + 1 (the released models' rule).
        table_side: the position table's own grid is table_side x table_side.
        table_resize: how the table comes to a sample's grid: `bilinear` (antialiased: SigLIP2 NaFlex, the released
            models) or `bicubic` (SigLIP2 of fixed resolution).
        rope_scale: factor on the coordinates of RoPE; below 1 in a model saved while `rope_ramp` raises it.
        tile_steps: latent time steps of a temporal tile; attention stays inside a tile.
        cached_steps: latent steps of the previous tile that the decoder sees by default.
        windows: where temporal tiles begin: at t = 0 of every `sample`, or at the smallest t of the `batch` (the
            released models' rule, by which a sample may depend on its neighbours).
        quantizer: FSQ, or None for continuous latents.
        heads: options of extra decoders by modality name.
        inputs: options of `patchify` by modality name, e.g. `{image: {fit: crop}}`.
        text: the text tower that the embeddings are aligned with, if any.
    """

    name: str = "custom"
    parameters: Optional[int] = None
    patch_size: list[int] = field(default_factory=lambda: [4, 16, 16])
    latent: int = 48
    positions: str = "joint"
    table_extent: str = "grid"
    table_side: int = 16
    table_resize: str = "bilinear"
    rope_scale: float = 1.0
    tile_steps: int = 4
    cached_steps: int = 1
    windows: str = "sample"
    encoder: StackConfig = field(default_factory=StackConfig)
    decoder: StackConfig = field(default_factory=lambda: StackConfig(norm="rms", bias=False, qk_norm=True))
    quantizer: Optional[FSQConfig] = None
    heads: dict[str, Any] = field(default_factory=dict)
    inputs: dict[str, Any] = field(default_factory=dict)
    text: Optional[TextConfig] = None

    def check(self) -> TokenizerConfig:
        """Raise ConfigError for contradictions; return self."""
        if len(self.patch_size) != 3 or min(self.patch_size) < 1:
            raise ConfigError(f"patch_size must be three positive integers, got {list(self.patch_size)}")
        for name in ("latent", "tile_steps", "table_side"):
            _positive(name, getattr(self, name))
        _not_negative("rope_scale", self.rope_scale)
        if not 0 <= self.cached_steps <= self.tile_steps:
            raise ConfigError(f"cached_steps must be in [0, tile_steps = {self.tile_steps}], got {self.cached_steps}")
        _one_of("positions", self.positions, POSITIONS)
        _one_of("table_extent", self.table_extent, TABLE_EXTENTS)
        _one_of("table_resize", self.table_resize, TABLE_RESIZES)
        _one_of("windows", self.windows, WINDOWS)
        self.encoder.check("encoder")
        self.decoder.check("decoder")
        if self.quantizer is not None:
            self.quantizer.check(self.latent)
        if self.text is not None:
            self.text.check()
        return self


@dataclass
class OptimizerConfig:
    """AdamW with parameter groups, warm-up and cosine (paper, section 4.1; `ends` is for linear starts).

    Attributes:
        lr, min_lr: peak and final learning rate.
        warmup: steps of linear warm-up.
        encoder_scale: factor on the encoder's learning rate (the paper's 0.1 protects a pretrained encoder).
        ends_scale: factor for input, output and latent projections, norms, biases and tables.
        weight_decay: on the blocks' matrices; norms, biases, tables and probes are never decayed.
        clip: gradient norm bound.
        ema: decay of the averaged weights; effective min(ema, (1 + t) / (10 + t)).
    """

    lr: float = 3e-4
    min_lr: float = 3e-5
    betas: list[float] = field(default_factory=lambda: [0.9, 0.95])
    weight_decay: float = 0.1
    warmup: int = 2000
    encoder_scale: float = 1.0
    ends_scale: float = 1.0
    clip: float = 1.0
    ema: float = 0.9999

    def check(self, where: str) -> None:
        """Raise ConfigError for values out of range."""
        _positive(f"{where}.lr", self.lr)
        _positive(f"{where}.clip", self.clip)
        for name in ("min_lr", "weight_decay", "encoder_scale", "ends_scale"):
            _not_negative(f"{where}.{name}", getattr(self, name))
        if len(self.betas) != 2 or not all(0 <= beta < 1 for beta in self.betas):
            raise ConfigError(f"{where}.betas must be two numbers in [0, 1), got {list(self.betas)}")
        if not 0 <= self.ema < 1 or self.warmup < 0:
            raise ConfigError(f"{where}: ema must be in [0, 1) and warmup >= 0, got {self.ema} and {self.warmup}")


@dataclass
class TaskConfig:
    """One task of a stage: a source of samples, how many a step, and what is asked of the model.

    Attributes:
        source: name as in `image/photos`.
        options: the source's own options (checked against its dataclass).
        weight: share in the mixture, relative to the stage's other tasks.
        batch: samples a step, over all processes.
        tokens: budget of tokens a step, over all processes, that takes the place of `batch` where it is above 0: as
            many samples as fit into it. Needs a source that knows sizes beforehand (`Source.token_count`).
        losses: objective of this task, `{term: weight}` or `{term: {weight: w, option: value}}`.
    """

    source: str = ""
    options: dict[str, Any] = field(default_factory=dict)
    weight: float = 1.0
    batch: int = 16
    tokens: int = 0
    losses: dict[str, Any] = field(default_factory=dict)


@dataclass
class StageConfig:
    """One stage: its length, its mixture of tasks, its optimisation.

    Attributes:
        latents: `sample` draws from the posterior, `mean` takes its mean, in training.
        freeze: name prefixes of parameters that stay as they are.
        rope_ramp: RoPE's coordinates are scaled from 0 to 1 over this many steps, so that training starts exactly at
            a SigLIP2 encoder, which has no RoPE; 0: RoPE acts as the model's `rope_scale` says, by default in full.
        repeat_first_frame: when the stage begins, the decoder's output for the first frame of a patch is copied to its
            other frames, so that a model of pictures begins with stills.
    """

    steps: int = 1000
    tasks: dict[str, TaskConfig] = field(default_factory=dict)
    validation: dict[str, TaskConfig] = field(default_factory=dict)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    latents: str = "sample"
    freeze: list[str] = field(default_factory=list)
    rope_ramp: int = 0
    repeat_first_frame: bool = False

    def check(self, name: str) -> None:
        """Raise ConfigError for an unusable stage."""
        where = f"stages.{name}"
        if not _STAGE_NAME.fullmatch(name):
            raise ConfigError(f"{where}: a stage's name is letters, digits, '_', '-' and '.', got {name!r}")
        _positive(f"{where}.steps", self.steps)
        _one_of(f"{where}.latents", self.latents, ("sample", "mean"))
        _not_negative(f"{where}.rope_ramp", self.rope_ramp)
        if not self.tasks:
            raise ConfigError(f"{where}.tasks is empty; a stage needs at least one task")
        for key, task in (*self.tasks.items(), *self.validation.items()):  # both may use one name
            if "/" not in task.source:
                raise ConfigError(f"{where}: task {key!r} needs a source like 'image/folder', got {task.source!r}")
            _positive(f"{where}: weight of task {key!r}", task.weight)
            _positive(f"{where}: batch of task {key!r}", task.batch)
            _not_negative(f"{where}: tokens of task {key!r}", task.tokens)
        self.optimizer.check(f"{where}.optimizer")


@dataclass
class ModelConfig:
    """Which preset to train, and what to change in it."""

    preset: str = "tiny"
    overrides: dict[str, Any] = field(default_factory=dict)


@dataclass
class Curriculum:
    """A training run: a model and an explicit order of stages.

    Attributes:
        init: `linear` starts at the PCA of the first task's patches (see `tok4d.weights.linear`), `siglip2` with a
            SigLIP2 vision tower in the encoder (see `tok4d.weights.siglip2`), `none` at random.
        init_samples: samples drawn from the first stage for `init: linear`.
        init_from: folder or hub id of the tower for `init: siglip2`.
        precision: `float32` or `bf16` (autocast).
        workers: data-loading processes.
        checkpoint_every, log_every, validate_every: in steps; 0 turns validation off but for the end of a stage.
        max_bad: bad files that a run replaces and reports before it stops.
    """

    name: str = "custom"
    seed: int = 0
    model: ModelConfig = field(default_factory=ModelConfig)
    init: str = "none"
    init_samples: int = 2000
    init_from: str = ""
    precision: str = "float32"
    workers: int = 0
    checkpoint_every: int = 200
    log_every: int = 10
    validate_every: int = 0
    max_bad: int = 100
    order: list[str] = field(default_factory=list)
    stages: dict[str, StageConfig] = field(default_factory=dict)

    def check(self) -> Curriculum:
        """Raise ConfigError for contradictions; return self."""
        _one_of("init", self.init, INITS)
        if (self.init == "siglip2") != bool(self.init_from):
            raise ConfigError(
                f"init_from goes with init: siglip2, got init {self.init!r}, init_from {self.init_from!r}"
            )
        _one_of("precision", self.precision, PRECISIONS)
        for name in ("checkpoint_every", "log_every", "init_samples"):
            _positive(name, getattr(self, name))
        for name in ("workers", "validate_every", "max_bad"):
            _not_negative(name, getattr(self, name))
        if not self.order:
            raise ConfigError("order is empty; name the stages to run, e.g. order: [images]")
        if unknown := [name for name in self.order if name not in self.stages]:
            raise ConfigError(f"order names stages {unknown} that are not among stages {sorted(self.stages)}")
        if len(set(self.order)) < len(self.order):
            raise ConfigError(f"order {list(self.order)} names a stage twice; give the second pass a name of its own")
        for name, stage in self.stages.items():
            stage.check(name)
        return self
