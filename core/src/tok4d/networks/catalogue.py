"""Which networks there are, whose weights they need, and whether those can be had here. Imports no torch.

Weights come through a recipe (packages of a registry, converted once to safetensors), or from a file or folder that
only a model hub has.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tok4d.errors import ConfigError, unknown_name


@dataclass(frozen=True)
class Weights:
    """Pretrained weights as `tok4d weights list` shows them.

    Attributes:
        name: the recipe's too, where there is one.
        use: what for.
        finder: `module:function` of `(Weights) -> Availability`.
        licence, size_mb: where no recipe says it.
        how: one line on getting them, where no recipe does.
    """

    name: str
    use: str
    finder: str
    licence: str = ""
    size_mb: float = 0.0
    how: str = ""

    @property
    def fetched(self) -> bool:
        """Whether a recipe brings them."""
        return not self.how


@dataclass(frozen=True)
class Entry:
    """A network: its name, its weights' name, and `module:function` that builds it.

    Built from `(tensors, where)` for weights of a recipe, else from `(path)` of the file.
    """

    name: str
    weights: str
    build: str


@dataclass(frozen=True)
class Availability:
    """Whether weights are on this machine.

    Attributes:
        present: they are, complete.
        where: the file or folder, or where it was looked for.
        how: what to do when they are absent.
    """

    present: bool
    where: str
    how: str


_STORED, _FILE = "tok4d.networks.stored:find", "tok4d.networks.files:find"

WEIGHTS = {
    item.name: item
    for item in (
        Weights("vgg16-lpips", "LPIPS (vgg), Gram loss, FD-VGG16", _STORED),
        Weights("alex-lpips", "LPIPS (alex)", _STORED),
    )
}

NETWORKS = {
    item.name: item
    for item in (
        Entry("vgg16", "vgg16-lpips", "tok4d.networks.trunks:vgg16"),
        Entry("vgg16-features", "vgg16-lpips", "tok4d.networks.trunks:vgg16_features"),
        Entry("alexnet", "alex-lpips", "tok4d.networks.trunks:alexnet"),
    )
}


def find_network(name: str) -> Entry:
    """A network's entry.

    Raises:
        ConfigError: for an unknown name, with the nearest one.
    """
    if name not in NETWORKS:
        raise ConfigError(unknown_name("network", name, NETWORKS))
    return NETWORKS[name]


def find_weights(name: str) -> Weights:
    """Weights by their own name, or by that of a network that has them.

    Raises:
        ConfigError: for an unknown name, with the nearest one.
    """
    if name in NETWORKS:
        name = NETWORKS[name].weights
    if name not in WEIGHTS:
        raise ConfigError(unknown_name("weights", name, {**WEIGHTS, **NETWORKS}))
    return WEIGHTS[name]


def available(name: str) -> Availability:
    """Whether a network's weights are on this machine; nothing is loaded or fetched.

    Raises:
        ConfigError: for an unknown name.
    """
    from tok4d.plugins.targets import resolve

    weights = find_weights(name)
    found: Availability = resolve(weights.finder)(weights)
    return found


def weights_folder() -> Path:
    """`$TOK4D_CACHE/weights`: converted weights, and files put there by hand."""
    from tok4d.data.fetch import cache_root

    return cache_root() / "weights"
