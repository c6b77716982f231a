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
        licence: where no recipe says it.
        file: name of the file that has to be put somewhere by hand.
        how: one line on getting them, where no recipe does.
    """

    name: str
    use: str
    finder: str
    licence: str = ""
    file: str = ""
    how: str = ""

    @property
    def fetched(self) -> bool:
        """Whether a recipe brings them."""
        return not self.how


@dataclass(frozen=True)
class Entry:
    """A network: its name, its weights' name, and `module:function` that builds it.

    Built from `(tensors, where)` for weights of a recipe, else from `(source, report)`.
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


_STORED, _FETCHED = "tok4d.networks.stored:find", "tok4d.networks.stored:find_fetched"
_FILE, _HUB = "tok4d.networks.files:find", "tok4d.networks.hub:find"

WEIGHTS = {
    item.name: item
    for item in (
        Weights("vgg16-lpips", "LPIPS (vgg), Gram loss, FD-VGG16", _STORED),
        Weights("alex-lpips", "LPIPS (alex)", _STORED),
        Weights("effnet-lite0", "classifier agreement, FD-EffNetLite0, teacher with minilm", _STORED),
        Weights("transnetv2", "FD-TransNetV2 (video)", _STORED),
        Weights("minilm", "text tower: zero-shot, sigmoid loss, teacher with effnet-lite0", _FETCHED),
        Weights(
            name="inception-v3-fid",
            use="FID, KID",
            finder=_FILE,
            licence="Apache-2.0 (TensorFlow models)",
            file="weights-inception-2015-12-05-6726825d.pth",
            how="torch-fidelity's releases (v0.2.0) hold it, and its first FID with a network downloads it",
        ),
        Weights(
            name="i3d",
            use="FVD",
            finder=_FILE,
            licence="Apache-2.0 (kinetics-i3d); none stated for the conversion",
            file="i3d_torchscript.pt",
            how="StyleGAN-V's repository links it (TorchScript, its metrics download it)",
        ),
        Weights(
            name="siglip2",
            use="teacher, start of the encoder, text tower; by folder or hub id",
            finder=_HUB,
            licence="Apache-2.0",
            how="hf download google/siglip2-base-patch16-naflex, where there is a network",
        ),
    )
}

NETWORKS = {
    item.name: item
    for item in (
        Entry("vgg16", "vgg16-lpips", "tok4d.networks.trunks:vgg16"),
        Entry("vgg16-features", "vgg16-lpips", "tok4d.networks.trunks:vgg16_features"),
        Entry("alexnet", "alex-lpips", "tok4d.networks.trunks:alexnet"),
        Entry("effnet-lite0", "effnet-lite0", "tok4d.networks.effnet:effnet_lite0"),
        Entry("transnetv2", "transnetv2", "tok4d.networks.transnetv2:transnetv2"),
        Entry("inception-v3-fid", "inception-v3-fid", "tok4d.networks.inception:load"),
        Entry("i3d", "i3d", "tok4d.networks.i3d:load"),
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
