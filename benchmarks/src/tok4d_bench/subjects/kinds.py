"""The kinds of subjects: ours as a table of strings, others through the hook `tok4d_register_baselines`."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, NamedTuple

from tok4d.errors import ConfigError, unknown_name

if TYPE_CHECKING:  # the plugin host reads the table below, and torch stays away
    from tok4d_bench.contracts import Subject

INSTALL = 'pip install "tok4d[baselines]"'


class Kind(NamedTuple):
    """Where a kind lives (`module:Class`), what it is, the packages that it needs, and an example."""

    target: str
    summary: str
    packages: tuple[str, ...] = ()
    example: str = ""


_HERE = "tok4d_bench.subjects"
_HF = ("transformers",)
KINDS: dict[str, Kind] = {
    "tok4d": Kind(f"{_HERE}.tok4d_model:Tok4dSubject", "a tok4d model folder", (), "runs/tiny/model"),
    "identity": Kind(f"{_HERE}.identity:Identity", "the originals themselves: what each figure is at best"),
    "pca": Kind(f"{_HERE}.pca:Pca", "principal components of patches", (), "pca:image/photos,channels=48"),
    "splats": Kind(f"{_HERE}.splats:Splats", "an asset's own voxels, one splat each in its mean colour"),
    "random": Kind(f"{_HERE}.random_vectors:Random", "random embeddings and features: the level of chance"),
    "jpeg": Kind(f"{_HERE}.codecs:Jpeg", "JPEG, by quality or rate", (), "jpeg,bpp=0.5"),
    "webp": Kind(f"{_HERE}.codecs:WebP", "WebP, by quality or rate", (), "webp,bpp=0.5"),
    "avif": Kind(f"{_HERE}.codecs:Avif", "AV1 of stills, by quality or rate", (), "avif,bpp=0.5"),
    "av1": Kind(f"{_HERE}.av1:Av1", "AV1 of clips, by crf or rate", ("av",), "av1,bpp=0.1"),
    "diffusers": Kind(
        f"{_HERE}.diffusers_vae:DiffusersVae",
        "autoencoders of diffusers: SD, FLUX, Wan, HunyuanVideo, Cosmos, DC-AE, VQ, ...",
        ("diffusers", "accelerate"),
        "diffusers:FOLDER_OR_ID,subfolder=vae",
    ),
    "siglip2": Kind(f"{_HERE}.towers:Siglip2", "SigLIP and SigLIP2, both towers", _HF, "siglip2:FOLDER_OR_ID"),
    "clip": Kind(f"{_HERE}.towers:Clip", "CLIP and MetaCLIP 2, both towers", _HF, "clip:FOLDER_OR_ID"),
    "videoprism": Kind(f"{_HERE}.towers:VideoPrism", "VideoPrism, both towers", _HF, "videoprism:FOLDER_OR_ID"),
    "pe": Kind(f"{_HERE}.pe:PeCore", "PE-core, its image tower alone (no texts)", ("timm",), "pe:FOLDER_OR_ID"),
}


@dataclass(frozen=True)
class KindRow:
    """A kind as lists show it.

    Attributes:
        missing: why it cannot be used here, with how to change that; empty: it can.
        plugin: who provides it.
    """

    name: str
    summary: str
    example: str
    missing: str
    plugin: str


def kind_names() -> list[str]:
    """All kinds, in order of registration."""
    from tok4d.plugins.registry import names

    return names("baselines")


def kind_rows() -> list[KindRow]:
    """All kinds with what is missing for them; imports none of them."""
    from tok4d.plugins.registry import provider

    rows = []
    for name in kind_names():
        kind = KINDS.get(name, Kind("", ""))
        rows.append(KindRow(name, kind.summary, kind.example or name, missing(kind), provider("baselines", name)))
    return rows


def missing(kind: Kind) -> str:
    """Packages that are not installed, in words; empty when all are."""
    absent = [package for package in kind.packages if find_spec(package) is None]
    return f"needs {' and '.join(absent)}; {INSTALL}" if absent else ""


def kind_class(name: str) -> Callable[..., Subject]:
    """The class of a kind.

    Raises:
        ConfigError: for an unknown kind, with the nearest, or one whose packages are not installed.
        PluginError: when it cannot be imported.
    """
    from tok4d.plugins.registry import lookup

    if name not in kind_names():
        raise ConfigError(unknown_name("kind of subject", name, kind_names()) + "; or give a model folder")
    if name in KINDS and (problem := missing(KINDS[name])):
        raise ConfigError(f"baseline {name}: {problem}")
    found: Callable[..., Subject] = lookup("baselines", name)
    return found


def options_of(made_by: Callable[..., Subject]) -> list[str]:
    """Names of a kind's options: the keyword arguments of its constructor besides device and dtype."""
    given = inspect.signature(made_by).parameters.values()
    return [p.name for p in given if p.kind is p.KEYWORD_ONLY and p.name not in ("device", "dtype")]


def make(kind: str, source: str, options: dict[str, Any], device: str, dtype: str) -> Subject:
    """A subject of a kind.

    Raises:
        ConfigError: for an unknown kind or option, with the nearest, or an option of another type; what the kind itself
            raises.
    """
    from tok4d.options import build

    made_by = kind_class(kind)
    known = options_of(made_by)
    for name in options:
        if name not in known:
            raise ConfigError(f"baseline {kind}: {unknown_name('option', name, known)}")
    return build(f"baseline {kind}", made_by, options, source, device=device, dtype=dtype)
