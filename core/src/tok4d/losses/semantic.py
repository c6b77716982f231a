"""What ties a model's embedding to texts: distillation from a teacher, and the sigmoid loss. For any modality.

The texts are those of the global batch, over all processes, or a fixed bank: no value depends on how samples are spread
over processes. B = samples of this process, M = texts, D = width of the embeddings, shared by model and text tower.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import exp, inf
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from tok4d.errors import ConfigError
from tok4d.losses.gather import gather
from tok4d.losses.objective import Term
from tok4d.losses.pictures import check_count, pictures_of, refuse_missing
from tok4d.losses.teachers import make_teacher
from tok4d.losses.texts import FrozenTexts, TextOptions, frozen_texts
from tok4d.modality import Sample
from tok4d.model.bottleneck import Encoded
from tok4d.text.zero_shot import read_lines

LOG_SCALE, BIAS = 4.8438, -15.5625  # of SigLIP2's own towers


class Sigmoid(Term):
    """`sigmoid`: SigLIP's loss between embeddings and captions (arXiv 2303.15343, algorithm 1).

    Value of sample i: the sum over the captions j of the global batch of softplus(-z (scale * cosine + bias)), z = 1
    where j is the caption of i, else -1. A caption that several samples have is a positive for each of them.

    Scale and bias are the model's learned ones where it has a text head (`model.overrides.text.width`), the options
    elsewhere.

    Args:
        text: which tower, `{kind: minilm}`; see `TextOptions`.
        log_scale, bias: of models without learned ones.
        optional: samples without a caption have value 0, instead of being refused.

    Raises:
        ConfigError: for options out of range; when called, for samples without a caption, and embeddings of another
            width than the tower's.
    """

    pools = True
    restores = False
    name = "sigmoid"

    def __init__(
        self,
        text: Mapping[str, Any] | None = None,
        log_scale: float = LOG_SCALE,
        bias: float = BIAS,
        optional: bool = False,
    ) -> None:
        super().__init__()
        self.text = TextOptions.of(text, self.name)
        self.log_scale = _number("losses.sigmoid.log_scale", log_scale)
        self.bias = _number("losses.sigmoid.bias", bias)
        self.optional = optional

    def forward(self, target: Sequence[Sample], reconstruction: Sequence[Sample], encoded: Encoded) -> Tensor:
        embedding_BD = encoded.embedding
        texts = frozen_texts(self.text, embedding_BD.device)
        _check_width(self.name, embedding_BD, texts)
        present, captions = _captions(self.name, target, texts, self.optional)
        own = texts.identities(captions)
        texts_MD, every = gather(texts.embed(captions)), gather(own)
        head = encoded.text_head
        with torch.autocast(embedding_BD.device.type, enabled=False):
            scale = exp(self.log_scale) if head is None else head.scale
            bias = self.bias if head is None else head.bias
            rows = torch.tensor(present, dtype=torch.int64, device=embedding_BD.device)
            logits = scale * (embedding_BD[rows] @ texts_MD.to(embedding_BD).T) + bias
            positive = own[:, None] == every[None, :]
            values = F.softplus(torch.where(positive, -logits, logits)).sum(1)
            return embedding_BD.new_zeros(len(target)).to(values).index_copy(0, rows, values)


class Distillation(Term):
    """`distill`: KL(softmax(s_teacher / tau) || softmax(s_student / tau)) over texts, s = exp(log-scale) * cosine.

    Both sides are compared with the same texts by one frozen text tower: the different captions of the global batch,
    or a fixed bank. A teacher sees the target's pictures; of a clip, its embedding is the mean over frames. In nats.

    Args:
        teacher: `siglip2`, the vision tower of `source`; or `effnet-minilm`, the embeddings of ImageNet's class names
            in the text tower's space, weighted by EfficientNet-Lite0's probabilities.
        source: folder or hub id of SigLIP2, for both of its towers.
        text: which text tower, `{kind: minilm}`; of the teacher `siglip2`, that of its source.
        tau: temperature.
        bank: texts to compare with, or a file with one a line; None: the captions of the global batch.
        log_scale: of models without a learned one.
        teacher_log_scale: of the teacher; None: its checkpoint's own, else as `log_scale`'s default.
        size: side of the square pictures that a SigLIP2 tower sees.
        frames: at most this many pictures of a sample, evenly spaced; None: all.
        optional: samples without pictures have value 0, those without a caption add no text, instead of being refused.

    Raises:
        ConfigError: for options out of range or that contradict each other; when called, for samples without pictures
            or caption, and embeddings of another width than the tower's.
    """

    pools = True
    restores = False
    name = "distill"

    def __init__(
        self,
        teacher: str = "effnet-minilm",
        source: str = "",
        text: Mapping[str, Any] | None = None,
        tau: float = 2.0,
        bank: str | Sequence[str] | None = None,
        log_scale: float = LOG_SCALE,
        teacher_log_scale: float | None = None,
        size: int = 224,
        frames: int | None = None,
        optional: bool = False,
    ) -> None:
        super().__init__()
        if teacher == "siglip2" and text is None:
            text = {"kind": "siglip2", "source": source}
        self.text = TextOptions.of(text, self.name)
        self.teacher = make_teacher(teacher, source, size, self.text)
        if isinstance(tau, bool) or not isinstance(tau, (int, float)) or not 0 < tau < inf:
            raise ConfigError(f"losses.distill.tau must be a number above 0, got {tau!r}")
        check_count("losses.distill.frames", frames)
        self.tau, self.frames, self.optional = float(tau), frames, optional
        self.bank = None if bank is None else _bank(bank)
        self.log_scale = _number("losses.distill.log_scale", log_scale)
        self.teacher_log_scale = (
            None if teacher_log_scale is None else _number("losses.distill.teacher_log_scale", teacher_log_scale)
        )

    def forward(self, target: Sequence[Sample], reconstruction: Sequence[Sample], encoded: Encoded) -> Tensor:
        embedding_BD = encoded.embedding
        texts = frozen_texts(self.text, embedding_BD.device)
        _check_width(self.name, embedding_BD, texts)
        texts_MD = self._texts(target, texts)
        with torch.no_grad():
            pictures = [pictures_of(sample, self.frames) for sample in target]
            if not self.optional:
                refuse_missing(self.name, target, pictures)
            seen = [i for i, some in enumerate(pictures) if some is not None and len(some)]
            teacher_bD = self.teacher.embed([pictures[i] for i in seen], texts)  # type: ignore[misc]
        rows = torch.tensor(seen, dtype=torch.int64, device=embedding_BD.device)
        with torch.autocast(embedding_BD.device.type, enabled=False):
            values = self._divergence(teacher_bD, embedding_BD[rows], texts_MD, encoded)
            return embedding_BD.new_zeros(len(target)).to(values).index_copy(0, rows, values)

    def _divergence(self, teacher_bD: Tensor, student_bD: Tensor, texts_MD: Tensor, encoded: Encoded) -> Tensor:
        texts_MD = texts_MD.to(student_bD)
        own = self.teacher_log_scale
        if own is None:
            own = self.teacher.log_scale(student_bD.device)
        head = encoded.text_head
        scale = exp(self.log_scale) if head is None else head.scale
        wanted = exp(LOG_SCALE if own is None else own) * (teacher_bD.to(student_bD) @ texts_MD.T)
        got = scale * (student_bD @ texts_MD.T)
        wanted, got = (F.log_softmax(logits / self.tau, dim=-1) for logits in (wanted, got))
        return (wanted.exp() * (wanted - got)).sum(1)

    def _texts(self, target: Sequence[Sample], texts: FrozenTexts) -> Tensor:
        """`[M, D]`: the bank, or every different caption once, in an order that is the same on all processes."""
        if self.bank is not None:
            return texts.embed_list(self.bank)
        _, captions = _captions(self.name, target, texts, self.optional)
        embedded, every = gather(texts.embed(captions)), gather(texts.identities(captions))
        first = {number: place for place, number in reversed(list(enumerate(every.tolist())))}
        return embedded[[first[number] for number in sorted(first)]]


def _captions(name: str, target: Sequence[Sample], texts: FrozenTexts, optional: bool) -> tuple[list[int], list[str]]:
    """Places and captions of the samples that have one.

    Raises:
        ConfigError: naming the first without, unless that is allowed.
    """
    present = [i for i, sample in enumerate(target) if texts.reads(sample.caption)]
    if len(present) < len(target) and not optional:
        lacking = next(sample for i, sample in enumerate(target) if i not in present)
        raise ConfigError(
            f"the loss {name!r} needs a caption of every sample, and {lacking.key!r} has none; take a source with "
            "captions, give the task `captioned: true` (such samples are then replaced), or the loss `optional: true`"
        )
    return present, [target[i].caption or "" for i in present]


def _check_width(name: str, embedding_BD: Tensor, texts: FrozenTexts) -> None:
    if embedding_BD.shape[1] != texts.width:
        raise ConfigError(
            f"the loss {name!r}: the embeddings of the model have width {embedding_BD.shape[1]}, those of the text "
            f"tower {texts.tower.kind} {texts.width}; give model.overrides.text: "
            f"{{kind: {texts.tower.kind}, width: {texts.width}}}"
        )


def _bank(bank: str | Sequence[str]) -> list[str]:
    texts = read_lines(Path(bank).expanduser()) if isinstance(bank, str) else list(bank)
    if len(texts) < 2 or not all(isinstance(text, str) and text.strip() for text in texts):
        raise ConfigError(f"losses.distill.bank must be a file or list of at least two texts, got {texts!r:.80}")
    return texts


def _number(what: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not -inf < value < inf:
        raise ConfigError(f"{what} must be a number, got {value!r}")
    return float(value)
