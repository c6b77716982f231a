"""Statistics of FSQ codes: counts by hand, any batching, any number of parts."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from tok4d.config.schema import FSQConfig
from tok4d.errors import Tok4dError
from tok4d.losses.codes import CodeStatistics
from tok4d.model.fsq import FSQ


def test_usage_entropy_and_perplexity_by_hand():
    """Group 0 sees codes 0, 0, 1, 5; group 1 always code 2."""
    found = CodeStatistics(2, [3, 2])
    found.add(torch.tensor([[0, 2], [0, 2]]))
    found.add(torch.tensor([[1, 2], [5, 2]], dtype=torch.int32))
    assert found.tokens == 4
    assert found.usage.tolist() == [0.5, 1 / 6]
    assert found.entropy.tolist() == [1.5, 0.0]
    assert found.perplexity.tolist() == pytest.approx([2**1.5, 1.0])
    assert found.figures() == {
        "usage": pytest.approx(1 / 3),
        "usage_min": pytest.approx(1 / 6),
        "entropy": 0.75,
        "perplexity": pytest.approx((2**1.5 + 1) / 2),
        "tokens": 4.0,
    }


def test_histograms_count_the_levels_of_every_channel():
    """Against the quantiser: the levels of the values it gives."""
    config = FSQConfig(groups=2, levels=[5, 2, 4])
    fsq = FSQ(config)
    z = torch.randn(300, 6, generator=torch.Generator().manual_seed(0))
    values, indices = fsq(z)
    found = CodeStatistics.of(config)
    found.add(indices)
    for channel, histogram in enumerate(found.histograms()):
        levels = config.levels[channel % 3]
        assert histogram.shape == (levels,)
        steps = (values[:, channel] * (levels // 2)).round().long() + levels // 2
        assert histogram.tolist() == np.bincount(steps.numpy(), minlength=levels).tolist()


def test_one_dim_a_group():
    found = CodeStatistics(2, [3])
    found.add(torch.tensor([[0, 2], [1, 2]]))
    assert [histogram.tolist() for histogram in found.histograms()] == [[1, 1, 0], [0, 0, 2]]


def test_even_use_has_the_largest_entropy():
    found = CodeStatistics(1, [4] * 3)
    found.add(torch.arange(64).repeat(5)[:, None])
    assert found.usage.tolist() == [1.0]
    assert found.entropy.tolist() == pytest.approx([6.0], abs=1e-12)


def test_parts_merge_to_the_whole_in_any_order():
    indices = torch.randint(0, 8, (50, 3), generator=torch.Generator().manual_seed(1))
    whole, parts = CodeStatistics(3, [2, 4]), [CodeStatistics(3, [2, 4]) for _ in range(2)]
    whole.add(indices)
    parts[0].add(indices[30:])
    parts[1].add(indices[:7])
    parts[1].add(indices[7:30])
    parts[0].merge(parts[1])
    assert torch.equal(parts[0].counts, whole.counts)
    whole.sync()
    assert whole.tokens == 50


def test_nothing_counted_is_nothing_used():
    empty = CodeStatistics(2, [2, 2])
    empty.add(torch.zeros(0, 2, dtype=torch.int32))
    assert empty.usage.tolist() == empty.entropy.tolist() == [0.0, 0.0]
    assert all(math.isfinite(value) for value in empty.figures().values())


def test_what_cannot_be_counted():
    found = CodeStatistics(2, [2, 3])
    with pytest.raises(Tok4dError, match=r"codes must be in \[0, 6\), got 0 to 6"):
        found.add(torch.tensor([[0, 6]]))
    with pytest.raises(Tok4dError, match="got -1 to 0"):
        found.add(torch.tensor([[0, -1]]))
    with pytest.raises(Tok4dError, match=r"integers \[T, 2\], got torch.float32"):
        found.add(torch.zeros(3, 2))
    with pytest.raises(Tok4dError, match="cannot be merged"):
        found.merge(CodeStatistics(2, [3, 2]))
    with pytest.raises(Tok4dError, match="are more than"):
        CodeStatistics(1, [1000] * 3)
    with pytest.raises(Tok4dError, match="levels of at least 2"):
        CodeStatistics(1, [1])
