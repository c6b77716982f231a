"""Accuracy and retrieval in the loop, for models that are aligned with a text tower.

What a validation task can tell depends on its source: labels whose classes have names give accuracy, captions give
retrieval. N = samples, C = classes, Q = texts, D = width of the embeddings.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from tok4d.config.schema import TaskConfig, TextConfig
from tok4d.data.batch import Batch
from tok4d.data.build import build_source
from tok4d.errors import Tok4dError
from tok4d.model.bottleneck import Encoded
from tok4d.text import TEMPLATES, EmbeddingCache, TextEncoder, load_text_encoder, zero_shot_weights
from tok4d.training.understanding import accuracy, recall

log = logging.getLogger(__name__)

# How a class is put to the tower. One that was trained on pictures and their texts knows "a photo of"; a sentence
# encoder is compared with captions as they stand, which is what a model is aligned with.
PROMPTS = {"siglip2": TEMPLATES["siglip"], "minilm": TEMPLATES["plain"]}


@dataclass
class Seen:
    """What accuracy and retrieval need of the samples of one task; on the host, so that processes can exchange it.

    Attributes:
        embeddings: one `[D]` a sample.
        captions, labels: as in `Batch`.
    """

    embeddings: list[Tensor] = field(default_factory=list)
    captions: list[str | None] = field(default_factory=list)
    labels: list[int | None] = field(default_factory=list)

    def add(self, batch: Batch, encoded: Encoded) -> None:
        """Take in one batch of the task."""
        self.embeddings += list(encoded.embedding.detach().float().cpu())
        self.captions += batch.captions
        self.labels += batch.labels

    def merge(self, other: Seen) -> None:
        """Take in what another process saw of the same task."""
        self.embeddings += other.embeddings
        self.captions += other.captions
        self.labels += other.labels


class Alignment:
    """The text side of the validation tasks: class and caption vectors, made once and kept on disk.

    The tower is loaded when the first vector is wanted that is not there yet. When it cannot be loaded, or is not the
    one that the model is aligned with, the log says so once and there are no figures: a run does not stop for them.

    Args:
        text: the model's tower.
        width: of the model's embeddings.
        tasks: the validation tasks by name.
        cache: where vectors are kept; default the user's cache.
    """

    def __init__(
        self, text: TextConfig, width: int, tasks: Mapping[str, TaskConfig], cache: EmbeddingCache | None = None
    ) -> None:
        self.text, self.width = text, width
        self.classes = {name: _named_classes(task) for name, task in tasks.items()}
        self.cache = EmbeddingCache() if cache is None else cache
        self._tower: TextEncoder | None = None
        self._given_up = False
        self._vectors: dict[tuple[str, ...], Tensor] = {}

    def figures(self, seen: Mapping[str, Seen]) -> dict[str, float]:
        """`TASK/accuracy`, `TASK/macro_accuracy`, `TASK/recall@1`, ... of all tasks, luck and counts beside them."""
        found: dict[str, float] = {}
        for name, one in seen.items():
            if not one.embeddings or self._given_up:
                continue
            try:
                found |= {f"{name}/{key}": value for key, value in self._figures(self.classes.get(name, {}), one)}
            except Tok4dError as error:
                self._given_up = True
                log.warning("no accuracy and retrieval in the loop: %s", error)
        return found

    def _figures(self, classes: Mapping[int, str], seen: Seen) -> list[tuple[str, float]]:
        embeddings = torch.stack(seen.embeddings)
        return [*self._accuracy(classes, embeddings, seen.labels), *self._recall(embeddings, seen.captions)]

    def _accuracy(
        self, classes: Mapping[int, str], embeddings: Tensor, labels: Sequence[int | None]
    ) -> list[tuple[str, float]]:
        if len(classes) < 2 or not any(label in classes for label in labels):
            return []
        found = accuracy(embeddings, labels, self._class_vectors(tuple(classes.values())), list(classes))
        if found is None:
            return []
        return [
            ("accuracy", found.micro),
            ("accuracy/chance", found.chance),
            ("accuracy/majority", found.majority),
            ("accuracy/samples", float(found.samples)),
            ("macro_accuracy", found.macro),
            ("macro_accuracy/classes", float(found.classes)),
        ]

    def _recall(self, embeddings: Tensor, captions: Sequence[str | None]) -> list[tuple[str, float]]:
        if len({caption for caption in captions if caption}) < 2:
            return []
        tower = self._encoder()
        read = [tower.canonical(caption) if caption else None for caption in captions]
        texts = tuple(sorted({text for text in read if text}))
        found = recall(embeddings, read, self._caption_vectors(texts), texts)
        if found is None:
            return []
        values = [(f"recall@{k}", value) for k, value in found.value.items()]
        return [*values, *((f"recall@{k}/chance", luck) for k, luck in found.chance.items())]

    def _class_vectors(self, names: tuple[str, ...]) -> Tensor:
        key = ("class", *names)
        if key not in self._vectors:
            prompts = PROMPTS.get(self.text.kind, TEMPLATES["plain"])
            self._vectors[key] = zero_shot_weights(self._encoder(), names, prompts, self.cache).cpu()
        return self._vectors[key]

    def _caption_vectors(self, texts: tuple[str, ...]) -> Tensor:
        key = ("caption", *texts)
        if key not in self._vectors:
            self._vectors[key] = self.cache.encode(self._encoder(), texts).cpu()
        return self._vectors[key]

    def _encoder(self) -> TextEncoder:
        """The tower, checked against the model."""
        if self._tower is None:
            tower = load_text_encoder(self.text.kind, self.text.source, report=log.info)
            if tower.width != self.width:
                raise Tok4dError(
                    f"the embeddings of the model have width {self.width}, those of the text tower {self.text.kind} "
                    f"{tower.width}; give model.overrides.text.width: {tower.width}"
                )
            self._tower = tower
        return self._tower


def _named_classes(task: TaskConfig) -> dict[int, str]:
    """Names of a source's classes by number, without those that its options exclude."""
    return {number: name for number, name in enumerate(build_source(task).class_names) if name.strip()}
