"""The sigmoid loss and distillation against their formulas in numpy, on made-up towers."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from loss_inputs import HashTower, clip, encoded, image, noise, use_tower
from torch import Tensor

from tok4d.config.schema import TextConfig
from tok4d.errors import ConfigError
from tok4d.losses import Objective
from tok4d.losses.semantic import Distillation, Sigmoid
from tok4d.losses.texts import FrozenTexts, TextOptions
from tok4d.modality import Sample
from tok4d.model.text_head import TextHead
from tok4d.text import EmbeddingCache

CAPTIONS = ["a red chair", "a dog", "A  RED chair", "two cups"]  # the first and the third are one text
SAMPLES = [image(noise(3, 16, 16, seed=i), text, key=f"{i}.png") for i, text in enumerate(CAPTIONS)]
POOLED = noise(4, 6, seed=9)
SAME = np.array([[1, 0, 1, 0], [0, 1, 0, 0], [1, 0, 1, 0], [0, 0, 0, 1]], dtype=bool)


@pytest.fixture(autouse=True)
def tower(monkeypatch: pytest.MonkeyPatch) -> HashTower:
    return use_tower(monkeypatch, HashTower())


class Classifier:
    """Stands for EfficientNet-Lite0: three classes, logits from the mean colour."""

    class_names = ("cat", "chair", "cup")

    def logits(self, pictures: Tensor) -> Tensor:
        return 20 * pictures.mean((2, 3))


@pytest.fixture
def classifier(monkeypatch: pytest.MonkeyPatch) -> Classifier:
    made = Classifier()
    monkeypatch.setattr("tok4d.losses.teachers.load_network", lambda name, device: made)
    return made


def head(log_scale: float = 1.5, bias: float = -2.0, width: int = 6) -> TextHead:
    return TextHead(TextConfig(kind="minilm", log_scale=log_scale, bias=bias, width=width), 6)


def unit(x: Any) -> np.ndarray:
    x = np.asarray(x, dtype=np.float64)
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def vectors(texts: list[str]) -> np.ndarray:
    return HashTower().encode(texts).double().numpy()


def softmax(x: np.ndarray) -> np.ndarray:
    x = np.exp(x - x.max(-1, keepdims=True))
    return x / x.sum(-1, keepdims=True)


def sigmoid_by_hand(scale: float, bias: float) -> list[float]:
    logits = scale * unit(POOLED) @ vectors(CAPTIONS).T + bias
    return np.log1p(np.exp(np.where(SAME, -logits, logits))).sum(1).tolist()


def test_sigmoid_by_hand() -> None:
    """Equal captions are positives for each other."""
    found = Sigmoid(log_scale=2.0, bias=-3.0)(SAMPLES, SAMPLES, encoded(4, POOLED))
    assert found.dtype == torch.float32
    assert found.tolist() == pytest.approx(sigmoid_by_hand(math.exp(2.0), -3.0), rel=1e-5)
    default = Sigmoid()(SAMPLES, SAMPLES, encoded(4, POOLED))
    assert default.tolist() == pytest.approx(sigmoid_by_hand(math.exp(4.8438), -15.5625), rel=1e-4)


def test_a_text_heads_scale_and_bias_are_the_ones_that_learn() -> None:
    one = head()
    value = Sigmoid(log_scale=0.0, bias=0.0)(SAMPLES, SAMPLES, encoded(4, POOLED, one))
    assert value.tolist() == pytest.approx(sigmoid_by_hand(math.exp(1.5), -2.0), rel=1e-5)
    value.sum().backward()
    logits = math.exp(1.5) * unit(POOLED) @ vectors(CAPTIONS).T - 2.0
    z = np.where(SAME, 1.0, -1.0)
    slope = -z / (1 + np.exp(z * logits))
    assert float(one.bias.grad) == pytest.approx(slope.sum(), rel=1e-5)
    assert float(one.log_scale.grad) == pytest.approx((slope * (logits + 2.0)).sum(), rel=1e-4)


def test_the_scale_is_clamped() -> None:
    found = [Sigmoid()(SAMPLES, SAMPLES, encoded(4, POOLED, head(log_scale))) for log_scale in (5.0, 9.0)]
    torch.testing.assert_close(*found)


def test_sigmoid_is_smallest_where_embeddings_are_their_captions() -> None:
    texts = torch.from_numpy(vectors(CAPTIONS)).float()
    right, wrong = (Sigmoid()(SAMPLES, SAMPLES, encoded(4, pooled)).mean() for pooled in (texts, texts.roll(1, 0)))
    assert float(right) < float(wrong)


def distill_by_hand(teacher: np.ndarray, texts: list[str], scale: float, tau: float = 2.0) -> list[float]:
    vector, own = vectors(texts), math.exp(1.0)
    p, q = softmax(own * teacher @ vector.T / tau), softmax(scale * unit(POOLED) @ vector.T / tau)
    return (p * (np.log(p) - np.log(q))).sum(1).tolist()


def class_teacher(samples: list[Sample]) -> np.ndarray:
    names = vectors(list(Classifier.class_names))
    found = []
    for sample in samples:
        (data,) = sample.data.values()
        frames = data[None] if data.ndim == 3 else data
        each = unit(softmax(20 * frames.double().mean((2, 3)).numpy()) @ names)
        found.append(unit(each.mean(0)))
    return np.stack(found)


@pytest.mark.parametrize("tau", [2.0, 0.5])
def test_distillation_by_hand(classifier: Classifier, tau: float) -> None:
    """Over the three different captions, whoever has one twice."""
    found = Distillation(tau=tau, log_scale=2.0, teacher_log_scale=1.0)(SAMPLES, SAMPLES, encoded(4, POOLED))
    expected = distill_by_hand(class_teacher(SAMPLES), ["a red chair", "a dog", "two cups"], math.exp(2.0), tau)
    assert found.tolist() == pytest.approx(expected, rel=1e-4)


def test_distillation_over_a_bank(classifier: Classifier, tmp_path: Path) -> None:
    """From a list or a file; samples need no caption then, and clips count by the mean over their frames."""
    bank = ["a cat", "a chair", "a cup", "a lamp"]
    (tmp_path / "bank.txt").write_text("\n".join(bank))
    mixed = [clip(noise(5, 3, 8, 8, seed=i)) if i % 2 else image(noise(3, 9, 7, seed=i)) for i in range(4)]
    one = head(2.5)
    expected = distill_by_hand(class_teacher(mixed), bank, math.exp(2.5))
    for given in (bank, str(tmp_path / "bank.txt")):
        found = Distillation(bank=given, teacher_log_scale=1.0)(mixed, mixed, encoded(4, POOLED, one))
        assert found.tolist() == pytest.approx(expected, rel=1e-4)
    few = Distillation(bank=bank, frames=1, teacher_log_scale=1.0)(mixed, mixed, encoded(4, POOLED, one))
    middle = [Sample(s.modality, {"image": s.data["video"][2]} if i % 2 else s.data) for i, s in enumerate(mixed)]
    assert few.tolist() == pytest.approx(distill_by_hand(class_teacher(middle), bank, math.exp(2.5)), rel=1e-4)
    few.sum().backward()
    assert float(one.log_scale.grad) != 0


def test_a_student_that_is_the_teacher_has_nothing_to_learn(classifier: Classifier) -> None:
    pooled = torch.from_numpy(class_teacher(SAMPLES)).float()
    found = Distillation(bank=["a cat", "a cup", "x"])(SAMPLES, SAMPLES, encoded(4, pooled))
    torch.testing.assert_close(found, torch.zeros(4), rtol=0, atol=2e-5)
    other = Distillation(bank=["a", "x"], log_scale=1.0, teacher_log_scale=1.0)
    assert bool((other(SAMPLES, SAMPLES, encoded(4, POOLED)) > 1e-4).all())


@pytest.mark.parametrize("config", [{"sigmoid": 1.0}, {"distill": 1.0}])
def test_gradients_in_float64(classifier: Classifier, config: dict[str, float]) -> None:
    (term,) = Objective.from_config(config).terms.values()
    term.teacher_log_scale = 1.0
    one = head(1.0).double()
    pooled = POOLED.double().requires_grad_()

    def value(x: Tensor, log_scale: Tensor, bias: Tensor) -> Tensor:
        one.log_scale, one.bias = log_scale, bias
        return term(SAMPLES, SAMPLES, encoded(4, x, one))

    del one._parameters["log_scale"], one._parameters["bias"]
    constants = [torch.tensor(x, dtype=torch.float64, requires_grad=True) for x in (1.0, -2.0)]
    assert torch.autograd.gradcheck(value, (pooled, *constants))


@pytest.mark.parametrize("config", [{"sigmoid": 1.0}, {"distill": 1.0}, {"distill": {"bank": ["a", "b"]}}])
def test_order_changes_nothing(classifier: Classifier, config: dict[str, Any]) -> None:
    (term,) = Objective.from_config(config).terms.values()
    whole = term(SAMPLES, SAMPLES, encoded(4, POOLED))
    order = [2, 0, 3, 1]
    turned = [SAMPLES[i] for i in order]
    torch.testing.assert_close(term(turned, turned, encoded(4, POOLED[order])), whole[order], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("config", [{"sigmoid": 1.0}, {"distill": 1.0}])
@pytest.mark.parametrize("fill", [-1.0, 0.0, 1e3])
def test_finite_in_bf16(classifier: Classifier, config: dict[str, float], fill: float) -> None:
    """Extreme pictures and features, and those of an empty sample, which are all zero."""
    samples = [image(torch.full((3, 8, 8), fill), "a"), image(torch.full((3, 8, 8), -fill), "b")]
    pooled = torch.stack([torch.zeros(6), torch.full((6,), 1e4)]).requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        loss = Objective.from_config(config)(samples, samples, encoded(2, pooled))
    loss.total.backward()
    assert loss.total.dtype == torch.float32
    assert bool(loss.total.isfinite())
    assert bool(pooled.grad.isfinite().all())


def test_both_need_the_embedding(classifier: Classifier) -> None:
    for config in ({"sigmoid": 1}, {"distill": 1}):
        assert Objective.from_config(config).pools
    assert not Objective.from_config({"l1": 1, "ssim": 1}).pools


def test_samples_without_a_caption(classifier: Classifier) -> None:
    some = [*SAMPLES[:2], image(noise(3, 8, 8), None, key="nameless.png"), image(noise(3, 8, 8), "  ")]
    for term in (Sigmoid(), Distillation()):
        with pytest.raises(ConfigError, match=r"needs a caption of every sample, and 'nameless.png' has none"):
            term(some, some, encoded(4, POOLED))
    found = Sigmoid(optional=True)(some, some, encoded(4, POOLED))
    torch.testing.assert_close(found[:2], Sigmoid()(some[:2], some[:2], encoded(2, POOLED[:2])))
    assert found[2:].tolist() == [0.0, 0.0]
    distilled = Distillation(optional=True, log_scale=1.0, teacher_log_scale=1.0)(some, some, encoded(4, POOLED))
    assert bool((distilled > 0).all()), "over the others' captions"
    nothing = [image(noise(3, 8, 8)), Sample("mesh3d", {"voxels": torch.zeros(1)})]
    for term in (Sigmoid(optional=True), Distillation(optional=True)):
        assert term(nothing, nothing, encoded(2, POOLED[:2])).tolist() == [0.0, 0.0]


def test_distillation_needs_pictures(classifier: Classifier) -> None:
    asset = Sample("mesh3d", {"voxels": torch.zeros(1)}, caption="a chair", key="chair.glb")
    with pytest.raises(ConfigError, match=r"'distill' needs pictures, and modality 'mesh3d' has none"):
        Distillation()([asset], [asset], encoded(1, POOLED[:1]))
    assert float(Sigmoid()([asset], [asset], encoded(1, POOLED[:1]))) > 0


def test_a_model_of_another_width_is_told_what_to_change(classifier: Classifier) -> None:
    for term in (Sigmoid(), Distillation()):
        with pytest.raises(ConfigError, match=r"have width 5, those of the text tower minilm 6; give model.overrides"):
            term(SAMPLES, SAMPLES, encoded(4, POOLED[:, :5]))


@pytest.mark.parametrize(
    ("make", "error"),
    [
        (lambda: Sigmoid(text={"kind": "bert"}), "unknown text tower 'bert'"),
        (lambda: Sigmoid(text={"kind": "siglip2"}), "'siglip2' needs a source"),
        (
            lambda: Sigmoid(text={"kid": "minilm"}),
            r"unknown option of losses\.sigmoid\.text 'kid'. Did you mean 'kind'",
        ),
        (lambda: Sigmoid(text="minilm"), r"losses\.sigmoid\.text must be like"),
        (lambda: Sigmoid(log_scale="big"), r"losses\.sigmoid\.log_scale must be a number, got 'big'"),
        (lambda: Sigmoid(bias=float("nan")), r"losses\.sigmoid\.bias must be a number"),
        (lambda: Distillation("clip"), "unknown teacher 'clip'"),
        (lambda: Distillation("siglip2"), "needs a source"),
        (
            lambda: Distillation("siglip2", "x", text={"kind": "minilm"}),
            "goes with its own text tower, got text.kind 'minilm'",
        ),
        (lambda: Distillation(source="x"), "has no use for a source"),
        (lambda: Distillation(tau=0), r"losses\.distill\.tau must be a number above 0"),
        (lambda: Distillation(bank=["a"]), "at least two texts"),
        (lambda: Distillation(bank="/nowhere.txt"), "nowhere.txt"),
        (lambda: Distillation(frames=0), r"losses\.distill\.frames must be a whole number"),
        (lambda: Distillation("siglip2", "x", size=0), r"losses\.distill\.size must be a whole number"),
    ],
)
def test_unusable_options(make: Callable[[], object], error: str) -> None:
    with pytest.raises(ValueError, match=error):
        make()


def test_every_text_is_embedded_once_and_alone(tower: HashTower, tmp_path: Path) -> None:
    """Alone: in another batch the last bits may differ, and a continued run would not be the same."""
    batches: list[list[str]] = []
    forward = tower.forward
    tower.forward = lambda texts: batches.append(list(texts)) or forward(texts)  # type: ignore[method-assign]
    bank = FrozenTexts(tower, EmbeddingCache(tmp_path))
    first = bank.embed(["a dog", "A Dog", "a cat"])
    assert batches == [["a dog"], ["a cat"]]
    assert torch.equal(first[0], first[1])
    assert torch.equal(bank.embed(["a cat"]), first[2:])
    again = FrozenTexts(tower, EmbeddingCache(tmp_path)).embed(["a cat", "a dog"])
    assert torch.equal(again, first[[2, 0]]), "read from disk"
    assert len(batches) == 2
    assert bank.embed([]).shape == (0, 6)


def test_few_embeddings_stay_in_memory(tower: HashTower, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tok4d.losses.texts.KEPT", 2)
    bank = FrozenTexts(tower, None)
    bank.embed(["a", "b", "a", "c", "a", "b"])
    assert tower.seen == ["a", "b", "c", "b"], "what was not used for the longest goes first"


def test_identities_are_equal_for_equal_texts_only(tower: HashTower) -> None:
    numbers = FrozenTexts(tower, None).identities(CAPTIONS).tolist()
    assert numbers[0] == numbers[2]
    assert len(set(numbers)) == 3


def test_towers_are_loaded_once(tower: HashTower, monkeypatch: pytest.MonkeyPatch) -> None:
    loads: list[str] = []
    monkeypatch.setattr("tok4d.losses.texts.load_text_encoder", lambda kind, *_: loads.append(kind) or tower)
    for _ in range(2):
        Sigmoid()(SAMPLES, SAMPLES, encoded(4, POOLED))
        Sigmoid(text={"kind": "minilm"})(SAMPLES, SAMPLES, encoded(4, POOLED))
    assert loads == ["minilm"]
    assert TextOptions() == TextOptions("minilm", "", True)
