"""The KL bottleneck: values by hand, extremes, and where its noise comes from."""

from __future__ import annotations

from math import exp

import pytest
import torch
from made import make_tokens

from tok4d.errors import Tok4dError
from tok4d.model.bottleneck import Encoded, Posterior


def encoded(count: int = 3, latent: int = 2, pooled: torch.Tensor | None = None) -> Encoded:
    tokens = make_tokens([count], 4)
    rng = torch.Generator().manual_seed(0)
    return Encoded(tokens, Posterior.of(torch.randn(count, 2 * latent, generator=rng)), pooled)


def test_the_first_half_is_the_mean():
    posterior = Posterior.of(torch.tensor([[1.0, 2.0, -3.0, 4.0]]))
    assert posterior.mean.tolist() == [[1.0, 2.0]]
    assert posterior.logvar.tolist() == [[-3.0, 4.0]]


def test_sample_and_kl_by_hand():
    posterior = Posterior(torch.tensor([[1.0, -2.0]]), torch.tensor([[0.0, 2.0]]))
    sample = posterior.sample(torch.tensor([[0.5, -1.0]]))
    torch.testing.assert_close(sample, torch.tensor([[1.5, -2.0 - exp(1.0)]]))
    expected = 0.5 * ((1 + 1 - 1 - 0) + (4 + exp(2.0) - 1 - 2))
    torch.testing.assert_close(posterior.kl(), torch.tensor([expected]))
    assert Posterior(torch.zeros(4, 3), torch.zeros(4, 3)).kl().tolist() == [0.0] * 4


@pytest.mark.parametrize("extreme", [-1e30, -100.0, 100.0, 1e30])
def test_extreme_logvars_stay_finite_with_their_gradients(extreme):
    projected = torch.tensor([[0.5, extreme]], requires_grad=True)
    posterior = Posterior.of(projected)
    (posterior.kl().sum() + posterior.sample(torch.ones(1, 1)).sum()).backward()
    assert torch.isfinite(posterior.kl()).all()
    assert torch.isfinite(projected.grad).all()


def test_half_precision_kl_is_computed_in_float32():
    posterior = Posterior(torch.full((1, 48), 1.0).bfloat16(), torch.full((1, 48), -8.0).bfloat16())
    torch.testing.assert_close(posterior.kl(), torch.tensor([24 * (1 + exp(-8.0) - 1 + 8)]))


def test_latents_by_kind():
    one = encoded()
    assert torch.equal(one.latents().feats, one.posterior.mean)
    first = one.latents("sample", generator=torch.Generator().manual_seed(5)).feats
    again = one.latents("sample", generator=torch.Generator().manual_seed(5)).feats
    other = one.latents("sample", generator=torch.Generator().manual_seed(6)).feats
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    noise = torch.ones(3, 2)
    assert torch.equal(one.latents("sample", noise=noise).feats, one.posterior.sample(noise))
    with pytest.raises(Tok4dError, match="'mean' or 'sample', got 'mode'"):
        one.latents("mode")
    with pytest.raises(Tok4dError, match=r"noise must be \(3, 2\) like the latents, got \(1, 2\)"):
        one.latents("sample", noise=torch.ones(1, 2))


def test_embedding_is_normalised_and_needs_pooling():
    one = encoded(pooled=torch.tensor([[3.0, 4.0], [0.0, 0.0]]))
    torch.testing.assert_close(one.embedding, torch.tensor([[0.6, 0.8], [0.0, 0.0]]))
    with pytest.raises(Tok4dError, match="pool=False"):
        _ = encoded().embedding
