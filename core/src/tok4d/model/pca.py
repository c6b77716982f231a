"""PCA of patches: the floor that a learned tokenizer must beat, and where `init: linear` starts.

N = patches, V = feature channels in use, L = components.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from tok4d.errors import Tok4dError
from tok4d.tokens import TokenSet


@dataclass(frozen=True)
class PatchPCA:
    """Mean patch `[V]`, components `[V, V]` (columns, largest variance first), deviations `[V]`; float32."""

    mean: Tensor
    components: Tensor
    deviations: Tensor

    @staticmethod
    def fit(patches: Tensor) -> PatchPCA:
        """PCA of patches `[N, V]`, in float64.

        Raises:
            Tok4dError: when there are fewer than two patches, or they are not finite.
        """
        if patches.ndim != 2 or len(patches) < 2:
            raise Tok4dError(f"a PCA needs at least two patches [N, V], got {tuple(patches.shape)}")
        x = patches.double()
        mean = x.mean(0)
        centred = x - mean
        covariance = centred.T @ centred / (len(x) - 1)
        if not torch.isfinite(covariance).all():
            raise Tok4dError("patches hold NaN or infinite values; a PCA of them does not exist")
        variances, vectors = torch.linalg.eigh(covariance)
        order = torch.arange(len(mean) - 1, -1, -1)
        # Eigenvectors have no sign; a fixed one makes the same data give the same model.
        vectors = vectors[:, order]
        vectors = vectors * torch.where(vectors.sum(0) < 0, -1.0, 1.0).double()
        return PatchPCA(mean.float(), vectors.float(), variances[order].clamp_min(0).sqrt().float())

    def reconstruct(self, tokens: TokenSet, count: int) -> TokenSet:
        """Patches `[T, W]` through `count` components and back; channels beyond V come back as zeros."""
        used = len(self.mean)
        basis = self.components[:, :count]
        x = tokens.feats[:, :used] - self.mean
        out = torch.zeros_like(tokens.feats)
        out[:, :used] = (x @ basis) @ basis.T + self.mean
        return tokens.replace(out)


def used_channels(tokens: TokenSet) -> int:
    """Leading channels that every sample of a batch fills: the width without the zero padding."""
    channels = {origin.channels or tokens.width for origin in tokens.origins}
    return max(channels, default=tokens.width)
