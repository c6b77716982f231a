"""Attention pooling: per sample, in one go or piece by piece."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tok4d.config.schema import StackConfig
from tok4d.nn.pooling import AttentionPool
from tok4d.seqs import Seqs

RELAXED = settings(max_examples=12, deadline=None, derandomize=True)
CPU = torch.device("cpu")
CLOSE = {"rtol": 1e-5, "atol": 1e-5}


def make_pool() -> AttentionPool:
    torch.manual_seed(0)
    pool = AttentionPool(StackConfig(width=32, blocks=1, heads=2, mlp=48))
    with torch.no_grad():
        for parameter in pool.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.3)
    return pool


POOL = make_pool()


def features(count: int, seed: int = 0) -> Tensor:
    return torch.randn(count, 32, generator=torch.Generator().manual_seed(seed))


def alone(pool: AttentionPool, x: Tensor) -> Tensor:
    """One sample by the formula: r = to_out(attn(probe, x)), out = r + mlp(layernorm(r))."""
    q = pool.attention.to_q(pool.probe)
    k, v = pool.attention.to_kv(x).chunk(2, -1)
    heads = [
        (k[:, part] @ q[part] / 4).softmax(0) @ v[:, part] for part in (slice(0, 16), slice(16, 32))
    ]  # head dim 16
    r = pool.attention.to_out(torch.cat(heads))
    return r + pool.mlp(pool.layernorm(r))


def test_a_batch_equals_a_loop_over_its_samples():
    seqs = Seqs((4, 1, 4, 0, 9), CPU)
    x = features(seqs.total)
    pooled = POOL(x, seqs)
    for sample, (a, b) in enumerate(zip(seqs.starts, seqs.starts[1:], strict=False)):
        expected = alone(POOL, x[a:b]) if b > a else torch.zeros(32)
        torch.testing.assert_close(pooled[sample], expected, **CLOSE)


@RELAXED
@given(
    st.lists(st.lists(st.integers(0, 5), min_size=3, max_size=3), min_size=1, max_size=4),
    st.permutations([0, 1, 2]),
    st.integers(0, 1000),
)
def test_pieces_in_any_order_give_the_whole(pieces, order, seed):
    """Three pieces of every sample, some empty, merged in any order."""
    parts = [[features(n, seed + 7 * s + p) * 3 for p, n in enumerate(row)] for s, row in enumerate(pieces)]
    whole = Seqs(tuple(sum(row) for row in pieces), CPU)
    expected = POOL(torch.cat([part for row in parts for part in row]), whole)
    states = [
        POOL.partial(torch.cat([row[p] for row in parts]), Seqs(tuple(row[p] for row in pieces), CPU)) for p in order
    ]
    merged = states[0].merge(states[1]).merge(states[2])
    torch.testing.assert_close(POOL.finish(merged), expected, **CLOSE)
    other = states[0].merge(states[1].merge(states[2]))
    torch.testing.assert_close(POOL.finish(other), expected, **CLOSE)


def test_large_logits_do_not_overflow():
    seqs = Seqs((3,), CPU)
    x = features(3) * 1e4
    halves = [POOL.partial(x[:1], Seqs((1,), CPU)), POOL.partial(x[1:], Seqs((2,), CPU))]
    out = POOL.finish(halves[0].merge(halves[1]))
    assert torch.isfinite(out).all()
    torch.testing.assert_close(out, POOL(x, seqs), rtol=1e-4, atol=1e-2)


@pytest.mark.parametrize("lengths", [(), (0,), (0, 0, 0)])
def test_nothing_but_empty_samples_pools_to_zeros(lengths):
    seqs = Seqs(lengths, CPU)
    zeros = torch.zeros(len(lengths), 32)
    assert torch.equal(POOL(features(0), seqs), zeros)
    assert torch.equal(POOL.finish(POOL.partial(features(0), seqs)), zeros)


def test_gradients_reach_the_features_of_both_ways():
    seqs = Seqs((3, 0, 2), CPU)
    gradients, exact = [], make_pool().double()
    for pool in (exact, lambda x, s: exact.finish(exact.partial(x, s))):
        x = features(5).double().requires_grad_()
        pool(x, seqs).square().sum().backward()
        gradients.append(x.grad)
    assert torch.isfinite(gradients[1]).all()
    torch.testing.assert_close(gradients[0], gradients[1], rtol=0, atol=1e-10)
