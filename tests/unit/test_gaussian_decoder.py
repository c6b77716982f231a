"""The Gaussian decoder: by hand, against a dense double-precision loop, and at its edges."""

from __future__ import annotations

from dataclasses import replace
from math import atanh, log, sqrt, tanh

import pytest
import torch
from made import make_tokens
from torch import Tensor

from tok4d.config.gaussians import GaussianConfig
from tok4d.errors import ConfigError, Tok4dError
from tok4d.model.gaussians import SH_DC, GaussianDecoder, Gaussians, hammersley
from tok4d.tokens import TokenSet

CONFIG = GaussianConfig(resolution=12, latent=10, width=32, blocks=3, heads=2, mlp=24, num_gaussians=4, softcap=2.0)
GRID = (3, 12, 12, 12)
FIELDS = ("means", "scales", "quaternions", "opacities", "colors")


def decoder_with_weights(config: GaussianConfig = CONFIG) -> GaussianDecoder:
    """No tensor at its neutral start, or its place would not matter."""
    decoder = GaussianDecoder(config)
    rng = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in decoder.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=rng) * 0.3)
    return decoder.eval()


def voxels(*places: tuple[int, int, int], width: int = CONFIG.latent) -> TokenSet:
    coords = torch.tensor([(0, *place) for place in places], dtype=torch.int32)
    return TokenSet(torch.ones(len(places), width), coords, (len(places),))


def norm(x: Tensor, weight: Tensor) -> Tensor:
    return x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt() * weight


def dense(weights: dict[str, Tensor], x: Tensor, tokens: TokenSet, config: GaussianConfig) -> Tensor:
    """The blocks with a dense mask, written with plain products."""
    heads, softcap = config.heads, config.softcap
    assert softcap is not None
    for i in range(config.blocks):
        cell = (tokens.coords[:, 1:] + i % 2 * (config.window // 2)) // config.window
        place = torch.cat([tokens.seqs.index[:, None], cell], dim=1)
        apart = (place[:, None] != place[None, :]).any(-1)
        part = {name.removeprefix(f"blocks.{i}."): w for name, w in weights.items()}
        qkv = (norm(x, part["norm1.weight"]) @ part["attn.to_qkv.weight"].T).view(len(x), 3, heads, -1)
        q, k, v = qkv.permute(1, 2, 0, 3)
        logits = softcap * torch.tanh(q @ k.transpose(1, 2) / sqrt(q.shape[-1]) / softcap)
        mixed = logits.masked_fill(apart, float("-inf")).softmax(-1) @ v
        x = x + mixed.transpose(0, 1).flatten(1) @ part["attn.to_out.weight"].T
        hidden = norm(x, part["norm2.weight"]) @ part["mlp.mlp.0.weight"].T
        x = x + torch.nn.functional.gelu(hidden, approximate="tanh") @ part["mlp.mlp.2.weight"].T
    return x


@pytest.mark.parametrize("blocks", [1, 2, 3])
def test_the_blocks_and_their_gradients_equal_dense_attention(blocks):
    config = replace(CONFIG, blocks=blocks)
    decoder = decoder_with_weights(config).double()
    tokens = make_tokens([60, 0, 45], 1, GRID)
    rng = torch.Generator().manual_seed(1)
    x, weight = (torch.randn(105, 32, generator=rng, dtype=torch.float64) for _ in range(2))
    x.requires_grad_()
    out = decoder.run(x, tokens)
    expected = dense(dict(decoder.named_parameters()), x, tokens, config)
    assert (out - expected).abs().max() < 1e-10
    inputs = [x, *decoder.blocks.parameters()]
    got = torch.autograd.grad((out * weight).sum(), inputs)
    wanted = torch.autograd.grad((expected * weight).sum(), inputs)
    assert max((a - b).abs().max() for a, b in zip(got, wanted, strict=True)) < 1e-9


@torch.no_grad()
def test_a_sample_does_not_depend_on_its_batch():
    decoder = decoder_with_weights()
    tokens = make_tokens([50, 0, 200, 31], 16, GRID)
    together = decoder(tokens)
    assert [len(gaussians) for gaussians in together] == [200, 0, 800, 124]
    for alone, gaussians in zip(tokens.unpack(), together, strict=True):
        (expected,) = decoder(alone)
        for name in FIELDS:
            assert torch.allclose(getattr(gaussians, name), getattr(expected, name), atol=1e-5, rtol=0)


@torch.no_grad()
def test_order_follows_the_tokens_and_t_does_not_count():
    decoder = decoder_with_weights()
    tokens = make_tokens([80], CONFIG.latent, (1, 12, 12, 12))
    shuffle = torch.randperm(80, generator=torch.Generator().manual_seed(0))
    coords = tokens.coords[shuffle].clone()
    coords[:, 0] = torch.arange(80) % 3
    moved = decoder.raw(TokenSet(tokens.feats[shuffle], coords, (80,)))
    assert torch.allclose(moved, decoder.raw(tokens)[shuffle], atol=1e-5)


def test_only_the_first_channels_are_read():
    decoder = decoder_with_weights()
    tokens = make_tokens([20], 16, GRID)
    other = tokens.feats.clone()
    other[:, CONFIG.latent :] = 7
    assert torch.equal(decoder.raw(tokens), decoder.raw(tokens.replace(other)))
    with pytest.raises(Tok4dError, match="reads 10 channels, got only 9"):
        decoder(make_tokens([20], 9, GRID))


def test_hammersley_by_hand():
    points = hammersley(32)
    expected = [[0, 0, 0], [1 / 32, 1 / 2, 1 / 3], [2 / 32, 1 / 4, 2 / 3], [3 / 32, 3 / 4, 1 / 9]]
    assert torch.allclose(points[:4], torch.tensor(expected, dtype=torch.float64), atol=1e-15)
    assert len(points.unique(dim=0)) == 32


def test_a_new_decoder_by_hand():
    """All outputs are zero: the voxel (3, 0, 11) of 12 has small grey Gaussians at their start."""
    (made,) = GaussianDecoder(CONFIG)(voxels((3, 0, 11)))
    for row, point in zip(made.means.tolist(), hammersley(4).tolist(), strict=True):
        for value, coordinate, u in zip(row, (3, 0, 11), point, strict=True):
            offset = tanh(atanh((2 * u - 1) / 1.5)) * 0.75 / 12
            assert value == pytest.approx((coordinate + 0.5) / 12 + offset - 0.5, abs=1e-6)
    assert torch.allclose(made.scales, torch.full((4, 3), sqrt(0.004**2 + 9e-4**2)), atol=1e-7)
    assert torch.equal(made.quaternions, torch.tensor([[1.0, 0, 0, 0]] * 4))
    assert torch.allclose(made.opacities, torch.full((4,), 0.1))
    assert torch.equal(made.colors, torch.zeros(4, 3))
    assert torch.equal(made.rgb, torch.full((4, 3), 0.5))


def test_every_part_and_gain_by_hand():
    """Output channel i of voxel 0 is i / 56: each part reads its own channels, times its own gain."""
    gains = {"offset": 2.0, "color": 3.0, "scaling": 0.5, "rotation": 0.1, "opacity": 4.0}
    config = replace(CONFIG, **{f"{name}_gain": gain for name, gain in gains.items()})
    decoder = GaussianDecoder(config)
    raw = torch.arange(56.0)[None] / 56
    made = decoder.activate(raw, torch.tensor([[0, 5, 5, 5]], dtype=torch.int32))
    x = [i / 56 for i in range(56)]
    start = decoder.offset_perturbation
    assert made.means[1, 2] == pytest.approx(5.5 / 12 - 0.5 + tanh(2 * x[5] + float(start[1, 2])) * 0.75 / 12)
    assert made.colors[2, 1] == pytest.approx(3 * x[12 + 7])
    bias = 0.004 + log(1 - 2.718281828459045**-0.004)
    softplus = log(1 + 2.718281828459045 ** (0.5 * x[24 + 4] + bias))
    assert made.scales[1, 1] == pytest.approx(sqrt(softplus**2 + 9e-4**2), rel=1e-5)
    q = torch.tensor([1 + 0.1 * x[36 + 4], *(0.1 * x[36 + i] for i in (5, 6, 7))])
    assert torch.allclose(made.quaternions[1], q / q.norm())
    assert made.opacities[3] == pytest.approx(1 / (1 + 9 * 2.718281828459045 ** (-4 * x[55])))
    assert made.rgb[2, 1] == pytest.approx(0.5 + SH_DC * 3 * x[12 + 7])


def test_gradients_stay_finite_at_the_edges():
    """Huge outputs either way, and a quaternion of exactly zero, which becomes the identity."""
    decoder = GaussianDecoder(replace(CONFIG, rotation_gain=1.0))
    raw = torch.stack([torch.full((56,), -200.0), torch.full((56,), 200.0), torch.zeros(56)])
    raw[2, 36::4][:4] = -1.0
    raw.requires_grad_()
    made = decoder.activate(raw, torch.zeros(3, 4, dtype=torch.int32))
    assert torch.equal(made.quaternions[8:], torch.tensor([[1.0, 0, 0, 0]] * 4))
    assert torch.allclose(made.quaternions.norm(dim=1), torch.ones(12))
    sum(getattr(made, name).sum() for name in FIELDS).backward()
    assert torch.isfinite(raw.grad).all()
    assert made.scales.min() >= 9e-4 * 0.999


def test_empty_samples():
    decoder = decoder_with_weights()
    nothing = make_tokens([0, 0], CONFIG.latent, GRID)
    assert [len(gaussians) for gaussians in decoder(nothing)] == [0, 0]
    assert decoder.raw(nothing).shape == (0, 56)
    assert decoder(TokenSet(torch.zeros(0, 10), torch.zeros(0, 4, dtype=torch.int32), ())) == []


def test_a_voxel_outside_the_grid_is_refused():
    with pytest.raises(Tok4dError, match=r"\(0, 12, 0\) is outside the grid of 12\^3"):
        decoder_with_weights()(voxels((0, 12, 0)))


def test_training_reaches_every_parameter():
    decoder = GaussianDecoder(CONFIG)
    tokens = make_tokens([40], CONFIG.latent, GRID)
    optimizer = torch.optim.SGD(decoder.parameters(), lr=1.0)
    for _ in range(2):  # the last layer starts at zero and lets gradients through from the second step on
        optimizer.zero_grad()
        (made,) = decoder(tokens)
        uneven = torch.linspace(1, 2, len(made))  # or the sum over unit quaternions would be constant
        sum((uneven @ getattr(made, name).view(len(made), -1)).sum() for name in FIELDS).backward()
        optimizer.step()
    assert [name for name, p in decoder.named_parameters() if p.grad is None or not p.grad.abs().max() > 0] == []


def test_gaussians_refuse_shapes_that_do_not_fit():
    with pytest.raises(Tok4dError, match=r"quaternions of 2 Gaussians must be \(2, 4\), got \(2, 3\)"):
        Gaussians(torch.zeros(2, 3), torch.ones(2, 3), torch.zeros(2, 3), torch.ones(2), torch.zeros(2, 3))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"window": 0}, "window must be a whole number from 1"),
        ({"latent": 1.5}, "latent must be a whole number"),
        ({"blocks": 10**4}, "blocks must be at most 1000"),
        ({"heads": 5}, "width 32 must be divisible by heads 5"),
        ({"width": 4, "heads": 1}, "width must be at least 6"),
        ({"voxel_size": 1.0}, "voxel_size must be a number above 1 and finite, got 1.0"),
        ({"softcap": -30.0}, "softcap must be a number above 0"),
        ({"filter_3d": 0.0}, "filter_3d must be a number above 0"),
        ({"filter_2d": -0.1}, "filter_2d must be a number above 0"),
        ({"opacity_bias": 1.0}, "opacity_bias must be a number above 0 and below 1"),
        ({"scaling_bias": float("nan")}, "scaling_bias must be a number above 0"),
        ({"rotation_gain": float("inf")}, "rotation_gain must be a number above 0"),
    ],
)
def test_unusable_configurations_are_refused(change, reason):
    with pytest.raises(ConfigError, match=reason):
        GaussianDecoder(replace(CONFIG, **change))
