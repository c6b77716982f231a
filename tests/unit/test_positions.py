"""The position table: resized to every sample's own grid, indexed [x, y]."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from made import make_tokens

from tok4d.errors import Tok4dError
from tok4d.nn.positions import PositionTable
from tok4d.testing.models import tiny_tokenizer
from tok4d.tokens import TokenSet


@pytest.fixture
def table() -> PositionTable:
    torch.manual_seed(0)
    return PositionTable(8)


def test_its_own_size_is_the_table_itself(table):
    weight = table.position_embedding.weight
    assert torch.equal(table.resized(16, 16), weight.view(16, 16, 8))
    tokens = make_tokens([200], 1, (1, 16, 16, 1))
    out = table(tokens, tokens.extents())
    for row, (_, x, y, _) in zip(out, tokens.coords.tolist(), strict=True):
        assert torch.equal(row, weight[16 * x + y]), "indexed [x, y], y fastest"


def test_every_sample_gets_the_table_of_its_own_grid(table):
    grids = [(1, 3, 40, 1), (2, 16, 5, 3), (1, 3, 40, 1), (1, 1, 1, 1)]
    tokens = make_tokens([50, 90, 7, 1], 1, grids)
    out = table(tokens, tokens.extents())
    image = table.position_embedding.weight.view(1, 16, 16, 8).permute(0, 3, 1, 2)
    start = 0
    for (_, rows, columns, _), length in zip(grids, tokens.lengths, strict=True):
        size = (rows, columns)
        resized = F.interpolate(image, size=size, mode="bilinear", align_corners=False, antialias=True)[0]
        coords = tokens.coords[start : start + length].long()
        torch.testing.assert_close(out[start : start + length], resized[:, coords[:, 1], coords[:, 2]].T)
        start += length


@pytest.mark.parametrize("side", [1, 3, 16, 27])
def test_a_table_of_another_side(side):
    table = PositionTable(4, side)
    weight = table.position_embedding.weight
    assert weight.shape == (side * side, 4)
    assert torch.equal(table.resized(side, side), weight.view(side, side, 4))
    tokens = make_tokens([10], 1, (1, 2, 5, 1))
    image = weight.view(1, side, side, 4).permute(0, 3, 1, 2)
    resized = F.interpolate(image, size=(2, 5), mode="bilinear", align_corners=False, antialias=True)[0]
    x, y = tokens.coords[:, 1].long(), tokens.coords[:, 2].long()
    torch.testing.assert_close(table(tokens, tokens.extents()), resized[:, x, y].T)


def test_bicubic_is_not_antialiased():
    """Halving 8 places to 4: the taps of a = -0.75 halfway between two places, (-3, 19, 19, -3) / 32, and no others."""
    table = PositionTable(1, 8, "bicubic")
    ramp = torch.tensor([0.0, 1.0, 5.0, 2.0, 0.0, 7.0, 3.0, 4.0])
    with torch.no_grad():
        table.position_embedding.weight.copy_(ramp.repeat(8)[:, None])
    padded = torch.cat([ramp[:1], ramp, ramp[-1:]])
    taps = torch.tensor([-3.0, 19.0, 19.0, -3.0]) / 32
    by_hand = torch.stack([padded[2 * i : 2 * i + 4] @ taps for i in range(4)])
    torch.testing.assert_close(table.resized(8, 4)[..., 0], by_hand.expand(8, 4))
    smooth = PositionTable(1, 8, "bilinear")
    smooth.load_state_dict(table.state_dict())
    assert not torch.allclose(smooth.resized(8, 4), table.resized(8, 4), atol=0.1)


def test_the_configuration_decides_on_the_table():
    model = tiny_tokenizer(table_side=5, table_resize="bicubic")
    for stack in (model.encoder, model.decoder):
        assert stack.pos_embedder.position_embedding.weight.shape == (25, 32)
        assert stack.pos_embedder.resize == "bicubic"


def test_dropping_tokens_moves_nothing_unless_the_released_rule_is_asked_for():
    whole = make_tokens([36], 3072)
    kept = whole.coords[:, 1] < 3  # the lower half of the picture goes
    by_grid = tiny_tokenizer().encoder
    by_tokens = tiny_tokenizer(table_extent="tokens").encoder
    assert whole.select(kept).extents() == ((1, 6, 6, 1),)
    assert whole.select(kept).present_extents() == ((1, 3, 6, 1),)

    def positions(encoder, tokens):
        extents = tokens.extents() if encoder.table_extent == "grid" else tokens.present_extents()
        return encoder.pos_embedder(tokens, extents)

    assert torch.equal(positions(by_grid, whole)[kept], positions(by_grid, whole.select(kept)))
    assert not torch.allclose(positions(by_tokens, whole)[kept], positions(by_tokens, whole.select(kept)))


def test_without_origins_the_tokens_present_give_the_extent(table):
    tokens = make_tokens([4], 1, (1, 2, 2, 1), origins=False)
    assert tokens.extents() == tokens.present_extents() == ((1, 2, 2, 1),)
    with_grid = make_tokens([4], 1, (1, 2, 2, 1))
    assert torch.equal(table(tokens, tokens.extents()), table(with_grid, with_grid.extents()))


def test_a_token_outside_its_grid_is_named(table):
    inside = make_tokens([36, 36], 1)
    coords = inside.coords.clone()
    coords[40] = torch.tensor([0, 2, 6, 0])
    outside = TokenSet(inside.feats, coords, inside.lengths, inside.origins)
    with pytest.raises(Tok4dError, match=r"token 40 at \(t, x, y, z\) = \(0, 2, 6, 0\) is outside its grid \(1, 6, 6"):
        table(outside, outside.extents())


def test_empty_batches(table):
    for lengths in ([], [0, 0]):
        tokens = make_tokens(lengths, 1)
        assert table(tokens, tokens.extents()).shape == (0, 8)
