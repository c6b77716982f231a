"""Schemas of presets and curricula. Light: no torch here, the CLI reads them.

A preset describes a tokenizer, a curriculum describes a training run. Both are plain dataclasses; the loader merges
YAML and dotlist overrides into them and refuses every key that they do not have.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any, Optional

from tok4d.config.checks import not_negative, one_of, positive
from tok4d.config.tokenizer import MAX_BLOCKS, TEXT_TOWERS, FSQConfig, StackConfig, TextConfig, TokenizerConfig
from tok4d.errors import ConfigError

__all__ = [
    "MAX_BLOCKS",
    "TEXT_TOWERS",
    "Curriculum",
    "FSQConfig",
    "ModelConfig",
    "OptimizerConfig",
    "StackConfig",
    "StageConfig",
    "TaskConfig",
    "TextConfig",
    "TokenizerConfig",
]

PRECISIONS = ("float32", "bf16")
INITS = ("none", "linear", "siglip2")
GROWTHS = ("random", "scores", "clips")
STRATEGIES = ("auto", "ddp", "fsdp")
ON_NAN = ("stop", "skip")
_STAGE_NAME = re.compile(r"\w[\w.-]*")  # part of the names of checkpoint folders


@dataclass
class OptimizerConfig:
    """AdamW with parameter groups, warm-up and cosine (paper, section 4.1; `ends` is for linear starts).

    Attributes:
        lr, min_lr: peak and final learning rate.
        warmup: steps of linear warm-up.
        encoder_scale: factor on the encoder's learning rate (the paper's 0.1 protects a pretrained encoder).
        ends_scale: factor for input, output and latent projections, norms, biases and tables.
        slow: further parameters, by the beginning of their names, that take `ends_scale` and do not decay: where a
            model's start holds a solution (`grow: clips` in the first MLPs).
        weight_decay: on the blocks' matrices; norms, biases, tables and probes are never decayed.
        clip: bound of the gradient's norm; what takes `ends_scale` counts by that factor.
        ema: decay of the averaged weights; effective min(ema, (1 + t) / (10 + t)).
    """

    lr: float = 3e-4
    min_lr: float = 3e-5
    betas: list[float] = field(default_factory=lambda: [0.9, 0.95])
    weight_decay: float = 0.1
    warmup: int = 2000
    encoder_scale: float = 1.0
    ends_scale: float = 1.0
    slow: list[str] = field(default_factory=list)
    clip: float = 1.0
    ema: float = 0.9999

    def check(self, where: str) -> None:
        """Raise ConfigError for values out of range."""
        positive(f"{where}.lr", self.lr)
        positive(f"{where}.clip", self.clip)
        for name in ("min_lr", "weight_decay", "encoder_scale", "ends_scale"):
            not_negative(f"{where}.{name}", getattr(self, name))
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
        captioned: samples without a caption are replaced and named, as files are that cannot be used.
    """

    source: str = ""
    options: dict[str, Any] = field(default_factory=dict)
    weight: float = 1.0
    batch: int = 16
    tokens: int = 0
    captioned: bool = False
    losses: dict[str, Any] = field(default_factory=dict)


@dataclass
class StageConfig:
    """One stage: its length, its mixture of tasks, its optimisation, and what changes in the model when it begins.

    Attributes:
        every_step: tasks that ride along: a batch of each is accumulated into every step beside the scheduled task's
            (paper: image understanding). The step's gradient is that of the sum of the tasks' mean losses.
        micro: every batch is worked off in this many parts, one after the other: less memory, the same gradient.
        latents: `sample` draws from the posterior, `mean` takes its mean, in training.
        freeze: name prefixes of parameters that stay as they are.
        rope_ramp: RoPE's coordinates are scaled from 0 to 1 over this many steps, so that training starts exactly at
            a SigLIP2 encoder, which has no RoPE; 0: RoPE acts as the model's `rope_scale` says, by default in full.
        repeat_first_frame: when the stage begins, the decoder's output for the first frame of a patch is copied to its
            other frames, so that a model of pictures begins with stills.
        latent: latent channels from this stage on; None: as they are. Only more, never fewer.
        grow: what the new latent channels hold at first: `random` small values that the decoder does not read yet, or
            for a model of `init: linear` the PCA `scores` that follow. `clips` does that and gives clips a PCA of their
            own beside that of pictures (`tok4d.weights.linear_modes`); it takes the last channel to tell them apart.
        quantizer: FSQ from this stage on; None: as it is.
    """

    steps: int = 1000
    tasks: dict[str, TaskConfig] = field(default_factory=dict)
    every_step: dict[str, TaskConfig] = field(default_factory=dict)
    micro: int = 1
    validation: dict[str, TaskConfig] = field(default_factory=dict)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    latents: str = "sample"
    freeze: list[str] = field(default_factory=list)
    rope_ramp: int = 0
    repeat_first_frame: bool = False
    latent: Optional[int] = None
    grow: str = "random"
    quantizer: Optional[FSQConfig] = None

    @property
    def parts(self) -> int:
        """Batches that the loader serves for a step: the scheduled task's parts, then those of the riders."""
        return self.micro * (1 + len(self.every_step))

    def check(self, name: str) -> None:
        """Raise ConfigError for an unusable stage."""
        where = f"stages.{name}"
        if not _STAGE_NAME.fullmatch(name):
            raise ConfigError(f"{where}: a stage's name is letters, digits, '_', '-' and '.', got {name!r}")
        positive(f"{where}.steps", self.steps)
        one_of(f"{where}.latents", self.latents, ("sample", "mean"))
        not_negative(f"{where}.rope_ramp", self.rope_ramp)
        if not self.tasks:
            raise ConfigError(f"{where}.tasks is empty; a stage needs at least one task")
        positive(f"{where}.micro", self.micro)
        one_of(f"{where}.grow", self.grow, GROWTHS)
        if self.latent is not None:
            positive(f"{where}.latent", self.latent)
        self._check_riders(where)
        for key, task in (*self.tasks.items(), *self.every_step.items(), *self.validation.items()):
            if "/" not in task.source:
                raise ConfigError(f"{where}: task {key!r} needs a source like 'image/folder', got {task.source!r}")
            positive(f"{where}: weight of task {key!r}", task.weight)
            positive(f"{where}: batch of task {key!r}", task.batch)
            not_negative(f"{where}: tokens of task {key!r}", task.tokens)
        self.optimizer.check(f"{where}.optimizer")

    def _check_riders(self, where: str) -> None:
        if both := sorted(set(self.tasks) & set(self.every_step)):
            raise ConfigError(f"{where}: {both} are among both tasks and every_step; give them different names")
        for key, task in self.every_step.items():
            if task.weight != 1.0:
                raise ConfigError(
                    f"{where}.every_step.{key}: weight {task.weight} has no meaning for a task of every step; "
                    "scale its losses instead"
                )
        for key, task in (*self.tasks.items(), *self.every_step.items()):
            if not task.tokens and self.micro > 0 and task.batch % self.micro:
                raise ConfigError(
                    f"{where}: batch {task.batch} of task {key!r} must be divisible by micro {self.micro}"
                )


@dataclass
class ModelConfig:
    """Which preset to train, and what to change in it."""

    preset: str = "tiny"
    overrides: dict[str, Any] = field(default_factory=dict)


@dataclass
class Curriculum:
    """A training run: a model and an explicit order of stages.

    Attributes:
        init: `linear` starts at the PCA of the first stage's patches (see `tok4d.weights.linear`), `siglip2` with a
            SigLIP2 vision tower in the encoder (see `tok4d.weights.siglip2`), `none` at random.
        init_samples: samples drawn from the first stage for `init: linear`.
        init_from: folder or hub id of the tower for `init: siglip2`.
        lr_scale: factor on the learning rates of all stages. Wider models need smaller ones.
        precision: `float32` or `bf16` (autocast).
        workers: data-loading processes.
        checkpoint_every, log_every, validate_every: in steps; 0 turns validation off but for the end of a stage.
        loggers: where curves and pictures go: `tensorboard` (RUN/logs), `wandb`.
        max_bad: bad files that a run replaces and reports before it stops.
        on_nan: a loss or gradient that is not finite: `stop`, or `skip` the step (no weight changes) and go on.
        max_nan: steps that may be skipped before the run stops.
        strategy: `ddp` (every process holds the model), `fsdp` (weights, averages and moments in shards), or `auto`:
            one process if `devices` and `nodes` are 1, else `ddp`.
        accelerator: as in Lightning: `auto`, `cpu`, `gpu`, ...
        devices: processes a node: a number, or `auto` for all there are.
        nodes: machines.
        asynchronous: checkpoints are written while training goes on.
        compile: `torch.compile` of the transformer blocks.
        checkpoint_activations: blocks are computed again in the backward pass instead of kept: less memory, same
            numbers.
    """

    name: str = "custom"
    seed: int = 0
    model: ModelConfig = field(default_factory=ModelConfig)
    init: str = "none"
    init_samples: int = 2000
    init_from: str = ""
    lr_scale: float = 1.0
    precision: str = "float32"
    workers: int = 0
    checkpoint_every: int = 200
    log_every: int = 10
    loggers: list[str] = field(default_factory=lambda: ["tensorboard"])
    validate_every: int = 0
    max_bad: int = 100
    on_nan: str = "stop"
    max_nan: int = 10
    strategy: str = "auto"
    accelerator: str = "auto"
    devices: Any = 1
    nodes: int = 1
    asynchronous: bool = False
    compile: bool = False
    checkpoint_activations: bool = False
    order: list[str] = field(default_factory=list)
    stages: dict[str, StageConfig] = field(default_factory=dict)

    def check(self) -> Curriculum:
        """Raise ConfigError for contradictions; return self."""
        if not 0 <= self.seed < 2**63:
            raise ConfigError(f"seed must be in [0, 2^63), got {self.seed}")
        one_of("init", self.init, INITS)
        if (self.init == "siglip2") != bool(self.init_from):
            raise ConfigError(
                f"init_from goes with init: siglip2, got init {self.init!r}, init_from {self.init_from!r}"
            )
        one_of("precision", self.precision, PRECISIONS)
        one_of("on_nan", self.on_nan, ON_NAN)
        one_of("strategy", self.strategy, STRATEGIES)
        if self.devices != "auto" and (isinstance(self.devices, bool) or not isinstance(self.devices, int)):
            raise ConfigError(f"devices must be a number or 'auto', got {self.devices!r}")
        for name in ("lr_scale", "checkpoint_every", "log_every", "init_samples", "nodes"):
            positive(name, getattr(self, name))
        for name in ("workers", "validate_every", "max_bad", "max_nan"):
            not_negative(name, getattr(self, name))
        if self.devices != "auto":
            positive("devices", self.devices)
        if not self.order:
            raise ConfigError("order is empty; name the stages to run, e.g. order: [images]")
        if unknown := [name for name in self.order if name not in self.stages]:
            raise ConfigError(f"order names stages {unknown} that are not among stages {sorted(self.stages)}")
        if len(set(self.order)) < len(self.order):
            raise ConfigError(f"order {list(self.order)} names a stage twice; give the second pass a name of its own")
        for name, stage in self.stages.items():
            stage.check(name)
        return self
