"""`attend`: attention inside the sequences of a packed batch, by whichever kernel suits the device.

T = packed query tokens, S = packed key tokens, H = heads, D = head dim, n = sequences in a run, L = their length.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from tok4d.errors import Tok4dError
from tok4d.nn.precision import at_least_float32
from tok4d.seqs import Seqs

BACKENDS = ("auto", "runs", "varlen", "reference")


def attend(
    q_THD: Tensor,
    k_SHD: Tensor,
    v_SHD: Tensor,
    q_seqs: Seqs,
    k_seqs: Seqs | None = None,
    *,
    softcap: float | None = None,
    backend: str = "auto",
) -> Tensor:
    """Full attention of every query sequence over its key sequence, scale 1/sqrt(D).

    Args:
        q_THD: queries `[T, H, D]`.
        k_SHD, v_SHD: keys and values `[S, H, D]`.
        q_seqs: boundaries of the query sequences.
        k_seqs: boundaries of the key sequences, as many as `q_seqs`; None: the same ones. Lengths may differ:
            pooling has one query a sample, the KV cache more keys than queries.
        softcap: logits become `softcap * tanh(logits / softcap)`.
        backend: `runs` = one SDPA call per run of equally long sequences, taken as a view; `varlen` = the CUDA
            kernel for packed sequences; `reference` = dense with a block mask, the slow oracle; `auto` = varlen
            for half precision on CUDA, else runs.

    Returns:
        `[T, H, D]`; zeros for queries whose key sequence is empty.

    Raises:
        Tok4dError: for boundaries that do not fit the tensors, or a backend that cannot run here, with the reason.
    """
    k_seqs = q_seqs if k_seqs is None else k_seqs
    if len(q_seqs) != len(k_seqs) or q_seqs.total != len(q_THD) or k_seqs.total != len(k_SHD):
        raise Tok4dError(
            f"sequence boundaries do not fit: {len(q_seqs)} query sequences over {q_seqs.total} of {len(q_THD)} "
            f"tokens, {len(k_seqs)} key sequences over {k_seqs.total} of {len(k_SHD)} tokens"
        )
    if backend not in BACKENDS:
        raise Tok4dError(f"unknown attention backend {backend!r}; choose one of {', '.join(BACKENDS)}")
    if backend == "auto":
        half = q_THD.dtype in (torch.float16, torch.bfloat16)
        backend = "varlen" if q_THD.is_cuda and half and softcap is None else "runs"
    if backend == "reference":
        return _reference(q_THD, k_SHD, v_SHD, q_seqs, k_seqs, softcap)
    if backend == "varlen":
        return _varlen(q_THD, k_SHD, v_SHD, q_seqs, k_seqs, softcap)
    return _runs(q_THD, k_SHD, v_SHD, q_seqs, k_seqs, softcap)


def equal_runs(q_seqs: Seqs, k_seqs: Seqs) -> Iterator[tuple[int, int, int]]:
    """Consecutive sequences of equal (query, key) lengths as (first sequence, count, one past the last)."""
    pairs = list(zip(q_seqs.lengths, k_seqs.lengths, strict=True))
    first = 0
    for i in range(1, len(pairs) + 1):
        if i == len(pairs) or pairs[i] != pairs[first]:
            yield first, i - first, i
            first = i


def _runs(q: Tensor, k: Tensor, v: Tensor, q_seqs: Seqs, k_seqs: Seqs, softcap: float | None) -> Tensor:
    parts = []
    for first, count, last in equal_runs(q_seqs, k_seqs):
        length_q, length_k = q_seqs.lengths[first], k_seqs.lengths[first]
        rows = slice(q_seqs.starts[first], q_seqs.starts[last])
        keys = slice(k_seqs.starts[first], k_seqs.starts[last])
        if length_q == 0:
            continue
        if length_k == 0:
            parts.append(torch.zeros_like(q[rows]))
            continue
        q_nHLD = q[rows].unflatten(0, (count, length_q)).transpose(1, 2)
        k_nHLD = k[keys].unflatten(0, (count, length_k)).transpose(1, 2)
        v_nHLD = v[keys].unflatten(0, (count, length_k)).transpose(1, 2)
        if softcap is None:
            out = F.scaled_dot_product_attention(q_nHLD, k_nHLD, v_nHLD)
        else:
            out = _capped(q_nHLD, k_nHLD, v_nHLD, softcap)
        parts.append(out.transpose(1, 2).flatten(0, 1))
    if not parts:
        return torch.zeros_like(q)
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def _capped(q: Tensor, k: Tensor, v: Tensor, softcap: float) -> Tensor:
    """Attention written out: SDPA kernels have no softcap. Softmax in float32 at least."""
    logits = at_least_float32(q @ k.transpose(-1, -2)) * q.shape[-1] ** -0.5
    logits = softcap * torch.tanh(logits / softcap)
    out: Tensor = logits.softmax(-1).to(v.dtype) @ v
    return out


def _reference(q: Tensor, k: Tensor, v: Tensor, q_seqs: Seqs, k_seqs: Seqs, softcap: float | None) -> Tensor:
    mask = q_seqs.index[:, None] == k_seqs.index[None, :]
    q, k, wide_v = (at_least_float32(x).transpose(0, 1) for x in (q, k, v))
    logits = (q @ k.transpose(-1, -2)) * q.shape[-1] ** -0.5
    if softcap is not None:
        logits = softcap * torch.tanh(logits / softcap)
    logits = logits.masked_fill(~mask, float("-inf"))
    attention: Tensor = logits.softmax(-1).nan_to_num(0.0)  # a query without keys has a row of -inf
    return (attention @ wide_v).to(v.dtype).transpose(0, 1)


def _varlen(q: Tensor, k: Tensor, v: Tensor, q_seqs: Seqs, k_seqs: Seqs, softcap: float | None) -> Tensor:
    if softcap is not None:
        raise Tok4dError("attention backend 'varlen' has no softcap; use backend='runs'")
    if not q.is_cuda or q.dtype not in (torch.float16, torch.bfloat16):
        raise Tok4dError(
            f"attention backend 'varlen' needs float16 or bfloat16 on CUDA, got {q.dtype} on {q.device.type}; "
            "use backend='auto'"
        )
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError as error:
        raise Tok4dError(f"attention backend 'varlen' needs a newer torch than {torch.__version__}") from error
    # Positional: the names of these arguments changed between releases of torch.
    out = varlen_attn(
        q.contiguous(),
        k.contiguous(),
        v.contiguous(),
        q_seqs.offsets,
        k_seqs.offsets,
        q_seqs.longest,
        k_seqs.longest,
    )
    assert isinstance(out, Tensor), "without auxiliary outputs the kernel gives one tensor"
    return out
