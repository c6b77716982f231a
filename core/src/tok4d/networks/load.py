"""Pretrained networks by name."""

from __future__ import annotations

import threading
from pathlib import Path

import torch

from tok4d.data.fetch import Report
from tok4d.networks.base import Network
from tok4d.networks.catalogue import Entry, find_network, find_weights

_networks: dict[tuple[str, str, str], Network] = {}
_lock = threading.RLock()


def load_network(
    name: str, source: str = "", device: str | torch.device = "cpu", report: Report = lambda text: None
) -> Network:
    """A pretrained network: frozen, evaluating, float32; one object a process for each name, source and device.

    Args:
        name: `vgg16` and `alexnet` are trunks, `vgg16-features` an image network.
        source: file of its weights; empty: those of its recipe, fetched into the cache when they are not there yet,
            or where they are looked for when only a hub has them (`available(name)` tells).
        device: where it computes.
        report: receives a line of progress of a fetch at a time.

    Raises:
        ConfigError: for an unknown name, with the nearest one.
        Tok4dError: when the weights cannot be had, or do not fit.
    """
    entry = find_network(name)
    key = (name, source, str(torch.device(device)))
    with _lock:
        if key not in _networks:
            _networks[key] = _load(entry, source, report).to(device)
        return _networks[key]


def _load(entry: Entry, source: str, report: Report) -> Network:
    from tok4d.networks.stored import ensure_stored, read_float32
    from tok4d.plugins.targets import resolve

    weights = find_weights(entry.weights)
    build = resolve(entry.build)
    if weights.fetched:
        path = Path(source).expanduser() if source else ensure_stored(weights.name, report)
        network: Network = build(read_float32(path), str(path))
    else:
        network = build(source, report)
    network.licence = licence(entry.weights)
    return network.freeze()


def licence(name: str) -> str:
    """Licence of weights: their recipe's, where there is one."""
    from tok4d.data.recipes import load_recipe

    weights = find_weights(name)
    return load_recipe(weights.name).licence if weights.fetched else weights.licence
