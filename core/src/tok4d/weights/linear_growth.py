"""More latent channels for a model that started linearly: what the new ones hold from their first step on.

Channels that start at zero are found only slowly, since the ends of such a model move slowly (`ends_scale`). Here they
begin with content: the PCA scores that follow (`grow_scores`), or, when clips join pictures, the motion that stills
leave over (`grow_motion`).

N = patches of clips, F = frames of a patch, P = values of one frame, R = scores that the stream carries,
M = latent channels before, J = new ones, K = constants.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tok4d.errors import ConfigError
from tok4d.model.pca import PatchPCA
from tok4d.model.stack import Stack
from tok4d.model.tokenizer import Tokenizer
from tok4d.nn.block import Block
from tok4d.weights.linear import CONSTANTS, LOGVAR, Plan, plan_of


@torch.no_grad()
def grow_scores(model: Tokenizer, pca: PatchPCA, before: int) -> None:
    """Let the latent channels from `before` on hold the scores that follow, which the stream carries already.

    What the older channels do stays. A trained model has moved little at its ends, so it begins near the PCA with as
    many components.

    Args:
        model: a tokenizer of the grown size that began as `init_linear(..., pca)` with `before` latent channels.
        pca: the one that it began with.

    Raises:
        ConfigError: for a stream that does not carry as many scores.
    """
    encoder, decoder = _plans(model, pca, before)
    stop = min(model.config.latent, len(pca.mean))
    for plan, part in ((encoder, "encoder"), (decoder, "decoder")):
        if stop > len(plan.deviations):
            raise ConfigError(f"grow: scores: {stop} scores are wanted, the {part}'s stream has {len(plan.deviations)}")
    _read(model, encoder, before, encoder.basis[:, before:stop], encoder.deviations[before:stop])
    _write(model, decoder, before, decoder.basis[:, before:stop], decoder.deviations[before:stop])


@torch.no_grad()
def grow_motion(model: Tokenizer, pca: PatchPCA, before: int, clips: Tensor) -> None:
    """Let the latent channels from `before` on hold motion: a PCA of what stills leave over in frames 1 to F - 1.

    A still is frame 0 through the older channels, repeated (`repeat_first_frame` comes first). Its error in the later
    frames is a linear function of the patch, whose leading directions take the places of the least scores in the
    stream. Frame 0, all that a picture has, stays as it was.

    Args:
        model, pca: as for `grow_scores`; `pca` is of pictures, P values.
        clips: patches of clips, `[N, F * P]`, frame by frame.

    Raises:
        ConfigError: for a PCA that is not of one frame, or fewer directions than new channels.
    """
    frames, width = model.patch_size[0], clips.shape[1]
    per, count = len(pca.mean), model.config.latent - before
    if frames < 2 or per * frames != width:
        raise ConfigError(
            f"grow: motion needs a start on pictures and patches of several frames: one frame has {width // frames} "
            f"values, the PCA of the start {per}"
        )
    still = pca.components[:, :before] @ pca.components[:, :before].T  # [P, P] projection
    kept = (clips[:, :per] - pca.mean) @ still + pca.mean
    motion = PatchPCA.fit(clips[:, per:] - kept.repeat(1, frames - 1))
    directions, deviations = motion.components[:, :count], motion.deviations[:count].clamp_min(1e-3)
    encoder, decoder = _plans(model, pca, before)
    if directions.shape[1] < count or before + count > min(len(encoder.deviations), len(decoder.deviations)):
        raise ConfigError(f"grow: motion: {count} new channels do not fit beside {before} in this model's stream")
    summed = directions.unflatten(0, (frames - 1, per)).sum(0)  # [P, J]: how a direction meets a repeated frame
    rows = torch.cat([-(still @ summed), directions]).T  # [J, F * P]
    offset = -(motion.mean @ directions) - (pca.mean - still @ pca.mean) @ summed
    columns = encoder.basis[:, -count:]
    weight, bias = model.encoder.input_layer.weight, model.encoder.input_layer.bias
    assert bias is not None
    _replace(weight[CONSTANTS:], columns, rows / encoder.unit)
    _replace(bias[CONSTANTS:, None], columns, offset[:, None] / encoder.unit)
    _read(model, encoder, before, columns, deviations)
    _write(model, decoder, before, decoder.basis[:, -count:], deviations)
    _let_out(model, decoder, motion.mean, directions, per)
    for stack, plan in ((model.encoder, encoder), (model.decoder, decoder)):
        _whiten(stack, plan, deviations)


def _plans(model: Tokenizer, pca: PatchPCA, before: int) -> tuple[Plan, Plan]:
    widths = [stack.input_layer.out_features for stack in (model.encoder, model.decoder)]
    encoder, decoder = (plan_of(pca, width, min(before, len(pca.mean))) for width in widths)
    return encoder, decoder


def _replace(weight: Tensor, columns: Tensor, rows: Tensor) -> None:
    """Exchange what lies along `columns` `[S, J]` (orthonormal) of a matrix `[S, in]` for `rows` `[J, in]`."""
    weight.add_(columns @ (rows - columns.T @ weight))


def _read(model: Tokenizer, plan: Plan, before: int, columns: Tensor, deviations: Tensor) -> None:
    """New rows of `proj`: whitened scores along `columns` `[S, J]`, with a small variance."""
    latent, count = model.config.latent, columns.shape[1]
    weight = model.proj.weight
    weight[before:latent] = 0
    weight[before : before + count, CONSTANTS:] = (plan.unit / deviations)[:, None] * columns.T
    weight[latent + before :] = 0
    weight[latent + before :, :2] = LOGVAR / 2 / (plan.constant / plan.rms) * plan.signs[:2]


def _write(model: Tokenizer, plan: Plan, before: int, columns: Tensor, deviations: Tensor) -> None:
    """New columns of the decoder's input: the whitened scores back along `columns` `[S, J]`."""
    weight = model.decoder.input_layer.weight
    weight[:, before:] = 0
    weight[CONSTANTS:, before : before + columns.shape[1]] = columns * (deviations / plan.unit)


def _let_out(model: Tokenizer, plan: Plan, mean: Tensor, directions: Tensor, per: int) -> None:
    """The decoder's output: along the last columns of the stream, motion in the later frames and nothing in frame 0."""
    weight = model.decoder.out_layer.weight
    columns = plan.basis[:, -directions.shape[1] :]
    wanted = torch.zeros(len(weight), directions.shape[1])
    wanted[per : per + len(directions)] = directions * plan.unit
    _replace(weight[:, CONSTANTS:].T, columns, wanted.T)
    height = plan.constant / plan.rms
    weight[per : per + len(mean), :CONSTANTS] += mean[:, None] * plan.signs / height / CONSTANTS


def _whiten(stack: Stack, plan: Plan, deviations: Tensor) -> None:
    """The blocks' norms bring the exchanged channels to one scale, as the others."""
    carried, count = len(plan.deviations), len(deviations)
    places = slice(CONSTANTS + carried - count, CONSTANTS + carried)
    for block in stack.blocks:
        assert isinstance(block, Block)
        for norm in (block.norm1, block.norm2):
            assert isinstance(norm, nn.Module)
            norm.weight[places] = plan.rms * plan.unit / deviations
