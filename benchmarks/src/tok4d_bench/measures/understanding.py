"""Measures of embeddings: zero-shot classification by class names, and retrieval by captions both ways.

N = samples, C = classes, Q = texts, D = width of the embeddings. Products are float64; a tie counts against the model.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from tok4d.errors import ConfigError
from tok4d.modality import Sample
from tok4d.text.zero_shot import check_templates, fill, load_templates
from tok4d_bench.contracts import BenchData, ChunkReader, Columns, Measure, Requirement, Subject, Value
from tok4d_bench.measures.base import BOOTSTRAP, mean_value, nothing
from tok4d_bench.statistics.blocks import blocks, column
from tok4d_bench.statistics.ranks import by_luck, own_ranks

TEXTS = 64  # a call of a text tower: fixed, so that its last bits do not depend on how many there are
EMBEDDING, LABEL = "embedding", "label"
NO_LABEL = -1.0


class _Embeddings(Measure):
    """Embeddings of samples as a column `[n, D]`, labels beside them (-1: none)."""

    kind: ClassVar[str] = "embedding"

    def columns(self, originals: Sequence[Sample], results: Sequence[Any]) -> Columns:
        rows = np.stack([np.asarray(row, dtype=np.float32) for row in results])
        labels = [NO_LABEL if sample.label is None else float(sample.label) for sample in originals]
        return {EMBEDDING: rows, LABEL: np.array(labels, dtype=np.float64)}


class ZeroShot(_Embeddings):
    """Accuracy of the nearest class name: `top1`, `top5`, `macro_accuracy` over the classes present, in percent.

    A class is the mean of the unit vectors of its name in every template, normalised again (CLIP, section 3.1.4).
    Classes of one name are one class. `chance` is a guess among all names, `majority` the most frequent one.

    Args:
        templates: a set of `tok4d.text.TEMPLATES`, a file, or a list of texts with `{}`.
    """

    def __init__(self, templates: str | Sequence[str] = "siglip") -> None:
        self.templates = load_templates(templates) if isinstance(templates, str) else tuple(templates)
        check_templates(self.templates)

    def protocol(self) -> dict[str, Any]:
        return {
            "implementation": "tok4d_bench.measures.understanding.ZeroShot",
            "version": 1,
            "templates": list(self.templates),
            "ties": "against the model",
            "texts_at_once": TEXTS,
            "error": BOOTSTRAP,
        }

    def suits(self, data: BenchData, subject: Subject) -> list[Requirement]:
        missing = "" if data.classes else f"{data.name} has none"
        return [Requirement("class names", missing, "take a data set with labelled classes")]

    def finish(self, chunks: ChunkReader, data: BenchData, subject: Subject) -> list[Value]:
        if not data.classes:
            return [nothing("top1", f"{data.name} has no class names", unit="%")]
        names = list(dict.fromkeys(data.classes))
        place = np.array([names.index(name) for name in data.classes])
        labels = _labels(chunks, len(data.classes))
        if not (labels >= 0).any():
            return [nothing("top1", f"no sample of {data.name} has a label", unit="%")]
        vectors = self.class_vectors(names, subject)
        ranks = np.zeros(len(labels), dtype=np.int64)
        start = 0
        for block in blocks(chunks(EMBEDDING)):
            own = labels[start : start + len(block[EMBEDDING])]
            counted = np.flatnonzero(own >= 0)
            targets = [np.array([place[own[i]]]) for i in counted]
            ranks[start + counted] = own_ranks(block[EMBEDDING][counted], vectors, targets)
            start += len(own)
        return _accuracies(ranks, np.where(labels >= 0, place[labels], -1), len(names))

    def class_vectors(self, names: Sequence[str], subject: Subject) -> np.ndarray:
        """One unit vector a class, `[C, D]` float64."""
        prompts = [fill(template, name) for name in names for template in self.templates]
        embedded = text_vectors(prompts, subject).reshape(len(names), len(self.templates), -1).mean(1)
        return embedded / np.linalg.norm(embedded, axis=1, keepdims=True).clip(1e-12)


def text_vectors(texts: Sequence[str], subject: Subject) -> np.ndarray:
    """Embeddings of texts by the subject, `[Q, D]` float64, each distinct one embedded once, in fixed batches."""
    distinct = list(dict.fromkeys(texts))
    several = [distinct[start : start + TEXTS] for start in range(0, len(distinct), TEXTS)]
    parts = [subject.embed_texts(texts).double().numpy(force=True) for texts in several]
    place = {text: i for i, text in enumerate(distinct)}
    found: np.ndarray = np.concatenate(parts)[[place[text] for text in texts]]
    return found


def _labels(chunks: ChunkReader, classes: int) -> np.ndarray:
    """Class of every sample, -1 where it has none; `[N]` int64.

    Raises:
        ConfigError: for a label beyond the names.
    """
    labels = column(chunks(LABEL), LABEL).astype(np.int64)
    if len(labels) and int(labels.max()) >= classes:
        raise ConfigError(f"a sample has label {int(labels.max())}, but there are {classes} class names")
    return labels


def _accuracies(ranks: np.ndarray, classes: np.ndarray, count: int) -> list[Value]:
    """Figures from the rank of every sample's own class; class -1: the sample does not count."""
    counted = classes >= 0
    ranks, classes = ranks[counted], classes[counted]
    right = (ranks <= 1).astype(np.float64)
    present, sizes = np.unique(classes, return_counts=True)
    # every sample weighs as much as its class is rare, so that their mean is the mean over classes
    weight = len(classes) / (len(present) * sizes[np.searchsorted(present, classes)])
    n = len(ranks)
    found = [mean_value("top1", right, scale=100, unit="%")]
    if count > 5:
        found.append(mean_value("top5", (ranks <= 5).astype(np.float64), scale=100, unit="%"))
    found.append(mean_value("macro_accuracy", right * weight, scale=100, unit="%"))
    note = f"{len(present)} of {count} classes present"
    common = Counter(classes.tolist()).most_common(1)[0][1]
    found.append(Value("chance", 100 / count, n, None, None, "%", note))
    found.append(Value("majority", 100 * common / n, n, None, None, "%", note))
    return found


class Retrieval(_Embeddings):
    """Recall at k of samples by text and of texts by sample, in percent, and the median rank.

    Every caption of every sample asks for its samples; a sample counts as right if that text is a caption of its, so
    equal captions count for all of their samples. The other way round every caption is a candidate, and all texts
    that equal one of the sample's are right. `chance` is the recall of a random order.

    Args:
        at: the ks.

    Raises:
        ConfigError: for none, or one below 1.
    """

    def __init__(self, at: Sequence[int] = (1, 5, 10)) -> None:
        if not at or min(at) < 1:
            raise ConfigError(f"retrieval: at {list(at)} must name ranks from 1 on")
        self.at = tuple(at)

    def protocol(self) -> dict[str, Any]:
        return {
            "implementation": "tok4d_bench.measures.understanding.Retrieval",
            "version": 1,
            "at": list(self.at),
            "captions": "all; equal texts are right for all of their samples",
            "ties": "against the model",
            "texts_at_once": TEXTS,
            "error": BOOTSTRAP,
        }

    def finish(self, chunks: ChunkReader, data: BenchData, subject: Subject) -> list[Value]:
        captions = [data.captions(int(index)) for index in chunks.indices()]
        texts = [text for several in captions for text in several]
        if not texts:
            return [nothing(f"text_to_item/recall@{k}", f"{data.name} has no captions", unit="%") for k in self.at]
        vectors = text_vectors(texts, subject)
        items = column(chunks(EMBEDDING), EMBEDDING)
        of_text: dict[str, set[int]] = {}
        for item, several in enumerate(captions):
            for text in several:
                of_text.setdefault(text, set()).add(item)
        places: dict[str, list[int]] = {}
        for i, text in enumerate(texts):
            places.setdefault(text, []).append(i)
        right_items = [np.array(sorted(of_text[text])) for text in texts]
        asked = [i for i, several in enumerate(captions) if several]
        right_texts = [np.array(sorted({p for t in captions[i] for p in places[t]})) for i in asked]
        return [
            *self._figures("text_to_item", own_ranks(vectors, items, right_items), right_items, len(items)),
            *self._figures("item_to_text", own_ranks(items[asked], vectors, right_texts), right_texts, len(texts)),
        ]

    def _figures(self, way: str, ranks: np.ndarray, right: Sequence[np.ndarray], candidates: int) -> list[Value]:
        found = []
        for k in self.at:
            found.append(mean_value(f"{way}/recall@{k}", (ranks <= k).astype(np.float64), scale=100, unit="%"))
            lucky = sum(by_luck(candidates, len(own), k) for own in right) / len(right)
            found.append(Value(f"{way}/chance@{k}", 100 * lucky, len(ranks), None, None, "%"))
        note = f"of {candidates}"
        found.append(Value(f"{way}/median_rank", float(np.median(ranks)), len(ranks), None, False, "", note))
        return found
