"""The text tower without weights."""

from __future__ import annotations

import pytest
import torch

from tok4d.errors import ConfigError
from tok4d.text.load import load_text_encoder


def test_texts_are_near_by_the_words_they_share():
    red_circle, red_square, blue_star = load_text_encoder("words").encode(
        ["a red circle", "A red square!", "blue star"]
    )
    assert float(red_circle @ red_square) > 0.45 > 0.3 > abs(float(red_circle @ blue_star))
    assert float(red_circle.norm()) == pytest.approx(1)


def test_the_order_of_words_and_of_texts_does_not_matter():
    tower = load_text_encoder("words", "32")
    both = tower.encode(["red circle", "circle red"])
    torch.testing.assert_close(both[0], both[1])
    torch.testing.assert_close(load_text_encoder("words", "32").encode(["circle red"])[0], both[1], atol=0, rtol=0)
    assert both.shape == (2, 32)
    assert tower.digest != load_text_encoder("words").digest


def test_a_text_without_words_has_a_direction_too():
    assert float(load_text_encoder("words").encode(["?!"]).norm()) == pytest.approx(1)


@pytest.mark.parametrize("source", ["7", "wide", "5000", "-8"])
def test_a_width_that_is_none_is_refused(source):
    with pytest.raises(ConfigError, match=f"takes a width from 8 to 4096 as source, got '{source}'"):
        load_text_encoder("words", source)
