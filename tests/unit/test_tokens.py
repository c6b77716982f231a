"""TokenSet: packing, caching and the checks of its values."""

from __future__ import annotations

import pickle
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from made import make_tokens

from tok4d.errors import Tok4dError
from tok4d.origin import Origin
from tok4d.tokens import TokenSet

RELAXED = settings(max_examples=40, deadline=None, derandomize=True)


@st.composite
def token_sets(draw: st.DrawFn, width: int | None = None, origins: bool | None = None) -> TokenSet:
    lengths = draw(st.lists(st.integers(0, 12), min_size=1, max_size=5))
    return make_tokens(
        lengths,
        draw(st.integers(1, 4)) if width is None else width,
        (2, 3, 2, 2),
        seed=draw(st.integers(0, 2**31)),
        origins=draw(st.booleans()) if origins is None else origins,
    )


def same(a: TokenSet, b: TokenSet) -> bool:
    return (
        torch.equal(a.feats, b.feats)
        and torch.equal(a.coords, b.coords)
        and (a.lengths, a.origins) == (b.lengths, b.origins)
    )


@RELAXED
@given(token_sets())
def test_pack_undoes_unpack(tokens):
    parts = tokens.unpack()
    assert [len(part) for part in parts] == [1] * len(tokens)
    assert [part.num_tokens for part in parts] == list(tokens.lengths)
    assert same(TokenSet.pack(parts), tokens)


@RELAXED
@given(st.lists(token_sets(width=2, origins=True), min_size=1, max_size=3))
def test_unpack_undoes_pack(sets):
    packed = TokenSet.pack(sets)
    parts = [part for one in sets for part in one.unpack()]
    assert all(same(a, b) for a, b in zip(packed.unpack(), parts, strict=True))


@RELAXED
@given(token_sets(), st.data())
def test_select_keeps_the_marked_tokens_of_every_sample(tokens, data):
    mask = torch.tensor(
        data.draw(st.lists(st.booleans(), min_size=tokens.num_tokens, max_size=tokens.num_tokens)), dtype=torch.bool
    )
    kept = tokens.select(mask)
    start = 0
    for part, length in zip(kept.unpack(), tokens.lengths, strict=True):  # sample by sample, written out
        rows = [i for i in range(start, start + length) if mask[i]]
        assert torch.equal(part.feats, tokens.feats[rows])
        assert torch.equal(part.coords, tokens.coords[rows])
        start += length
    assert kept.origins == tokens.origins
    if tokens.origins:
        assert kept.extents() == tokens.extents(), "dropping tokens must not move positions"


@RELAXED
@given(token_sets())
def test_pickle_and_validate_round_trip(tokens):
    tokens.validate()  # fills the cache, which must stay behind
    copy = pickle.loads(pickle.dumps(tokens))
    assert copy._shared == {}
    assert same(copy.validate(), tokens)


@RELAXED
@given(token_sets())
def test_offsets_and_extents_match_a_loop(tokens):
    starts = [sum(tokens.lengths[:i]) for i in range(len(tokens) + 1)]
    assert tokens.cu_seqlens.tolist() == starts
    assert tokens.cu_seqlens.dtype == torch.int32
    assert tokens.max_seqlen == max(tokens.lengths)
    expected = []
    for a, length in zip(starts, tokens.lengths, strict=False):
        rows = tokens.coords[a : a + length].tolist()
        expected.append(tuple(max((row[axis] for row in rows), default=0) + 1 for axis in range(4)))
    assert tokens.present_extents() == tuple(expected)


def test_replace_shares_what_coordinates_give_and_nothing_else_does():
    tokens = make_tokens([3, 2], 4)
    builds: list[int] = []

    def value(of: TokenSet) -> int:
        return of.shared("count", lambda: builds.append(1) or len(builds))

    assert value(tokens) == 1
    assert value(tokens.replace(torch.zeros(5, 9))) == 1
    assert tokens.replace(torch.zeros(5, 9)).cu_seqlens is tokens.cu_seqlens
    everything = torch.ones(5, dtype=torch.bool)
    others = [tokens.select(everything), tokens.to(dtype=torch.float64), *tokens.unpack(), TokenSet.pack([tokens])]
    others.append(replace(tokens, coords=tokens.coords + 1))  # other coordinates: nothing old may survive
    assert [value(other) for other in others] == list(range(2, 2 + len(others)))


def test_a_cache_filled_in_inference_mode_serves_a_pass_with_gradients():
    with torch.inference_mode():
        tokens = make_tokens([4], 2)
        index = tokens.shared("index", lambda: tokens.coords[:, 1].long())
        assert tokens.seqs.index.tolist() == [0] * 4
    table = torch.randn(6, 2, requires_grad=True)
    (table[index].sum() + table[tokens.seqs.index].sum()).backward()
    assert table.grad is not None


def test_no_sample_and_no_token_are_fine():
    nothing = TokenSet(torch.zeros(0, 3), torch.zeros(0, 4, dtype=torch.int32), ())
    assert (len(nothing), nothing.num_tokens, nothing.max_seqlen, nothing.unpack()) == (0, 0, 0, [])
    assert nothing.cu_seqlens.tolist() == [0]
    empty = make_tokens([0, 0], 3).validate()
    assert (len(empty), empty.num_tokens, empty.cu_seqlens.tolist()) == (2, 0, [0, 0, 0])
    assert empty.replace(torch.zeros(0, 7)).width == 7
    assert same(TokenSet.pack([nothing, empty]), empty)


def test_to_casts_features_and_leaves_coordinates():
    tokens = make_tokens([3], 2).to(dtype=torch.bfloat16)
    assert (tokens.feats.dtype, tokens.coords.dtype) == (torch.bfloat16, torch.int32)


GRID = Origin("radar", (1,), (2, 3, 3, 1), (1, 1, 1))


def with_coords(*rows: tuple[int, int, int, int], feats: torch.Tensor | None = None) -> TokenSet:
    """Two samples; the given rows are the second one, after one token at the origin."""
    coords = torch.tensor([(0, 0, 0, 0), *rows], dtype=torch.int32)
    feats = torch.zeros(len(coords), 2) if feats is None else feats
    return TokenSet(feats, coords, (1, len(rows)), (GRID, GRID))


@pytest.mark.parametrize(
    ("tokens", "error"),
    [
        (
            with_coords((0, 1, 1, 0), (0, -2, 1, 0)),
            r"sample 1 has a negative coordinate at \(t=0, x=-2, y=1, z=0\), token 2",
        ),
        (
            with_coords((0, 1, 3, 0)),
            r"sample 1 has a coordinate outside its grid at \(t=0, x=1, y=3, z=0\), token 1",
        ),
        (
            with_coords((1, 2, 1, 0), (0, 0, 0, 0), (1, 2, 1, 0)),
            r"sample 1 has a duplicate coordinate at \(t=1, x=2, y=1, z=0\), token 1",
        ),
        (
            with_coords((0, 1, 2, 0), feats=torch.tensor([[0.0, 0.0], [1.0, float("inf")]])),
            r"sample 1 has a NaN or infinite feature at \(t=0, x=1, y=2, z=0\), token 1",
        ),
    ],
)
def test_validate_names_the_first_fault(tokens, error):
    with pytest.raises(Tok4dError, match=error):
        tokens.validate()


def test_the_same_place_in_two_samples_is_no_duplicate():
    assert with_coords((0, 0, 0, 0)).validate().lengths == (1, 1)


F, C = torch.zeros(3, 2), torch.zeros(3, 4, dtype=torch.int32)


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ((F.long(), C, (3,)), r"feats must be floating point \[T, C\], got torch.int64 \(3, 2\)"),
        ((F[0], C, (3,)), r"got torch.float32 \(2,\)"),
        ((F, C.long(), (3,)), r"coords must be int32 \[3, 4\] .* got torch.int64 \(3, 4\)"),
        ((F, C[:2], (3,)), r"coords must be int32 \[3, 4\] .* got torch.int32 \(2, 4\)"),
        ((F, C, (1, 1)), r"lengths \(1, 1\) must be >= 0 and sum to the 3 tokens"),
        ((F, C, (4, -1)), r"lengths \(4, -1\)"),
        ((F, C, (1, 2), (GRID,)), "1 origins for 2 samples"),
    ],
)
def test_construction_names_what_does_not_fit(arguments, error):
    with pytest.raises(Tok4dError, match=error):
        TokenSet(*arguments)


def test_pack_and_select_refuse_what_does_not_fit():
    tokens = make_tokens([3], 2)
    with pytest.raises(Tok4dError, match="at least one"):
        TokenSet.pack([])
    with pytest.raises(Tok4dError, match=r"different widths \[2, 5\]"):
        TokenSet.pack([tokens, make_tokens([1], 5)])
    with pytest.raises(Tok4dError, match="with and without origins"):
        TokenSet.pack([tokens, make_tokens([1], 2, origins=False)])
    with pytest.raises(Tok4dError, match=r"mask must be bool \[3\], got torch.int64 \(3,\)"):
        tokens.select(torch.tensor([0, 1, 1]))
