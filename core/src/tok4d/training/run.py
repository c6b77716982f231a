"""A training run: the stages of a curriculum in order, one `trainer.fit` each, resumable anywhere.

RUN/curriculum.yaml   the resolved configuration
RUN/manifest.json     versions of everything that could change a number
RUN/checkpoints/      see `checkpoint`
RUN/logs/             TensorBoard
RUN/results.json      validation metrics, step by step
"""

from __future__ import annotations

import json
import logging
import signal
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
import yaml
from pytorch_lightning.loggers import TensorBoardLogger
from torch import Tensor

from tok4d.config.loader import read_yaml, to_mapping
from tok4d.config.schema import Curriculum, StageConfig
from tok4d.data.batches import StageBatches
from tok4d.errors import ConfigError, DataError
from tok4d.model.tokenizer import Tokenizer
from tok4d.training import checkpoint
from tok4d.training.callbacks import Meter, SaveCheckpoints, Validate
from tok4d.training.check import check_curriculum
from tok4d.training.data import StageData
from tok4d.training.evaluate import Scores, measure_latents
from tok4d.training.manifest import manifest
from tok4d.training.module import TokenizerModule
from tok4d.training.optim import AveragedWeights
from tok4d.training.start import fresh_model
from tok4d.weights.folder import write_text
from tok4d.weights.growth import repeat_first_frame

log = logging.getLogger(__name__)

# What may differ between a run and its continuation: nothing here changes a weight.
FREE_ON_RESUME = ("workers", "checkpoint_every", "log_every", "validate_every", "max_bad")
LATENT_BATCHES = 8


@dataclass
class Result:
    """What a run gives: the trained (averaged) model in evaluation mode and what was measured on the way."""

    model: Tokenizer
    folder: Path
    validation: list[dict[str, Any]] = field(default_factory=list)
    tokens_per_second: float = 0.0
    waiting_share: float = 0.0
    bad_files: int = 0


@dataclass
class _Progress:
    """What passes from stage to stage."""

    model: Tokenizer
    ema: AveragedWeights | None = None
    moments: dict[str, Tensor] = field(default_factory=dict)
    first_stage: int = 0
    start: int = 0
    total: int = 0
    bad: int = 0


def train(
    curriculum: Curriculum,
    out: Path,
    *,
    resume: bool = False,
    callbacks: Callable[[str, int, int], list[pl.Callback]] = lambda stage, start, steps: [],
) -> Result:
    """Train a curriculum from its first stage to its last, or from where an earlier run of it stopped.

    Args:
        curriculum: a checked configuration.
        out: run folder.
        resume: continue what is in `out`; without it `out` must not hold a run.
        callbacks: extra Lightning callbacks for a stage of this name, first step and length.

    Raises:
        Tok4dError: for a folder that already holds a run, another configuration than the one to be continued,
            unusable data, or a loss that is not finite.
        KeyboardInterrupt: for Ctrl-C; the run continues from its last checkpoint.
    """
    resuming = resume and (out / "checkpoints" / "last").exists()
    check_curriculum(curriculum, fresh=not resuming)
    progress = _resume(curriculum, out) if resuming else None
    if progress is None:
        _refuse_existing(out, resume)
        progress = _Progress(fresh_model(curriculum))
    try:
        out.mkdir(parents=True, exist_ok=True)
        write_text(out / "curriculum.yaml", yaml.safe_dump(to_mapping(curriculum), sort_keys=False))
        write_text(out / "manifest.json", json.dumps(manifest(), indent=1))
    except OSError as error:
        raise DataError(out, f"a run cannot be written here: {error.strerror or error}") from error
    result = Result(progress.model, out, _read_results(out, progress.total))
    for name in curriculum.order[progress.first_stage :]:
        if progress.start < curriculum.stages[name].steps:
            _fit(curriculum, name, out, progress, result, callbacks)
        progress.start = 0
    result.model = Tokenizer.from_pretrained(out / "checkpoints" / "last")
    return result


def _fit(
    curriculum: Curriculum,
    name: str,
    out: Path,
    progress: _Progress,
    result: Result,
    extra: Callable[[str, int, int], list[pl.Callback]],
) -> None:
    stage = curriculum.stages[name]
    model = progress.model.train()
    if progress.start == 0:
        _grow(stage, model, progress.ema)
    module = TokenizerModule(model, stage, progress.start, progress.total - progress.start, progress.ema)
    inputs = model.config.inputs
    data = StageData(stage, name, curriculum.seed, model.patch_size, progress.start, curriculum.workers, inputs)
    meter = Meter(curriculum.max_bad, progress.bad)

    def report(step: int, scores: Scores) -> None:
        result.validation.append({"step": step, "stage": name, **scores.means()})
        write_text(out / "results.json", json.dumps(result.validation, indent=1))

    trainer = make_trainer(curriculum, stage, out)
    trainer.callbacks.extend(  # type: ignore[attr-defined]
        [
            _Restore(progress.moments),
            meter,
            *extra(name, progress.start, stage.steps),
            Validate(curriculum, name, report),
            _LatentStatistics(curriculum, name),
            SaveCheckpoints(out / "checkpoints", name, curriculum.seed, curriculum.checkpoint_every, meter),
        ]
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # advice on worker counts and deprecations inside the trainer
        _uninterrupted(trainer, module, data)
    optimizer = trainer.optimizers[0]
    progress.moments = checkpoint.moments(model, optimizer)
    progress.ema, progress.total, progress.bad = module.ema, module.total_trained, meter.bad
    result.tokens_per_second, result.waiting_share = meter.rate, meter.waiting_share
    result.bad_files = meter.bad


def _grow(stage: StageConfig, model: Tokenizer, ema: AveragedWeights | None) -> None:
    """What the stage changes in the model before its first step, in the weights and in their averages alike."""
    if stage.repeat_first_frame:
        repeat_first_frame(model)
        if ema is not None:
            ema.swap(model)
            repeat_first_frame(model)
            ema.swap(model)


def _uninterrupted(trainer: pl.Trainer, module: TokenizerModule, data: StageData) -> None:
    """`trainer.fit`, with Ctrl-C as what it is: Lightning turns it into exit code 1, or into an ordinary end."""
    handler = signal.getsignal(signal.SIGINT)
    try:
        trainer.fit(module, data)
    except SystemExit as error:
        if not isinstance(error.__context__, KeyboardInterrupt):
            raise
    if trainer.interrupted:
        signal.signal(signal.SIGINT, handler)  # ignored by Lightning from the first Ctrl-C on
        raise KeyboardInterrupt


def make_trainer(curriculum: Curriculum, stage: StageConfig, out: Path) -> pl.Trainer:
    """The Lightning trainer of one stage. Its own checkpoints and epochs are not used: the run counts steps."""
    for name in ("pytorch_lightning", "lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    return pl.Trainer(
        max_epochs=1,
        accelerator="auto",
        devices=1,
        precision="bf16-mixed" if curriculum.precision == "bf16" else "32-true",
        gradient_clip_val=stage.optimizer.clip,
        logger=TensorBoardLogger(out, name="logs", version=""),
        log_every_n_steps=curriculum.log_every,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
    )


class _Restore(pl.Callback):
    """AdamW's moments from a checkpoint or the stage before."""

    def __init__(self, moments: dict[str, Tensor]) -> None:
        self.moments = moments

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        assert isinstance(pl_module, TokenizerModule)
        checkpoint.restore_moments(pl_module.tokenizer, trainer.optimizers[0], self.moments)


class _LatentStatistics(pl.Callback):
    """Per-channel mean and deviation of the latents, measured on the stage's first batches when it ends."""

    def __init__(self, curriculum: Curriculum, name: str) -> None:
        self.curriculum, self.name = curriculum, name

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        assert isinstance(pl_module, TokenizerModule)
        stage = self.curriculum.stages[self.name]
        if pl_module.trained < stage.steps:
            return
        model = pl_module.tokenizer
        batches = StageBatches(stage, self.name, self.curriculum.seed, model.patch_size, inputs=model.config.inputs)
        pl_module.ema.swap(pl_module.tokenizer)
        chosen = (batches[step].to(pl_module.device) for step in range(min(LATENT_BATCHES, stage.steps)))
        measure_latents(pl_module.tokenizer, chosen)
        pl_module.ema.swap(pl_module.tokenizer)


def _resume(curriculum: Curriculum, out: Path) -> _Progress:
    """Read the newest checkpoint and check that it belongs to this curriculum."""
    _refuse_other(curriculum, out / "curriculum.yaml")
    found = checkpoint.load((out / "checkpoints" / "last").resolve())
    state = found.state
    if state.threads != torch.get_num_threads():
        log.warning(
            "resuming with %d threads, not %d as before: sums round differently, so weights will not be the same bits",
            torch.get_num_threads(),
            state.threads,
        )
    return _Progress(
        model=found.model,
        ema=found.ema,
        moments=found.moments,
        first_stage=curriculum.order.index(state.stage),
        start=state.step,
        total=state.total,
        bad=state.bad_files,
    )


def _refuse_other(curriculum: Curriculum, path: Path) -> None:
    saved, given = _flat(read_yaml(path)), _flat(to_mapping(curriculum))
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


def _refuse_existing(out: Path, resume: bool) -> None:
    if (out / "checkpoints").exists() and any((out / "checkpoints").glob("*/training/state.json")) and not resume:
        raise ConfigError(f"{out} already holds a run; add --resume to continue it, or choose another folder")
    if out.exists() and not out.is_dir():
        raise ConfigError(f"{out} is not a folder")


def _read_results(out: Path, total: int) -> list[dict[str, Any]]:
    """Validation of the steps up to a checkpoint; later ones belong to a part that is trained again."""
    path = out / "results.json"
    if not path.is_file() or not total:
        return []
    return [row for row in json.loads(path.read_text()) if row["step"] <= total]
