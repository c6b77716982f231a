"""Lightning's trainer for one stage, and its `fit` with errors and Ctrl-C as what they are."""

from __future__ import annotations

import logging
import signal
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.plugins.environments import SLURMEnvironment

from tok4d.config.loader import to_mapping
from tok4d.config.schema import Curriculum, StageConfig
from tok4d.training.data import StageData, raise_if_worker_died
from tok4d.training.loggers import make_loggers
from tok4d.training.module import TokenizerModule
from tok4d.training.parallel import strategy_of


def make_trainer(curriculum: Curriculum, stage: StageConfig, out: Path) -> pl.Trainer:
    """The Lightning trainer of one stage. Its own checkpoints and epochs are not used: the run counts steps."""
    for name in ("pytorch_lightning", "lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    plugins: list[Any] = []
    if SLURMEnvironment.detect():  # by itself it would write checkpoints of its own and requeue the job
        plugins.append(SLURMEnvironment(auto_requeue=False))
    return pl.Trainer(
        max_epochs=1,
        accelerator=curriculum.accelerator,
        devices=curriculum.devices,
        num_nodes=curriculum.nodes,
        strategy=strategy_of(curriculum),
        plugins=plugins,
        precision="bf16-mixed" if curriculum.precision == "bf16" else "32-true",
        accumulate_grad_batches=stage.parts,
        gradient_clip_val=stage.optimizer.clip,
        logger=make_loggers(curriculum.loggers, out, to_mapping(curriculum)),
        log_every_n_steps=curriculum.log_every,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
    )


def fit(trainer: pl.Trainer, module: TokenizerModule, data: StageData) -> None:
    """`trainer.fit` through a stage.

    Raises:
        KeyboardInterrupt: for Ctrl-C, which Lightning turns into exit code 1, or into an ordinary end.
        Tok4dError: for a data-loading process that died, wherever training was.
    """
    handler = signal.getsignal(signal.SIGINT)
    try:
        trainer.fit(module, data)
    except SystemExit as error:
        if not isinstance(error.__context__, KeyboardInterrupt):
            raise
    except Exception as error:
        raise_if_worker_died(error)
        raise
    if trainer.interrupted:
        signal.signal(signal.SIGINT, handler)  # ignored by Lightning from the first Ctrl-C on
        raise KeyboardInterrupt
