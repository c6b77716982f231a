"""The PCA of patches, against a singular value decomposition."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from made import make_tokens

from tok4d.errors import Tok4dError
from tok4d.model.pca import PatchPCA, used_channels


def patches(count: int = 60, width: int = 8) -> torch.Tensor:
    rng = torch.Generator().manual_seed(0)
    return torch.randn(count, width, generator=rng) * torch.linspace(3, 0.1, width) + 2


def test_it_equals_a_singular_value_decomposition():
    x = patches().double()
    pca = PatchPCA.fit(patches())
    _, singular, directions = torch.linalg.svd(x - x.mean(0), full_matrices=False)
    torch.testing.assert_close(pca.deviations.double(), singular / (len(x) - 1) ** 0.5, rtol=1e-5, atol=1e-6)
    products = (pca.components.double().T @ directions.T).abs()
    torch.testing.assert_close(products, torch.eye(8).double(), rtol=0, atol=1e-4)
    torch.testing.assert_close(pca.mean.double(), x.mean(0))


def test_reconstruction_is_the_best_of_its_rank():
    x = patches()
    pca, tokens = PatchPCA.fit(x), make_tokens([36, 24], 11, (1, 6, 6, 1))
    tokens = tokens.replace(torch.cat([x, torch.full((60, 3), 9.0)], 1))
    centred = x - x.mean(0)
    u, s, v = torch.linalg.svd(centred, full_matrices=False)
    for count in (0, 3, 8):
        out = pca.reconstruct(tokens, count).feats
        best = (u[:, :count] * s[:count]) @ v[:count] + x.mean(0)
        torch.testing.assert_close(out[:, :8], best, rtol=1e-4, atol=1e-4)
        assert torch.equal(out[:, 8:], torch.zeros(60, 3)), "channels that no sample fills stay empty"


def test_the_same_data_gives_the_same_signs():
    first, again = PatchPCA.fit(patches()), PatchPCA.fit(patches().flip(0))
    torch.testing.assert_close(first.components, again.components, rtol=0, atol=1e-4)
    assert (first.components.sum(0) >= -1e-5).all()


def test_used_channels_come_from_the_origins():
    tokens = make_tokens([2, 2], 9)
    assert used_channels(tokens) == 9
    narrow = replace(tokens, origins=tuple(replace(origin, channels=4) for origin in tokens.origins))
    assert used_channels(narrow) == 4
    both = replace(tokens, origins=(narrow.origins[0], replace(narrow.origins[0], channels=6)))
    assert used_channels(both) == 6
    assert used_channels(make_tokens([2], 9, origins=False)) == 9


@pytest.mark.parametrize(
    ("data", "error"),
    [
        (torch.zeros(1, 4), r"at least two patches \[N, V\], got \(1, 4\)"),
        (torch.zeros(5), "at least two patches"),
        (torch.full((3, 2), float("nan")), "NaN or infinite"),
    ],
)
def test_unusable_patches_are_refused(data, error):
    with pytest.raises(Tok4dError, match=error):
        PatchPCA.fit(data)
