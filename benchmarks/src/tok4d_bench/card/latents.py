"""Statistics of latents in one pass, memory constant in the number of tokens.

T = tokens, L = latent channels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from tok4d.errors import Tok4dError
from tok4d.model.bottleneck import Posterior
from tok4d_bench.statistics.moments import Moments

ACTIVE_VARIANCE = 0.01  # of posterior means: Burda, Grosse & Salakhutdinov 2016 (arXiv 1509.00519), section 5.2
ACTIVE_NATS = 0.01


class LatentSums:
    """Sums over tokens of posterior means, variances and divergences, in float64.

    Powers are about the mean of the first tokens, so that no digits are lost.
    """

    def __init__(self) -> None:
        self.moments: Moments | None = None
        self.cubes = self.fourths = self.nats = self.variances = np.zeros(0)

    def add(self, posterior: Posterior) -> None:
        """Take in the tokens of a batch, mean and log-variance `[T, L]`.

        Raises:
            Tok4dError: for values that are not finite.
        """
        mean = posterior.mean.detach().double().cpu().numpy()
        logvar = posterior.logvar.detach().double().cpu().numpy()
        if not len(mean):
            return
        if self.moments is None:
            self.moments = Moments.none(mean.mean(0))
            self.cubes = self.fourths = self.nats = self.variances = np.zeros(mean.shape[1])
        moved = mean - self.moments.about
        self.moments = self.moments.more(mean)
        self.cubes = self.cubes + (moved**3).sum(0)
        self.fourths = self.fourths + (moved**4).sum(0)
        self.variances = self.variances + np.exp(logvar).sum(0)
        self.nats = self.nats + (0.5 * (mean**2 + np.exp(logvar) - 1 - logvar)).sum(0)

    def finish(self) -> LatentStatistics:
        """The statistics.

        Raises:
            Tok4dError: for fewer than two tokens.
        """
        if self.moments is None or self.moments.n < 2:
            raise Tok4dError("statistics of latents need at least two tokens")
        n, shift = self.moments.n, self.moments.total / self.moments.n
        squares = np.diag(self.moments.products) / n
        # Central moments from those about a fixed point: E(y - m)^k by the binomial theorem.
        variance = squares - shift**2
        fourth = self.fourths / n - 4 * shift * self.cubes / n + 6 * shift**2 * squares - 3 * shift**4
        steady = variance > 1e-12 * (1 + self.moments.mean**2)
        kurtosis = np.where(steady, fourth / np.where(steady, variance, 1) ** 2 - 3, 0.0)
        values = np.linalg.eigvalsh(self.moments.covariance)[::-1].clip(min=0)
        return LatentStatistics(
            tokens=n,
            mean=self.moments.mean,
            std=np.sqrt(variance.clip(min=0)),
            kurtosis=kurtosis,
            posterior_std=np.sqrt(self.variances / n),
            nats=self.nats / n,
            eigenvalues=values,
        )


@dataclass(frozen=True)
class LatentStatistics:
    """What the latents are like, `[L]` each.

    Attributes:
        tokens: T.
        mean, std, kurtosis: of posterior means; excess kurtosis, 0 for a normal distribution and a constant channel.
        posterior_std: root of the mean variance that the encoder gives.
        nats: KL divergence to the standard normal, mean over tokens.
        eigenvalues: of the covariance of the means, the largest first.
    """

    tokens: int
    mean: np.ndarray
    std: np.ndarray
    kurtosis: np.ndarray
    posterior_std: np.ndarray
    nats: np.ndarray
    eigenvalues: np.ndarray

    @property
    def effective_rank(self) -> float:
        """exp of the entropy of the eigenvalues' shares (Roy & Vetterli 2007); 0 where nothing varies."""
        total = self.eigenvalues.sum()
        if total <= 0:
            return 0.0
        shares = self.eigenvalues[self.eigenvalues > 0] / total
        return float(np.exp(-(shares * np.log(shares)).sum()))

    def components(self, share: float) -> int:
        """How many principal components hold this share of the variance."""
        total = self.eigenvalues.sum()
        if total <= 0:
            return 0
        return int(np.searchsorted(np.cumsum(self.eigenvalues) / total, share - 1e-12) + 1)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "tokens": self.tokens,
            "channels": len(self.mean),
            "active_by_variance": int((self.std**2 > ACTIVE_VARIANCE).sum()),
            "active_by_nats": int((self.nats > ACTIVE_NATS).sum()),
            "nats_per_token": float(self.nats.sum()),
            "effective_rank": self.effective_rank,
            "components_of_90_percent": self.components(0.9),
            "components_of_99_percent": self.components(0.99),
            "eigenvalues": self.eigenvalues.tolist(),
            "per_channel": [
                {
                    "channel": i,
                    "mean": float(self.mean[i]),
                    "std": float(self.std[i]),
                    "kurtosis": float(self.kurtosis[i]),
                    "posterior_std": float(self.posterior_std[i]),
                    "nats": float(self.nats[i]),
                }
                for i in range(len(self.mean))
            ],
        }
