"""One pass over the data for everything on a card, and one for each place of the probe."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from tok4d_bench.card.codes import CodeSums
from tok4d_bench.card.latents import LatentSums
from tok4d_bench.card.seams import Seams
from tok4d_bench.contracts import UnsuitedError, Value
from tok4d_bench.data.samples import Thinned
from tok4d_bench.gathering import Gathered, groups_of
from tok4d_bench.groups import Group
from tok4d_bench.measures.probe import WHERE, LinearProbe
from tok4d_bench.subjects.tok4d_model import Tok4dSubject

SCHEMA = 1


@torch.inference_mode()
def make_card(
    subject: Tok4dSubject,
    data: Thinned,
    tokens: int = 16_384,
    inner_batch: int = 4,
    advance: Callable[[float], None] = lambda groups: None,
) -> dict[str, Any]:
    """The card as plain data.

    Args:
        tokens: at how many tokens the use of codes is counted.
        inner_batch: samples that are worked on together.
        advance: receives groups done.

    Raises:
        Tok4dError: when the subject cannot encode the data, or there are fewer than two tokens.
    """
    latents, codes, seams = LatentSums(), CodeSums(tokens), Seams(subject)
    probes = {where: Gathered() for where in WHERE}
    measures = {where: LinearProbe(where) for where in WHERE}
    bad: list[dict[str, str]] = []
    for group in groups_of(data, inner_batch, bad):
        samples = [group.samples[place] for place in group.kept]
        for encoded in subject.encoded(samples):
            latents.add(encoded.posterior)
            if subject.model.quantizer is not None:
                codes.add(subject.model.quantize(encoded).indices)
        seams.add(samples)
        _probe(subject, group, probes, measures)
        advance(1)
    quantizer = subject.model.quantizer
    return {
        "schema": SCHEMA,
        "subject": {"name": subject.name, "digest": subject.digest, "facts": subject.facts()},
        "data": {"name": data.name, "digest": data.digest, **data.protocol()},
        "latents": latents.finish().as_dict(),
        "codes": None if quantizer is None else codes.as_dict(quantizer.vocabulary),
        "seams": seams.as_dict(),
        "probe": _accuracies(subject, data, probes, measures),
        "bad": bad,
    }


def _probe(subject: Tok4dSubject, group: Group, probes: dict[str, Gathered], measures: dict[str, LinearProbe]) -> None:
    """Columns of one group for each place that the model has."""
    if not any(sample.label is not None for sample in group.samples):
        return
    for where, reader in probes.items():
        try:
            rows = subject.features(group.samples, where)
        except UnsuitedError:
            continue
        reader.add(group, measures[where].columns(group.samples, list(rows)))


def _accuracies(
    subject: Tok4dSubject, data: Thinned, probes: dict[str, Gathered], measures: dict[str, LinearProbe]
) -> dict[str, Any] | None:
    """Accuracy in percent at each place, with its error and the majority's; None without labels."""
    found: dict[str, Any] = {}
    for where, reader in probes.items():
        if reader.n:
            values = {value.metric: value for value in measures[where].finish(reader, data, subject)}
            found[where] = _accuracy(values[f"probe/{where}"], values.get(f"probe/{where}/majority"))
    return found or None


def _accuracy(value: Value, majority: Value | None) -> dict[str, Any]:
    return {
        "accuracy": value.value,
        "stderr": value.stderr,
        "n": value.n,
        "majority": None if majority is None else majority.value,
        "note": value.note,
    }
