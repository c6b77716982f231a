"""`attend`: the fast path against the dense reference, values and gradients, and what each backend refuses."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tok4d.errors import Tok4dError
from tok4d.nn import attention
from tok4d.nn.attention import attend, equal_runs
from tok4d.seqs import Seqs

RELAXED = settings(max_examples=30, deadline=None, derandomize=True)
CPU = torch.device("cpu")
LENGTHS = st.lists(st.tuples(st.integers(0, 7), st.integers(0, 7)), min_size=1, max_size=6)


def seqs(*lengths: int) -> Seqs:
    return Seqs(tuple(lengths), CPU)


def qkv(queries: Seqs, keys: Seqs, seed: int = 0, heads: int = 2, size: int = 8, dtype=torch.float64) -> list[Tensor]:
    rng = torch.Generator().manual_seed(seed)
    shapes = ((queries.total, heads, size), (keys.total, heads, size), (keys.total, heads, size))
    return [torch.randn(shape, generator=rng, dtype=torch.float64).to(dtype).requires_grad_() for shape in shapes]


def by_hand(q: Tensor, k: Tensor, v: Tensor, queries: Seqs, keys: Seqs, softcap: float | None = None) -> Tensor:
    """One softmax per query and head, nothing clever."""
    out = torch.zeros_like(q)
    for s in range(len(queries)):
        rows = range(keys.starts[s], keys.starts[s + 1])
        for i in range(queries.starts[s], queries.starts[s + 1]):
            for h in range(q.shape[1]):
                if not rows:
                    continue
                logits = torch.stack([q[i, h].dot(k[j, h]) for j in rows]) / q.shape[-1] ** 0.5
                logits = logits if softcap is None else softcap * torch.tanh(logits / softcap)
                weights = logits.exp() / logits.exp().sum()
                out[i, h] = sum(w * v[j, h] for w, j in zip(weights, rows, strict=True))
    return out


@pytest.mark.parametrize("softcap", [None, 1.5])
def test_both_backends_equal_the_formula(softcap):
    queries, keys = seqs(2, 0, 3, 1), seqs(3, 2, 0, 1)
    q, k, v = (x.detach() for x in qkv(queries, keys))
    expected = by_hand(q, k, v, queries, keys, softcap)
    for backend in ("runs", "reference"):
        out = attend(q, k, v, queries, keys, softcap=softcap, backend=backend)
        torch.testing.assert_close(out, expected, rtol=0, atol=1e-12)


@RELAXED
@given(LENGTHS, st.integers(0, 1000), st.sampled_from([None, 2.0]))
def test_runs_equal_the_reference_in_values_and_gradients(lengths, seed, softcap):
    queries, keys = seqs(*(a for a, _ in lengths)), seqs(*(b for _, b in lengths))
    results = []
    for backend in ("runs", "reference"):
        inputs = qkv(queries, keys, seed)
        out = attend(*inputs, queries, keys, softcap=softcap, backend=backend)
        rng = torch.Generator().manual_seed(seed)
        loss = (out * torch.randn(out.shape, generator=rng, dtype=out.dtype)).sum() + sum(x.sum() for x in inputs)
        results.append([out.detach(), *torch.autograd.grad(loss, inputs)])
    for fast, slow in zip(*results, strict=True):
        torch.testing.assert_close(fast, slow, rtol=0, atol=1e-12)


def test_sequences_do_not_see_each_other():
    one = seqs(3, 4)
    q, k, v = (x.detach() for x in qkv(one, one))
    before = attend(q, k, v, one)
    k, v = k.clone(), v.clone()
    k[3:], v[3:] = 7.0, -7.0
    after = attend(q, k, v, one)
    assert torch.equal(before[:3], after[:3])
    assert not torch.allclose(before[3:], after[3:])


def test_queries_without_keys_give_zeros():
    queries, keys = seqs(2, 3), seqs(0, 2)
    for backend in ("runs", "reference"):
        out = attend(*qkv(queries, keys), queries, keys, backend=backend)
        assert torch.equal(out[:2], torch.zeros_like(out[:2]))
        assert out[2:].abs().min() > 0
    nothing = seqs(0, 0)
    assert attend(*qkv(nothing, nothing), nothing).shape == (0, 2, 8)


@pytest.mark.parametrize("softcap", [None, 2.0])
def test_bf16_stays_within_its_precision(softcap):
    """Inputs are the same bf16 numbers; bf16 has 8 bits, so results of size about 1 differ by up to 2^-7."""
    one = seqs(40, 24, 24)
    q, k, v = (x.detach() for x in qkv(one, one, dtype=torch.bfloat16))
    half = attend(q, k, v, one, softcap=softcap)
    exact = attend(q.double(), k.double(), v.double(), one, softcap=softcap, backend="reference")
    assert half.dtype == torch.bfloat16
    assert (half.double() - exact).abs().max() <= 2**-7


def test_views_with_strides_are_read_right():
    one = seqs(5, 5, 2)
    fused = torch.randn(12, 3, 2, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    q, k, v = fused.unbind(1)  # as the fused projection gives them
    turned = fused.permute(1, 3, 0, 2).contiguous().permute(0, 2, 3, 1)  # channels far apart in memory
    assert not q.is_contiguous()
    assert turned.stride(-1) != 1
    expected = attend(q.contiguous(), k.contiguous(), v.contiguous(), one, backend="reference")
    torch.testing.assert_close(attend(q, k, v, one), expected)
    torch.testing.assert_close(attend(*turned, one), expected)
    probe = q[0].expand(3, -1, -1)  # one query for all samples, stride 0
    once = seqs(1, 1, 1)
    torch.testing.assert_close(attend(probe, k, v, once, one), by_hand(probe, k, v, once, one))


def test_runs_are_found():
    assert list(equal_runs(seqs(4, 4, 2, 4), seqs(4, 4, 2, 3))) == [(0, 2, 2), (2, 1, 3), (3, 1, 4)]
    assert list(equal_runs(seqs(), seqs())) == []


def test_refusals_say_why():
    one = seqs(3)
    inputs = qkv(one, one)
    with pytest.raises(Tok4dError, match="'dense'; choose one of auto, runs, varlen, reference"):
        attend(*inputs, one, backend="dense")
    with pytest.raises(Tok4dError, match=r"needs float16 or bfloat16 on CUDA, got torch\.float64 on cpu"):
        attend(*inputs, one, backend="varlen")
    with pytest.raises(Tok4dError, match="no softcap; use backend='runs'"):
        attend(*inputs, one, backend="varlen", softcap=3.0)
    with pytest.raises(Tok4dError, match="1 query sequences over 4 of 3 tokens"):
        attend(*inputs, seqs(4))
    with pytest.raises(Tok4dError, match="2 key sequences over 3 of 3 tokens"):
        attend(*inputs, one, seqs(1, 2))


class OnCuda(torch.Tensor):
    """A tensor that says it is on CUDA."""

    is_cuda = True


@pytest.mark.parametrize(
    ("dtype", "cuda", "softcap", "chosen"),
    [
        (torch.bfloat16, True, None, "_varlen"),
        (torch.float16, True, None, "_varlen"),
        (torch.bfloat16, True, 30.0, "_runs"),
        (torch.float32, True, None, "_runs"),
        (torch.bfloat16, False, None, "_runs"),
    ],
)
def test_auto_chooses_by_device_and_precision(monkeypatch, dtype, cuda, softcap, chosen):
    called = []
    for name in ("_varlen", "_runs", "_reference"):
        monkeypatch.setattr(attention, name, lambda *_args, name=name: called.append(name))
    one = seqs(2)
    inputs = [x.detach() for x in qkv(one, one, dtype=dtype)]
    if cuda:
        inputs[0] = inputs[0].as_subclass(OnCuda)
    attend(*inputs, one, softcap=softcap)
    assert called == [chosen]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_varlen_equals_the_reference_on_a_gpu():
    queries, keys = Seqs((5, 1, 64), torch.device("cuda")), Seqs((7, 30, 64), torch.device("cuda"))
    results = []
    for backend in ("varlen", "reference"):
        inputs = [x.detach().cuda().requires_grad_() for x in qkv(queries, keys, size=64, dtype=torch.bfloat16)]
        out = attend(*inputs, queries, keys, backend=backend)
        results.append([out.detach(), *torch.autograd.grad(out.float().square().sum(), inputs)])
    for fast, slow in zip(*results, strict=True):
        torch.testing.assert_close(fast, slow, rtol=2e-2, atol=2e-2)
