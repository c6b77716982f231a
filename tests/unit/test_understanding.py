"""Accuracy and retrieval against counting by hand and by brute force; the text side of validation tasks."""

from __future__ import annotations

import logging
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from tok4d.config.schema import TaskConfig, TextConfig
from tok4d.data.batches import validation_batches
from tok4d.data.build import build_source
from tok4d.errors import Tok4dError
from tok4d.testing.models import tiny_tokenizer
from tok4d.text import EmbeddingCache, load_text_encoder
from tok4d.training.alignment import Alignment, Seen
from tok4d.training.evaluate import Scores, evaluate
from tok4d.training.merging import merged_scores
from tok4d.training.understanding import accuracy, recall


def unit(count: int, width: int, seed: int) -> torch.Tensor:
    return F.normalize(torch.randn(count, width, generator=torch.Generator().manual_seed(seed)), dim=-1)


def test_accuracy_by_hand():
    """Classes 4, 7 and 9 stand on the axes; of class 4 two of three are right, of 7 one of one, of 9 none of one."""
    vectors = torch.eye(3)
    near = [[1.0, 0.1, 0.0], [0.9, 0.0, 0.2], [0.0, 1.0, 0.1], [0.2, 0.8, 0.0], [0.6, 0.0, 0.5], [0.0, 0.0, 1.0]]
    labels = [4, 4, 4, 7, 9, None]
    found = accuracy(torch.tensor(near), labels, vectors, [4, 7, 9])
    assert found is not None
    assert (found.samples, found.classes) == (5, 3)
    assert found.micro == pytest.approx(3 / 5)
    assert found.macro == pytest.approx((2 / 3 + 1 + 0) / 3)
    assert found.chance == pytest.approx(1 / 3)
    assert found.majority == pytest.approx(3 / 5)


def test_accuracy_against_brute_force():
    embeddings, vectors = unit(50, 8, 0), unit(6, 8, 1)
    labels = [i % 7 if i % 5 else None for i in range(50)]  # 6 is no class of these
    right = {c: [] for c in range(6)}
    for embedding, label in zip(embeddings, labels, strict=True):
        if label is not None and label < 6:
            right[label].append(max(range(6), key=lambda c: float(embedding @ vectors[c])) == label)
    found = accuracy(embeddings, labels, vectors, range(6))
    assert found is not None
    flat = [hit for hits in right.values() for hit in hits]
    assert found.samples == len(flat)
    assert found.micro == pytest.approx(sum(flat) / len(flat))
    assert found.macro == pytest.approx(sum(sum(hits) / len(hits) for hits in right.values()) / 6)
    assert found.majority == max(len(hits) for hits in right.values()) / len(flat)


def test_embeddings_that_are_all_alike_know_nothing():
    same = torch.ones(4, 2) / 2**0.5
    found = accuracy(same, [0, 0, 1, 1], same[:2], [0, 1])
    assert found is not None
    assert (found.micro, found.macro) == (0.0, 0.0)
    asked = recall(same, ["a", "b", "c", "d"], same, ["a", "b", "c", "d"], at=(1, 4))
    assert asked is not None
    assert asked.value == {1: 0.0, 4: 1.0}


def test_recall_against_brute_force():
    captions = [f"text {i % 9}" if i % 6 else None for i in range(40)]
    texts = sorted({caption for caption in captions if caption})
    embeddings, vectors = unit(40, 5, 2), unit(len(texts), 5, 3)
    found = recall(embeddings, captions, vectors, texts, at=(1, 3, 10))
    assert found is not None
    for k in (1, 3, 10):
        hits = 0
        for vector, text in zip(vectors, texts, strict=True):
            nearest = sorted(range(40), key=lambda i: -float(embeddings[i] @ vector))[:k]
            hits += any(captions[i] == text for i in nearest)
        assert found.value[k] == pytest.approx(hits / len(texts))


def test_luck_of_retrieval_is_counted_over_all_draws():
    """Seven samples, two of text a, one of b: every set of k of them, enumerated."""
    captions = ["a", "b", None, "a", None, None, None]
    found = recall(unit(7, 4, 4), captions, unit(2, 4, 5), ["a", "b"], at=(1, 3, 10))
    assert found is not None
    for k in (1, 3):
        draws = list(combinations(range(7), k))
        lucky = [sum(any(captions[i] == text for i in draw) for draw in draws) / len(draws) for text in "ab"]
        assert found.chance[k] == pytest.approx(sum(lucky) / 2)
    assert found.chance[10] == 1
    assert (found.texts, found.samples) == (2, 7)


def test_nothing_to_ask_gives_nothing():
    assert accuracy(unit(2, 3, 0), [None, 5], unit(2, 3, 1), [0, 1]) is None
    assert recall(unit(2, 3, 0), [None, "x"], unit(1, 3, 1), ["y"]) is None


def test_shapes_that_do_not_fit_are_refused():
    with pytest.raises(Tok4dError, match=r"embeddings \(2, 3\) and text vectors \(2, 4\)"):
        accuracy(unit(2, 3, 0), [0, 1], unit(2, 4, 1), [0, 1])
    with pytest.raises(Tok4dError, match="2 embeddings for 3 samples"):
        recall(unit(2, 3, 0), ["a", "b", "c"], unit(1, 3, 1), ["a"])


SHAPES = TaskConfig(source="image/shapes", batch=3, options={"split": "val", "count": 40, "side": 32})
MOVING = TaskConfig(source="video/moving", batch=2, options={"split": "val", "count": 20, "side": 32, "frames": 4})


@pytest.fixture
def tower(bert, tmp_path: Path) -> TextConfig:
    bert(tmp_path / "tower")
    return TextConfig("minilm", str(tmp_path / "tower"), width=32)


def test_figures_of_tasks_in_one_pass(siglip, tmp_path):
    """An aligned model is evaluated; its figures are those of its embeddings, computed here one sample at a time."""
    siglip(tmp_path / "tower")
    text = TextConfig("siglip2", str(tmp_path / "tower"), width=32)
    model = tiny_tokenizer(text={"kind": text.kind, "source": text.source, "width": 32})
    tasks = {"still": SHAPES, "clip": MOVING}
    alignment = Alignment(text, 32, tasks, EmbeddingCache(tmp_path / "cache"))
    found = evaluate(model, validation_batches(tasks, model.patch_size), alignment).means()
    names = build_source(SHAPES).class_names
    vectors = load_text_encoder("siglip2", text.source).encode([f"This is a photo of {name}." for name in names])
    right = []
    for batch in validation_batches({"still": SHAPES}, model.patch_size):
        with torch.no_grad():
            embeddings = model.encode(batch.tokens).embedding
        right += [int((vectors @ e).argmax()) == label for e, label in zip(embeddings, batch.labels, strict=True)]
    assert found["still/accuracy"] == pytest.approx(sum(right) / len(right))
    assert found["still/accuracy/chance"] == pytest.approx(1 / 4)
    assert found["still/accuracy/samples"] == len(right) == 8
    assert 0 < found["clip/recall@1/chance"] < found["clip/recall@10/chance"] <= 1
    assert found["image/psnr"] > 0
    assert "still/psnr" not in found, "one task of a modality needs no rows of its own"
    assert list((tmp_path / "cache").rglob("*.safetensors")), "texts are kept on disk"


def test_processes_exchange_what_they_saw(tower, tmp_path):
    alignment = Alignment(tower, 32, {"still": SHAPES}, EmbeddingCache(tmp_path / "cache"))
    vectors, labels = list(unit(8, 32, 6)), [0, 1, 2, 3] * 2
    whole = Seen(vectors, ["red cat", "a dog"] * 4, labels)
    half = Seen(vectors[:3], whole.captions[:3], labels[:3])
    half.merge(Seen(vectors[3:], whole.captions[3:], labels[3:]))
    assert alignment.figures({"still": half}) == alignment.figures({"still": whole})


def test_a_tower_that_is_not_there_is_said_once_and_the_run_goes_on(tmp_path, caplog):
    text = TextConfig("minilm", str(tmp_path / "nothing"), width=32)
    alignment = Alignment(text, 32, {"still": SHAPES}, EmbeddingCache(tmp_path / "cache"))
    seen = {"still": Seen(list(unit(2, 32, 7)), ["a", "b"], [0, 1])}
    with caplog.at_level(logging.WARNING):
        assert alignment.figures(seen) == {}
        assert alignment.figures(seen) == {}
    assert sum("no accuracy and retrieval" in record.message for record in caplog.records) == 1


def test_a_tower_of_another_width_is_refused_by_both_numbers(tower, tmp_path, caplog):
    alignment = Alignment(tower, 48, {"still": SHAPES}, EmbeddingCache(tmp_path / "cache"))
    with caplog.at_level(logging.WARNING):
        assert alignment.figures({"still": Seen(list(unit(2, 48, 7)), [None, None], [0, 1])}) == {}
    assert "width 48" in caplog.text
    assert "minilm 32" in caplog.text


@pytest.mark.parametrize(
    ("source", "options", "some", "excluded"),
    [
        ("image/shapes", {}, "stripes", 0),
        ("image/emoji3d", {"categories": ["Food & Drink", "Objects"]}, "Food & Drink", 8),
        ("image/stamps", {}, "animals", 0),
        ("video/moving", {}, "moves in a circle", 0),
        ("video/pans", {"source": "image/shapes"}, "noise", 0),
        ("mesh3d/solids", {}, "cone", 0),
        ("mesh3d/furniture", {"classes": ["chair", "lamp"]}, "lamp", 26),
        ("image/photos", {}, None, 0),
    ],
)
def test_sources_name_their_classes(source, options, some, excluded):
    names = build_source(TaskConfig(source=source, options=options)).class_names
    assert (some in names) if some else names == ()
    assert sum(not name for name in names) == excluded


def test_a_manifest_names_its_classes_on_both_sides_alike(tmp_path):
    rows = "".join(f"{i}.mp4,{'walk' if i % 3 else 'jump'}\n" for i in range(9))
    (tmp_path / "named.csv").write_text(f"path,label\n{rows}")
    (tmp_path / "numbered.csv").write_text("path,label\na.mp4,3\nb.mp4,5\n")
    for split in ("train", "val"):
        task = TaskConfig(source="video/manifest", options={"path": str(tmp_path / "named.csv"), "split": split})
        source = build_source(task)
        assert source.class_names == ("jump", "walk")
        assert {row.class_name for row in source.rows if row.label == 1} <= {"walk"}
    numbered = TaskConfig(source="video/manifest", options={"path": str(tmp_path / "numbered.csv")})
    assert build_source(numbered).class_names == ()


def test_two_tasks_of_a_modality_have_rows_of_their_own():
    scores = Scores()
    (batch,) = validation_batches({"a": TaskConfig("image/shapes", {"count": 1, "side": 16}, batch=1)}, (4, 16, 16))
    scores.add(batch, "x.png", "psnr", 20.0)
    scores.add(replace(batch, task="b"), "x.png", "psnr", 30.0)
    assert scores.means() == {"image/psnr": 25.0, "a/psnr": 20.0, "b/psnr": 30.0}
    scores.add(replace(batch, task="image"), "x.png", "psnr", 40.0)
    assert scores.means() == {"image/psnr": 30.0, "a/psnr": 20.0, "b/psnr": 30.0}, "the modality's row stays"


def test_two_processes_with_a_sample_of_one_name_in_two_tasks_have_the_means_of_one():
    """Each sees one of the two, so that their names clash when they are put together only."""
    (batch,) = validation_batches({"a": TaskConfig("image/shapes", {"count": 1, "side": 16}, batch=1)}, (4, 16, 16))
    given = [("a", "x.png", 20.1), ("a", "y.png", 3.3), ("b", "z.png", 4.7), ("b", "x.png", 30.2)]
    alone, parts = Scores(), [Scores(), Scores()]
    for number, (task, key, value) in enumerate(given):
        for scores in (alone, parts[number % 2]):
            scores.add(replace(batch, task=task), key, "psnr", value)
    merged = merged_scores(parts)
    assert merged.means() == alone.means()
    assert alone.means()["image/psnr"] == pytest.approx((20.1 + 3.3 + 4.7 + 30.2) / 4)
    assert set(merged.values["image/psnr"]) == {"x.png", "y.png", "z.png", "b: x.png"}
