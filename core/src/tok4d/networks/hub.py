"""Model folders of a hub: whether the local cache of the hub's client has one. Nothing is asked over the network."""

from __future__ import annotations

from tok4d.networks.catalogue import Availability, Weights

SIGLIP2 = ("google/siglip2-base-patch16-naflex", "google/siglip2-so400m-patch16-naflex")


def find(weights: Weights) -> Availability:
    """The first SigLIP2 folder of the cache that has config and weights."""
    try:
        from huggingface_hub import constants, try_to_load_from_cache
    except ImportError:
        return Availability(False, "the hub's cache", 'pip install "tok4d[siglip]", or give a folder as source')
    for repository in SIGLIP2:
        files = [try_to_load_from_cache(repository, name) for name in ("config.json", "model.safetensors")]
        if all(isinstance(path, str) for path in files):
            return Availability(True, str(files[0]).removesuffix("/config.json"), weights.how)
    return Availability(False, constants.HF_HUB_CACHE, f"{weights.how}; or give any folder or hub id as source")
