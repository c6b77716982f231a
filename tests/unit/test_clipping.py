"""Gradient clipping: one norm over all groups, slow ones counted by their factor."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tok4d.training.parallel import clip


def parameter(*gradient: float) -> nn.Parameter:
    made = nn.Parameter(torch.zeros(len(gradient)))
    made.grad = torch.tensor(gradient)
    return made


def test_the_norm_by_hand():
    fast, slow = parameter(3.0, 0.0), parameter(400.0)
    norm = clip([{"params": [fast], "counts": 1.0}, {"params": [slow], "counts": 0.01}], 2.5)
    assert float(norm) == pytest.approx(5.0)  # 3 and 4
    assert fast.grad.tolist() == pytest.approx([1.5, 0.0])
    assert slow.grad.tolist() == pytest.approx([200.0])


def test_what_is_short_enough_stays():
    fast, without = parameter(3.0), nn.Parameter(torch.zeros(2))
    assert float(clip([{"params": [fast, without]}], float("inf"))) == 3
    assert float(clip([{"params": [fast, without]}], 10.0)) == 3
    assert fast.grad.tolist() == [3.0]
    assert without.grad is None
    assert float(clip([{"params": [without]}], 1.0)) == 0


@pytest.mark.parametrize("scale", [1.0, 0.01, 0.0])
def test_a_gradient_that_is_none_is_seen_in_every_group(scale):
    broken = parameter(float("nan"))
    assert torch.isnan(clip([{"params": [parameter(1.0)], "counts": 1.0}, {"params": [broken], "counts": scale}], 1.0))


def test_as_torch_does_where_all_move_alike():
    torch.manual_seed(0)
    ours = [parameter(*torch.randn(n).tolist()) for n in (5, 7, 1)]
    theirs = [parameter(*p.grad.tolist()) for p in ours]
    norm = clip([{"params": ours[:2], "counts": 1.0}, {"params": ours[2:], "counts": 1.0}], 0.5)
    torch.testing.assert_close(norm, nn.utils.clip_grad_norm_(theirs, 0.5))
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one.grad, other.grad)
