"""More latent channels for a model that started linearly: they hold the PCA scores that follow.

Channels that start at zero are found only slowly, since the ends of such a model move slowly (`ends_scale`). The stream
carries more scores than the latent had room for, so new channels can begin with content.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tok4d.errors import ConfigError
from tok4d.model.pca import PatchPCA
from tok4d.model.stack import Stack
from tok4d.model.tokenizer import Tokenizer
from tok4d.nn.block import Block
from tok4d.weights.linear import CONSTANTS, LOGVAR, plan_of


@torch.no_grad()
def grow_scores(model: Tokenizer, pca: PatchPCA, begun: int, before: int) -> None:
    """Let the latent channels from `before` on hold the scores that follow.

    What the older channels do stays. A trained model has moved little at its ends, so it begins near the PCA with as
    many components. What its blocks wrote where the new scores lie goes: in the encoder nobody read it, in the decoder
    it was a guess of what is now given.

    Args:
        model: a tokenizer of the grown size that began as `init_linear(..., pca)`.
        pca: the one that it began with.
        begun: latent channels that it began with.
        before: latent channels before it grew.

    Raises:
        ConfigError: for a stream that does not carry as many scores.
    """
    latent = model.config.latent
    new = slice(before, min(latent, len(pca.mean)))
    for name, stack in (("encoder", model.encoder), ("decoder", model.decoder)):
        plan = plan_of(pca, stack.input_layer.out_features, min(begun, len(pca.mean)))
        if new.stop > len(plan.deviations):
            raise ConfigError(
                f"grow: scores: {new.stop} scores are wanted, the {name}'s stream carries {len(plan.deviations)}"
            )
        keep_clear(stack, plan.basis[:, new])
        whitened = plan.unit / plan.deviations[new]
        if name == "decoder":
            model.decoder.input_layer.weight[:, before:] = 0
            model.decoder.input_layer.weight[CONSTANTS:, new] = plan.basis[:, new] / whitened
            continue
        model.proj.weight[before:latent] = 0
        model.proj.weight[new, CONSTANTS:] = whitened[:, None] * plan.basis[:, new].T
        model.proj.weight[latent + before :] = 0
        model.proj.weight[latent + before :, :2] = LOGVAR / 2 / (plan.constant / plan.rms) * plan.signs[:2]


def keep_clear(stack: Stack, columns: Tensor) -> None:
    """Let no block and no position write along orthonormal directions of the signal channels, `[S, n]`, in place."""
    assert stack.pos_embedder is not None
    outs: list[Tensor] = [stack.pos_embedder.position_embedding.weight.T]
    for block in stack.blocks:
        assert isinstance(block, Block)
        for linear in (block.attn.to_out, mlp_ends(block)[1]):
            outs += [linear.weight] if linear.bias is None else [linear.weight, linear.bias[:, None]]
    for values in outs:
        values[CONSTANTS:] -= columns @ (columns.T @ values[CONSTANTS:])


def mlp_ends(block: nn.Module) -> tuple[nn.Linear, nn.Linear]:
    """First and last layer of a block's MLP."""
    assert isinstance(block, Block)
    first, last = block.mlp.mlp[0], block.mlp.mlp[2]
    assert isinstance(first, nn.Linear)
    assert isinstance(last, nn.Linear)
    return first, last
