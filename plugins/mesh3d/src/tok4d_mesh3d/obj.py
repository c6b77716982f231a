"""Wavefront OBJ and MTL: trimesh reads the geometry, the materials are read here."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
from torch import Tensor

from tok4d_mesh3d.assets import AssetError, Assets
from tok4d_mesh3d.mesh import BLEND, CLAMP, REPEAT, Material
from tok4d_mesh3d.parts import Limits, Looks, load_scene
from tok4d_mesh3d.textures import has_alpha, with_alpha

_FACES = re.compile(rb"^[ \t]*f[ \t].*$", re.MULTILINE)
_RELATIVE = re.compile(rb"^[ \t]*f[ \t]+-", re.MULTILINE)
# Faces without and with texture coordinates: 1 2 3 or 1//1 2//1 3//1, and 1/1 2/2 3/3.
_BARE = re.compile(rb"^[ \t]*f[ \t]+-?\d+(?:[ \t]|//)", re.MULTILINE)
_TEXTURED = re.compile(rb"^[ \t]*f[ \t]+-?\d+/-?\d", re.MULTILINE)
_MTLLIB = re.compile(rb"^[ \t]*mtllib[ \t]+(.*)$", re.MULTILINE)
_USEMTL = re.compile(rb"^[ \t]*usemtl[ \t]+(.*?)[ \t\r]*$", re.MULTILINE)
# Arguments that the options of a texture statement take; those of -s and -o may be fewer.
_OPTIONS = {"-blendu": 1, "-blendv": 1, "-boost": 1, "-mm": 2, "-o": 3, "-s": 3, "-t": 3, "-texres": 1, "-clamp": 1}
_OPTIONS |= {"-bm": 1, "-imfchan": 1, "-type": 1, "-cc": 1, "-colorspace": 1}


def read_obj(content: bytes, assets: Assets, limits: Limits) -> tuple[Any, Looks]:
    """A trimesh scene and the looks of its materials.

    Raises:
        Tok4dError: when it has too many faces or vertices.
    """
    _check_counts(content, limits)
    mixed = _mixed(content)
    if mixed or _RELATIVE.search(content):
        content = _plain_faces(content, mixed)
    used = list(dict.fromkeys(_text(name) for name in _USEMTL.findall(content)))
    looks = Looks()
    defined = _materials(content, assets, limits, looks) if used else {}
    for name in used:
        if name in defined:
            looks.materials[name] = defined[name]
        else:
            looks.note(f"material {name!r} is not defined; it is white")
    return load_scene(content.replace(b"\t", b" "), "obj", used or ["white"]), looks


def _text(raw: bytes) -> str:
    return " ".join(raw.decode("utf-8", "replace").split())


def _check_counts(content: bytes, limits: Limits) -> None:
    if content.count(b" ") + content.count(b"\t") <= min(limits.max_faces, limits.max_vertices):
        return  # every triangle and every vertex takes one at least
    faces = 0
    for match in _FACES.finditer(content):
        faces += max(1, len(match.group().split()) - 3)
        if faces > limits.max_faces:
            limits.check(faces)
    limits.check(faces, content.count(b"\nv "))


def _mixed(content: bytes) -> set[bytes]:
    """Materials (as named, b"" for none) that have faces with and faces without texture coordinates."""
    if b"\nvt " not in content:
        return set()
    bare, textured = set[bytes](), set[bytes]()
    starts = [(0, b""), *((match.start(), match[1]) for match in _USEMTL.finditer(content))]
    for (start, name), end in zip(starts, [start for start, _ in starts[1:]] + [len(content)], strict=True):
        for found, pattern in ((bare, _BARE), (textured, _TEXTURED)):
            if name not in found and pattern.search(content, start, end):
                found.add(name)
    return bare & textured


def _plain_faces(content: bytes, mixed: set[bytes]) -> bytes:
    """The same file with faces as trimesh takes them.

    Relative (negative) indices become absolute: trimesh counts them from the file's end, the format from where they
    stand. Where some faces of a material have texture coordinates, the others get (0, 0): trimesh would drop all.
    """
    counts = {b"v": 0, b"vt": 0, b"vn": 0}
    blank = str(len(re.findall(rb"^[ \t]*vt[ \t]", content, re.MULTILINE)) + 1).encode()
    lines, fill = content.splitlines(), b"" in mixed
    for number, line in enumerate(lines):
        words = line.split(None, 1)
        if not words:
            continue
        if words[0] in counts:
            counts[words[0]] += 1
        elif words[0] == b"usemtl":
            fill = len(words) > 1 and words[1] in mixed
        elif words[0] == b"f" and (fill or b"-" in line):
            corners = [_absolute(word, list(counts.values())) for word in line.split()[1:]]
            if fill:
                corners = [[corner[0], (corner[1:2] or [b""])[0] or blank, *corner[2:]] for corner in corners]
            lines[number] = b"f " + b" ".join(b"/".join(corner) for corner in corners)
    return b"\n".join([*lines, b"vt 0 0", b""])


def _absolute(word: bytes, counts: list[int]) -> list[bytes]:
    indices = word.split(b"/")
    for place, (index, count) in enumerate(zip(indices, counts, strict=False)):
        if index.startswith(b"-"):
            indices[place] = str(count + 1 + int(index)).encode()
    return indices


def _materials(content: bytes, assets: Assets, limits: Limits, looks: Looks) -> dict[str, Material]:
    found: dict[str, Material] = {}
    textures = _Textures(assets, limits, looks)
    libraries = list(dict.fromkeys(_text(name) for name in _MTLLIB.findall(content)))
    if not libraries:
        looks.note("names materials but no material file")
    for library in libraries:
        try:
            text = assets.read(library, limits.max_bytes).decode("utf-8", "replace")
        except AssetError as error:
            looks.note(f"material file {error}")
            continue
        for name, statements in _blocks(text):
            found[name] = _material(name, statements, textures, looks)
    return found


def _blocks(text: str) -> Iterator[tuple[str, dict[str, str]]]:
    """Name and statements of every material: keyword in lower case -> the rest of its line."""
    name, statements = None, dict[str, str]()
    for line in text.splitlines():
        keyword, _, rest = line.strip().replace("\t", " ").partition(" ")
        if keyword.lower() == "newmtl":
            if name is not None:
                yield name, statements
            name, statements = " ".join(rest.split()), {}
        elif keyword and not keyword.startswith("#"):
            statements[keyword.lower()] = rest.strip()
    if name is not None:
        yield name, statements


class _Textures:
    """Textures of one file by name, each read once; what cannot be read is noted once."""

    def __init__(self, assets: Assets, limits: Limits, looks: Looks) -> None:
        self.assets, self.limits, self.looks = assets, limits, looks
        self.known: dict[str, Tensor | None] = {}

    def get(self, name: str) -> Tensor | None:
        if name not in self.known:
            self.known[name] = None
            try:
                content = self.assets.read(name, self.limits.max_bytes)
                self.known[name] = self.looks.decode(content, self.limits)
            except AssetError as error:
                text = str(error)
                self.looks.note(f"texture {text}" if repr(name) in text else f"texture {name!r} {text}")
        return self.known[name]


def _material(name: str, statements: dict[str, str], textures: _Textures, looks: Looks) -> Material:
    red, green, blue = _color(statements.get("kd", ""), looks)
    alpha = _number(statements.get("d", "").removeprefix("-halo"), None)
    if alpha is None:
        alpha = 1 - (_number(statements.get("tr", ""), 0.0) or 0.0)
    material = Material(name, (red, green, blue, min(max(alpha, 0.0), 1.0)))
    if "map_kd" in statements:
        file, options = _texture_statement(statements["map_kd"])
        texture = textures.get(file)
        if texture is not None:
            # Exporters leave there what stood in the texture's place before, often dark: it is replaced, as by most
            # renderers, and not multiplied (measured on catalogue icons: half the error in colour).
            looks.bare[name] = material.color
            white = (1.0, 1.0, 1.0, material.color[3])
            wrap = (CLAMP, CLAMP) if options.get("-clamp") == ["on"] else (REPEAT, REPEAT)
            material = replace(material, texture=texture, color=white, wrap=wrap)
            if transform := _transform(options):
                looks.transforms[name] = transform
    if "map_d" in statements and (mask := textures.get(_texture_statement(statements["map_d"])[0])) is not None:
        texture = material.texture
        if texture is None:
            texture = mask.new_full(mask.shape, 255)
        material = replace(material, texture=with_alpha(texture, mask))
    translucent = material.color[3] < 1 or (material.texture is not None and has_alpha(material.texture))
    return replace(material, alpha_mode=BLEND) if translucent else material


def _texture_statement(text: str) -> tuple[str, dict[str, list[str]]]:
    """File name (it may hold spaces) and options of a texture statement."""
    words, options = text.split(" "), dict[str, list[str]]()
    while words and words[0] in _OPTIONS:
        option = words.pop(0)
        count = _OPTIONS[option]
        taken: list[str] = []
        while words and len(taken) < count and (count < 3 or _number(words[0], None) is not None):
            taken.append(words.pop(0))
        options[option] = taken
    return " ".join(words).strip(), options


def _transform(options: dict[str, list[str]]) -> Callable[[np.ndarray], np.ndarray] | None:
    """Scale and offset of texture coordinates (-s, -o), whose v grows upwards; ours grows downwards."""
    scale, offset = np.ones(2), np.zeros(2)
    for option, target in (("-s", scale), ("-o", offset)):
        for place, word in enumerate(options.get(option, [])[:2]):
            target[place] = _number(word, None)
    if (scale == 1).all() and (offset == 0).all():
        return None
    return lambda uv: ((uv * [1, -1] + [0, 1]) * scale + offset) * [1, -1] + [0, 1]


def _color(text: str, looks: Looks) -> tuple[float, float, float]:
    values = [_number(word, None) for word in text.split()]
    if len(values) == 1:
        values = values * 3
    if not text or len(values) < 3 or None in values[:3]:
        if text:
            looks.note(f"colour {text!r} cannot be read; it is white")
        return 1.0, 1.0, 1.0
    red, green, blue = (min(max(value or 0.0, 0.0), 1.0) for value in values[:3])
    return red, green, blue


def _number(text: str, default: float | None) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return default
    return value if np.isfinite(value) else default
