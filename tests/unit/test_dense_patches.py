"""Clips to tokens and back: order by hand, the tail, both rules for lengths and sizes."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tok4d.errors import ConfigError, Tok4dError
from tok4d.patches import grid_coords, origin_of, patchify, unpatchify
from tok4d.tokens import TokenSet


def restored(tokens: TokenSet) -> torch.Tensor:
    return unpatchify(tokens.feats, tokens.coords, tokens.origins[0])


def test_order_by_hand() -> None:
    clip = torch.arange(4 * 3 * 2 * 4, dtype=torch.float32).reshape(4, 3, 2, 4)  # 24 frame + 8 channel + 4 row + column
    tokens = patchify(clip, "clip", (2, 2, 2), fps=25.0)
    assert tokens.coords.tolist() == [[0, 0, 0, 0], [0, 0, 1, 0], [1, 0, 0, 0], [1, 0, 1, 0]]
    # step 1, column 1: frames 2 and 3, columns 2 and 3; channels fastest, then columns, rows, frames
    assert tokens.feats[3].tolist() == [
        50, 58, 66, 51, 59, 67, 54, 62, 70, 55, 63, 71,
        74, 82, 90, 75, 83, 91, 78, 86, 94, 79, 87, 95,
    ]  # fmt: skip
    origin = tokens.origins[0]
    assert (origin.shape, origin.grid, origin.channels, origin.fps) == ((4, 3, 2, 4), (2, 1, 2, 1), 24, 25.0)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 9), st.integers(1, 20), st.integers(1, 20), st.integers(0, 99))
def test_round_trip_is_exact_for_any_length_and_size(frames: int, height: int, width: int, seed: int) -> None:
    clip = torch.randn(frames, 3, height, width, generator=torch.Generator().manual_seed(seed))
    tokens = patchify(clip, "clip", (4, 8, 8)).validate()
    assert tokens.num_tokens == -(-frames // 4) * -(-height // 8) * -(-width // 8)
    assert torch.equal(restored(tokens), clip)
    order = torch.randperm(tokens.num_tokens, generator=torch.Generator().manual_seed(seed))
    shuffled = TokenSet(tokens.feats[order], tokens.coords[order], tokens.lengths, tokens.origins)
    assert torch.equal(restored(shuffled), clip)


def test_a_clip_of_one_frame_is_a_picture() -> None:
    picture = torch.randn(3, 20, 33)
    still, clip = patchify(picture, "x"), patchify(picture[None], "x")
    assert torch.equal(still.feats, clip.feats)
    assert torch.equal(still.coords, clip.coords)
    assert clip.origins[0].channels == still.origins[0].channels == 768
    assert restored(clip).shape == (1, 3, 20, 33)


def test_the_last_step_is_filled_with_zero_frames() -> None:
    tokens = patchify(torch.ones(5, 3, 16, 16), "clip")
    assert tokens.origins[0].padding == ((0, 3), (0, 0), (0, 0), (0, 0))
    assert tokens.feats[1, :768].eq(1).all()
    assert not tokens.feats[1, 768:].any()
    assert restored(tokens).shape == (5, 3, 16, 16)


@pytest.mark.parametrize(("frames", "kept"), [(1, 1), (3, 3), (4, 4), (5, 4), (17, 16)])
def test_flooring_the_length_as_the_released_models_do(frames: int, kept: int) -> None:
    clip = torch.randn(frames, 3, 16, 16)
    tokens = patchify(clip, "clip", frames="floor")
    assert tokens.origins[0].grid[0] == -(-kept // 4)
    assert torch.equal(restored(tokens), clip[:kept])


def test_the_grid_of_a_clip_that_does_not_exist_yet() -> None:
    tokens = patchify(torch.zeros(6, 3, 40, 20), "clip")
    origin = origin_of("clip", (6, 3, 40, 20))
    assert origin == tokens.origins[0]
    assert torch.equal(grid_coords(origin), tokens.coords)


def test_what_cannot_be_cut() -> None:
    with pytest.raises(Tok4dError, match=r"got \[0, 3, 4, 4\]"):
        patchify(torch.zeros(0, 3, 4, 4), "clip")
    with pytest.raises(Tok4dError, match="uint8"):
        patchify(torch.zeros(2, 3, 4, 4, dtype=torch.uint8), "clip")
    with pytest.raises(ConfigError, match=r"unknown frames 'floo'.*floor"):
        patchify(torch.zeros(2, 3, 4, 4), "clip", frames="floo")
    tokens = patchify(torch.zeros(8, 3, 16, 16), "clip")
    with pytest.raises(Tok4dError, match="3072 channels"):
        restored(tokens.replace(tokens.feats[:, :768]))
    with pytest.raises(Tok4dError, match="outside of their grid"):
        unpatchify(tokens.feats, tokens.coords + 1, tokens.origins[0])
