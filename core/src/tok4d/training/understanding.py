"""How well embeddings name what they show and are found by a text: accuracy and retrieval, with what luck would give.

N = samples, C = classes, Q = texts, D = width of the embeddings. All vectors are of unit length, so that products are
cosines. A tie counts against the model: embeddings that are all alike have accuracy and recall 0.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from math import comb

import torch
from torch import Tensor

from tok4d.errors import Tok4dError

RECALL_AT = (1, 5, 10)


@dataclass(frozen=True)
class Accuracy:
    """Classification by the nearest class.

    Attributes:
        micro: share of samples whose own class is nearest.
        macro: mean over the classes present of that share.
        chance: what a guess among all classes gives, of both.
        majority: `micro` of always saying the most frequent class.
        samples, classes: samples that count, and the classes among them.
    """

    micro: float
    macro: float
    chance: float
    majority: float
    samples: int
    classes: int


@torch.no_grad()
def accuracy(
    embeddings: Tensor, labels: Sequence[int | None], vectors: Tensor, numbers: Sequence[int]
) -> Accuracy | None:
    """Accuracy of the nearest class by cosine; None when no sample has a class among those.

    Args:
        embeddings: `[N, D]`.
        labels: class number of every sample; None, or a number that is not in `numbers`: the sample does not count.
        vectors: one of every class, `[C, D]`.
        numbers: class number of every vector.

    Raises:
        Tok4dError: for shapes that do not fit together.
    """
    _check(embeddings, labels, vectors, numbers)
    place = {number: i for i, number in enumerate(numbers)}
    counted = [i for i, label in enumerate(labels) if label in place]
    if not counted:
        return None
    own = torch.tensor([place[labels[i]] for i in counted])  # type: ignore[index]
    scores_NC = embeddings[counted].double().cpu() @ vectors.double().cpu().T
    others_NC = scores_NC.scatter(1, own[:, None], float("-inf"))
    right = (scores_NC.gather(1, own[:, None])[:, 0] > others_NC.amax(1)).double()
    shares = [float(right[own == i].mean()) for i in own.unique().tolist()]
    return Accuracy(
        micro=float(right.mean()),
        macro=sum(shares) / len(shares),
        chance=1 / len(numbers),
        majority=Counter(own.tolist()).most_common(1)[0][1] / len(own),
        samples=len(own),
        classes=len(shares),
    )


@dataclass(frozen=True)
class Recall:
    """Retrieval of samples by text.

    Attributes:
        value: by k, share of the texts with one of their samples among the k nearest.
        chance: by k, the same for a random order.
        texts, samples: how many were asked, and how many they were looked for in.
    """

    value: dict[int, float]
    chance: dict[int, float]
    texts: int
    samples: int


@torch.no_grad()
def recall(
    embeddings: Tensor,
    captions: Sequence[str | None],
    vectors: Tensor,
    texts: Sequence[str],
    at: Sequence[int] = RECALL_AT,
) -> Recall | None:
    """Recall at k of samples by their captions; None when no text is a caption of a sample.

    Every text is asked once, and any sample with that caption counts. Samples without one are candidates too.

    Args:
        embeddings: `[N, D]`.
        captions: of every sample.
        vectors: of the texts, `[Q, D]`.
        texts: different ones; those that are nobody's caption are not asked.

    Raises:
        Tok4dError: for shapes that do not fit together.
    """
    _check(embeddings, captions, vectors, texts)
    own: dict[str, list[int]] = {}
    for i, caption in enumerate(captions):
        if caption is not None:
            own.setdefault(caption, []).append(i)
    asked = [i for i, text in enumerate(texts) if text in own]
    if not asked:
        return None
    scores_QN = vectors[asked].double().cpu() @ embeddings.double().cpu().T
    ranks = [_rank(scores_QN[row], own[texts[i]]) for row, i in enumerate(asked)]
    found = [len(own[texts[i]]) for i in asked]
    return Recall(
        value={k: sum(rank <= k for rank in ranks) / len(ranks) for k in at},
        chance={k: sum(_lucky(len(captions), count, k) for count in found) / len(found) for k in at},
        texts=len(asked),
        samples=len(captions),
    )


def _rank(scores_N: Tensor, own: list[int]) -> int:
    """Place of the best of a text's own samples, from 1; another sample with the same score is before it."""
    others = torch.ones(len(scores_N), dtype=torch.bool)
    others[own] = False
    return 1 + int((scores_N[others] >= scores_N[own].max()).sum())


def _lucky(samples: int, own: int, k: int) -> float:
    """Probability that k of `samples` drawn without replacement hold one of `own` (hypergeometric)."""
    k = min(k, samples)
    return 1 - comb(samples - own, k) / comb(samples, k)


def _check(embeddings: Tensor, named: Sequence[object], vectors: Tensor, names: Sequence[object]) -> None:
    if embeddings.ndim != 2 or vectors.ndim != 2 or embeddings.shape[1] != vectors.shape[1]:
        raise Tok4dError(
            f"embeddings {tuple(embeddings.shape)} and text vectors {tuple(vectors.shape)} must be [N, D] and [C, D]"
        )
    if len(embeddings) != len(named) or len(vectors) != len(names):
        raise Tok4dError(
            f"{len(embeddings)} embeddings for {len(named)} samples, {len(vectors)} vectors for {len(names)} names"
        )
