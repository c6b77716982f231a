"""The Fréchet distance of a model's reconstructions in its two parts, on any network, beside its null."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

import torch

from tok4d.modality import Sample
from tok4d.networks.catalogue import find_network
from tok4d.plugins.registry import modality
from tok4d_bench.contracts import Measure, Restored
from tok4d_bench.explain.subject import Case
from tok4d_bench.measures.base import pictures
from tok4d_bench.measures.frechet import VIDEO_NAMES, FrechetDistance, VideoDistance
from tok4d_bench.measures.kernel import KernelDistance
from tok4d_bench.measures.memory import measure_pairs
from tok4d_bench.statistics.frechet import TRUSTED

DEFAULTS = {"pictures": ("effnet-lite0", "vgg16-features"), "clips": ("transnetv2",)}


@torch.inference_mode()
def distances(case: Case, networks: Sequence[str] = (), pca: int = 0) -> dict[str, Any]:
    """Values by network: the distance, its parts, its error and its null, and the kernel distance of pictures.

    Args:
        case: model and data.
        networks: names of `tok4d.networks`; empty: those that need no hub.
        pca: directions for the two parts; 0: as many as have ten samples each.

    Returns:
        `{network: {"values": [...]}}`, or `{"why": ...}` where the weights are not here, or for data without pictures.
    """
    originals, restored = _pairs(case)
    if modality(originals[0].modality).pictures(originals[0]) is None:
        return {"why": f"{originals[0].modality} has no pictures that a network could see"}
    clips = any(len(pictures(sample)) > 1 for sample in originals)
    found: dict[str, Any] = {}
    for name in networks or DEFAULTS["clips" if clips else "pictures"]:
        find_network(name)  # a misspelt one is an error, not a missing one
        measures = _measures(name, pca or max(1, len(originals) // TRUSTED))
        if lacking := [one for one in measures[0].requirements() if one.missing]:
            found[name] = {"why": f"{lacking[0].what}: {lacking[0].missing}; {lacking[0].fix}"}
            continue
        values = [value for several in measure_pairs(measures, originals, restored) for value in several]
        found[name] = {"values": [asdict(value) for value in values]}
    return found


def _measures(network: str, pca: int) -> list[Measure]:
    if network in VIDEO_NAMES:
        return [VideoDistance(network, pca=pca)]
    return [FrechetDistance(network, pca=pca), KernelDistance(network)]


def _pairs(case: Case) -> tuple[list[Sample], list[Restored]]:
    """Originals and reconstructions as 8 bits keep them."""
    originals: list[Sample] = []
    restored: list[Restored] = []
    for batch in case.batches:
        done = case.run(batch)
        originals += done.targets
        restored += [Restored(_rounded(sample)) for sample in done.reconstructions]
    return originals, restored


def _rounded(sample: Sample) -> Sample:
    data = {
        name: ((x.clamp(-1, 1) + 1) * 127.5).round() / 127.5 - 1 if x.is_floating_point() else x
        for name, x in sample.data.items()
    }
    return replace(sample, data=data)
