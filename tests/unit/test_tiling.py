"""Temporal tiles against oracles that go through a clip tile by tile."""

from __future__ import annotations

import pytest
import torch
from made import make_tokens
from torch import Tensor

from tok4d.errors import Tok4dError
from tok4d.model.stack import Stack
from tok4d.model.tiling import tile
from tok4d.model.tokenizer import Tokenizer
from tok4d.nn.block import Block, Context
from tok4d.nn.rope import rotations
from tok4d.seqs import Seqs
from tok4d.testing.models import tiny_tokenizer
from tok4d.tokens import TokenSet

STEPS = 3
STACK = {"width": 32, "blocks": 3, "heads": 2, "mlp": 32}
CLOSE = {"rtol": 1e-5, "atol": 1e-5}
# Three clips of 7, 2 and 9 steps and an empty one, two thirds of their tokens in random order.
GRIDS = [(7, 2, 3, 1), (2, 3, 2, 1), (4, 1, 1, 1), (9, 2, 2, 1)]
LENGTHS = [28, 8, 0, 24]


@pytest.fixture(scope="module")
def model() -> Tokenizer:
    """Three blocks, random norms and biases, a tile of three steps."""
    made = tiny_tokenizer((1, 2, 2), encoder=STACK, decoder=STACK, latent=6, tile_steps=STEPS, cached_steps=1)
    rng = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=rng) * 0.2)
    return made.double()


def clips(width: int, **options: object) -> TokenSet:
    return make_tokens(LENGTHS, width, GRIDS, dtype=torch.float64, **options)


def in_tiles(tokens: TokenSet) -> dict[tuple[int, int], Tensor]:
    """Rows of every (sample, tile), tile by tile."""
    number = (tokens.coords[:, 0] // STEPS).tolist()
    groups: dict[tuple[int, int], list[int]] = {}
    for row, key in enumerate(zip(tokens.seqs.index.tolist(), number, strict=True)):
        groups.setdefault(key, []).append(row)
    return {key: torch.tensor(rows) for key, rows in sorted(groups.items())}


def stream(stack: Stack, tokens: TokenSet) -> Tensor:
    """Input layer and positions; the tiles share the table of the whole clip."""
    assert stack.pos_embedder is not None
    return stack.input_layer(tokens.feats) + stack.pos_embedder(tokens, tokens.extents())


def sequential(stack: Stack, tokens: TokenSet, cached: int) -> Tensor:
    """Tile after tile: a tile's keys are those of the last `cached` steps of the one before, then its own."""
    x, out = stream(stack, tokens), torch.zeros(tokens.num_tokens, 32, dtype=torch.float64)
    held: dict[tuple[int, int], list[Tensor]] = {}  # per tile, the stream that enters every block
    groups = in_tiles(tokens)
    for (sample, number), rows in groups.items():
        coords = tokens.coords[rows].clone()
        coords[:, 0] += -number * STEPS + (cached if number else 0)
        previous = groups.get((sample, number - 1)) if cached else None
        key_coords = coords
        if previous is not None:
            lent = tokens.coords[previous, 0] % STEPS >= STEPS - cached
            old = tokens.coords[previous][lent].clone()
            old[:, 0] = old[:, 0] % STEPS - (STEPS - cached)
            key_coords = torch.cat([old, coords])
        here, enters = x[rows], []
        for depth, block in enumerate(stack.blocks):
            assert isinstance(block, Block)
            enters.append(here)
            past = here[:0] if previous is None else held[sample, number - 1][depth][lent]
            both = torch.cat([past, here])
            # A block over the keys; only the rows of this tile are kept. Queries sit at the same places as keys.
            context = Context(Seqs((len(both),), both.device), rotations(key_coords, stack.head_dim))
            here = block(both, context)[len(past) :]
        held[sample, number] = enters
        out[rows] = here
    return out


@pytest.mark.parametrize("cached", [0, 1, 2, 3])
@pytest.mark.parametrize("ordered", [False, True])
@torch.no_grad()
def test_decoding_equals_going_tile_by_tile(model, cached, ordered):
    latents = clips(6, ordered=ordered, seed=cached)
    out, _ = model.decoder.run(latents, cached)
    torch.testing.assert_close(out, sequential(model.decoder, latents, cached), **CLOSE)


@torch.no_grad()
def test_the_cache_matters_and_only_forwards(model):
    latents = clips(6, ordered=True)
    changed = latents.feats.clone()
    number, first_clip = latents.coords[:, 0] // STEPS, latents.seqs.index == 0
    changed[first_clip & (latents.coords[:, 0] == 2 * STEPS - 1)] += 1  # the last step of the second tile
    before = model.decode(latents, cached_steps=1).feats
    after = model.decode(latents.replace(changed), cached_steps=1).feats
    moved = (before - after).abs().amax(1) > 1e-9
    assert torch.equal(moved, first_clip & (number >= 1)), "its own tile, and the next through the cache"
    alone = model.decode(latents, cached_steps=0).feats - model.decode(latents.replace(changed), cached_steps=0).feats
    assert torch.equal(alone.abs().amax(1) > 1e-9, first_clip & (number == 1))


@torch.no_grad()
def test_encoding_equals_every_tile_alone(model):
    """Tiles are independent in the encoder: each, as a clip of its own, gives the same features."""
    tokens = clips(12)
    features = model.encode(tokens, pool=False).features.feats
    for (sample, _), rows in in_tiles(tokens).items():
        coords = tokens.coords[rows].clone()
        coords[:, 0] %= STEPS
        alone = TokenSet(tokens.feats[rows], coords, (len(rows),), tokens.origins[sample : sample + 1])
        torch.testing.assert_close(features[rows], model.encode(alone, pool=False).features.feats, **CLOSE)


@pytest.mark.parametrize("cached", [0, 2])
@torch.no_grad()
def test_a_clip_does_not_depend_on_its_batch_or_the_order_of_tokens(model, cached):
    latents = clips(6)
    together = model.decode(latents, cached_steps=cached)
    for part, whole in zip(latents.unpack(), together.unpack(), strict=True):
        torch.testing.assert_close(model.decode(part, cached_steps=cached).feats, whole.feats, **CLOSE)
        order = torch.randperm(part.num_tokens, generator=torch.Generator().manual_seed(1))
        mixed = TokenSet(part.feats[order], part.coords[order], part.lengths, part.origins)
        torch.testing.assert_close(model.decode(mixed, cached_steps=cached).feats, whole.feats[order], **CLOSE)


@torch.no_grad()
def test_a_missing_tile_lends_nothing(model):
    """Steps 3 to 5 are gone: the tile after them starts afresh."""
    latents = make_tokens([36], 6, (9, 2, 2, 1), dtype=torch.float64)
    gap = latents.select(latents.coords[:, 0] // STEPS != 1)
    out, _ = model.decoder.run(gap, 2)
    torch.testing.assert_close(out, sequential(model.decoder, gap, 2), **CLOSE)


def test_short_clips_are_left_alone_and_tiles_are_built_once():
    short = make_tokens([6, 3], 1, (3, 2, 2, 1))
    assert tile(short, STEPS, 2).seqs is short.seqs
    assert tile(short, STEPS, 2).coords is short.coords
    long = make_tokens([20], 1, (9, 2, 2, 1))
    tiles = tile(long, STEPS, 1)
    assert tile(long.replace(torch.zeros(20, 5)), STEPS, 1) is tiles
    assert tile(long, STEPS, 0) is not tiles
    rows = torch.arange(20)
    assert torch.equal(tiles.restore(tiles.group(rows)), rows)


def test_far_apart_steps_cost_no_memory():
    """Two tokens a billion steps apart are two tiles, not a table of all that could lie between."""
    coords = torch.tensor([[0, 0, 0, 0], [2**31 - 1, 0, 0, 0]], dtype=torch.int32)
    tiles = tile(TokenSet(torch.zeros(2, 1), coords, (2,)), STEPS, 1)
    assert tiles.seqs.lengths == (1, 1)


def test_a_step_beyond_the_grid_is_refused(model):
    tokens = make_tokens([8, 8], 6, (4, 2, 1, 1), dtype=torch.float64)
    coords = tokens.coords.clone()
    coords[0, 0] = 6
    with pytest.raises(Tok4dError, match="outside its grid along t"):
        model.decode(TokenSet(tokens.feats, coords, tokens.lengths, tokens.origins))


@torch.no_grad()
def test_clips_without_tokens(model):
    assert model.decode(make_tokens([0, 0], 6, (9, 2, 2, 1), dtype=torch.float64)).num_tokens == 0
