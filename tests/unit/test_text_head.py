"""The text head: the embedding in a text tower's space, with learned constants, saved with the model."""

from __future__ import annotations

import math

import pytest
import torch

from tok4d import Tokenizer
from tok4d.errors import Tok4dError
from tok4d.testing import tiny_tokenizer
from tok4d.tokens import TokenSet

TEXT = {"kind": "minilm", "width": 24, "log_scale": math.log(10), "bias": -10.0}


def batch(model: Tokenizer) -> TokenSet:
    frames, height, width = model.patch_size
    coords = torch.tensor([[0, 0, 0, 0], [0, 0, 1, 0], [0, 1, 0, 0]], dtype=torch.int32)
    feats = torch.randn(3, frames * height * width * 3, generator=torch.Generator().manual_seed(0))
    return TokenSet(feats, coords, (1, 2))


@pytest.fixture
def model() -> Tokenizer:
    torch.manual_seed(0)
    plain = tiny_tokenizer().config
    return Tokenizer.from_preset(
        "tiny", text=TEXT, encoder={"width": 16, "heads": 2, "blocks": 1, "mlp": 16}, latent=plain.latent
    ).eval()


def test_the_embedding_is_the_projected_pooled_vector(model):
    encoded = model.encode(batch(model))
    assert encoded.pooled.shape == (2, 16)
    expected = encoded.pooled @ model.text_head.proj.weight.T
    expected = expected / expected.norm(dim=1, keepdim=True)
    torch.testing.assert_close(encoded.embedding, expected)
    assert model.embedding_width == 24


def test_a_stream_gives_the_same_embedding(model):
    tokens = batch(model)
    stream = model.encode_stream()
    stream(tokens)
    torch.testing.assert_close(stream.embedding, model.encode(tokens).embedding)


def test_constants_are_learned_and_saved(model, tmp_path):
    with torch.no_grad():
        model.text_head.log_scale.fill_(2.0)
        model.text_head.bias.fill_(-3.5)
    model.save_pretrained(tmp_path / "m")
    again = Tokenizer.from_pretrained(tmp_path / "m")
    assert again.text_constants() == pytest.approx((2.0, -3.5))
    assert again.digest == model.digest


def test_the_scale_is_clamped(model):
    with torch.no_grad():
        model.text_head.log_scale.fill_(9.0)
    assert float(model.text_head.scale.detach()) == pytest.approx(math.exp(5.0))
    assert model.text_constants()[0] == pytest.approx(5.0)


def test_equal_widths_need_no_projection():
    model = Tokenizer.from_preset(
        "tiny", text={**TEXT, "width": 16}, encoder={"width": 16, "heads": 2, "blocks": 1, "mlp": 16}
    )
    assert model.text_head.proj is None
    assert sorted(name for name, _ in model.named_parameters() if name.startswith("text_head")) == [
        "text_head.bias",
        "text_head.log_scale",
    ]


def test_without_a_width_the_constants_are_the_configs():
    stack = {"width": 16, "heads": 2, "blocks": 1, "mlp": 16}
    model = Tokenizer.from_preset("tiny", text={"kind": "siglip2", "source": "x"}, encoder=stack)
    assert model.text_head is None
    assert model.text_constants() == (4.8438, -15.5625)
    assert model.embedding_width == 16
    with pytest.raises(Tok4dError, match="aligned with no text"):
        Tokenizer.from_preset("tiny", encoder=stack).text_constants()
