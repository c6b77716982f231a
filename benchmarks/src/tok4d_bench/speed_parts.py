"""What the speed benchmark runs: loads, the model's pass, the same pass reduced to its products, and a clock of parts.

T = packed tokens, B = samples, L = tokens of a sample, C = channels, H = heads, D = head dim, W = patch width.
"""

from __future__ import annotations

import re
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import FrameType
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from tok4d.config.schema import StackConfig, TokenizerConfig
from tok4d.model.tokenizer import Tokenizer
from tok4d.tokens import TokenSet

CLIP_PIXELS = 256


@dataclass(frozen=True)
class Load:
    """`count` samples of a grid of tokens each.

    Attributes:
        name: `8x256` = eight images of 256 x 256 pixels, `clip16` = one clip of 16 frames of 256 x 256 pixels.
        count: samples.
        grid: tokens along t, x, y of every sample.
    """

    name: str
    count: int
    grid: tuple[int, int, int]

    @staticmethod
    def parse(name: str, config: TokenizerConfig) -> Load:
        """From its name.

        Raises:
            ValueError: for a name of another form, or a clip that is longer than one temporal tile.
        """
        frames, height, width = config.patch_size
        if images := re.fullmatch(r"(\d+)x(\d+)", name):
            count, pixels = int(images[1]), int(images[2])
            return Load(name, count, (1, -(-pixels // height), -(-pixels // width)))
        if clip := re.fullmatch(r"clip(\d+)", name):
            steps = -(-int(clip[1]) // frames)
            if steps > config.tile_steps:
                raise ValueError(f"load {name!r} has {steps} latent steps, a tile has {config.tile_steps}")
            return Load(name, 1, (steps, -(-CLIP_PIXELS // height), -(-CLIP_PIXELS // width)))
        raise ValueError(f"unknown load {name!r}; give COUNTxPIXELS (8x256) or clipFRAMES (clip16)")

    @property
    def lengths(self) -> tuple[int, ...]:
        """Tokens per sample."""
        return (self.grid[0] * self.grid[1] * self.grid[2],) * self.count

    def tokens(self, width: int, dtype: torch.dtype) -> TokenSet:
        """Random patches in [-1, 1], `[T, W]`."""
        coords = torch.cartesian_prod(*(torch.arange(n) for n in (*self.grid, 1))).to(torch.int32)
        feats = torch.rand(sum(self.lengths), width, dtype=torch.float32) * 2 - 1
        return TokenSet(feats.to(dtype), coords.repeat(self.count, 1), self.lengths)


def full_pass(model: Tokenizer, tokens: TokenSet) -> TokenSet:
    """Encode with pooling, then decode the mean. Tables and offsets are built anew, as for a batch never seen."""
    fresh = TokenSet(tokens.feats, tokens.coords, tokens.lengths, tokens.origins)
    return model.decode(model.encode(fresh).latents())


def training_step(model: Tokenizer, tokens: TokenSet) -> None:
    """Forward without pooling, L1 + L2 + KL, backward; gradients are dropped."""
    fresh = TokenSet(tokens.feats, tokens.coords, tokens.lengths, tokens.origins)
    encoded = model.encode(fresh, pool=False)
    error = model.decode(encoded.latents("sample")).feats - fresh.feats
    (error.abs().mean() + error.square().mean() + 1e-8 * encoded.posterior.kl().mean()).backward()
    model.zero_grad(set_to_none=True)


class BareProducts:
    """The matrix products and attentions of a tokenizer's pass, with its own weights, and nothing else.

    Written from the architecture, not recorded from the model. Every product reads an input prepared beforehand or
    the previous product's output; queries and keys lie in memory as rotation leaves them. Inputs have unit variance,
    so no value decays to slow denormals on the way.
    """

    def __init__(self, model: Tokenizer, tokens: TokenSet) -> None:
        self.model, self.patches, self.count = model, tokens.feats, len(tokens)
        config, total, dtype = model.config, tokens.num_tokens, tokens.feats.dtype
        self.streams = {s.width: torch.randn(total, s.width).to(dtype) for s in (config.encoder, config.decoder)}
        self.latents = torch.randn(total, config.latent).to(dtype)
        self.queries = {
            (s.heads, s.width): torch.randn(2, total, s.heads, s.width // s.heads).to(dtype)
            for s in (config.encoder, config.decoder)
        }

    def forward(self, pool: bool = True) -> list[Tensor]:
        """All products of encode (with its pooling head) and decode; what the last products of each part give."""
        config, model = self.model.config, self.model
        ends = self._stack(model.encoder, config.encoder, self.patches)
        features = self._input(self.streams[config.encoder.width])
        ends.append(_linear(model.proj, features))
        if pool:
            ends += self._pool(model.encoder.head, config.encoder, features)
        ends += self._stack(model.decoder, config.decoder, self._input(self.latents))
        ends.append(_linear(model.decoder.out_layer, self._input(self.streams[config.decoder.width])))
        return ends

    def forward_backward(self) -> None:
        """The products of a training step: forward without pooling, gradients of weights and inputs."""
        ends = self.forward(pool=False)
        torch.autograd.backward(ends, [torch.ones_like(end) for end in ends])
        self.model.zero_grad(set_to_none=True)

    def _input(self, x: Tensor) -> Tensor:
        """A prepared input; when gradients are on, one whose gradient is computed as inside the model."""
        return x.detach().requires_grad_() if torch.is_grad_enabled() else x

    def _stack(self, stack: Any, config: StackConfig, first: Tensor) -> list[Tensor]:
        ends = [_linear(stack.input_layer, first)]
        for block in stack.blocks:
            x = self._input(self.streams[config.width])
            v = _linear(block.attn.to_qkv, x).view(len(x), 3, config.heads, -1).unbind(1)[2]
            q, k = (self._input(side) for side in self.queries[config.heads, config.width])
            ends.append(_linear(block.attn.to_out, self._attention(q, k, v)))
            ends.append(self._mlp(block.mlp.mlp, x))
        return ends

    def _pool(self, head: Any, config: StackConfig, features: Tensor) -> list[Tensor]:
        q = _linear(head.attention.to_q, head.probe).unflatten(-1, (config.heads, -1)).expand(self.count, -1, -1)
        k, v = _linear(head.attention.to_kv, features).view(len(features), 2, config.heads, -1).unbind(1)
        pooled = _linear(head.attention.to_out, self._attention(q, k, v))
        return [self._mlp(head.mlp.mlp, pooled)]

    def _mlp(self, layers: nn.Sequential, x: Tensor) -> Tensor:
        return _linear(layers[2], _linear(layers[0], x))

    def _attention(self, *qkv: Tensor) -> Tensor:
        """`[T, H, D]` each, samples of equal length -> `[T, C]`."""
        q, k, v = (x.unflatten(0, (self.count, -1)).transpose(1, 2) for x in qkv)
        return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(0, 1).flatten(1)


def _linear(layer: Any, x: Tensor) -> Tensor:
    return F.linear(x, layer.weight, layer.bias)


class Clock(TorchFunctionMode):
    """CPU seconds by part of a pass: `linear`, `attention` and `gelu`; all other calls by the core file they are in."""

    FUNCTIONS: ClassVar = {
        "linear": "linear",
        "scaled_dot_product_attention": "attention",
        "gelu": "gelu",
        "gelu_": "gelu",
    }

    def __init__(self) -> None:
        super().__init__()
        self.seconds: defaultdict[str, float] = defaultdict(float)

    def __torch_function__(
        self, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        before = time.process_time()
        out = func(*args, **(kwargs or {}))
        spent = time.process_time() - before
        self.seconds[self.FUNCTIONS.get(getattr(func, "__name__", "")) or _core_file()] += spent
        return out


def _core_file() -> str:
    """The innermost file of tok4d on the stack, such as `nn/rope.py`."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        name = frame.f_globals.get("__name__", "")
        if name.startswith("tok4d."):
            return name.removeprefix("tok4d.").replace(".", "/") + ".py"
        frame = frame.f_back
    return "elsewhere"


def parts(work: Callable[[], object]) -> dict[str, float]:
    """CPU seconds of one run by part, largest first; `between` is Python and whatever else lies between the calls."""
    clock = Clock()
    before = time.process_time()
    with clock:
        work()
    clock.seconds["between"] = time.process_time() - before - sum(clock.seconds.values())
    return {name: round(s, 4) for name, s in sorted(clock.seconds.items(), key=lambda item: -item[1])}
