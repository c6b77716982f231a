"""Images to tokens and back: hand-written expectations and exact round trips."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tok4d.errors import ConfigError, Tok4dError
from tok4d.modality import Sample
from tok4d.tokens import TokenSet
from tok4d_image.modality import ImageModality

IMAGE = ImageModality()


def sample(image: torch.Tensor) -> Sample:
    return Sample("image", {"image": image})


def test_order_of_tokens_and_features_by_hand() -> None:
    image = torch.arange(3 * 4 * 6, dtype=torch.float32).reshape(3, 4, 6)  # value = 24 * channel + 6 * row + column
    tokens = IMAGE.patchify(sample(image), (1, 2, 3))
    assert tokens.coords.tolist() == [[0, 0, 0, 0], [0, 0, 1, 0], [0, 1, 0, 0], [0, 1, 1, 0]]
    # patch row 1, patch column 0: image rows 2-3, columns 0-2; channels fastest, then columns, then rows
    assert tokens.feats[2].tolist() == [
        12, 36, 60, 13, 37, 61, 14, 38, 62,
        18, 42, 66, 19, 43, 67, 20, 44, 68,
    ]  # fmt: skip
    origin = tokens.origins[0]
    assert (origin.shape, origin.grid, origin.channels) == ((3, 4, 6), (1, 2, 2, 1), 18)


def test_only_frame_zero_holds_the_image_and_edges_are_repeated() -> None:
    image = torch.zeros(3, 17, 16)
    image[:, 16] = torch.tensor([1.0, -1.0, 0.5])[:, None]
    tokens = IMAGE.patchify(sample(image))
    assert tokens.feats.shape == (2, 3072)
    assert tokens.origins[0].padding == ((0, 0), (0, 15), (0, 0))
    assert tokens.origins[0].channels == 768
    assert torch.equal(tokens.feats[1, :768], torch.tensor([1.0, -1.0, 0.5]).repeat(256))
    assert not tokens.feats[:, 768:].any()


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 70), st.integers(1, 70), st.integers(0, 99))
def test_round_trip_is_exact_for_any_size(height: int, width: int, seed: int) -> None:
    image = torch.randn(3, height, width, generator=torch.Generator().manual_seed(seed))
    tokens = IMAGE.patchify(sample(image))
    tokens.validate()
    assert tokens.num_tokens == -(-height // 16) * -(-width // 16)
    assert torch.equal(IMAGE.unpatchify(tokens)[0].data["image"], image)


def test_tokens_in_any_order_and_missing_ones() -> None:
    image = torch.randn(3, 40, 33)
    tokens = IMAGE.patchify(sample(image))
    order = torch.randperm(tokens.num_tokens, generator=torch.Generator().manual_seed(1))
    shuffled = TokenSet(tokens.feats[order], tokens.coords[order], tokens.lengths, tokens.origins)
    assert torch.equal(IMAGE.unpatchify(shuffled)[0].data["image"], image)
    without_last = tokens.select(torch.arange(tokens.num_tokens) < tokens.num_tokens - 1)
    restored = IMAGE.unpatchify(without_last)[0].data["image"]
    expected = image.clone()
    expected[:, 32:, 32:] = 0
    assert torch.equal(restored, expected)


def test_unpatchify_is_differentiable_and_does_not_clamp() -> None:
    tokens = IMAGE.patchify(sample(torch.full((3, 20, 10), 7.0)))
    feats = tokens.feats.requires_grad_()
    image = IMAGE.unpatchify(tokens.replace(feats))[0].data["image"]
    assert image.detach().max() == 7.0
    image.sum().backward()
    assert feats.grad is not None
    assert feats.grad.sum() == 3 * 20 * 10  # one for every pixel, none for the padding
    assert not feats.grad[:, 768:].any()


def test_batch_of_several_sizes() -> None:
    images = [torch.randn(3, *size) for size in ((1, 1), (16, 48), (31, 5))]
    batch = TokenSet.pack([IMAGE.patchify(sample(image)) for image in images])
    for image, restored in zip(images, IMAGE.unpatchify(batch), strict=True):
        assert torch.equal(restored.data["image"], image)


def test_grid_equals_that_of_a_real_image() -> None:
    coords, origin = IMAGE.grid((3, 50, 20))
    tokens = IMAGE.patchify(sample(torch.zeros(3, 50, 20)))
    assert torch.equal(coords, tokens.coords)
    assert origin == tokens.origins[0]


@pytest.mark.parametrize("shape", [(1, 4, 4), (3, 0, 4), (3, 4), (4, 4, 3)])
def test_wrong_shapes_are_named(shape: tuple[int, ...]) -> None:
    with pytest.raises(Tok4dError, match=r"3, height, width.*got \[" + ", ".join(map(str, shape))):
        IMAGE.patchify(sample(torch.zeros(shape)))


def test_unusable_tokens() -> None:
    tokens = IMAGE.patchify(sample(torch.zeros(3, 16, 16)))
    with pytest.raises(Tok4dError, match=r"768 channels.*got 700"):
        IMAGE.unpatchify(tokens.replace(tokens.feats[:, :700]))
    with pytest.raises(Tok4dError, match="origins"):
        IMAGE.unpatchify(TokenSet(tokens.feats, tokens.coords, (1,)))
    outside = TokenSet(tokens.feats, tokens.coords + 1, (1,), tokens.origins)
    with pytest.raises(Tok4dError, match="outside"):
        IMAGE.unpatchify(outside)
    with pytest.raises(Tok4dError, match="uint8"):
        IMAGE.patchify(sample(torch.zeros(3, 16, 16, dtype=torch.uint8)))


def test_cropping_as_an_option() -> None:
    image = torch.randn(3, 37, 50)
    cropping = IMAGE.configured({"fit": "crop"})
    tokens = cropping.patchify(sample(image))
    assert tokens.origins[0].shape == (3, 32, 48)
    assert tokens.origins[0].extra == {"cut_from": [3, 37, 50]}
    assert torch.equal(cropping.unpatchify(tokens)[0].data["image"], image[:, 2:34, 1:49])
    coords, origin = cropping.grid((3, 37, 50))
    assert torch.equal(coords, tokens.coords)
    assert origin == tokens.origins[0]
    with pytest.raises(Tok4dError, match="15 x 50 has no whole patch of 16 x 16"):
        cropping.patchify(sample(torch.zeros(3, 15, 50)))
    with pytest.raises(ConfigError, match=r"unknown fit 'corp'.*crop"):
        IMAGE.configured({"fit": "corp"})
    with pytest.raises(ConfigError, match=r"unknown option of modality image 'fits'.*fit"):
        IMAGE.configured({"fits": "crop"})
    assert IMAGE.configured({}) is IMAGE
