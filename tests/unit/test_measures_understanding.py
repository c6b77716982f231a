"""Zero-shot, retrieval and the linear probe against brute force, sums by hand and the core's own figures."""

from __future__ import annotations

import zlib
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tok4d.errors import ConfigError, Tok4dError
from tok4d.modality import Sample
from tok4d.training.understanding import accuracy, recall
from tok4d_bench.contracts import Measure, Subject, Value
from tok4d_bench.measures.memory import MemoryData, MemoryReader
from tok4d_bench.measures.probe import LinearProbe
from tok4d_bench.measures.understanding import TEXTS, Retrieval, ZeroShot
from tok4d_bench.statistics.probe import PENALTIES, Sums, cross_validate, fold_of, ridge
from tok4d_bench.statistics.ranks import by_luck, own_ranks


class Words(Subject):
    """Texts as random unit vectors, the same for the same text."""

    name, digest, width = "words", "0", 6

    def embed_texts(self, texts: Sequence[str]) -> Tensor:
        assert 0 < len(texts) <= TEXTS
        return torch.stack([self.vector(text) for text in texts])

    def vector(self, text: str) -> Tensor:
        seed = zlib.crc32(text.encode())
        return torch.nn.functional.normalize(
            torch.randn(self.width, generator=torch.Generator().manual_seed(seed)), dim=0
        )


class Captioned(MemoryData):
    """Several captions a sample, in its `meta`."""

    def captions(self, index: int) -> tuple[str, ...]:
        return tuple(self.samples[index].meta["captions"])


def figures(measure: Measure, data: MemoryData, rows: Tensor, subject: Subject | None = None) -> dict[str, Value]:
    reader = MemoryReader(measure.columns(data.samples, rows))
    return {value.metric: value for value in measure.finish(reader, data, subject or Words())}


def unit(n: int, seed: int, width: int = 6) -> Tensor:
    return torch.nn.functional.normalize(torch.randn(n, width, generator=torch.Generator().manual_seed(seed)), dim=1)


def labelled(labels: Sequence[int | None], classes: Sequence[str] = ()) -> MemoryData:
    samples = [Sample("image", {}, label=label, key=f"k{i}") for i, label in enumerate(labels)]
    return MemoryData(samples, classes=classes)


def test_zero_shot_by_brute_force() -> None:
    classes = [f"class {c}" for c in "abcdefgh"]
    rng = np.random.default_rng(0)
    labels = [None if i == 3 else int(rng.integers(0, 7)) for i in range(50)]  # class 7 has no sample
    rows = unit(50, 1)
    templates = ("{}", "a photo of {label}.")
    found = figures(ZeroShot(templates), labelled(labels, classes), rows)
    prompts = [[Words().vector(t.replace("{label}", c).replace("{}", c)) for t in templates] for c in classes]
    vectors = torch.stack([torch.stack(several).double().mean(0) for several in prompts])
    vectors = torch.nn.functional.normalize(vectors, dim=1)
    top = (rows.double() @ vectors.T).argsort(dim=1, descending=True)
    counted = [i for i in range(50) if labels[i] is not None]
    right = {i: int(top[i, 0]) == labels[i] for i in counted}
    assert found["top1"].value == pytest.approx(100 * sum(right.values()) / 49)
    assert found["top5"].value == pytest.approx(100 * sum(labels[i] in top[i, :5].tolist() for i in counted) / 49)
    shares = [np.mean([right[i] for i in counted if labels[i] == c]) for c in set(labels) - {None}]
    assert found["macro_accuracy"].value == pytest.approx(100 * np.mean(shares))
    assert found["chance"].value == pytest.approx(100 / 8)
    assert found["majority"].value == pytest.approx(100 * max(labels.count(c) for c in range(7)) / 49)
    assert found["top1"].n == 49
    assert found["top1"].stderr == pytest.approx(100 * np.std(list(right.values())) / 7, rel=0.1)
    ours = accuracy(rows, labels, vectors.float(), list(range(8)))
    assert ours is not None
    assert found["top1"].value == pytest.approx(100 * ours.micro)
    assert found["macro_accuracy"].value == pytest.approx(100 * ours.macro)


def test_classes_of_one_name_are_one() -> None:
    classes = ["crane", "cat", "crane"]
    rows = torch.stack([Words().vector("crane"), Words().vector("crane"), Words().vector("crane")])
    found = figures(ZeroShot(["{}"]), labelled([0, 2, 1], classes), rows)
    assert found["top1"].value == pytest.approx(200 / 3)
    assert found["chance"].value == 50
    assert "top5" not in found  # of two names everything is among the first five


def test_what_has_no_names_or_labels() -> None:
    rows = unit(2, 0)
    assert figures(ZeroShot(), labelled([0, 1]), rows)["top1"].value is None
    assert "no sample" in figures(ZeroShot(), labelled([None, None], ["a", "b"]), rows)["top1"].note
    assert ZeroShot().suits(labelled([0]), Words())[0].missing
    assert not ZeroShot().suits(labelled([0], ["a"]), Words())[0].missing
    with pytest.raises(ConfigError, match="label 5, but there are 2"):
        figures(ZeroShot(), labelled([0, 5], ["a", "b"]), rows)
    with pytest.raises(Tok4dError, match="no place for the label"):
        ZeroShot(["a photo"])
    assert figures(Retrieval(), captioned([[], []]), rows)["text_to_item/recall@1"].value is None


def captioned(captions: Sequence[Sequence[str]]) -> Captioned:
    return Captioned([Sample("image", {}, key=str(i), meta={"captions": c}) for i, c in enumerate(captions)])


CAPTIONS = [["a", "b"], ["c"], ["a"], [], ["d", "d", "e"], ["f"], ["g", "c"], ["h"]]


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 10_000))
def test_retrieval_by_brute_force(seed: int) -> None:
    rows = unit(len(CAPTIONS), seed)
    found = figures(Retrieval(at=(1, 3)), captioned(CAPTIONS), rows)
    texts = [text for several in CAPTIONS for text in several]
    scores = rows.double() @ torch.stack([Words().vector(t) for t in texts]).double().T
    for k in (1, 3):
        hits = [
            any(text in CAPTIONS[i] for i in scores[:, q].argsort(descending=True)[:k].tolist())
            for q, text in enumerate(texts)
        ]
        assert found[f"text_to_item/recall@{k}"].value == pytest.approx(100 * np.mean(hits))
    firsts = []
    for i, own in enumerate(CAPTIONS):
        if own:
            order = [texts[q] for q in scores[i].argsort(descending=True).tolist()]
            firsts.append(min(order.index(text) for text in own) + 1)
    for k in (1, 3):
        assert found[f"item_to_text/recall@{k}"].value == pytest.approx(100 * np.mean([f <= k for f in firsts]))
    assert found["item_to_text/median_rank"].value == np.median(firsts)
    assert (found["text_to_item/recall@1"].n, found["item_to_text/recall@1"].n) == (11, 7)


def test_one_caption_each_is_the_figure_of_the_training_loop() -> None:
    texts = ["a", "b", "c", "a", "d", "e"]
    rows = unit(6, 5)
    found = figures(Retrieval(at=(1, 2)), captioned([[t] for t in texts]), rows)
    distinct = list(dict.fromkeys(texts))
    ours = recall(rows, texts, torch.stack([Words().vector(t) for t in distinct]), distinct, at=(1, 2))
    assert ours is not None
    # the loop asks each text once, the protocol asks each caption: "a" counts twice here
    per_text = {t: by_luck(6, texts.count(t), 1) for t in distinct}
    assert found["text_to_item/chance@1"].value == pytest.approx(100 * np.mean([per_text[t] for t in texts]))
    assert ours.chance[1] == pytest.approx(np.mean(list(per_text.values())))


def test_ties_count_against_the_model() -> None:
    alike = torch.ones(5, 3) / 3**0.5
    assert own_ranks(alike.numpy(), alike.numpy(), [np.array([i]) for i in range(5)]).tolist() == [5] * 5
    assert own_ranks(alike.numpy(), alike.numpy(), [np.arange(5)] * 5).tolist() == [1] * 5
    assert by_luck(10, 2, 3) == pytest.approx(1 - (8 * 7 * 6) / (10 * 9 * 8))
    assert by_luck(2, 1, 5) == 1
    with pytest.raises(ConfigError, match="ranks from 1 on"):
        Retrieval(at=(0,))


# --- linear probe -----------------------------------------------------------------------------------------------


def test_ridge_is_the_normal_equations() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(40, 4)) * [1, 10, 0.1, 0] + [3, -2, 0, 7]  # the last feature never varies
    labels = rng.integers(0, 3, 40)
    sums = Sums(4, 3)
    sums.add(x[:15], labels[:15])
    sums.add(x[15:], labels[15:])
    (probe,) = ridge(sums, [0.1])
    z = (x[:, :3] - x[:, :3].mean(0)) / x[:, :3].std(0)
    y = np.eye(3)[labels]
    w = np.linalg.solve(z.T @ z / 40 + 0.1 * np.eye(3), z.T @ (y - y.mean(0)) / 40)
    np.testing.assert_allclose(x @ probe.weights + probe.bias, z @ w + y.mean(0), rtol=1e-8, atol=1e-10)
    assert (probe.weights[3] == 0).all()


def test_cross_validation_by_hand() -> None:
    rng = np.random.default_rng(1)
    labels = rng.integers(0, 2, 60)
    x = rng.normal(size=(60, 3)) + labels[:, None] * [1.0, 0, 0]
    folds = np.arange(60) % 3
    found = cross_validate(lambda: iter([(x[:25], labels[:25], folds[:25]), (x[25:], labels[25:], folds[25:])]), 2, 3)

    def fit(keep: np.ndarray, penalties: Sequence[float]):  # type: ignore[no-untyped-def]
        sums = Sums(3, 2)
        sums.add(x[keep], labels[keep])
        return ridge(sums, penalties)

    for fold in range(3):
        inner = (fold + 1) % 3
        probes = fit((folds != fold) & (folds != inner), PENALTIES)
        right = [(p.classify(x[folds == inner]) == labels[folds == inner]).sum() for p in probes]
        best = max(p for p, r in zip(PENALTIES, right, strict=True) if r == max(right))
        assert found.penalties[fold] == best
        wanted = fit(folds != fold, [best])[0].classify(x[folds == fold])
        assert (found.predicted[folds == fold] == wanted).all()
        assert (found.majority[folds == fold] == np.bincount(labels[folds != fold]).argmax()).all()


def test_probe_finds_classes_and_only_where_there_are_some() -> None:
    rng = np.random.default_rng(2)
    labels = [int(v) for v in rng.integers(0, 4, 200)]
    centres = rng.normal(size=(4, 8)) * 3
    rows = torch.from_numpy(centres[labels] + rng.normal(size=(200, 8))).float()
    data = labelled([None if i == 5 else label for i, label in enumerate(labels)])
    found = figures(LinearProbe(), data, rows)
    assert found["probe/features"].value is not None
    assert found["probe/features"].value > 95
    assert found["probe/features"].n == 199
    noise = figures(LinearProbe("latents"), data, torch.from_numpy(rng.normal(size=(200, 8))))
    assert noise["probe/latents"].value is not None
    assert noise["probe/latents"].value < 40
    assert LinearProbe("codes").where == "codes"
    order = rng.permutation(200)
    turned = MemoryData([data.samples[i] for i in order])
    again = figures(LinearProbe(), turned, rows[order])
    assert again["probe/features"].value == found["probe/features"].value


def test_probe_refuses_what_it_cannot_do() -> None:
    assert "1 classes" in figures(LinearProbe(), labelled([0, 0, None]), unit(3, 0))["probe/features"].note
    few = figures(LinearProbe(), labelled([0, 1]), unit(2, 0))["probe/features"]
    assert (few.value, "3 folds" in few.note) == (None, True)
    with pytest.raises(ConfigError, match="Did you mean 'latents'"):
        LinearProbe("latent")
    with pytest.raises(ConfigError, match="folds 2"):
        LinearProbe(folds=2)
    assert fold_of("k1", 5) == fold_of("k1", 5)
    assert len({fold_of(f"k{i}", 5) for i in range(100)}) == 5
