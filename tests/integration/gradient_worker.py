"""A training run that keeps the gradients of every step and moves no weight, for `fork_server` to start.

Arguments: curriculum, run folder, overrides. `RUN/gradients/STEP-TASK.safetensors` holds every parameter's gradient as
it is before clipping; of several processes, those of the first, which after DDP's exchange are those of all.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import cast

import pytorch_lightning as pl
import torch

from tok4d.config.loader import load_curriculum
from tok4d.training.module import TokenizerModule
from tok4d.training.run import train
from tok4d.weights.folder import write_tensors

LEAST = 1e-30  # a learning rate that changes no float32 weight: every step has the gradients of the same model


class KeepGradients(pl.Callback):
    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: object, _: int) -> None:
        module = cast(TokenizerModule, pl_module)
        if getattr(batch, "task", "") in module.stage.tasks:
            self.task = getattr(batch, "task", "")

    def on_before_optimizer_step(self, trainer: pl.Trainer, pl_module: pl.LightningModule, _: object) -> None:
        module = cast(TokenizerModule, pl_module)
        named = module.tokenizer.named_parameters()
        kept = {name: torch.zeros_like(p) if p.grad is None else p.grad.clone() for name, p in named}
        if trainer.is_global_zero:
            self.folder.mkdir(parents=True, exist_ok=True)
            write_tensors(self.folder / f"{module.total_trained:02d}-{self.task}.safetensors", kept)


def main() -> None:
    name, out, *overrides = sys.argv[1:]
    config = load_curriculum(name, overrides)
    for stage in config.stages.values():
        stage.optimizer.lr, stage.optimizer.min_lr = LEAST, 0.0
    train(config, Path(out), callbacks=lambda *_: [KeepGradients(Path(out) / "gradients")])


if __name__ == "__main__":
    main()
