"""Encode and decode clips of any length one temporal tile at a time, in memory that does not grow with the length.

B = clips, T = tokens of the current tiles, L = latent channels, W = patch width, C = encoder channels.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from tok4d.errors import Tok4dError
from tok4d.model.bottleneck import Encoded, embedding_of
from tok4d.nn.pooling import PoolState
from tok4d.tokens import TokenSet

if TYPE_CHECKING:
    from tok4d.model.tokenizer import Tokenizer


class EncodeStream:
    """Encodes tile after tile; the pooled vector of all tiles so far is an online softmax.

    Tiles are independent in the encoder, so any number of them may come in one call, in any order.
    """

    def __init__(self, model: Tokenizer) -> None:
        self.model = model
        self.state: PoolState | None = None

    def __call__(self, tokens: TokenSet) -> Encoded:
        """Patches `[T, W]` of some tiles of every clip -> posterior and features; not pooled.

        Raises:
            Tok4dError: as `Tokenizer.encode`, and for another number of clips than before.
        """
        if self.state is not None and len(tokens) != len(self.state.mass):
            raise Tok4dError(f"this stream has {len(self.state.mass)} clips, got a batch of {len(tokens)}")
        encoded = self.model.encode(tokens, pool=False)
        state = self.model.encoder.head.partial(encoded.features.feats, tokens.seqs)
        self.state = state if self.state is None else self.state.merge(state)
        return encoded

    @property
    def pooled(self) -> Tensor:
        """`[B, C]` over all tiles so far.

        Raises:
            Tok4dError: before the first tile.
        """
        if self.state is None:
            raise Tok4dError("nothing has been encoded yet")
        return self.model.encoder.head.finish(self.state)

    @property
    def embedding(self) -> Tensor:
        """As `Encoded.embedding`, of all tiles so far."""
        return embedding_of(self.pooled, self.model.text_head)


class DecodeStream:
    """Decodes tile after tile; keys of the last cached steps are remembered, layer by layer."""

    def __init__(self, model: Tokenizer, cached: int) -> None:
        self.model, self.cached = model, cached
        self.memory = model.decoder.memory(cached)

    def __call__(self, latents: TokenSet, first_step: int = 0) -> TokenSet:
        """Latents `[T, L]` of the next tile of every clip -> patches `[T, W]`, as one pass over all tiles gives them.

        Args:
            latents: a clip that has ended has no tokens.
            first_step: what to add to t, for tokens whose t counts from the start of their tile.

        Raises:
            Tok4dError: for a wrong width, several tiles of one clip in one call, or tiles that are out of order.
        """
        self.model.check_latents(latents)
        placed = latents
        if first_step:
            shift = torch.tensor([first_step, 0, 0, 0], dtype=torch.int32, device=latents.device)
            placed = TokenSet(latents.feats, latents.coords + shift, latents.lengths, latents.origins)
        return latents.replace(self.model.decoder(placed, self.cached, self.memory))
