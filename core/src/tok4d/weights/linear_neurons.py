"""Rooms, neurons and heads of blocks that were trained on pictures, set one by one for what `grow: clips` adds.

S = signal channels of the stream, J = exchanged scores.
"""

from __future__ import annotations

from torch import Tensor, nn

from tok4d.model.stack import Stack
from tok4d.model.tokenizer import Tokenizer
from tok4d.nn.block import Block
from tok4d.weights.linear import CONSTANTS, Plan, look_at
from tok4d.weights.linear_growth import keep_clear, mlp_ends

FRESH = 0.25  # of the neurons that pictures used least begin anew, for clips
QUIET = 10.0  # what the others lose in the argument of gelu where there is a clip

Free = dict[str, list[list[int]]]  # by stack and block: neurons, those that do least first


def free_neurons(model: Tokenizer) -> Free:
    """Neurons of every block in the order in which they may be taken.

    Weights and their averages must take the same ones, or the averages become a mean of two networks.
    """
    stacks = {"encoder": model.encoder, "decoder": model.decoder}
    return {
        name: [mlp_ends(block)[1].weight.norm(dim=0).argsort(stable=True).tolist() for block in stack.blocks]
        for name, stack in stacks.items()
    }


def make_room(stack: Stack, plan: Plan, spare: Tensor, amplitudes: Tensor) -> None:
    """Let nothing trained so far write or read the directions `spare` `[S, n]`; the norms bring them to one scale.

    Whatever else the blocks do stays exactly as it is.
    """
    end = CONSTANTS + plan.basis.shape[1]
    places = slice(end - len(amplitudes), end)
    for block in stack.blocks:
        assert isinstance(block, Block)
        for norm, reader in ((block.norm1, block.attn.to_qkv), (block.norm2, mlp_ends(block)[0])):
            change = plan.rms / amplitudes / norm.weight[places]
            reader.weight[:, places] /= change
            for values in (norm.weight, getattr(norm, "bias", None)):
                if values is not None:
                    values[places] *= change
            gains = norm.weight[CONSTANTS:, None]
            reader.weight[:, CONSTANTS:] -= reader.weight[:, CONSTANTS:] @ (gains * spare) @ (spare / gains).T
    keep_clear(stack, spare)


def replace_columns(weight: Tensor, columns: Tensor, rows: Tensor) -> None:
    """Exchange what lies along `columns` `[S, n]` (orthonormal) of a matrix `[S, in]` for `rows` `[n, in]`."""
    weight.add_(columns @ (rows - columns.T @ weight))


def last_head(block: nn.Module, plan: Plan, reading: Tensor, offset: tuple[int, int]) -> None:
    """The block's last head begins anew: it attends to one neighbour, reads its scores of clips and writes nothing yet.

    The first two look at neighbours of pictures; where there are no more, nothing changes.

    Args:
        reading: directions of the scores in the stream, each over its deviation, `[S, J]`.
    """
    assert isinstance(block, Block)
    attention = block.attn
    head, size = attention.heads - 1, attention.head_dim
    if head < 2:
        return
    values = look_at(block, plan, head, offset)
    gains = block.norm1.weight[CONSTANTS:] / plan.rms  # stream -> what attention sees
    read = reading.T[:size] / gains
    values[: len(read), CONSTANTS:] = read
    attention.to_out.weight[:, head * size : (head + 1) * size] = 0


class Neurons:
    """Neurons of one block's MLP to be set one by one.

    Args:
        block: of a stack that began linearly by `plan`.
        scale: units of what `reads` reads, where it is given none.
        free: in which order they are taken.
    """

    def __init__(self, block: nn.Module, plan: Plan, scale: float, free: list[int]) -> None:
        assert isinstance(block, Block)
        self.plan, self.scale = plan, scale
        self.first, self.last = mlp_ends(block)
        self.gains = block.norm2.weight[CONSTANTS:] / plan.rms  # stream -> what the MLP sees
        self.one = block.norm2.weight[:CONSTANTS] * plan.signs * plan.constant / plan.rms  # sees a constant as this
        self.free = list(free)

    def reads(self, column: Tensor, factor: float, scale: float | None = None) -> Tensor:
        """Weights `[S]` that read `factor` times the amount along a direction `[S, 1]`, in units of `scale`."""
        return column[:, 0] / self.gains * (factor / (self.scale if scale is None else scale))

    def add(self, weights: Tensor, bias: float, written: Tensor) -> None:
        """One neuron: gelu(weights . stream + bias) times `written` `[S, 1]`; the bias comes from the constants."""
        place = self.free.pop(0)
        self.first.weight[place] = 0
        self.first.weight[place, CONSTANTS:] = weights
        self.first.weight[place, :CONSTANTS] = bias * self.one / self.one.square().sum()
        if self.first.bias is not None:
            self.first.bias[place] = 0
        self.last.weight[:, place] = 0
        self.last.weight[CONSTANTS:, place] = written[:, 0]

    def pair(self, value: Tensor, switch: tuple[Tensor, float], amount: float, written: Tensor) -> None:
        """Two neurons that write a value where the switch is 1 and nothing where it is 0."""
        column, loud = switch
        opening = self.reads(column, 2 * amount, loud)
        self.add(value + opening, -amount, written / 2)
        self.add(-value + opening, -amount, -written / 2)

    def begin_anew(self, old: Tensor, new: Tensor) -> None:
        """The neurons that do least write nothing and see scores of clips as they saw those of pictures, whitened.

        Args:
            old, new: directions of both in the stream, each times its deviation, `[S, J]`.
        """
        chosen, _ = self._shares()
        self.last.weight[:, chosen] = 0
        seen = self.first.weight[chosen, CONSTANTS:] @ (self.gains[:, None] * old)  # by whitened score
        self.first.weight[chosen, CONSTANTS:] += seen @ (new / new.square().sum(0) / self.gains[:, None]).T

    def quiet(self, column: Tensor, loud: float) -> None:
        """Silence what pictures taught where a column is 1; the neurons that do least stay, for both."""
        _, taught = self._shares()
        self.first.weight[taught, CONSTANTS:] -= self.reads(column, QUIET, loud)

    def _shares(self) -> tuple[list[int], list[int]]:
        """Neurons that serve clips anew, and those that stay with what pictures taught."""
        fresh = int(FRESH * len(self.free))
        return self.free[:fresh], self.free[fresh:]
