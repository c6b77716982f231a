"""The KL bottleneck: a diagonal Gaussian per token (Kingma & Welling 2014; AToken, section 3.3).

T = packed tokens, L = latent channels, B = samples, C = encoder channels.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from tok4d.errors import Tok4dError
from tok4d.model.text_head import TextHead
from tok4d.nn.precision import at_least_float32
from tok4d.tokens import TokenSet

LOGVAR_RANGE = (-30.0, 20.0)  # keeps exp and its gradient finite for any input; wider than any trained model uses


@dataclass(frozen=True)
class Posterior:
    """Diagonal Gaussian: `mean` and `logvar`, `[T, L]` each, logvar within [-30, 20]."""

    mean: Tensor
    logvar: Tensor

    @staticmethod
    def of(projected: Tensor) -> Posterior:
        """From the output of `proj`, `[T, 2L]`: first half mean, second half log-variance."""
        mean, logvar = projected.chunk(2, -1)
        return Posterior(mean, logvar.clamp(*LOGVAR_RANGE))

    def sample(self, noise: Tensor) -> Tensor:
        """`mean + std * noise`, noise standard normal `[T, L]`."""
        return self.mean + torch.exp(0.5 * self.logvar) * noise

    def kl(self) -> Tensor:
        """KL divergence to the standard normal per token, `[T]`, in nats (summed over channels), float32 at least."""
        mean, logvar = at_least_float32(self.mean), at_least_float32(self.logvar)
        return 0.5 * (mean.square() + logvar.exp() - 1 - logvar).sum(-1)


@dataclass(frozen=True)
class Encoded:
    """What `Tokenizer.encode` gives.

    Attributes:
        features: TokenSet with the encoder's features `[T, C]`.
        posterior: Gaussian over the latents.
        pooled: `[B, C]`, or None when encoding was asked not to pool.
        inner: streams after the blocks asked for, by block index.
        text_head: the model's projection into its text tower's space, if it has one.
    """

    features: TokenSet
    posterior: Posterior
    pooled: Tensor | None = None
    inner: Mapping[int, TokenSet] = field(default_factory=dict)
    text_head: TextHead | None = None

    @property
    def embedding(self) -> Tensor:
        """`pooled`, L2-normalised `[B, C]`, float32 at least; zeros for empty samples.

        Of a model with a text head it is that head's projection, `[B, D]` in the text tower's space.

        Raises:
            Tok4dError: when encoding was asked not to pool.
        """
        if self.pooled is None:
            raise Tok4dError("no embedding: encode(..., pool=False) was asked for")
        return embedding_of(self.pooled, self.text_head)

    def latents(
        self, kind: str = "mean", generator: torch.Generator | None = None, noise: Tensor | None = None
    ) -> TokenSet:
        """Latents to decode, `[T, L]`.

        Args:
            kind: `mean`, or `sample` from the posterior.
            generator: source of the noise, for `sample`.
            noise: standard normal `[T, L]` to use instead of a generator.

        Raises:
            Tok4dError: for another kind, or noise of another shape.
        """
        if kind == "mean":
            return self.features.replace(self.posterior.mean)
        if kind != "sample":
            raise Tok4dError(f"latents are 'mean' or 'sample', got {kind!r}")
        mean = self.posterior.mean
        if noise is None:
            device = generator.device if generator is not None else mean.device
            noise = torch.randn(mean.shape, generator=generator, device=device)
        if noise.shape != mean.shape:
            raise Tok4dError(f"noise must be {tuple(mean.shape)} like the latents, got {tuple(noise.shape)}")
        return self.features.replace(self.posterior.sample(noise.to(mean)))


def embedding_of(pooled: Tensor, text_head: TextHead | None) -> Tensor:
    """Pooled `[B, C]`, projected by the text head if there is one, L2-normalised, float32 at least."""
    projected = pooled if text_head is None else text_head(pooled)
    return F.normalize(at_least_float32(projected), dim=-1)
