"""The golden Gaussian decoder and its input."""

from __future__ import annotations

import json

import torch
from goldens import ROOT, pack
from safetensors.torch import load_file

from tok4d import TokenSet
from tok4d.model.gaussians import GaussianDecoder
from tok4d.weights import load_atoken_gaussians


def load(softcap: float | None) -> tuple[GaussianDecoder, TokenSet]:
    """The tiny reference decoder and its input: two samples."""
    golden = load_file(ROOT / "gs_decoder.safetensors")
    described = json.loads((ROOT / "gs_decoder.json").read_text())
    config = {**described["args"], "representation_config": described["representation_config"]}
    weights = {name.removeprefix("sd."): tensor for name, tensor in golden.items() if name.startswith("sd.")}
    decoder = load_atoken_gaussians(weights, {"model": config}, softcap=softcap)
    sample, xyz = golden["coords"].split([1, 3], dim=1)
    t = torch.arange(len(sample), dtype=torch.int32)[:, None] % 3  # not in the golden: the decoder ignores it
    return decoder, pack(golden["feats"], torch.cat([sample, t, xyz], dim=1))
