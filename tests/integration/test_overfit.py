"""Eight generated pictures with captions, every objective: its loss falls, and reconstructions come closer.

A term with a wrong sign, or one that never reaches the weights, fails here. On a trunk with random weights.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[1] / "unit"))

from loss_inputs import HashTower, SmallTrunk, use_tower, use_trunk

from tok4d.config.schema import TaskConfig
from tok4d.data.build import build_source
from tok4d.losses import Objective
from tok4d.metrics import psnr
from tok4d.modality import Sample
from tok4d.model.bottleneck import Encoded
from tok4d.model.tokenizer import Tokenizer
from tok4d.plugins.registry import modality
from tok4d.testing import tiny_tokenizer
from tok4d.tokens import TokenSet

STEPS = 30
RECONSTRUCTION: dict[str, Any] = {
    "l1": {"l1": 1},
    "l2": {"l2": 1},
    "charbonnier": {"charbonnier": 1},
    "ssim": {"ssim": 1},
    "ms_ssim": {"ms_ssim": 1},
    "lpips": {"lpips": {"size": None}},
    "lpips alex": {"lpips": {"net": "alex", "size": 24}},
    # Deep features and textures alone need not come closer in PSNR, nor does a trace of KL.
    "teacher": {"l1": 1, "teacher": {"network": "vgg16", "size": None}},
    "gram": {"l1": 1, "gram": {"weight": 1000, "size": None}},
    "kl": {"l1": 1, "kl": 1e-4},
}
SEMANTIC: dict[str, Any] = {
    "sigmoid": {"sigmoid": 1},
    "distill": {"distill": {"teacher_log_scale": 2.0}},
    "bank": {"distill": {"bank": ["a disc", "stripes", "a texture"], "teacher_log_scale": 2.0}},
}
ALL = {
    "l1": 1,
    "l2": 1,
    "charbonnier": 1,
    "kl": 1e-6,
    "ssim": 0.2,
    "ms_ssim": 0.2,
    "lpips": {"weight": 1, "size": None},
    "gram": {"weight": 1000, "size": None},
    "teacher": {"weight": 1, "network": "vgg16", "size": None},
    "sigmoid": 0.1,
    "distill": {"weight": 1, "teacher_log_scale": 2.0},
}


class Colours:
    """A teacher's classifier that knows red, green and blue."""

    class_names = ("red", "green", "blue")

    def logits(self, pictures: Tensor) -> Tensor:
        return 3 * pictures.mean((2, 3))


@pytest.fixture(scope="module")
def samples() -> list[Sample]:
    source = build_source(TaskConfig(source="image/shapes", options={"count": 8, "side": 32, "split": "all"}))
    return [source.load(index) for index in range(8)]


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """These tensors are tiny; handing them to a second thread costs more than it saves."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def networks(monkeypatch: pytest.MonkeyPatch) -> None:
    use_trunk(monkeypatch, SmallTrunk())
    use_tower(monkeypatch, HashTower())
    monkeypatch.setattr("tok4d.losses.teachers.load_network", lambda name, device: Colours())


def overfit(config: dict[str, Any], samples: list[Sample]) -> tuple[dict[str, list[float]], list[float], Encoded]:
    """Values of the total and of every term by step, PSNR by step, and what the encoder makes of the samples last."""
    text = {"kind": "minilm", "width": 6, "log_scale": 2.3026, "bias": -2.0}
    model = tiny_tokenizer((1, 8, 8), text=text).train()
    host = modality("image")
    tokens = TokenSet.pack([host.patchify(sample, (1, 8, 8)) for sample in samples])
    objective = Objective.from_config(config)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.0)
    losses: dict[str, list[float]] = {}
    quality = []
    for step in range(STEPS + 1):
        encoded, got = _reconstruct(model, tokens, objective.pools)
        loss = objective(samples, got, encoded)
        for name, value in {"total": loss.total.detach(), **loss.terms}.items():
            losses.setdefault(name, []).append(float(value))
        scores = [psnr(one.data["image"], sample.data["image"]) for one, sample in zip(got, samples, strict=True)]
        quality.append(sum(scores) / len(scores))
        if step < STEPS:
            optimizer.zero_grad()
            loss.total.backward()
            optimizer.step()
    assert min(min(values) for values in losses.values()) > -1e-6, "a distance with a wrong sign falls too"
    return losses, quality, encoded


def _reconstruct(model: Tokenizer, tokens: TokenSet, pool: bool) -> tuple[Encoded, list[Sample]]:
    encoded = model.encode(tokens, pool=pool)
    return encoded, modality("image").unpatchify(model.decode(encoded.latents()))


@pytest.mark.parametrize("name", sorted(RECONSTRUCTION))
def test_reconstruction(name: str, samples: list[Sample]) -> None:
    losses, quality, _ = overfit(RECONSTRUCTION[name], samples)
    assert losses["total"][-1] < 0.9 * losses["total"][0]
    assert quality[-1] > quality[0] + 0.5
    term = list(RECONSTRUCTION[name])[-1]
    if term != "kl":
        assert losses[term][-1] < 0.9 * losses[term][0]


@pytest.mark.parametrize("name", sorted(SEMANTIC))
def test_understanding(name: str, samples: list[Sample]) -> None:
    losses, _, _ = overfit(SEMANTIC[name], samples)
    assert losses["total"][-1] < 0.7 * losses["total"][0]


def test_the_sigmoid_loss_brings_every_picture_to_its_caption(samples: list[Sample]) -> None:
    _, _, encoded = overfit({"sigmoid": 1}, samples)
    texts = HashTower().encode([sample.caption or "" for sample in samples])
    nearest = (encoded.embedding.detach() @ texts.T).argmax(1)
    assert int((nearest == torch.arange(8)).sum()) >= 6


def test_all_together(samples: list[Sample]) -> None:
    losses, quality, _ = overfit(ALL, samples)
    assert set(losses) == {"total", *ALL}
    assert losses["total"][-1] < 0.8 * losses["total"][0]
    assert quality[-1] > quality[0] + 0.5
    rising = [name for name, values in losses.items() if values[-1] >= values[0]]
    assert set(rising) <= {"kl"}
