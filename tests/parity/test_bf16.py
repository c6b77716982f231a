"""bf16 against float32, on the golden models.

bf16 keeps 8 bits: one rounding is off by up to 2^-9 = 0.2 % of a value, about 0.1 % rms. A block rounds its stream, its
hidden layers and its products, and these errors add up like random ones. Errors below are rms of the difference over
rms of the float32 output. Measured over all golden cases: encoder outputs 1.1 to 1.9 %, pooled 0.6 to 2.8 %, decoded
patches 0.5 to 0.6 %, Gaussian outputs 1.1 %. The bounds leave a factor of about 1.6 for other kernels.
"""

from __future__ import annotations

from functools import cache

import pytest
import torch
from gaussian_goldens import load as load_gaussians
from goldens import ROOT, load_case, load_model

from tok4d import Tokenizer
from tok4d.config.schema import FSQConfig
from tok4d.model.bottleneck import Encoded
from tok4d.model.fsq import FSQ

ENCODER, POOLED, COSINE = 0.03, 0.045, 0.999
DECODER = 0.01
GAUSSIANS = {"means": 7e-4, "scales": 0.025, "quaternions": 0.005, "opacities": 0.015, "colors": 0.02}
CASES = sorted(
    (folder.name, case.stem)
    for folder in ROOT.iterdir()
    if folder.is_dir()
    for case in folder.glob("[a-e]_*.safetensors")
)

exact = cache(lambda name: load_model(ROOT / name))
half = cache(lambda name: load_model(ROOT / name).to(torch.bfloat16))  # their weights are bf16 numbers: no loss here


def error(actual: torch.Tensor, expected: torch.Tensor) -> float:
    difference = actual.double() - expected.double()
    return float(difference.square().mean().sqrt() / expected.double().square().mean().sqrt())


@cache
def encoded(folder: str, case: str) -> tuple[Encoded, Encoded]:
    """A case in float32 and in bf16."""
    tokens, _ = load_case(ROOT / folder, case)
    with torch.no_grad():
        return exact(folder).encode(tokens), half(folder).encode(tokens.to(dtype=torch.bfloat16))


@pytest.mark.parametrize(("folder", "case"), CASES)
def test_encode(folder: str, case: str) -> None:
    wide, narrow = encoded(folder, case)
    assert narrow.posterior.mean.dtype == narrow.features.feats.dtype == torch.bfloat16
    assert error(narrow.features.feats, wide.features.feats) < ENCODER
    assert error(narrow.posterior.mean, wide.posterior.mean) < ENCODER
    assert error(narrow.posterior.logvar, wide.posterior.logvar) < ENCODER
    assert wide.pooled is not None
    assert narrow.pooled is not None
    assert error(narrow.pooled, wide.pooled) < POOLED
    cosine = torch.nn.functional.cosine_similarity(narrow.embedding.double(), wide.embedding.double())
    assert cosine.min() > COSINE


@pytest.mark.parametrize(("folder", "case"), CASES)
@torch.no_grad()
def test_decode(folder: str, case: str) -> None:
    tokens, golden = load_case(ROOT / folder, case)
    latents = tokens.replace(golden.get("fsq_codes", golden["mean"]))
    wide = exact(folder).decode(latents).feats
    narrow = half(folder).decode(latents.to(dtype=torch.bfloat16)).feats
    assert narrow.dtype == torch.bfloat16
    assert error(narrow, wide) < DECODER


@pytest.mark.parametrize("folder", sorted({folder for folder, _ in CASES}))
@torch.no_grad()
def test_autocast_is_no_worse_than_bf16_weights(folder: str) -> None:
    """What training uses: float32 weights, products in bf16."""
    tokens, _ = load_case(ROOT / folder, "a_image")
    with torch.autocast("cpu", torch.bfloat16):
        mixed = exact(folder).encode(tokens)
        patches = exact(folder).decode(tokens.replace(mixed.posterior.mean)).feats
    wide, _ = encoded(folder, "a_image")
    assert 0 < error(mixed.features.feats, wide.features.feats) < ENCODER
    assert 0 < error(patches, exact(folder).decode(tokens.replace(mixed.posterior.mean)).feats) < DECODER


def quantizer_of(model: Tokenizer) -> FSQ:
    """The model's own, or one that fits its latents."""
    return model.quantizer or FSQ(FSQConfig(groups=model.config.latent // 4, levels=[4] * 4))


@pytest.mark.parametrize(("folder", "case"), CASES)
def test_codes(folder: str, case: str) -> None:
    """A latent near a border between two levels may cross it: 1 to 1.6 % of the channels do, none by two levels.

    An index holds several channels, so that more of them change: 4 to 14 %.
    """
    wide, narrow = (one.posterior.mean for one in encoded(folder, case))
    quantizer = quantizer_of(half(folder))
    values, indices = quantizer(wide)
    values_bf16, indices_bf16 = quantizer(narrow)
    assert values_bf16.dtype == torch.float32
    assert (values == values_bf16).float().mean() > 0.975
    assert (values - values_bf16).abs().max() <= 0.5
    assert (indices == indices_bf16).float().mean() > 0.8


@pytest.mark.parametrize(("folder", "case"), CASES[:1] + CASES[-1:])
def test_the_quantizer_itself_loses_nothing(folder: str, case: str) -> None:
    """Rounding is float32 arithmetic whatever comes in: bf16 latents give the codes of their float32 copies."""
    _, narrow = encoded(folder, case)
    quantizer = quantizer_of(half(folder)).to(torch.bfloat16)
    values, indices = quantizer(narrow.posterior.mean.float())
    with torch.autocast("cpu", torch.bfloat16):
        values_bf16, indices_bf16 = quantizer(narrow.posterior.mean)
    assert torch.equal(indices, indices_bf16)
    assert torch.equal(values, values_bf16)


@pytest.mark.parametrize("softcap", [None, 30.0])
@torch.no_grad()
def test_gaussians(softcap: float | None) -> None:
    """The last norm, the last layer and the activations are float32 arithmetic; what is left is the blocks' error."""
    wide, tokens = load_gaussians(softcap)
    narrow, _ = load_gaussians(softcap)
    narrow.to(torch.bfloat16)
    half_tokens = tokens.to(dtype=torch.bfloat16)
    assert narrow.raw(half_tokens).dtype == torch.float32
    assert error(narrow.raw(half_tokens), wide.raw(tokens)) < 0.018
    for expected, actual in zip(wide(tokens), narrow(half_tokens), strict=True):
        for name, bound in GAUSSIANS.items():
            assert getattr(actual, name).dtype == torch.float32
            assert error(getattr(actual, name), getattr(expected, name)) < bound, name
