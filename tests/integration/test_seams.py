"""What the KV cache is for: a decoder trained with it restores more where temporal tiles meet."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from tok4d.model.tiling import split_tiles
from tok4d.model.tokenizer import Tokenizer
from tok4d.patches import patchify
from tok4d.testing.models import tiny_tokenizer
from tok4d.tokens import TokenSet

PATCH, SIDE, FRAMES = (1, 4, 4), 8, 4
STACK = {"width": 32, "blocks": 2, "heads": 2, "mlp": 64}


def clips(count: int, seed: int) -> TokenSet:
    """Still clips of four coloured squares."""
    rng = torch.Generator().manual_seed(seed)
    corners = [torch.rand(1, 3, 2, 2, generator=rng) * 2 - 1 for _ in range(count)]
    stills = [interpolate(c, size=(SIDE, SIDE)).expand(FRAMES, -1, -1, -1) for c in corners]
    return TokenSet.pack([patchify(still, "clip", PATCH) for still in stills])


def damaged(model: Tokenizer, tokens: TokenSet, seed: int) -> TokenSet:
    """Latents of which half are lost: what is missing in a tile may be known from the one before."""
    latents = model.encode(tokens, pool=False).latents()
    kept = torch.rand(tokens.num_tokens, 1, generator=torch.Generator().manual_seed(seed)) < 0.5
    return latents.replace(latents.feats * kept)


def test_a_decoder_trained_with_the_cache_needs_it_where_tiles_meet():
    torch.manual_seed(0)
    model = tiny_tokenizer(PATCH, encoder=STACK, decoder=STACK, latent=4, tile_steps=1, cached_steps=1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for step in range(300):  # all tiles of a clip in one pass, the keys of the tile before visible
        tokens = clips(16, step)
        loss = (model.decode(damaged(model, tokens, step)).feats - tokens.feats).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    tokens = clips(64, 10_000)

    def errors(patches: Tensor) -> list[float]:
        """Mean squared error of every tile."""
        wrong = (patches - tokens.feats).square().mean(1)
        return [float(wrong[tokens.coords[:, 0] == tile].mean()) for tile in range(FRAMES)]

    with torch.no_grad():
        latents = damaged(model, tokens, 7)
        cached, alone = (errors(model.decode(latents, cached_steps=count).feats) for count in (1, 0))
        stream, streamed = model.decode_stream(), torch.empty_like(tokens.feats)
        for tile, part in enumerate(split_tiles(latents, 1)):
            streamed[tokens.coords[:, 0] == tile] = stream(part).feats
    assert cached[0] == alone[0], "the first tile has nothing before it"
    assert max(cached[1:]) < 0.7 * min(alone[1:]), f"measured about 0.05-0.08 and 0.16-0.19, got {cached}, {alone}"
    torch.testing.assert_close(errors(streamed), cached, rtol=1e-4, atol=1e-6)
