"""How strongly every term of an objective pulls, and whether the terms pull the same way.

P = parameters, T = packed tokens, W = patch width, K = terms.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tok4d.data.batches import Batch
from tok4d.losses.shared import sharing
from tok4d_bench.explain.subject import Case
from tok4d_bench.statistics.bootstrap import mean

PLACES = ("decoder_output", "parameters")


@dataclass(frozen=True)
class TermPull:
    """One term of an objective, means over batches.

    Attributes:
        weight: in the objective.
        value: of the term itself, not weighted.
        norms: L2 norm of the gradient of the weighted term, by place.
        shares: that norm divided by the sum over terms, by place.
    """

    weight: float
    value: float
    norms: dict[str, float]
    shares: dict[str, float]


@dataclass(frozen=True)
class Pulls:
    """What `pulls` found.

    Attributes:
        terms: by name.
        cosines: by place, of every two terms' gradients, means over batches; None where one has no gradient there.
        total: norm of the gradient of the whole objective, by place.
        samples: in all batches.
    """

    terms: dict[str, TermPull]
    cosines: dict[str, dict[str, dict[str, float | None]]]
    total: dict[str, float]
    samples: int


def pulls(case: Case, batches: Sequence[Batch] | None = None) -> Pulls:
    """Gradients of every weighted term, at the decoder's output `[T, W]` and at all parameters `[P]`.

    Each batch's inner products are summed in float64; norms and cosines are then averaged over batches. A term without
    a path to a place (the KL to the decoder's output) pulls there with 0.

    Args:
        case: model, objective and data.
        batches: some of the case's; None: all.
    """
    chosen = list(case.batches if batches is None else batches)
    names = list(case.objective.terms)
    values: dict[str, list[float]] = {name: [] for name in names}
    tables: dict[str, list[Tensor]] = {place: [] for place in PLACES}
    for batch in chosen:
        found, grams = _one(case, batch)
        for name, value in zip(names, found, strict=True):
            values[name].append(value)
        for place in PLACES:
            tables[place].append(grams[place])
    norms = {place: [gram.diagonal().clamp_min(0).sqrt() for gram in tables[place]] for place in PLACES}
    means = {place: torch.stack(norms[place]).mean(0).tolist() for place in PLACES}
    terms = {
        name: TermPull(
            case.objective.weights[name],
            mean(values[name]),
            {place: means[place][i] for place in PLACES},
            {place: means[place][i] / sum(means[place]) if sum(means[place]) else 0.0 for place in PLACES},
        )
        for i, name in enumerate(names)
    }
    cosines = {place: _cosines(names, tables[place]) for place in PLACES}
    total = {place: mean([float(gram.sum().clamp_min(0).sqrt()) for gram in tables[place]]) for place in PLACES}
    return Pulls(terms, cosines, total, sum(len(batch.keys) for batch in chosen))


def _one(case: Case, batch: Batch) -> tuple[list[float], dict[str, Tensor]]:
    """Values of the terms, and by place the inner products `[K, K]` of their weighted gradients."""
    objective = case.objective
    parameters = [p for p in case.model.parameters() if p.requires_grad]
    with torch.enable_grad(), sharing():
        done = case.run(batch)
        losses = [term(done.targets, done.reconstructions, done.encoded).mean() for term in objective.terms.values()]
    rows: dict[str, list[Tensor]] = {place: [] for place in PLACES}
    for name, loss in zip(objective.terms, losses, strict=True):
        wanted = [done.patches, *parameters]
        found: Sequence[Tensor | None] = [None] * len(wanted)
        if loss.requires_grad:
            weighted = objective.weights[name] * loss
            found = torch.autograd.grad(weighted, wanted, retain_graph=True, allow_unused=True)
        flat = [_flat(one, like) for one, like in zip(found, wanted, strict=True)]
        rows["decoder_output"].append(flat[0])
        rows["parameters"].append(torch.cat(flat[1:]))
    return [float(loss.detach()) for loss in losses], {place: _gram(rows[place]) for place in PLACES}


def _flat(gradient: Tensor | None, like: Tensor) -> Tensor:
    found = torch.zeros_like(like) if gradient is None else gradient
    return found.detach().flatten().float()


def _gram(rows: Sequence[Tensor]) -> Tensor:
    """Inner products of K vectors in float64, `[K, K]`, one pair at a time."""
    table = torch.zeros(len(rows), len(rows), dtype=torch.float64)
    for i, one in enumerate(rows):
        for j in range(i, len(rows)):
            table[i, j] = table[j, i] = float((one.double() * rows[j].double()).sum())
    return table


def _cosines(names: Sequence[str], tables: Sequence[Tensor]) -> dict[str, dict[str, float | None]]:
    """Mean over batches of the cosine of every two terms, where both have a gradient."""
    found: dict[str, dict[str, float | None]] = {name: {} for name in names}
    for i, one in enumerate(names):
        for j, other in enumerate(names):
            kept = [
                float(table[i, j] / (table[i, i] * table[j, j]).sqrt())
                for table in tables
                if float(table[i, i]) > 0 and float(table[j, j]) > 0
            ]
            found[one][other] = mean(kept) if kept else None
    return found
