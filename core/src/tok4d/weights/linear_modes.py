"""Clips beside pictures for a model that started linearly: two PCAs in one transformer, and a switch between them.

A picture fills frame 0 of its patch and leaves the others at exactly zero; a clip fills all. One set of latent channels
cannot serve both linearly: what describes motion is lost to the detail of pictures, and the other way round. Here a few
neurons tell the two apart and choose the basis, so that pictures begin at their own PCA and clips at theirs, each with
L - 1 components; the last channel says which it is. Everything else of the model stays as it was trained.

Encoder: the first block's MLP takes absolute values of simple averages over frames 1 to F - 1, the second makes their
sum 0 or 1 (`is a clip`), the third exchanges scores. Decoder: the first block exchanges by the last channel, before the
attention of later blocks reads; what pictures taught its MLPs is silent for clips, since detail of a picture that is
not there cost 0.1 dB. A pair of neurons passes a value x whole when a large amount is added to both its signs, since
gelu is the identity there: (x + m) - (-x + m) = 2 x, and not at all when it is subtracted, since gelu vanishes there.
Neither depends on the exact amount, so that training may disturb the switch a little; the neurons themselves should
move slowly (`optimizer.slow`), and so should the attention before them, which writes where they read.

S = signal channels of the stream, L = latent channels, J = L - 1 exchanged scores, P = values of a frame, F = frames of
a patch.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from tok4d.errors import ConfigError
from tok4d.model.pca import PatchPCA
from tok4d.model.tokenizer import Tokenizer
from tok4d.weights.linear import CONSTANTS, NEIGHBOURS, Plan, plan_of
from tok4d.weights.linear_growth import mlp_ends
from tok4d.weights.linear_neurons import Free, Neurons, free_neurons, last_head, make_room, replace_columns

SHRUNK = 0.25  # clip scores in the encoder's stream: small beside the constants, so that the norms stay near-linear
LOUD = 1.0  # probes, their sum and the switch, beside the leading score: more than training lets others write there
LEAST_BLOCKS = {"encoder": 3, "decoder": 1}
PROBES = 6  # averages that are all zero only where frames 1 to F - 1 are blank
SHARP = 100.0  # of the absolute value of a probe
FULL = 10.0  # width of the step from 0 to 1, in the argument of gelu
STEEP, MIDDLE = (400.0, 40.0), (0.06, 0.5)  # of that step, in encoder and decoder: there it is a latent already
ROOM, MARGIN = 1.5, 6.0  # a pair adds or subtracts the largest value seen, times ROOM, and MARGIN


@dataclass(frozen=True)
class _Columns:
    """Orthonormal directions `[S, n]` in a stream's signal channels, one per purpose, in units of `amplitude`."""

    old: Tensor  # scores of pictures [S, J]
    new: Tensor  # scores of clips [S, J]
    probes: Tensor  # [S, PROBES]
    total: Tensor  # [S, 1] sum of the probes' absolute values
    switch: Tensor  # [S, 1] 0 or 1

    @property
    def spare(self) -> Tensor:
        """All but the old ones, `[S, J + PROBES + 2]`."""
        return torch.cat([self.new, self.probes, self.total, self.switch], 1)


@torch.no_grad()
def add_clips(
    model: Tokenizer,
    pictures: PatchPCA,
    clips: PatchPCA,
    stills: Tensor,
    moving: Tensor,
    before: int,
    free: Free | None = None,
) -> None:
    """Give a model of pictures a second basis, for clips.

    Args:
        model: a tokenizer that began as `init_linear(..., pictures)`.
        pictures: the PCA it began with, of P values.
        clips: a PCA of patches of clips, of F * P values.
        stills, moving: patches of pictures `[N, P]` and of clips `[N, F * P]`: how large the values are that the switch
            has to hold back or let through.
        before: latent channels that it began with; those since then hold the scores that follow (`grow_scores`).
        free: which neurons are taken first (`free_neurons`); None: those that do least in this model.

    Raises:
        ConfigError: for a model that is too small, or PCAs that do not fit it.
    """
    count, frames = model.config.latent - 1, model.patch_size[0]
    per = len(pictures.mean)
    if frames < 2 or len(clips.mean) != per * frames:
        raise ConfigError(
            f"a basis for clips needs a start on pictures and patches of several frames; the PCA of pictures has {per} "
            f"values, that of clips {len(clips.mean)}, a patch {frames} frames"
        )
    stacks = {"encoder": model.encoder, "decoder": model.decoder}
    plans = {name: plan_of(pictures, stack.input_layer.out_features, before) for name, stack in stacks.items()}
    for name, stack in stacks.items():
        neurons = mlp_ends(stack.blocks[0])[0].out_features
        check_room(name, model.config.latent, len(stack.blocks), len(plans[name].deviations), neurons)
    encoder, decoder = plans.values()
    seen: list[tuple[Tensor, Tensor]] = []  # scores in both bases, whitened, of pictures and of clips
    for patches in (F.pad(stills, (0, per * (frames - 1))), moving):
        as_picture = (patches[:, :per] - pictures.mean) @ pictures.components[:, :count] / encoder.deviations[:count]
        as_clip = (patches - clips.mean) @ clips.components[:, :count] / clips.deviations[:count].clamp_min(1e-3)
        seen.append((as_picture, as_clip))
    exchanged = torch.cat([clip - picture for picture, clip in seen])
    free = free_neurons(model) if free is None else free
    _encode(model, encoder, clips, _amounts(exchanged), free["encoder"])
    _decode(model, decoder, clips, _amounts(torch.cat([seen[0][0], seen[1][1]])), free["decoder"])


def check_room(name: str, latent: int, blocks: int, carried: int, neurons: int) -> None:
    """Refuse an `encoder` or a `decoder` that has no room for a second basis.

    Args:
        latent: channels, the last of which is the switch.
        blocks, neurons: of the stack, and of one of its MLPs.
        carried: scores of pictures that its stream has directions for.

    Raises:
        ConfigError: naming what is needed.
    """
    least = LEAST_BLOCKS[name]
    needed = 2 * (latent - 1) + PROBES + 2
    if blocks < least or min(carried, neurons) < needed:
        raise ConfigError(
            f"a basis for clips needs {'an' if name[0] in 'aeiou' else 'a'} {name} of {least} or more blocks, "
            f"{needed + CONSTANTS + 1} channels and {needed} neurons"
        )


def _amounts(values: Tensor) -> Tensor:
    """What a pair adds or subtracts, by column of `[N, J]`."""
    return ROOM * values.abs().amax(0) + MARGIN


def _encode(model: Tokenizer, plan: Plan, clips: PatchPCA, amounts: Tensor, free: list[list[int]]) -> None:
    encoder, per, count = model.encoder, len(plan.mean), len(amounts)
    columns, scale = _columns(plan, count), SHRUNK / plan.unit
    loud = LOUD * float(plan.deviations[0]) / plan.unit
    directions = clips.components[:, :count].T
    weight, bias = encoder.input_layer.weight, encoder.input_layer.bias
    assert bias is not None
    probes = _probes(per, len(clips.mean) // per)
    rows = torch.cat([directions * scale, probes * loud, torch.zeros(2, len(clips.mean))])
    offset = torch.cat([-(directions @ clips.mean) * scale, torch.zeros(PROBES + 2)])
    replace_columns(weight[CONSTANTS:], columns.spare, rows)
    replace_columns(bias[CONSTANTS:, None], columns.spare, offset[:, None])
    deviations = clips.deviations[:count].clamp_min(1e-3)
    make_room(encoder, plan, columns.spare, _amplitudes(deviations * scale, loud))
    blocks = [Neurons(block, plan, scale, order) for block, order in zip(encoder.blocks, free, strict=True)]
    for column in columns.probes.T[:, :, None].unbind(0):
        for sign in (1.0, -1.0):
            blocks[0].add(blocks[0].reads(column, sign * SHARP, loud), 0.0, columns.total * loud / SHARP)
    _step(blocks[1], columns, STEEP[0], MIDDLE[0], loud)
    for j in range(count):
        old, new_j = columns.old[:, j : j + 1], columns.new[:, j : j + 1]
        # Both scores whitened: what a clip's score is more than the picture's takes that one's place.
        more = blocks[2].reads(new_j, 1 / float(deviations[j]))
        more = more - blocks[2].reads(old, 1 / float(plan.deviations[j]) * SHRUNK)
        written = old * (plan.deviations[j] / plan.unit)
        blocks[2].pair(more, (columns.switch, loud), float(amounts[j]), written)
    last = model.config.latent - 1
    model.proj.weight[last] = 0
    model.proj.weight[last, CONSTANTS:] = columns.switch[:, 0] / loud


def _decode(model: Tokenizer, plan: Plan, clips: PatchPCA, amounts: Tensor, free: list[list[int]]) -> None:
    decoder, count = model.decoder, len(amounts)
    columns, scale = _columns(plan, count), 1 / plan.unit
    loud = LOUD * float(plan.deviations[0]) / plan.unit
    spare = columns.spare
    weight = decoder.input_layer.weight[CONSTANTS:]
    weight[:, count] = columns.total[:, 0] * loud  # the last latent: 0 for pictures, 1 for clips
    weight[:, :count] -= spare @ (spare.T @ weight[:, :count])
    deviations = clips.deviations[:count].clamp_min(1e-3)
    make_room(decoder, plan, columns.spare, _amplitudes(deviations * scale, loud))
    blocks = [Neurons(block, plan, scale, order) for block, order in zip(decoder.blocks, free, strict=True)]
    _step(blocks[0], columns, STEEP[1], MIDDLE[1], loud)
    for j in range(count):
        old, new_j = columns.old[:, j : j + 1], columns.new[:, j : j + 1]
        value = blocks[0].reads(old, 1 / float(plan.deviations[j]))
        written = (new_j * deviations[j] - old * plan.deviations[j]) * scale
        blocks[0].pair(value, (columns.total, loud), float(amounts[j]), written)
    blocks[0].quiet(columns.total, loud)
    for neurons in blocks[1:]:
        neurons.begin_anew(columns.old * plan.deviations[:count] / plan.unit, columns.new * deviations * scale)
        neurons.quiet(columns.switch, loud)
    if model.config.positions != "table":
        for depth, block in enumerate(decoder.blocks[1:], start=1):
            last_head(block, plan, columns.new / (deviations * scale), NEIGHBOURS[depth % 4])
    out = decoder.out_layer.weight
    wanted = torch.zeros(len(out), spare.shape[1])
    wanted[: len(clips.mean), :count] = clips.components[:, :count] / scale
    shown = out[: len(clips.mean), :CONSTANTS] @ (plan.signs * plan.constant / plan.rms)
    wanted[: len(clips.mean), -1] = (clips.mean - shown) / loud  # the constants show the mean of pictures
    replace_columns(out[:, CONSTANTS:].T, spare, wanted.T)


def _step(neurons: Neurons, columns: _Columns, steep: float, middle: float, loud: float) -> None:
    """`switch` = 0 where `total` is at or below `middle`, 1 where it is `FULL / steep` above."""
    argument = neurons.reads(columns.total, steep, loud)
    for sign, shift in ((1.0, 0.0), (-1.0, FULL)):
        neurons.add(argument, -steep * middle - shift, sign / FULL * columns.switch * loud)


def _amplitudes(scores: Tensor, loud: float) -> Tensor:
    """Of what is new in a stream: scores of clips, probes, their sum and the switch."""
    return torch.cat([scores, torch.full((PROBES + 2,), loud)])


def _columns(plan: Plan, count: int) -> _Columns:
    """The leading scores' directions, and those of the least ones for what is new."""
    end = plan.basis.shape[1]
    new, probes = end - count - PROBES - 2, end - PROBES - 2
    return _Columns(
        plan.basis[:, :count],
        plan.basis[:, new:probes],
        plan.basis[:, probes : end - 2],
        plan.basis[:, end - 2 : end - 1],
        plan.basis[:, end - 1 :],
    )


def _probes(per: int, frames: int) -> Tensor:
    """Averages over frames 1 to F - 1 `[PROBES, F * P]`: three colours, and three halves of the pixels' order."""
    place = torch.arange(per)
    signs = [((place * 2**k // per) % 2) * 2.0 - 1 for k in (1, 2, 3)]
    rows = torch.stack([(place % 3 == colour).float() * 3 for colour in range(3)] + signs) / (per * (frames - 1))
    return torch.cat([torch.zeros(PROBES, per), rows.repeat(1, frames - 1)], 1)
