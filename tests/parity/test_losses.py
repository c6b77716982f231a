"""Losses with their pretrained networks: the lpips package, SigLIP2 of transformers, photographs.

Weights come through their recipes into the shared cache, fetched on a machine that has none yet.
"""

from __future__ import annotations

import math
import warnings
from pathlib import Path
from typing import Any

import pytest
import siglip2_towers as towers
import torch
import torch.nn.functional as F
from photographs import jpeg, read
from torch import Tensor

from tok4d.errors import ConfigError
from tok4d.losses import LPIPS, GramLoss, MSSSIMLoss, Objective, SSIMLoss, TeacherPerceptual
from tok4d.losses.semantic import Distillation
from tok4d.losses.vision import load_tower
from tok4d.modality import Sample
from tok4d.model.bottleneck import Encoded, Posterior
from tok4d.networks import Trunk, load_network
from tok4d.text import TextEncoder, load_text_encoder
from tok4d.tokens import TokenSet


def package(net: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The lpips package's module with our trunk's weights in its trunk."""
    lpips = pytest.importorskip("lpips")
    for start in ("kaiming_normal_", "kaiming_uniform_", "normal_"):  # seconds, for weights that are replaced
        monkeypatch.setattr(torch.nn.init, start, lambda tensor, *_, **__: tensor)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torchvision, to the package's author
        made = lpips.LPIPS(net=net, pnet_rand=True, verbose=False)
    convolutions, own = (
        [module for module in network.modules() if isinstance(module, torch.nn.Conv2d)]
        for network in (made.net, load_network({"vgg": "vgg16", "alex": "alexnet"}[net]))
    )
    for module, ours in zip(convolutions, own, strict=True):
        module.load_state_dict(ours.state_dict())
    return made


@pytest.mark.parametrize("net", ["vgg", "alex"])
def test_lpips_equals_the_lpips_package(net: str, photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Values to 1e-6, gradients too."""
    theirs, ours = package(net, monkeypatch), LPIPS(net)
    image = read(photos / "chelsea.png", (150, 70, 182, 118))
    others = torch.cat([jpeg(image, 20), image.flip(3), torch.zeros_like(image)])
    found, expected = [], []
    for loss, gradients in ((ours, found), (theirs, expected)):
        x = others.clone().requires_grad_()
        values = loss(x, image.expand_as(x)).flatten()
        values[:2].sum().backward()
        gradients += [values.detach(), x.grad]
    torch.testing.assert_close(found[0], expected[0], atol=1e-6, rtol=0)
    torch.testing.assert_close(found[1], expected[1], atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize(
    "loss",
    [LPIPS("vgg"), LPIPS("alex"), GramLoss(), TeacherPerceptual("vgg16"), SSIMLoss(), MSSSIMLoss()],
    ids=["vgg", "alex", "gram", "teacher", "ssim", "ms_ssim"],
)
def test_worse_jpegs_cost_more(loss: torch.nn.Module, photos: Path) -> None:
    image = read(photos / "chelsea.png", (160, 88, 224, 152))
    with torch.no_grad():
        values = [float(loss(jpeg(image, quality), image)) for quality in (90, 50, 10, 2)]
        assert float(loss(image, image)) == 0
    assert [0, *values] == sorted([0, *values])
    assert len(set(values)) == 4


@pytest.mark.parametrize("fill", [-1.0, 1e3])
@pytest.mark.parametrize("bf16", [False, True])
def test_finite_with_the_real_trunk(fill: float, bf16: bool) -> None:
    wanted = 1e3 * torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    for loss in (LPIPS("vgg"), GramLoss(), TeacherPerceptual("vgg16")):
        x = torch.full((1, 3, 16, 16), fill, requires_grad=True)
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            value = loss(x, wanted)
        value.sum().backward()
        assert bool(value.isfinite().all())
        assert x.grad is not None
        assert bool(x.grad.isfinite().all())


def test_the_real_trunk_in_float64(photos: Path) -> None:
    """Pictures in float64 are compared in float64; the slope of a random direction is that of finite differences."""
    image = read(photos / "coffee.png", (160, 160, 176, 176)).double()
    turn = torch.randn(image.shape, generator=torch.Generator().manual_seed(0)).double()
    for loss in (LPIPS("vgg"), GramLoss()):
        x = (image + 0.3 * turn).requires_grad_()
        value = loss(x, image)
        value.sum().backward()
        assert value.dtype == torch.float64
        assert x.grad is not None
        with torch.no_grad():
            slope = float((loss(x + 1e-6 * turn, image) - loss(x - 1e-6 * turn, image)) / 2e-6)
        assert float((x.grad * turn).sum()) == pytest.approx(slope, rel=1e-4)
    trunk = load_network("vgg16")
    assert isinstance(trunk, Trunk)
    assert {parameter.dtype for parameter in trunk.parameters()} == {torch.float32}, "the shared one stays as it is"


def encoded(pooled: Tensor) -> Encoded:
    count = len(pooled)
    tokens = TokenSet(torch.zeros(count, 1), torch.arange(4 * count, dtype=torch.int32).view(count, 4), (1,) * count)
    return Encoded(tokens, Posterior(torch.zeros(count, 2), torch.zeros(count, 2)), pooled=pooled)


class Letters(TextEncoder):
    """Stands for SigLIP2's text tower."""

    kind, width, device, digest = "siglip2", 64, torch.device("cpu"), "letters"

    def forward(self, texts: list[str]) -> Tensor:
        seeds = (torch.Generator().manual_seed(sum(map(ord, text))) for text in texts)
        return torch.stack([torch.randn(64, generator=seed) for seed in seeds])


@pytest.fixture(scope="module", params=["naflex", "fixed"])
def tower(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any, Any]:
    """Folder, model, and what `transformers` computes of a list of pictures."""
    made = towers.naflex() if request.param == "naflex" else towers.fixed()
    folder = towers.save(made, tmp_path_factory.mktemp(request.param))
    return folder, made, towers.run_naflex if request.param == "naflex" else towers.run_fixed


def test_teacher_features_are_siglips(tower: tuple[Path, Any, Any]) -> None:
    folder, model, run = tower
    x, y = (torch.stack([towers.picture(3, 5, seed) for seed in seeds]) for seeds in ((1, 2), (3, 4)))
    expected = []
    for one, other in zip(run(model, list(x)), run(model, list(y)), strict=True):
        cosine = F.cosine_similarity(one[0], other[0], dim=1)
        expected.append(float((1 - cosine).mean() + (one[0] - other[0]).abs().mean()))
    loss = TeacherPerceptual(source=str(folder))
    assert loss(x, y).tolist() == pytest.approx(expected, rel=1e-4)
    assert loss(x, x).tolist() == [0.0, 0.0]
    z = x.clone().requires_grad_()
    loss(z, y).sum().backward()
    assert z.grad is not None
    assert float(z.grad.abs().max()) > 0
    assert load_tower(str(folder)) is load_tower(str(folder))
    with pytest.raises(ConfigError, match=r"patches of 16 pixels and got 48x79"):
        loss(x[..., :79], y[..., :79])


def test_the_term_shares_the_tower_and_needs_no_gradients_of_targets(tower: tuple[Path, Any, Any]) -> None:
    folder, model, run = tower
    target, got = (Sample("image", {"image": towers.picture(4, 4, seed)}) for seed in (1, 2))
    objective = Objective.from_config({"teacher": {"source": str(folder), "size": 64}})
    value = objective([target], [got], encoded(torch.zeros(1, 4))).total
    one, other = (run(model, [sample.data["image"]])[0][0] for sample in (target, got))
    expected = (1 - F.cosine_similarity(one, other, dim=1)).mean() + (one - other).abs().mean()
    assert float(value) == pytest.approx(float(expected), rel=1e-4)


def test_distillation_from_siglip(tower: tuple[Path, Any, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """With the checkpoint's own scale for the teacher."""
    folder, model, run = tower
    with torch.no_grad():
        model.logit_scale.fill_(1.25)
    towers.save(model, folder)
    monkeypatch.setattr("tok4d.losses.texts.load_text_encoder", lambda kind, source, device: Letters())
    monkeypatch.setattr("tok4d.losses.texts._banks", {})
    monkeypatch.setattr("tok4d.losses.vision._towers", {})
    bank = ["a cat", "two dogs", "a red chair"]
    samples = [Sample("image", {"image": towers.picture(4, 4, seed)}) for seed in (1, 2)]
    pooled = torch.randn(2, 64, generator=torch.Generator().manual_seed(0))
    found = Distillation("siglip2", str(folder), bank=bank, size=64, log_scale=2.0)(samples, samples, encoded(pooled))
    texts = Letters().encode(bank)
    teacher = torch.stack([run(model, [sample.data["image"]])[0][1] for sample in samples])
    p, q = (
        (math.exp(scale) * F.normalize(vectors, dim=1) @ texts.T / 2).softmax(1)
        for scale, vectors in ((1.25, teacher), (2.0, pooled))
    )
    torch.testing.assert_close(found, (p * (p / q).log()).sum(1), rtol=1e-4, atol=1e-6)


def test_the_offline_teacher_knows_what_is_on_a_photograph(photos: Path) -> None:
    """EfficientNet-Lite0 and MiniLM: a student at the right caption is nearer to it than one at another."""
    texts = ["a photo of a cat", "a cup of coffee", "a rocket in the sky"]
    files = ["chelsea.png", "coffee.png", "rocket.jpg"]
    samples = [Sample("image", {"image": read(photos / file)[0]}) for file in files]
    vectors = load_text_encoder("minilm").encode(texts)
    term = Distillation(bank=texts, teacher_log_scale=3.0, log_scale=3.0)
    with torch.no_grad():
        right, wrong = (term(samples, samples, encoded(v)) for v in (vectors, vectors.roll(1, 0)))
    assert bool((right < wrong).all())
