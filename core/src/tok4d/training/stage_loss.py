"""From a batch to its loss: tokens through the model, and what came out of them beside what went in."""

from __future__ import annotations

from torch import Tensor, nn

from tok4d.config.schema import StageConfig
from tok4d.data.batches import Batch
from tok4d.losses.gather import standing_by
from tok4d.losses.objective import Loss
from tok4d.modality import Sample
from tok4d.model.bottleneck import Encoded
from tok4d.model.tokenizer import Tokenizer
from tok4d.plugins.registry import modality
from tok4d.tokens import TokenSet
from tok4d.training.check import task_objective


class StageLoss(nn.Module):
    """The training loss of a batch as one module's forward, which is what sharding hooks into.

    Args:
        tokenizer: the model.
        stage: whose tasks have objectives here.
    """

    def __init__(self, tokenizer: Tokenizer, stage: StageConfig) -> None:
        super().__init__()
        self.tokenizer = tokenizer
        self.kind = stage.latents
        self.objectives = {key: task_objective(task) for key, task in (*stage.tasks.items(), *stage.every_step.items())}
        # A list, since a ModuleDict refuses ordinary task names such as "train" or "v1.5".
        self._registered = nn.ModuleList(self.objectives.values())

    def forward(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Mean loss over the batch's samples, and the unweighted means of its terms."""
        loss, _ = self.loss(batch)
        return loss.total, loss.terms

    def loss(self, batch: Batch) -> tuple[Loss, Encoded]:
        """The same, with what the encoder gave."""
        target = targets(batch)
        objective = self.objectives[batch.task]
        used = channels_in_use(batch.tokens)
        encoded = self.tokenizer.encode(batch.tokens, pool=objective.pools, channels=used)
        if not objective.restores:
            with standing_by(not batch.share):
                return objective(target, target, encoded), encoded
        latents = self.latents(encoded, batch)
        read = None if batch.modality in self.tokenizer.heads else used  # a head may read what it likes
        got = unpatchify(self.tokenizer, batch, self.tokenizer.decode(latents, channels=read))
        with standing_by(not batch.share):
            return objective(target, got, encoded), encoded

    def latents(self, encoded: Encoded, batch: Batch) -> TokenSet:
        """What the decoder trains on: FSQ codes, else the posterior's sample or mean as the stage says."""
        if self.tokenizer.quantizer is not None:
            return self.tokenizer.quantize(encoded).latents()
        if self.kind == "mean":
            return encoded.latents("mean")
        return encoded.latents("sample", noise=batch.noise(self.tokenizer.config.latent))


def channels_in_use(tokens: TokenSet) -> int | None:
    """From which channel on all patches are zero, and nothing is read of what is decoded; None: not known."""
    known = [origin.channels for origin in tokens.origins if origin.channels is not None]
    return max(known) if known and len(known) == len(tokens) else None


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
    for sample, caption, label in zip(samples, batch.captions, batch.labels, strict=False):
        sample.caption, sample.label = caption, label
    return samples
