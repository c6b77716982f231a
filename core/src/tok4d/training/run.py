"""A training run: the stages of a curriculum in order, one `trainer.fit` each, resumable anywhere.

RUN/curriculum.yaml   the resolved configuration
RUN/manifest.json     versions of everything that could change a number
RUN/checkpoints/      see `checkpoint`
RUN/logs/             TensorBoard
RUN/results.json      validation metrics, step by step
RUN/codes.json        use of FSQ's codes at the last validation: by group, and a histogram of every channel's levels
RUN/losses.jsonl      losses of every step
RUN/throughput.json   speed of every stage, and its tasks' shares of the tokens
"""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
import yaml
from torch import Tensor

from tok4d.config.loader import to_mapping
from tok4d.config.schema import Curriculum
from tok4d.errors import DataError
from tok4d.model.tokenizer import Tokenizer
from tok4d.training import checkpoint
from tok4d.training.callbacks import CountBadFiles, SaveCheckpoints, Validate
from tok4d.training.check import check_curriculum
from tok4d.training.data import StageData
from tok4d.training.evaluate import Scores
from tok4d.training.grow import Learned, begin_stage
from tok4d.training.latents import LatentStatistics
from tok4d.training.launch import refuse_launch
from tok4d.training.limits import StopOnSignal
from tok4d.training.loggers import close_loggers
from tok4d.training.manifest import write_manifest
from tok4d.training.module import TokenizerModule
from tok4d.training.optim import AveragedWeights
from tok4d.training.parallel import is_first, is_sharded, prepare_blocks, processes
from tok4d.training.record import RecordLosses, cut_losses
from tok4d.training.resume import last_checkpoint, read_results, read_throughput, refuse_existing
from tok4d.training.start import fresh_model
from tok4d.training.throughput import GoOn, Throughput
from tok4d.training.trainer import fit, make_trainer
from tok4d.weights.folder import write_text

log = logging.getLogger(__name__)


@dataclass
class Result:
    """What a run gives: the trained (averaged) model in evaluation mode and what was measured on the way.

    `throughput` is by stage; `stopped` says stage, step and total where training ended early, by a callback
    or a `signal` (true or false).
    """

    folder: Path
    model: Tokenizer = field(init=False)
    validation: list[dict[str, Any]] = field(default_factory=list)
    tokens_per_second: float = 0.0
    waiting_share: float = 0.0
    bad_files: int = 0
    skipped: int = 0
    throughput: dict[str, dict[str, Any]] = field(default_factory=dict)
    stopped: dict[str, Any] | None = None


@dataclass
class _Progress:
    """What passes from stage to stage."""

    model: Tokenizer
    ema: AveragedWeights | None = None
    moments: dict[str, Tensor] = field(default_factory=dict)
    first_stage: int = 0
    start: int = 0
    total: int = 0
    bad: set[str] = field(default_factory=set)
    skipped: int = 0
    next_starts: dict[str, list[int]] = field(default_factory=dict)

    def grow(self, curriculum: Curriculum, name: str) -> None:
        """What a stage changes in the model before its first step."""
        grown = begin_stage(curriculum, name, Learned(self.model, self.ema, self.moments))
        self.model, self.ema, self.moments = grown.model, grown.ema, grown.moments

    def carry_over(self, module: TokenizerModule, optimizer: torch.optim.Optimizer, bad: set[str], out: Path) -> None:
        """Take what a finished stage leaves; a sharded model is whole again only in the checkpoint just written."""
        self.total, self.bad, self.skipped = module.total_trained, bad, module.skipped
        optimizer.zero_grad(set_to_none=True)  # of the last step
        if is_sharded(module):
            found = checkpoint.load((out / "checkpoints" / "last").resolve())
            self.model, self.ema, self.moments = found.model, found.ema, found.moments
        else:
            self.ema, self.moments = module.ema, checkpoint.moments(module.tokenizer, optimizer)


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
        Tok4dError: for processes that nobody will start, a folder that already holds a run, another configuration
            than the one to be continued, unusable data, or a loss that is not finite.
        KeyboardInterrupt: for Ctrl-C; the run continues from its last checkpoint.

    SIGTERM ends it after the step, with a checkpoint: `Result.stopped`.
    """
    refuse_launch(curriculum)
    resuming = resume and checkpoint.newest(out / "checkpoints") is not None
    check_curriculum(curriculum, fresh=not resuming, files=True)
    progress = _resumed(curriculum, out) if resuming else None
    if progress is None:
        refuse_existing(out, resume)
        progress = _Progress(fresh_model(curriculum))
    result = Result(out, validation=read_results(out, progress.total))
    result.throughput = read_throughput(out, progress.total)
    if is_first():
        _describe(curriculum, out, progress.total)
    for name in curriculum.order[progress.first_stage :]:
        if progress.start < curriculum.stages[name].steps:
            _fit(curriculum, name, out, progress, result, callbacks)
        if result.stopped is not None:
            break
        progress.start, progress.next_starts = 0, {}
    close_loggers(curriculum.loggers)
    result.model = Tokenizer.from_pretrained(out / "checkpoints" / "last")
    return result


def _describe(curriculum: Curriculum, out: Path, total: int) -> None:
    """Make the run folder and write what is known before training."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        write_text(out / "curriculum.yaml", yaml.safe_dump(to_mapping(curriculum), sort_keys=False))
        write_manifest(out, to_mapping(curriculum))
        cut_losses(out, total)
    except OSError as error:
        raise DataError(out, f"a run cannot be written here: {error.strerror or error}") from error


def _fit(
    curriculum: Curriculum,
    name: str,
    out: Path,
    progress: _Progress,
    result: Result,
    extra: Callable[[str, int, int], list[pl.Callback]],
) -> None:
    stage = curriculum.stages[name]
    if progress.start == 0:
        progress.grow(curriculum, name)
    model = progress.model.train()
    prepare_blocks(model, recompute=curriculum.checkpoint_activations, compiled=curriculum.compile)
    tolerated = curriculum.max_nan if curriculum.on_nan == "skip" else None
    done = progress.total - progress.start
    module = TokenizerModule(
        model, stage, progress.start, done, progress.ema, tolerated, progress.skipped, curriculum.lr_scale
    )
    module.next_starts = dict(progress.next_starts)
    data = StageData(
        stage,
        name,
        curriculum.seed,
        model.patch_size,
        progress.start,
        curriculum.workers,
        model.config.inputs,
        progress.next_starts,
    )
    bad_files, throughput = CountBadFiles(curriculum.max_bad, progress.bad), Throughput(curriculum.precision)

    def report(step: int, scores: Scores) -> None:
        result.validation.append({"step": step, "stage": name, **scores.means()})
        write_text(out / "results.json", json.dumps(result.validation, indent=1))
        if scores.codes:
            codes = {host: statistics.details() for host, statistics in scores.codes.items()}
            write_text(out / "codes.json", json.dumps({"step": step, "stage": name, **codes}))

    trainer = make_trainer(curriculum, stage, out)
    saving = SaveCheckpoints(
        out / "checkpoints", name, curriculum.seed, curriculum.checkpoint_every, bad_files, curriculum.asynchronous
    )
    signals = StopOnSignal()
    restore, progress.moments = _Restore(progress.moments), {}  # held once, not twice, while the stage trains
    trainer.callbacks.extend(  # type: ignore[attr-defined]
        [
            restore,
            throughput,
            bad_files,
            RecordLosses(out, name),
            signals,
            *extra(name, progress.start, stage.steps),
            Validate(curriculum, name, report),
            LatentStatistics(curriculum, name),
            saving,
            GoOn(throughput),
        ]
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # advice on worker counts and deprecations inside the trainer
        fit(trainer, module, data)
    progress.carry_over(module, trainer.optimizers[0], bad_files.known, out)
    result.bad_files, result.skipped = bad_files.bad, module.skipped
    if trainer.should_stop and not (name == curriculum.order[-1] and module.trained == stage.steps):
        at = {"stage": name, "step": module.trained, "total": module.total_trained}
        result.stopped = {**at, "signal": signals.stopped}
    found = result.throughput[name] = throughput.sums.summary()
    result.tokens_per_second, result.waiting_share = found["tokens_per_second"], found["waiting_share"]
    if trainer.is_global_zero:
        write_text(out / "throughput.json", json.dumps(result.throughput, indent=1))


class _Restore(pl.Callback):
    """AdamW's moments from a checkpoint or the stage before."""

    def __init__(self, moments: dict[str, Tensor]) -> None:
        self.moments = moments

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        assert isinstance(pl_module, TokenizerModule)
        checkpoint.restore_moments(pl_module.tokenizer, trainer.optimizers[0], self.moments)
        self.moments = {}


def _resumed(curriculum: Curriculum, out: Path) -> _Progress:
    """Where the newest checkpoint stands."""
    found = last_checkpoint(curriculum, out, processes(curriculum))
    state = found.state
    return _Progress(
        model=found.model,
        ema=found.ema,
        moments=found.moments,
        first_stage=curriculum.order.index(state.stage),
        start=state.step,
        total=state.total,
        bad=set(state.bad),
        skipped=state.skipped,
        next_starts=state.next_starts,
    )
