"""Floating-point operations of a model on a batch, counted from shapes; and how many this machine can do.

Two operations a multiply-add, of matrix products and attention only: norms, activations, losses and extra decoders are
not counted. T = packed tokens, B = samples, C = channels, M = hidden width of an MLP, L = latent channels, W = patch
width.
"""

from __future__ import annotations

import time
from functools import lru_cache

import torch

from tok4d.config.schema import StackConfig, TokenizerConfig
from tok4d.modality import patch_width
from tok4d.model.tiling import Tiles, tile
from tok4d.tokens import TokenSet

TRAINING = 3  # forward, gradients of inputs, gradients of weights: as many products each
PEAK_SECONDS = 0.3
_SIDE = {"cpu": 1024}  # of the square matrices; elsewhere larger ones are needed to fill the device
_SIDE_ELSEWHERE = 8192


def forward_flops(config: TokenizerConfig, tokens: TokenSet, *, pool: bool = False, decode: bool = True) -> int:
    """Operations of encoding and decoding a batch once, dense: padded channels count. Training costs three times that.

    Args:
        config: of the model.
        tokens: the batch; coordinates decide which tokens attend to which (temporal tiles, keys of the tile before).
        pool: with attention pooling and the text head.
        decode: with the decoder; without it, a task of meaning alone.
    """
    frames, height, width = config.patch_size
    ends = patch_width((frames, height, width))
    seen = tile(tokens, config.tile_steps, 0, config.windows)
    made = tile(tokens, config.tile_steps, config.cached_steps, config.windows)
    total, enc, dec = tokens.num_tokens, config.encoder, config.decoder
    encoding = _product(total, ends, enc.width) + _blocks(enc, total, seen)
    encoding += _product(total, enc.width, 2 * config.latent) + (_pooling(config, total, len(tokens)) if pool else 0)
    if not decode:
        return encoding
    decoding = _product(total, config.latent, dec.width) + _blocks(dec, total, made)
    return encoding + decoding + _product(total, dec.width, ends)


def _product(rows: int, inner: int, columns: int) -> int:
    return 2 * rows * inner * columns


def _blocks(stack: StackConfig, total: int, tiles: Tiles) -> int:
    """q, k, v, output and MLP of every token; logits and weighted sums of every (query, key) pair of a tile."""
    keys = tiles.seqs if tiles.key_seqs is None else tiles.key_seqs
    pairs = sum(q * k for q, k in zip(tiles.seqs.lengths, keys.lengths, strict=True))
    linear = _product(total, stack.width, 4 * stack.width) + 2 * _product(total, stack.width, stack.mlp)
    return stack.blocks * (linear + 2 * _product(pairs, stack.width, 1))


def _pooling(config: TokenizerConfig, total: int, samples: int) -> int:
    """Keys and values of every token, the probe's query, and what follows for every sample."""
    width, mlp = config.encoder.width, config.encoder.mlp
    text = config.text
    projected = text.width if text is not None and text.width not in (None, width) else 0
    return (
        _product(total, width, 2 * width)
        + _product(1, width, width)
        + 2 * _product(total, width, 1)
        + _product(samples, width, width)
        + 2 * _product(samples, width, mlp)
        + _product(samples, width, projected or 0)
    )


@lru_cache
def product_peak(device: str, dtype: torch.dtype, threads: int) -> float:
    """Operations a second of a large square matrix product here: the best of what fits into a third of a second.

    Measured once a process for each device, data type and number of threads. A machine that is busy with other work
    gives less, to the product as to the training.
    """
    side = _SIDE.get(torch.device(device).type, _SIDE_ELSEWHERE)
    a = torch.randn(side, side, device=device).to(dtype)
    out = a @ a
    best, begun = float("inf"), time.perf_counter()
    while time.perf_counter() - begun < PEAK_SECONDS or best == float("inf"):
        _synchronize(device)
        before = time.perf_counter()
        torch.mm(a, a, out=out)
        _synchronize(device)
        best = min(best, time.perf_counter() - before)
    return 2 * side**3 / best


def measured_peak(device: torch.device, precision: str) -> float:
    """`product_peak` for a run's device and precision (`float32` or `bf16`), with the threads that torch uses now."""
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    return product_peak(str(device), dtype, torch.get_num_threads())


def _synchronize(device: str) -> None:
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)
