"""Going through clips tile by tile, with the keys remembered, equals one pass over all tiles."""

from __future__ import annotations

import pytest
import torch
from made import make_tokens

from tok4d.errors import Tok4dError
from tok4d.model.tiling import split_tiles
from tok4d.model.tokenizer import Tokenizer
from tok4d.nn import block
from tok4d.nn.attention import attend
from tok4d.testing.models import tiny_tokenizer
from tok4d.tokens import TokenSet

STEPS = 3
STACK = {"width": 32, "blocks": 3, "heads": 2, "mlp": 32}
CLOSE = {"rtol": 1e-9, "atol": 1e-9}
# Clips of 7, 2 and 9 steps and an empty one; a third of the tokens is missing, the rest is in random order.
GRIDS = [(7, 2, 3, 1), (2, 3, 2, 1), (4, 1, 1, 1), (9, 2, 2, 1)]
LENGTHS = [28, 8, 0, 24]


def made(**options: object) -> Tokenizer:
    settings = {"encoder": STACK, "decoder": STACK, "latent": 6, "tile_steps": STEPS, "cached_steps": 1, **options}
    model = tiny_tokenizer((1, 2, 2), **settings)
    rng = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=rng) * 0.2)
    return model.double()


@pytest.fixture(scope="module")
def model() -> Tokenizer:
    return made()


def clips(width: int, seed: int = 0) -> TokenSet:
    return make_tokens(LENGTHS, width, GRIDS, dtype=torch.float64, seed=seed)


def put_together(tokens: TokenSet, parts: list[TokenSet]) -> torch.Tensor:
    """Rows of the tiles in the order of the whole batch."""
    number = torch.div(tokens.coords[:, 0], STEPS, rounding_mode="floor")
    out = tokens.feats.new_zeros(tokens.num_tokens, parts[0].width)
    for value, part in zip(torch.unique(number).tolist(), parts, strict=True):
        out[number == value] = part.feats
    return out


@pytest.mark.parametrize("cached", [0, 1, 2, 3])
@torch.no_grad()
def test_decoding_a_stream_of_tiles(model, cached):
    latents = clips(6, seed=cached)
    stream = model.decode_stream(cached_steps=cached)
    parts = [stream(tile) for tile in split_tiles(latents, STEPS)]
    assert len(parts) == 3
    whole = model.decode(latents, cached_steps=cached).feats
    torch.testing.assert_close(put_together(latents, parts), whole, **CLOSE)
    if cached:
        uncached = model.decode(latents, cached_steps=0).feats
        assert (whole - uncached).abs().max() > 1e-3, "the cache must matter for this test to mean anything"


@torch.no_grad()
def test_clips_that_wait_for_each_other(model):
    """One clip goes on while the other has no tokens in a call: its memory stays."""
    latents = make_tokens([24, 24], 6, (6, 2, 2, 1), dtype=torch.float64)
    whole = model.decode(latents).feats
    tile, sample = latents.coords[:, 0] // STEPS, latents.seqs.index
    stream, out = model.decode_stream(), torch.zeros_like(whole)
    for wanted in [(0, 0), (1, 0), (0, 1), (1, 1)]:
        mask = (sample == wanted[0]) & (tile == wanted[1])
        out[mask] = stream(latents.select(mask)).feats
    torch.testing.assert_close(out, whole, **CLOSE)


@torch.no_grad()
def test_a_missing_tile_lends_nothing(model):
    latents = make_tokens([36], 6, (9, 2, 2, 1), dtype=torch.float64)
    gap = latents.select(latents.coords[:, 0] // STEPS != 1)
    stream = model.decode_stream(cached_steps=2)
    parts = [stream(tile) for tile in split_tiles(gap, STEPS)]
    torch.testing.assert_close(put_together(gap, parts), model.decode(gap, cached_steps=2).feats, **CLOSE)


@torch.no_grad()
def test_memory_does_not_grow_with_the_length(model):
    def remembered(length: int) -> int:
        stream = model.decode_stream(cached_steps=2)
        for tile in split_tiles(make_tokens([length * 4], 6, (length, 2, 2, 1), dtype=torch.float64), STEPS):
            stream(tile)
        keys = [x for layer in stream.memory.layers if layer._held is not None for x in layer._held]
        return sum(x.untyped_storage().nbytes() for x in keys) + stream.memory.coords.untyped_storage().nbytes()

    assert remembered(60) == remembered(6)


@torch.no_grad()
def test_encoding_a_stream_pools_over_all_tiles(model):
    tokens = clips(12)
    whole, stream = model.encode(tokens), model.encode_stream()
    parts = [stream(tile) for tile in split_tiles(tokens, STEPS)]
    torch.testing.assert_close(put_together(tokens, [p.features for p in parts]), whole.features.feats, **CLOSE)
    torch.testing.assert_close(stream.pooled, whole.pooled, **CLOSE)
    torch.testing.assert_close(stream.embedding, whole.embedding, **CLOSE)
    assert stream.pooled[2].eq(0).all(), "the clip without tokens"


@torch.no_grad()
def test_table_over_the_tokens_of_a_tile():
    """`table_extent: tokens`: every tile has the grid of its own tokens, whatever the others hold."""
    model = made(table_extent="tokens")
    tokens = make_tokens([36], 12, (9, 3, 3, 1), dtype=torch.float64, seed=4, ordered=True)
    keep = (tokens.coords[:, 0] >= STEPS) | (tokens.coords[:, 1] < 2)  # the first tile has two rows, the others three
    tokens = tokens.select(keep)
    whole = model.encode(tokens, pool=False).features.feats
    for tile in split_tiles(tokens, STEPS):
        rows = tokens.coords[:, 0] // STEPS == tile.coords[0, 0] // STEPS
        alone = TokenSet(tile.feats, tile.coords, tile.lengths)
        torch.testing.assert_close(model.encode(alone, pool=False).features.feats, whole[rows], **CLOSE)
    assert (made().encode(tokens, pool=False).features.feats - whole).abs().max() > 1e-3, "the rule must matter"


@torch.no_grad()
def test_what_a_stream_refuses(model):
    stream = model.decode_stream()
    first, second, third = split_tiles(make_tokens([36], 6, (9, 2, 2, 1), dtype=torch.float64), STEPS)
    stream(second)
    with pytest.raises(Tok4dError, match="clip 0: tile 0 comes after tile 1"):
        stream(first)
    with pytest.raises(Tok4dError, match="1 clips, got a batch of 2"):
        stream(TokenSet.pack([third, third]))
    with pytest.raises(Tok4dError, match="6 latent channels, got 5"):
        stream(third.replace(third.feats[:, :5]))
    with pytest.raises(Tok4dError, match="tiles 0 to 2 of 3 steps"):
        model.decode_stream()(make_tokens([36], 6, (9, 2, 2, 1), dtype=torch.float64))
    with pytest.raises(Tok4dError, match=r"cached_steps must be in \[0, 3\], got 4"):
        model.decode_stream(cached_steps=4)
    encoder = model.encode_stream()
    with pytest.raises(Tok4dError, match="nothing has been encoded"):
        _ = encoder.pooled
    encoder(clips(12))
    with pytest.raises(Tok4dError, match="4 clips, got a batch of 1"):
        encoder(make_tokens([4], 12, (1, 2, 2, 1), dtype=torch.float64))


@torch.no_grad()
def test_windows_of_the_batch_are_the_released_rule():
    """With `windows: batch` tiles begin at the smallest t of the batch, so a neighbour moves the borders."""
    sample, batch = made(windows="sample"), made(windows="batch")
    alone = make_tokens([20], 6, (8, 2, 2, 1), dtype=torch.float64, seed=1, ordered=True)
    late = alone.select(alone.coords[:, 0] >= 2)
    shifted = late.coords.clone()
    shifted[:, 0] -= int(shifted[:, 0].min())
    rebased = TokenSet(late.feats, shifted, late.lengths)
    torch.testing.assert_close(batch.decode(late).feats, sample.decode(rebased).feats, **CLOSE)
    assert (sample.decode(late).feats - batch.decode(late).feats).abs().max() > 1e-3
    stream = batch.decode_stream()
    number = torch.div(shifted[:, 0], STEPS, rounding_mode="floor")
    for value in torch.unique(number).tolist():
        part = stream(late.select(number == value)).feats
        torch.testing.assert_close(part, batch.decode(late).feats[number == value], **CLOSE)


@pytest.mark.parametrize("cached", [0, 1])
@torch.no_grad()
def test_tiles_of_equal_length_are_one_attention_call(model, monkeypatch, cached):
    """Clips of 16 and 4 tokens a step, alternating, three tiles each: without grouping that would be 6 or 12 calls."""
    sizes = [(9, 4, 4, 1), (9, 2, 2, 1), (9, 4, 4, 1), (9, 2, 2, 1)]
    latents = make_tokens([t * x * y for t, x, y, _ in sizes], 6, sizes, dtype=torch.float64, ordered=True)
    calls = []
    real = torch.nn.functional.scaled_dot_product_attention
    monkeypatch.setattr("torch.nn.functional.scaled_dot_product_attention", lambda *a: calls.append(1) or real(*a))
    together = model.decode(latents, cached_steps=cached)
    distinct = 2 if cached == 0 else 4  # with a cache, first tiles have fewer keys than later ones
    assert len(calls) == distinct * len(model.decoder.blocks)
    monkeypatch.undo()
    assert block.attend is attend
    for part, whole in zip(latents.unpack(), together.unpack(), strict=True):
        torch.testing.assert_close(model.decode(part, cached_steps=cached).feats, whole.feats, **CLOSE)
