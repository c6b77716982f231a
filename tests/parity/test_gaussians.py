"""The Gaussian decoder equals the numeric contract on golden data: max abs error 5e-5 in float32."""

from __future__ import annotations

import pytest
import torch
from gaussian_goldens import load
from goldens import ROOT
from safetensors.torch import load_file

from tok4d import TokenSet
from tok4d.model.gaussians import GaussianDecoder
from tok4d.nn.windows import windows

TOLERANCE = 5e-5
VARIANTS = {"nosoftcap": ("gs_decoder", None), "softcap30": ("gs_decoder_flash_softcap30", 30.0)}


def outputs(decoder: GaussianDecoder, tokens: TokenSet) -> dict[str, torch.Tensor]:
    """Everything the golden files hold, by their names."""
    streams: dict[int, torch.Tensor] = {}
    for i, block in enumerate(decoder.blocks):
        block.register_forward_hook(lambda _block, _inputs, result, i=i: streams.update({i: result}))
    raw = decoder.raw(tokens)
    config, made = decoder.config, {"h": raw}
    for i, stream in streams.items():  # blocks run in the order of their windows
        grouped = windows(tokens, config.window, i % 2 * config.window // 2, config.resolution)
        made[f"block{i}"] = stream[grouped.inverse]
    for i, gaussians in enumerate(decoder(tokens)):
        made[f"{i}.xyz"], made[f"{i}.scaling"] = gaussians.means, gaussians.scales
        made[f"{i}.rotation"], made[f"{i}.opacity"] = gaussians.quaternions, gaussians.opacities[:, None]
        made[f"{i}.features"] = gaussians.colors[:, None]
        made[f"{i}.raw_xyz"] = gaussians.means + 0.5
    for name, part in decoder.split(raw).items():
        for i, piece in enumerate(part.split(tokens.lengths)):
            made[f"{i}.raw_{name}"] = piece.flatten(0, 1)
    return made


@pytest.mark.parametrize("variant", VARIANTS)
@torch.no_grad()
def test_every_golden_tensor(variant: str) -> None:
    file, softcap = VARIANTS[variant]
    golden = {
        name.removeprefix(f"{variant}."): tensor
        for name, tensor in load_file(ROOT / f"{file}.safetensors").items()
        if name.startswith(f"{variant}.")
    }
    assert "h" in golden
    made = outputs(*load(softcap))
    for name, expected in golden.items():
        assert made[name].dtype == torch.float32
        assert (made[name] - expected).abs().max() <= TOLERANCE, name


@torch.no_grad()
def test_the_softcap_matters_in_these_goldens() -> None:
    (with_cap, tokens), (without, _) = load(30.0), load(None)
    assert (with_cap.raw(tokens) - without.raw(tokens)).abs().max() > 1000 * TOLERANCE
