"""Encoder and decoder: an input layer plus position table, a stack of blocks, a norm, and for the decoder an output.

T = packed tokens, C = channels, L = latent channels, W = patch width.
"""

from __future__ import annotations

from collections.abc import Collection

from torch import Tensor, nn

from tok4d.config.schema import StackConfig, TokenizerConfig
from tok4d.modality import patch_width
from tok4d.model.tiling import TileMemory, Tiles, tile
from tok4d.nn.block import Block
from tok4d.nn.linear import exact_from, exact_to
from tok4d.nn.norms import make_norm
from tok4d.nn.pooling import AttentionPool
from tok4d.nn.positions import PositionTable
from tok4d.tokens import TokenSet


class Stack(nn.Module):
    """Input layer, positions and blocks, which encoder and decoder share."""

    def __init__(self, config: TokenizerConfig, stack: StackConfig, width_in: int) -> None:
        super().__init__()
        self.head_dim = stack.width // stack.heads
        self.tile_steps, self.windows, self.table_extent = config.tile_steps, config.windows, config.table_extent
        self.rope = config.positions != "table"
        self.rope_scale = 1.0
        self.input_layer = nn.Linear(width_in, stack.width, bias=stack.bias)
        table = (
            PositionTable(stack.width, config.table_side, config.table_resize) if config.positions != "rope" else None
        )
        self.pos_embedder = table
        self.blocks = nn.ModuleList(Block(stack) for _ in range(stack.blocks))

    def memory(self, cached: int) -> TileMemory:
        """An empty memory, for a run tile by tile with `cached` steps of the tile before visible."""
        return TileMemory(len(self.blocks), self.tile_steps, cached, self.windows)

    def run(
        self,
        tokens: TokenSet,
        cached: int,
        layers: Collection[int] = (),
        memory: TileMemory | None = None,
        channels: int | None = None,
    ) -> tuple[Tensor, dict[int, Tensor]]:
        """`[T, in] -> [T, C]` after the last block, and the streams `[T, C]` after the blocks named in `layers`.

        With a memory, `tokens` are the next tile of every clip, and the memory says what is cached. Of the input only
        the first `channels` are read, where that is given; the others are zero.
        """
        tiles = tile(tokens, self.tile_steps, cached, self.windows) if memory is None else memory.tiles(tokens)
        context = tiles.context(self.head_dim, self.rope, self.rope_scale)
        x = self._placed(exact_from(self.input_layer, tokens.feats, channels), tokens, tiles)
        inner: dict[int, Tensor] = {}
        for i, block in enumerate(self.blocks):
            x = block(x, context, None if memory is None else memory.layers[i])
            if i in layers:
                inner[i] = tiles.restore(x)
        return tiles.restore(x), inner

    def _placed(self, x: Tensor, tokens: TokenSet, tiles: Tiles) -> Tensor:
        """Grouped rows with their position embedding."""
        if self.pos_embedder is None:
            return tiles.group(x)
        if self.table_extent == "grid":
            return tiles.group(x + self.pos_embedder(tokens, tokens.extents()).to(x.dtype))
        # The released rule: the extent of the tokens present, tile by tile.
        x = tiles.group(x)
        each = tiles.as_samples
        table: Tensor = self.pos_embedder(each, each.present_extents())
        return x + table.to(x.dtype)


class Encoder(Stack):
    """Patches to features, and attention pooling over a whole sample."""

    def __init__(self, config: TokenizerConfig) -> None:
        patch = (config.patch_size[0], config.patch_size[1], config.patch_size[2])
        super().__init__(config, config.encoder, patch_width(patch))
        self.rope_scale = config.rope_scale  # the decoder's stays 1: it was never a model without RoPE
        self.post_layernorm = make_norm(config.encoder.norm, config.encoder.width)
        self.head = AttentionPool(config.encoder)

    def forward(
        self, tokens: TokenSet, layers: Collection[int] = (), channels: int | None = None
    ) -> tuple[Tensor, dict[int, Tensor]]:
        """Patches `[T, W]` -> features `[T, C]` after the last norm, and inner streams."""
        x, inner = self.run(tokens, 0, layers, channels=channels)
        return self.post_layernorm(x), inner


class Decoder(Stack):
    """Latents to patches."""

    def __init__(self, config: TokenizerConfig) -> None:
        patch = (config.patch_size[0], config.patch_size[1], config.patch_size[2])
        super().__init__(config, config.decoder, config.latent)
        self.out_norm = make_norm(config.decoder.norm, config.decoder.width)
        self.out_layer = nn.Linear(config.decoder.width, patch_width(patch), bias=config.decoder.bias)

    def forward(
        self, latents: TokenSet, cached: int, memory: TileMemory | None = None, channels: int | None = None
    ) -> Tensor:
        """Latents `[T, L]` -> patches `[T, W]`, unclamped; `cached` steps of the previous tile are visible.

        With `channels` only the first so many of W, the others zero.
        """
        x, _ = self.run(latents, cached, memory=memory)
        return exact_to(self.out_layer, self.out_norm(x), channels)
