"""Schema of a tokenizer: what a preset file holds. Light: no torch here."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import prod
from typing import Any, Optional

from tok4d.config.checks import not_negative, one_of, positive
from tok4d.errors import ConfigError

NORMS = ("layer", "rms")
POSITIONS = ("joint", "table", "rope")
TABLE_EXTENTS = ("grid", "tokens")
TABLE_RESIZES = ("bilinear", "bicubic")
WINDOWS = ("sample", "batch")
TEXT_TOWERS = ("siglip2", "minilm", "words")
MAX_BLOCKS = 1000
MAX_LEVELS = 1000  # beyond, FSQ's rounding margin would reach past the outermost level


@dataclass
class StackConfig:
    """One transformer stack (encoder or decoder)."""

    width: int = 192
    blocks: int = 4
    heads: int = 3
    mlp: int = 768
    norm: str = "layer"
    bias: bool = True
    qk_norm: bool = False

    def check(self, where: str) -> None:
        """Raise ConfigError for sizes that cannot work together."""
        for name in ("width", "blocks", "heads", "mlp"):
            positive(f"{where}.{name}", getattr(self, name))
        if self.blocks > MAX_BLOCKS:
            raise ConfigError(f"{where}.blocks must be at most {MAX_BLOCKS}, got {self.blocks}")
        one_of(f"{where}.norm", self.norm, NORMS)
        if self.width % self.heads:
            raise ConfigError(f"{where}: width {self.width} must be divisible by heads {self.heads}")
        if (self.width // self.heads) % 8:
            raise ConfigError(f"{where}: head dim {self.width // self.heads} must be divisible by 8 (4D RoPE)")


@dataclass
class FSQConfig:
    """Finite scalar quantisation: `groups` codebooks of `prod(levels)` codes each."""

    groups: int = 8
    levels: list[int] = field(default_factory=lambda: [4] * 6)

    def check(self, latent: int) -> None:
        """Raise ConfigError unless groups x dims fits the latent width."""
        positive("quantizer.groups", self.groups)
        if not self.levels or min(self.levels) < 2 or max(self.levels) > MAX_LEVELS:
            raise ConfigError(f"quantizer.levels must be integers in [2, {MAX_LEVELS}], got {list(self.levels)}")
        if prod(self.levels) > 2**31 - 1:
            raise ConfigError(f"quantizer.levels {list(self.levels)} give more codes than an int32 index can hold")
        if self.groups * len(self.levels) != latent:
            raise ConfigError(
                f"quantizer needs latent = groups x levels, got {latent} != {self.groups} x {len(self.levels)}"
            )


@dataclass
class TextConfig:
    """The text tower that a model's embeddings are aligned with; what zero-shot classification compares them to.

    Attributes:
        kind: `siglip2`, `minilm`, or `words` (without weights, for tests and first steps).
        source: folder or hub id of the tower's weights; empty for one that comes from a package registry.
        log_scale, bias: of the sigmoid loss, logit = exp(log_scale) * cosine + bias (the released models' constants;
            towers trained from scratch start at log 10 = 2.3026 and -10).
        width: of the tower's embeddings; when given, the model learns its own log-scale and bias, and a projection
            of its embedding where its encoder has another width. None: the constants above stay as they are.
    """

    kind: str = "siglip2"
    source: str = ""
    log_scale: float = 4.8438
    bias: float = -15.5625
    width: Optional[int] = None

    def check(self) -> None:
        """Raise ConfigError for an unknown tower or an unusable width."""
        one_of("text.kind", self.kind, TEXT_TOWERS)
        if self.width is not None:
            positive("text.width", self.width)


@dataclass
class TokenizerConfig:
    """A tokenizer: what a preset file holds.

    Attributes:
        name: the preset's name.
        parameters: expected parameter count, tested for every shipped preset; None in derived configurations.
        patch_size: frames, height, width of a patch.
        latent: latent channels L.
        positions: `joint` (table and 4D RoPE), `table`, or `rope`.
        table_extent: grid of the position table: `grid` = the sample's own, kept when tokens are dropped; `tokens` =
            largest coordinate present + 1 (the released models' rule).
        table_side: the position table's own grid is table_side x table_side.
        table_resize: how the table comes to a sample's grid: `bilinear` (antialiased: SigLIP2 NaFlex, the released
            models) or `bicubic` (SigLIP2 of fixed resolution).
        rope_scale: factor on the coordinates of RoPE; below 1 in a model saved while `rope_ramp` raises it.
        tile_steps: latent time steps of a temporal tile; attention stays inside a tile.
        cached_steps: latent steps of the previous tile that the decoder sees by default.
        windows: where temporal tiles begin: at t = 0 of every `sample`, or at the smallest t of the `batch` (the
            released models' rule, by which a sample may depend on its neighbours).
        quantizer: FSQ, or None for continuous latents.
        heads: options of extra decoders by modality name.
        inputs: options of `patchify` by modality name, e.g. `{image: {fit: crop}}`.
        text: the text tower that the embeddings are aligned with, if any.
    """

    name: str = "custom"
    parameters: Optional[int] = None
    patch_size: list[int] = field(default_factory=lambda: [4, 16, 16])
    latent: int = 48
    positions: str = "joint"
    table_extent: str = "grid"
    table_side: int = 16
    table_resize: str = "bilinear"
    rope_scale: float = 1.0
    tile_steps: int = 4
    cached_steps: int = 1
    windows: str = "sample"
    encoder: StackConfig = field(default_factory=StackConfig)
    decoder: StackConfig = field(default_factory=lambda: StackConfig(norm="rms", bias=False, qk_norm=True))
    quantizer: Optional[FSQConfig] = None
    heads: dict[str, Any] = field(default_factory=dict)
    inputs: dict[str, Any] = field(default_factory=dict)
    text: Optional[TextConfig] = None

    def check(self) -> TokenizerConfig:
        """Raise ConfigError for contradictions; return self."""
        if len(self.patch_size) != 3 or min(self.patch_size) < 1:
            raise ConfigError(f"patch_size must be three positive integers, got {list(self.patch_size)}")
        for name in ("latent", "tile_steps", "table_side"):
            positive(name, getattr(self, name))
        not_negative("rope_scale", self.rope_scale)
        if not 0 <= self.cached_steps <= self.tile_steps:
            raise ConfigError(f"cached_steps must be in [0, tile_steps = {self.tile_steps}], got {self.cached_steps}")
        one_of("positions", self.positions, POSITIONS)
        one_of("table_extent", self.table_extent, TABLE_EXTENTS)
        one_of("table_resize", self.table_resize, TABLE_RESIZES)
        one_of("windows", self.windows, WINDOWS)
        for part in ("heads", "inputs"):
            for name, options in getattr(self, part).items():
                if not isinstance(options, dict):
                    raise ConfigError(f"{part}.{name} must be a mapping of options, got {options!r}")
        self.encoder.check("encoder")
        self.decoder.check("decoder")
        if self.quantizer is not None:
            self.quantizer.check(self.latent)
        if self.text is not None:
            self.text.check()
        return self
