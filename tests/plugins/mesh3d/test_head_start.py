"""A Gaussian decoder that begins at the colours of its voxels."""

from __future__ import annotations

import pytest
import torch

from tok4d.errors import ConfigError
from tok4d.tokens import TokenSet
from tok4d_mesh3d.head import make_head


def voxels(colours: torch.Tensor, coords: torch.Tensor) -> TokenSet:
    """Patches of one colour each."""
    feats = colours[:, None, :].expand(-1, 256, -1).reshape(len(colours), 768)
    coords = torch.cat([torch.zeros_like(coords[:, :1]), coords], 1).to(torch.int32)
    return TokenSet(feats.contiguous(), coords, (len(coords),))


@pytest.mark.parametrize(("resolution", "width"), [(16, 128), (32, 128), (64, 200)])
def test_gaussians_begin_at_the_colours_of_their_voxels(resolution, width):
    generator = torch.Generator().manual_seed(0)
    colours = torch.rand(50, 3, generator=generator) * 2 - 1
    coords = torch.randint(0, resolution, (50, 3), generator=generator)
    coords = torch.unique(coords, dim=0)
    colours = colours[: len(coords)]
    head = make_head({"resolution": resolution, "width": width, "heads": 2 if width == 128 else 5})
    with torch.no_grad():
        (made,) = head(voxels(colours, coords))
    count = head.config.num_gaussians
    wanted = ((colours + 1) / 2).repeat_interleave(count, 0)
    assert float((made.rgb - wanted).abs().max()) < 0.12, "the norm divides by what varies a little with the place"
    assert float((made.rgb - wanted).abs().mean()) < 0.04


def test_shapes_and_places_are_those_of_a_grey_start():
    tokens = voxels(torch.rand(9, 3) * 2 - 1, torch.arange(9)[:, None].expand(9, 3))
    with torch.no_grad():
        (coloured,) = make_head({"resolution": 16})(tokens)
        (grey,) = make_head({"resolution": 16, "start": "grey"})(tokens)
    for name in ("means", "scales", "quaternions", "opacities"):
        torch.testing.assert_close(getattr(coloured, name), getattr(grey, name))
    assert float(grey.colors.abs().max()) == 0


def test_every_matrix_learns_after_a_step():
    """Residual outputs at zero block the blocks' inner matrices for the first step only."""
    torch.manual_seed(0)
    head = make_head({"resolution": 16})
    tokens = voxels(torch.rand(9, 3) * 2 - 1, torch.arange(9)[:, None].expand(9, 3))
    optimizer = torch.optim.SGD(head.parameters(), lr=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        (made,) = head(tokens)
        (made.colors.square().sum() + made.means.square().sum() + made.opacities.sum()).backward()
        optimizer.step()
    assert all(float(p.grad.abs().sum()) > 0 for p in head.parameters())


def test_the_released_decoder_begins_grey_and_an_unknown_start_is_named():
    with pytest.raises(ConfigError, match=r"unknown start 'color'\. Did you mean 'colours'"):
        make_head({"resolution": 16, "start": "color"})
    with pytest.raises(ConfigError, match="no multiple of 6"):
        make_head({"resolution": 16, "width": 96, "start": "colours"})
