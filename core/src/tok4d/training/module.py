"""The Lightning module: one task a step, any modality, losses on the unpatchified samples."""

from __future__ import annotations

from typing import Any, cast

import pytorch_lightning as pl
import torch
from torch import Tensor

from tok4d.config.schema import StageConfig
from tok4d.data.batches import Batch
from tok4d.errors import Tok4dError
from tok4d.losses.objective import Loss
from tok4d.modality import Sample
from tok4d.model.bottleneck import Encoded
from tok4d.model.tokenizer import Tokenizer
from tok4d.plugins.registry import modality
from tok4d.tokens import TokenSet
from tok4d.training.check import task_objective
from tok4d.training.optim import AveragedWeights, learning_rate, make_adamw, set_lr


class TokenizerModule(pl.LightningModule):
    """Trains a tokenizer through one stage.

    Args:
        tokenizer: the model.
        stage: the stage's configuration.
        start: steps of this stage already trained, when resuming.
        done_before: steps of earlier stages, for the averaged weights and the log's x-axis.
        ema: averaged weights carried over from a checkpoint or an earlier stage; None: they start at the model.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        stage: StageConfig,
        start: int = 0,
        done_before: int = 0,
        ema: AveragedWeights | None = None,
    ) -> None:
        super().__init__()
        self.tokenizer = tokenizer
        self.stage = stage
        self.trained = start  # counts steps TRAINED, not fetched
        self.done_before = done_before
        self.ema = ema if ema is not None else AveragedWeights(tokenizer, stage.optimizer.ema)
        self.ema.decay = stage.optimizer.ema
        tokenizer.freeze(stage.freeze)
        self._ramp_rope()
        self.objectives = {key: task_objective(task) for key, task in stage.tasks.items()}
        # A list, since a ModuleDict refuses ordinary task names such as "train" or "v1.5".
        self._registered = torch.nn.ModuleList(self.objectives.values())
        self._keys: tuple[str, ...] = ()

    @property
    def total_trained(self) -> int:
        """Steps trained in all stages so far."""
        return self.done_before + self.trained

    def forward(self, tokens: TokenSet) -> TokenSet:
        """Patches through the model, by posterior means."""
        return self.tokenizer.decode(self.tokenizer.encode(tokens, pool=False).latents())

    def loss(self, batch: Batch) -> tuple[Loss, Encoded]:
        """Loss of a batch as in training."""
        target = targets(batch)
        encoded = self.tokenizer.encode(batch.tokens, pool=self.objectives[batch.task].pools)
        latents = self.latents(encoded, batch)
        got = unpatchify(self.tokenizer, batch, self.tokenizer.decode(latents))
        return self.objectives[batch.task](target, got, encoded), encoded

    def latents(self, encoded: Encoded, batch: Batch) -> TokenSet:
        """What the decoder trains on: FSQ codes, else the posterior's sample or mean as the stage says."""
        if self.tokenizer.quantizer is not None:
            return self.tokenizer.quantize(encoded).latents()
        if self.stage.latents == "mean":
            return encoded.latents("mean")
        return encoded.latents("sample", noise=batch.noise(self.tokenizer.config.latent))

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """One step of one task.

        Raises:
            Tok4dError: for a loss that is not finite, naming the batch.
        """
        self._keys = batch.keys
        loss, _ = self.loss(batch)
        if not torch.isfinite(loss.total):
            terms = ", ".join(f"{name} {float(value):.3g}" for name, value in loss.terms.items())
            raise Tok4dError(
                f"loss is {float(loss.total)} at step {self.trained} of task {batch.task!r} ({terms}); "
                f"samples: {', '.join(batch.keys[:8])}"
            )
        size = len(batch.tokens)
        logged = {f"{batch.task}/{name}": value for name, value in loss.terms.items()}
        self.log_dict({**logged, f"{batch.task}/loss": loss.total.detach()}, batch_size=size)
        return loss.total

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip by norm, and refuse gradients that are not finite before they reach the weights.

        Raises:
            Tok4dError: naming the batch.
        """
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        norm = torch.nn.utils.clip_grad_norm_(parameters, gradient_clip_val or float("inf"))
        if not torch.isfinite(norm):
            raise Tok4dError(
                f"gradient norm is {float(norm)} at step {self.trained}; samples: {', '.join(self._keys[:8])}"
            )
        self.log("gradient_norm", norm)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """AdamW with the stage's groups."""
        return make_adamw(self.tokenizer, self.stage.optimizer)

    def on_fit_start(self) -> None:
        """The averages live where the model does."""
        self.ema.to(self.device)

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """The learning rate is a pure function of the run's own step counter."""
        value = learning_rate(self.stage.optimizer, self.trained, self.stage.steps)
        set_lr(cast(torch.optim.Optimizer, self.optimizers(use_pl_optimizer=False)), value)
        self.log_dict({"lr": value, "step": float(self.total_trained)})  # "step" becomes the x-axis of the log

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """Step, then count it and average the weights: callbacks that run after the batch see the new state."""
        super().optimizer_step(*args, **kwargs)
        self.trained += 1
        self._ramp_rope()
        self.ema.update(self.tokenizer, self.total_trained)

    def _ramp_rope(self) -> None:
        """The encoder's RoPE scale of the next step: a pure function of the steps trained, so that resuming is exact.

        What is validated and saved after a step has it too. The decoder has RoPE in full from the start: it learns
        from nothing, so there is no model without RoPE to begin at. Without a ramp the model's own scale stays.
        """
        if self.stage.rope_ramp:
            self.tokenizer.set_rope_scale(min(1.0, self.trained / self.stage.rope_ramp))


def targets(batch: Batch) -> list[Sample]:
    """What a batch's reconstructions are compared with: what its tokens hold, and the extras beside them."""
    samples = _named(modality(batch.modality).unpatchify(batch.tokens), batch)
    for sample, extras in zip(samples, batch.extras, strict=False):  # none at all where no sample has any
        sample.data.update(extras)
    return samples


def unpatchify(model: Tokenizer, batch: Batch, patches: TokenSet, *, use_head: bool = True) -> list[Sample]:
    """Samples of a batch from patches, through the modality's own decoder head when the model has one."""
    name = batch.modality
    head = model.heads[name] if use_head and name in model.heads else None
    return _named(modality(name).unpatchify(patches, head), batch)


def _named(samples: list[Sample], batch: Batch) -> list[Sample]:
    for sample, key in zip(samples, batch.keys, strict=True):
        sample.key = key
    return samples
