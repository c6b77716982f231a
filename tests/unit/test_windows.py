"""Windows over sparse voxels against a brute-force mask, and the sine positions by their formula."""

from __future__ import annotations

from math import cos, sin

import pytest
import torch
from made import make_tokens
from torch import Tensor

from tok4d.errors import Tok4dError
from tok4d.nn.attention import attend, equal_runs
from tok4d.nn.windows import sincos, windows
from tok4d.seqs import Seqs
from tok4d.tokens import TokenSet

GRID = (2, 12, 12, 12)


def tokens_at(*samples: list[tuple[int, int, int]]) -> TokenSet:
    """Samples of voxels at given (x, y, z)."""
    rows = [(0, *place) for sample in samples for place in sample]
    coords = torch.tensor(rows, dtype=torch.int32).view(-1, 4)
    return TokenSet(torch.zeros(len(rows), 1), coords, tuple(len(sample) for sample in samples))


def allowed(tokens: TokenSet, size: int, shift: int) -> Tensor:
    """Which token may see which, `[T, T]`, pair by pair."""
    sample = tokens.seqs.index.tolist()
    cells = [tuple((c + shift) // size for c in place[1:]) for place in tokens.coords.tolist()]
    return torch.tensor(
        [
            [(a, cell_a) == (b, cell_b) for b, cell_b in zip(sample, cells, strict=True)]
            for a, cell_a in zip(sample, cells, strict=True)
        ]
    )


@pytest.mark.parametrize(("size", "shift"), [(8, 0), (8, 4), (4, 2), (3, 1), (1, 0), (64, 32)])
def test_groups_equal_the_brute_force_mask(size, shift):
    tokens = make_tokens([70, 0, 90, 1], 1, GRID)
    grouped = windows(tokens, size, shift, 12)
    segment = torch.empty_like(grouped.order)
    segment[grouped.order] = grouped.seqs.index
    assert torch.equal(segment[:, None] == segment[None, :], allowed(tokens, size, shift))
    assert torch.equal(grouped.order[grouped.inverse], torch.arange(tokens.num_tokens))


@pytest.mark.parametrize("softcap", [None, 3.0])
def test_attention_in_windows_and_its_gradient_equal_dense_attention(softcap):
    tokens = make_tokens([60, 0, 80], 1, GRID, seed=3)
    grouped = windows(tokens, 8, 4, 12)
    rng = torch.Generator().manual_seed(0)
    q, k, v, weight = (torch.randn(140, 2, 8, generator=rng, dtype=torch.float64) * 2 for _ in range(4))
    for x in (q, k, v):
        x.requires_grad_()
    out = attend(q[grouped.order], k[grouped.order], v[grouped.order], grouped.seqs, softcap=softcap)[grouped.inverse]
    logits = torch.einsum("qhd,khd->hqk", q, k) / 8**0.5
    if softcap is not None:
        logits = softcap * torch.tanh(logits / softcap)
    attention = logits.masked_fill(~allowed(tokens, 8, 4), float("-inf")).softmax(-1)
    expected = torch.einsum("hqk,khd->qhd", attention, v)
    assert (out - expected).abs().max() < 1e-12
    got = torch.autograd.grad((out * weight).sum(), (q, k, v))
    wanted = torch.autograd.grad((expected * weight).sum(), (q, k, v))
    assert max((a - b).abs().max() for a, b in zip(got, wanted, strict=True)) < 1e-12


def test_the_shift_moves_the_borders():
    """Voxels 3 and 4 share the window 0..7 of unshifted blocks; shifted by 4 the border runs between them."""
    tokens = tokens_at([(3, 0, 0), (4, 0, 0), (11, 0, 0)])
    assert windows(tokens, 8, 0, 16).seqs.lengths == (1, 2)
    assert windows(tokens, 8, 4, 16).seqs.lengths == (1, 2)
    assert windows(tokens, 8, 0, 16).order.tolist() == [2, 0, 1]
    assert windows(tokens, 8, 4, 16).order.tolist() == [0, 1, 2]


def test_equal_lengths_are_one_attention_call_each():
    tokens = make_tokens([300, 200], 1, (1, 32, 32, 32))
    seqs = windows(tokens, 8, 0, 32).seqs
    assert len(seqs) > 50
    assert len(list(equal_runs(seqs, seqs))) == len(set(seqs.lengths))


def test_built_once_a_batch():
    tokens = make_tokens([20], 1, GRID)
    assert windows(tokens, 8, 4, 12) is windows(tokens.replace(torch.zeros(20, 5)), 8, 4, 12)


def test_no_tokens_at_all():
    grouped = windows(tokens_at([], []), 8, 0, 12)
    assert grouped.seqs == Seqs((), torch.device("cpu"))
    assert len(grouped.order) == len(grouped.inverse) == 0


@pytest.mark.parametrize("place", [(12, 0, 0), (0, -1, 0)])
def test_a_voxel_outside_the_grid_is_named(place):
    with pytest.raises(Tok4dError, match=rf"token 1 at \(x, y, z\) = \({place[0]}, {place[1]}, 0\).*12\^3"):
        windows(tokens_at([(0, 0, 0), place]), 8, 0, 12)


def test_positions_by_hand():
    """Width 14: two frequencies an axis, 1 and 0.01; four channels an axis and two of zeros."""
    expected = []
    for c in (3, 0, 50):
        expected += [sin(c), sin(c * 0.01), cos(c), cos(c * 0.01)]
    made = sincos(torch.tensor([[9, 3, 0, 50]], dtype=torch.int32), 14)
    assert made.dtype == torch.float32
    assert torch.allclose(made[0], torch.tensor([*expected, 0.0, 0.0]), atol=1e-6)
