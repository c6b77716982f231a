"""Materials of a glTF header: base colour, texture, transparency, wrapping. Light-dependent parts are not used."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from torch import Tensor

from tok4d.errors import Tok4dError
from tok4d_mesh3d.mesh import BLEND, CLAMP, MASK, MIRROR, OPAQUE, REPEAT, Material
from tok4d_mesh3d.parts import Limits, Looks, to_display

_WRAPS = {33071: CLAMP, 33648: MIRROR, 10497: REPEAT}
_MODES = {"OPAQUE": OPAQUE, "MASK": MASK, "BLEND": BLEND}
_GLOSS = "KHR_materials_pbrSpecularGlossiness"


def read_materials(header: dict[str, Any], image: Callable[[int], bytes], limits: Limits, looks: Looks) -> None:
    """Fill `looks` with the header's materials under their numbers, `-1` being the default one.

    `header["texcoords"]` becomes the set of texture coordinates of every material that does not use set 0.

    Args:
        image: encoded bytes of an image by number.
    """
    looks.materials["-1"] = Material("-1")
    textures: dict[int, Tensor | None] = {}
    header["texcoords"] = {}
    for number, material in enumerate(header.get("materials", [])):
        name = str(number)
        gloss = material.get("extensions", {}).get(_GLOSS)
        base = material.get("pbrMetallicRoughness", {}) if gloss is None else gloss
        factor = base.get("baseColorFactor" if gloss is None else "diffuseFactor", (1.0, 1.0, 1.0, 1.0))
        info = base.get("baseColorTexture" if gloss is None else "diffuseTexture")
        texture, wrap = None, (REPEAT, REPEAT)
        if info is not None:
            texture, wrap = _texture(header, int(info["index"]), image, limits, looks, textures)
            _place(header, name, info, looks)
        looks.materials[name] = Material(
            name=name,
            color=_display(factor),
            texture=texture,
            wrap=wrap,
            alpha_mode=_MODES.get(material.get("alphaMode", "OPAQUE"), OPAQUE),
            cutoff=float(material.get("alphaCutoff", 0.5)),
        )


def _display(factor: Any) -> tuple[float, float, float, float]:
    values = np.nan_to_num(np.asarray(factor, dtype=np.float64)).clip(0, 1)
    if values.shape != (4,):
        raise Tok4dError(f"is damaged: a colour must have 4 numbers, got {factor!r}")
    red, green, blue = to_display(values[:3]).tolist()
    return red, green, blue, float(values[3])


def _texture(
    header: dict[str, Any],
    index: int,
    image: Callable[[int], bytes],
    limits: Limits,
    looks: Looks,
    known: dict[int, Tensor | None],
) -> tuple[Tensor | None, tuple[str, str]]:
    """Texture number `index` and how it wraps; a texture that cannot be read is noted."""
    entry = header["textures"][index]
    sampler: dict[str, int] = header["samplers"][entry["sampler"]] if "sampler" in entry else {}
    wrap = _WRAPS.get(sampler.get("wrapS", 0), REPEAT), _WRAPS.get(sampler.get("wrapT", 0), REPEAT)
    source = entry.get("source", entry.get("extensions", {}).get("EXT_texture_webp", {}).get("source"))
    if source is None:
        looks.note(f"texture {index} is in a format that cannot be read")
        return None, wrap
    if source not in known:
        known[source] = None
        try:
            known[source] = looks.decode(image(source), limits)
        except (ValueError, KeyError, IndexError) as error:
            looks.note(f"texture image {source} {error}")
    return known[source], wrap


def _place(header: dict[str, Any], name: str, info: dict[str, Any], looks: Looks) -> None:
    """Note which texture coordinates a material uses, and how it moves them (KHR_texture_transform)."""
    moved = info.get("extensions", {}).get("KHR_texture_transform", {})
    if texcoord := int(moved.get("texCoord", info.get("texCoord", 0))):
        header["texcoords"][name] = texcoord
    if moved.keys() & {"offset", "scale", "rotation"}:
        angle = float(moved.get("rotation", 0.0))
        turn = np.array([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]])
        matrix = turn @ np.diag([float(value) for value in moved.get("scale", (1.0, 1.0))])
        offset = np.array([float(value) for value in moved.get("offset", (0.0, 0.0))])
        looks.transforms[name] = lambda uv: uv @ matrix.T + offset
