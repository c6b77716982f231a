"""`Tokenizer`: one transformer that turns any modality's patches into latents or codes, and back.

T = packed tokens, B = samples, W = patch width, C = encoder channels, L = latent channels, G = FSQ groups.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tok4d.config.loader import load_preset
from tok4d.config.schema import TokenizerConfig
from tok4d.errors import ConfigError, DataError, Tok4dError
from tok4d.modality import PatchSize, patch_width
from tok4d.model.bottleneck import Encoded, Posterior
from tok4d.model.fsq import FSQ, Codes
from tok4d.model.stack import Decoder, Encoder
from tok4d.model.streams import DecodeStream, EncodeStream
from tok4d.model.text_head import TextHead
from tok4d.nn.linear import exact
from tok4d.nn.norms import LayerNorm
from tok4d.origin import Origin
from tok4d.plugins.registry import modality
from tok4d.tokens import TokenSet
from tok4d.weights import folder


class Tokenizer(nn.Module):
    """Encoder, latent bottleneck (KL or FSQ on its mean), decoder, and extra decoders by modality in `heads`."""

    def __init__(self, config: TokenizerConfig) -> None:
        super().__init__()
        self.config = config.check()
        self.encoder = Encoder(config)
        self.proj = nn.Linear(config.encoder.width, 2 * config.latent, bias=False)
        self.quantizer = None if config.quantizer is None else FSQ(config.quantizer)
        self.decoder = Decoder(config)
        text = config.text
        self.text_head = TextHead(text, config.encoder.width) if text is not None and text.width is not None else None
        self.apply(_initialise)  # before the heads: those bring their own start
        self.heads = nn.ModuleDict()
        for name, options in config.heads.items():
            head = modality(name).head(options)
            if head is None:
                raise ConfigError(f"heads.{name}: modality {name!r} has no extra decoder; remove the entry")
            self.heads[name] = head
        self.latent_mean: Tensor
        self.latent_std: Tensor
        self.register_buffer("latent_mean", torch.zeros(config.latent))
        self.register_buffer("latent_std", torch.ones(config.latent))

    # --- making and keeping -------------------------------------------------------------------------------------

    @classmethod
    def from_preset(cls, name: str, **overrides: Any) -> Tokenizer:
        """A new model, e.g. `from_preset("tiny", latent=32, encoder={"blocks": 2})`. Errors as `load_preset`."""
        return cls(load_preset(name, overrides))

    @classmethod
    def from_pretrained(cls, path: str | Path) -> Tokenizer:
        """A saved model, in evaluation mode.

        Raises:
            Tok4dError: when the folder, its config or its weights are missing, broken or do not fit together.
        """
        config, tensors = folder.read(Path(path))
        with torch.device("meta"):
            model = cls(config)
        folder.assign(model, tensors, path)
        return model.eval()

    def save_pretrained(self, path: str | Path) -> None:
        """Write `model.safetensors` and `config.yaml` into a folder, each file atomically.

        Raises:
            DataError: when the folder cannot be written.
        """
        try:
            folder.write(Path(path), self.config, self.state_dict())
        except OSError as error:
            raise DataError(path, f"the model cannot be written: {error.strerror or error}") from error

    @property
    def digest(self) -> str:
        """SHA-256 over config and weights (sorted names and bytes); computed on every call."""
        return folder.digest(self.config, self.state_dict())

    @property
    def embedding_width(self) -> int:
        """Width of `Encoded.embedding`: the text tower's where the model has a text head, else the encoder's."""
        text = self.config.text
        return text.width if text is not None and text.width is not None else self.config.encoder.width

    def text_constants(self) -> tuple[float, float]:
        """Log-scale and bias of the sigmoid logits: learned where the model has a text head, else the config's.

        Raises:
            Tok4dError: for a model that is aligned with no text.
        """
        if self.text_head is not None:
            return float(self.text_head.scale.detach().log()), float(self.text_head.bias.detach())
        if self.config.text is None:
            raise Tok4dError("this model is aligned with no text: its config has no `text`")
        return self.config.text.log_scale, self.config.text.bias

    @property
    def patch_size(self) -> PatchSize:
        """Frames, height, width of a patch."""
        frames, height, width = self.config.patch_size
        return (frames, height, width)

    # --- the main path ------------------------------------------------------------------------------------------

    def encode(
        self, tokens: TokenSet, *, layers: Collection[int] = (), pool: bool = True, channels: int | None = None
    ) -> Encoded:
        """Patches to a posterior over latents.

        Args:
            tokens: features `[T, W]`, pixels in [-1, 1].
            layers: encoder blocks whose output to return in `inner`; negative indices count from the end.
            pool: whether to compute the pooled vector and the embedding.
            channels: patches are zero from this channel on (a picture's later frames), which saves multiplying them.

        Raises:
            Tok4dError: for a wrong patch width or a block that does not exist.
        """
        if tokens.width != patch_width(self.patch_size):
            raise Tok4dError(
                f"this model takes patches of width {patch_width(self.patch_size)} {self.patch_size}, "
                f"got {tokens.width}; patchify with patch_size={self.patch_size}"
            )
        blocks = len(self.encoder.blocks)
        if bad := [i for i in layers if not -blocks <= i < blocks]:
            raise Tok4dError(f"encoder blocks {bad} do not exist; there are {blocks}")
        features, inner = self.encoder(tokens, {i % blocks for i in layers}, channels)
        return Encoded(
            features=tokens.replace(features),
            posterior=Posterior.of(exact(self.proj, features)),
            pooled=self.encoder.head(features, tokens.seqs) if pool else None,
            inner={i: tokens.replace(inner[i % blocks]) for i in layers},
            text_head=self.text_head,
        )

    def quantize(self, encoded: Encoded) -> Codes:
        """FSQ codes of the posterior's mean.

        Raises:
            Tok4dError: when the model has continuous latents.
        """
        quantizer = self._quantizer()
        values, indices = quantizer(encoded.posterior.mean)
        values = values.to(encoded.posterior.mean.dtype)  # four levels a channel are exact in bf16
        return Codes(indices, values, quantizer.vocabulary, encoded.features.replace(values))

    def decode(self, latents: TokenSet, *, cached_steps: int | None = None, channels: int | None = None) -> TokenSet:
        """Latents `[T, L]` to patches `[T, W]`, differentiable and unclamped; it never samples or quantises.

        Args:
            latents: features `[T, L]`.
            cached_steps: latent steps of the previous temporal tile that a tile sees; None: the model's own.
            channels: as in `encode`: the patches given are zero from this channel on; None: all are wanted.

        Raises:
            Tok4dError: for a wrong latent width or more cached steps than a tile has.
        """
        self.check_latents(latents)
        return latents.replace(self.decoder(latents, self._cached(cached_steps), channels=channels))

    def decode_codes(
        self,
        indices: Tensor,
        coords: Tensor,
        lengths: Sequence[int] | None = None,
        origins: Sequence[Origin] = (),
        *,
        cached_steps: int | None = None,
    ) -> TokenSet:
        """Codes `[T, G]` at `coords` `[T, 4]` to patches; one sample unless `lengths` says otherwise."""
        return self.decode(self.latents_of_codes(indices, coords, lengths, origins), cached_steps=cached_steps)

    def latents_of_codes(
        self,
        indices: Tensor,
        coords: Tensor,
        lengths: Sequence[int] | None = None,
        origins: Sequence[Origin] = (),
    ) -> TokenSet:
        """The latents `[T, L]` that codes `[T, G]` stand for; arguments as in `decode_codes`."""
        values = self._quantizer().values(indices).to(self.decoder.input_layer.weight.dtype)
        return TokenSet(values, coords, (len(values),) if lengths is None else tuple(lengths), tuple(origins))

    def encode_stream(self) -> EncodeStream:
        """Encode clips of any length one temporal tile at a time; pools over all of them."""
        return EncodeStream(self)

    def decode_stream(self, *, cached_steps: int | None = None) -> DecodeStream:
        """Decode clips of any length one temporal tile at a time; the result equals `decode` of all tiles at once.

        Raises:
            Tok4dError: for more cached steps than a tile has.
        """
        return DecodeStream(self, self._cached(cached_steps))

    def check_latents(self, latents: TokenSet) -> None:
        """Refuse latents of another width, with a Tok4dError."""
        if latents.width != self.config.latent:
            raise Tok4dError(f"this model has {self.config.latent} latent channels, got {latents.width}")

    def _cached(self, steps: int | None) -> int:
        cached = self.config.cached_steps if steps is None else steps
        if not 0 <= cached <= self.config.tile_steps:
            raise Tok4dError(f"cached_steps must be in [0, {self.config.tile_steps}], got {cached}")
        return cached

    def _quantizer(self) -> FSQ:
        if self.quantizer is None:
            raise Tok4dError("this model has continuous latents; codes need a `quantizer` in its config")
        return self.quantizer

    # --- for those who build on it ------------------------------------------------------------------------------

    def normalize(self, latents: TokenSet) -> TokenSet:
        """Latents with zero mean and unit deviation per channel, by the statistics saved with the model."""
        return latents.replace((latents.feats - self.latent_mean) / self.latent_std)

    def denormalize(self, latents: TokenSet) -> TokenSet:
        """Inverse of `normalize`."""
        return latents.replace(latents.feats * self.latent_std + self.latent_mean)

    def set_rope_scale(self, scale: float) -> None:
        """Factor on the encoder's RoPE coordinates, saved with the model: 0 acts as no RoPE, 1 in full."""
        self.config = replace(self.config, rope_scale=scale)
        self.encoder.rope_scale = scale

    def freeze(self, prefixes: Sequence[str]) -> None:
        """Stop training every parameter whose name starts with one of `prefixes`, and train all others.

        Raises:
            ConfigError: for a prefix that matches nothing.
        """
        chosen = self.named_like(prefixes, "freeze")
        for name, parameter in self.named_parameters():
            parameter.requires_grad_(name not in chosen)

    def named_like(self, prefixes: Sequence[str], what: str) -> set[str]:
        """Names of the parameters that start with one of `prefixes`.

        Raises:
            ConfigError: for a prefix that matches nothing, as `what`.
        """
        names = [name for name, _ in self.named_parameters()]
        for prefix in prefixes:
            if not any(name.startswith(prefix) for name in names):
                parts = sorted({name.split(".")[0] for name in names})
                raise ConfigError(f"{what}: {prefix!r} matches no parameter; parts are {', '.join(parts)}")
        return {name for name in names if name.startswith(tuple(prefixes))}


def _initialise(module: nn.Module) -> None:
    """Small truncated-normal matrices, zero biases: the usual start of a vision transformer."""
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, LayerNorm):
        nn.init.zeros_(module.bias)
