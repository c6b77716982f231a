"""The Lightning module: one task a step and what rides along, any modality, losses on the unpatchified samples."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Any, cast

import pytorch_lightning as pl
import torch
from torch import Tensor, nn

from tok4d.config.schema import StageConfig
from tok4d.data.batches import Batch
from tok4d.errors import Tok4dError
from tok4d.losses.objective import Loss
from tok4d.model.bottleneck import Encoded
from tok4d.model.tokenizer import Tokenizer
from tok4d.tokens import TokenSet
from tok4d.training import parallel
from tok4d.training.optim import AveragedWeights, learning_rate, make_adamw, set_lr
from tok4d.training.stage_loss import StageLoss
from tok4d.training.tally import StepReport, Tally, finite

log = logging.getLogger(__name__)


class TokenizerModule(pl.LightningModule):
    """Trains a tokenizer through one stage.

    Lightning sees every part of a step as a batch and accumulates their gradients; everything here that counts steps
    acts once a step.

    Args:
        tokenizer: the model.
        stage: the stage's configuration.
        start: steps of this stage already trained, when resuming.
        done_before: steps of earlier stages, for the averaged weights and the log's x-axis.
        ema: averaged weights carried over from a checkpoint or an earlier stage; None: they start at the model.
        tolerated: steps in all that may be skipped because something is not finite; None: the first stops the run.
        skipped: steps skipped so far.
        lr_scale: factor on the stage's learning rate.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        stage: StageConfig,
        start: int = 0,
        done_before: int = 0,
        ema: AveragedWeights | None = None,
        tolerated: int | None = None,
        skipped: int = 0,
        lr_scale: float = 1.0,
    ) -> None:
        super().__init__()
        self.tokenizer = tokenizer
        self.stage = stage
        self.trained = start  # counts steps TRAINED, not fetched
        self.done_before = done_before
        self.tolerated, self.skipped, self.lr_scale = tolerated, skipped, lr_scale
        self.ema = ema if ema is not None else AveragedWeights(tokenizer, stage.optimizer.ema)
        self.ema.decay = stage.optimizer.ema
        tokenizer.freeze(stage.freeze)
        self._ramp_rope()
        self.stage_loss = StageLoss(tokenizer, stage)
        self.between_steps = True  # callbacks after a batch: whether it was the last part of its step
        self.report = StepReport()
        self.next_starts: dict[str, list[int]] = {}
        self._tally = Tally(())

    @property
    def objectives(self) -> dict[str, Any]:
        """Objective of every task."""
        return self.stage_loss.objectives

    @property
    def total_trained(self) -> int:
        """Steps trained in all stages so far."""
        return self.done_before + self.trained

    def forward(self, tokens: TokenSet) -> TokenSet:
        """Patches through the model, by posterior means."""
        return self.tokenizer.decode(self.tokenizer.encode(tokens, pool=False).latents())

    def loss(self, batch: Batch) -> tuple[Loss, Encoded]:
        """Loss of a batch as in training."""
        return self.stage_loss.loss(batch)

    def configure_model(self) -> None:
        """Shard model and averages where the strategy asks for it."""
        if self.device_mesh is not None and not parallel.is_sharded(self.tokenizer):
            parallel.shard(self.stage_loss, self.tokenizer, self.device_mesh["data_parallel"])
            self.ema.shard_like(self.tokenizer)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """One part of a step.

        Returns:
            The loss whose gradients, averaged over parts and processes (as Lightning and DDP do), make those of the
            sum of the tasks' mean losses.

        Raises:
            Tok4dError: for a loss that is not finite, naming the batch, unless such steps are to be skipped.
        """
        total, terms = self.stage_loss(batch)
        self._tally.add(batch, total, terms)
        self.next_starts[batch.task] = list(batch.next_start)
        if not finite(total):
            named = ", ".join(f"{name} {float(value):.3g}" for name, value in terms.items())
            self._tally.fault(
                f"loss is {float(total)} at step {self.trained} of task {batch.task!r} ({named}); "
                f"samples: {', '.join(batch.keys[:8])}"
            )
            self._stop_alone()
        return self._scaled(batch, self._complete(total))

    def _stop_alone(self) -> None:
        """A single process stops before the backward pass; several decide together when the step is over."""
        if self.tolerated is None and parallel.world() == 1:
            raise Tok4dError(self._tally.faults[0])

    def _complete(self, total: Tensor) -> Tensor:
        """With DDP, a loss that every parameter is a part of; which ones really are is noted."""
        if parallel.world() == 1 or not self._tally.parameters:
            return total
        found = parallel.reached(total)
        self._tally.reached |= found
        return parallel.touching(total, [p for p in self._tally.parameters if p not in found])

    def _scaled(self, batch: Batch, total: Tensor) -> Tensor:
        """Undo the averages over parts and processes, and count by the share of the samples."""
        factor = batch.share * parallel.world() * self.stage.parts
        return total if factor == 1 else total * factor

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """The end of a step: clip by norm, and keep gradients that are not finite away from the weights.

        Raises:
            Tok4dError: naming the batch, on all processes, when such steps are not to be skipped or are too many.
        """
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        report, faults, missed = self._tally.close()
        for parameter in missed:  # as in a single process: no gradient, so that the optimizer leaves it alone
            parameter.grad = None
        self._average_whole(parameters)
        norm = parallel.clip(optimizer.param_groups, gradient_clip_val or float("inf"))
        self.report = replace(report, norm=float(norm), skipped=bool(faults) or not finite(norm))
        if self.report.skipped:
            self._skip(parameters)
        self.log_dict({**self.report.losses, "gradient_norm": self.report.norm})

    def _average_whole(self, parameters: list[nn.Parameter]) -> None:
        """Gradients of what is not sharded in a sharded model, which nobody else sums up."""
        if parallel.world() == 1 or not parallel.is_sharded(self.tokenizer):
            return
        for parameter in parallel.whole(self.tokenizer):
            if parameter.grad is not None:
                parallel.summed(parameter.grad).div_(parallel.world())

    def _skip(self, parameters: list[nn.Parameter]) -> None:
        """Drop the step's gradients on all processes, or stop all of them."""
        reason = self._tally.named_faults()
        if not reason:
            keys = [key for keys in parallel.gathered(self._tally.keys[:8]) for key in keys]
            reason = f"gradient norm is {self.report.norm} at step {self.trained}; samples: {', '.join(keys)}"
        if self.tolerated is None:
            raise Tok4dError(reason)
        self.skipped += 1
        if self.skipped > self.tolerated:
            raise Tok4dError(f"{self.skipped} steps were not finite, more than max_nan = {self.tolerated}; {reason}")
        if parallel.rank() == 0:
            log.warning("step skipped (%d so far): %s", self.skipped, reason)
        for parameter in parameters:
            parameter.grad = None

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """AdamW with the stage's groups."""
        return make_adamw(self.tokenizer, self.stage.optimizer)

    def on_fit_start(self) -> None:
        """The averages live where the model does."""
        self.ema.to(self.device)

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """The learning rate is a pure function of the run's own step counter."""
        if self.between_steps:
            sharded = parallel.is_sharded(self.tokenizer)
            self._tally = Tally(() if sharded else [p for p in self.tokenizer.parameters() if p.requires_grad])
        self.between_steps = False
        value = self.lr_scale * learning_rate(self.stage.optimizer, self.trained, self.stage.steps)
        set_lr(cast(torch.optim.Optimizer, self.optimizers(use_pl_optimizer=False)), value)
        self.log_dict({"lr": value, "step": float(self.total_trained)})  # "step" becomes the x-axis of the log

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """Step, then count it and average the weights: callbacks that run after the batch see the new state."""
        super().optimizer_step(*args, **kwargs)
        self.trained += 1
        self._ramp_rope()
        self.ema.update(self.tokenizer, self.total_trained)
        self.between_steps = True

    def _ramp_rope(self) -> None:
        """The encoder's RoPE scale of the next step: a pure function of the steps trained, so that resuming is exact.

        What is validated and saved after a step has it too. The decoder has RoPE in full from the start: it learns
        from nothing, so there is no model without RoPE to begin at. Without a ramp the model's own scale stays.
        """
        if self.stage.rope_ramp:
            self.tokenizer.set_rope_scale(min(1.0, self.trained / self.stage.rope_ramp))
