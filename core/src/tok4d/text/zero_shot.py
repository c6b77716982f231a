"""Zero-shot classification: labels as vectors, by the mean over templates (CLIP, arXiv 2103.00020, section 3.1.4).

N = labels, K = templates, D = width of the embedding.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch.nn.functional as F
from torch import Tensor

from tok4d.errors import DataError, Tok4dError, unknown_name
from tok4d.text.cache import EmbeddingCache
from tok4d.text.encoder import TextEncoder

PLACES = ("{label}", "{}")
MAX_BYTES = 16 << 20

TEMPLATES: dict[str, tuple[str, ...]] = {
    "plain": ("{}",),
    "siglip": ("This is a photo of {label}.",),
    # CLIP's authors found these seven, of their eighty, to do about as well as all (notebook "Prompt Engineering").
    "openai7": (
        "itap of a {}.",
        "a bad photo of the {}.",
        "a origami {}.",
        "a photo of the large {}.",
        "a {} in a video game.",
        "art of the {}.",
        "a photo of the small {}.",
    ),
}


def zero_shot_weights(
    encoder: TextEncoder, labels: Sequence[str], templates: Sequence[str], cache: EmbeddingCache | None = None
) -> Tensor:
    """One unit vector a label, `[N, D]`: the mean of its templates' unit vectors, normalised again.

    Raises:
        Tok4dError: for no label, labels that are one text to the tower, and templates without a place for the label.
    """
    check_labels(labels, encoder)
    check_templates(templates)
    prompts = [fill(template, label) for label in labels for template in templates]
    embedded = encoder.encode(prompts) if cache is None else cache.encode(encoder, prompts)
    return F.normalize(embedded.unflatten(0, (len(labels), len(templates))).mean(1), dim=-1)


def fill(template: str, label: str) -> str:
    """A template with its label; what else is in braces stays as it is."""
    place = PLACES[0] if PLACES[0] in template else PLACES[1]
    return template.replace(place, label)


def check_labels(labels: Sequence[str], encoder: TextEncoder | None = None) -> None:
    """Raise Tok4dError for no labels, empty ones, and equal ones; given an encoder, equal as its tower reads them."""
    if not labels:
        raise Tok4dError("no labels: give at least one")
    seen: dict[str, str] = {}
    for label in labels:
        read = label.strip() if encoder is None else encoder.canonical(label)
        if not read:
            raise Tok4dError(f"label {label!r} holds nothing to read")
        if read in seen:
            same = f"label {label!r} is there twice" if label == seen[read] else ""
            raise Tok4dError(same or f"labels {seen[read]!r} and {label!r} are the same text: {read!r}")
        seen[read] = label


def check_templates(templates: Sequence[str]) -> None:
    """Raise Tok4dError for no templates, or one without a place for the label."""
    if not templates:
        raise Tok4dError("no templates: give at least one, such as 'a photo of {}'")
    for template in templates:
        if not any(place in template for place in PLACES):
            raise Tok4dError(f"template {template!r} has no place for the label: write {{}} or {{label}} where it goes")


def load_templates(name: str) -> tuple[str, ...]:
    """A built-in set by name, or a text file with one template a line.

    Raises:
        Tok4dError: for an unknown name, or a file that cannot be read or has a line without a place for the label.
    """
    if name in TEMPLATES:
        return TEMPLATES[name]
    if not Path(name).is_file():
        raise Tok4dError(f"{unknown_name('templates', name, TEMPLATES)}; or a file with one template a line")
    lines = tuple(read_lines(Path(name)))
    try:
        check_templates(lines)
    except Tok4dError as error:
        raise DataError(name, str(error)) from error
    return lines


def read_lines(path: Path) -> list[str]:
    """Lines of a text file in UTF-8, without the space around them and without empty ones.

    Raises:
        DataError: when it is missing, huge or not UTF-8.
    """
    try:
        if path.stat().st_size > MAX_BYTES:
            raise DataError(path, f"{path.stat().st_size} bytes is too large for a list of lines")
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise DataError(path, error.strerror or str(error)) from error
    except UnicodeDecodeError as error:
        raise DataError(path, f"not UTF-8 text: {error.reason} at byte {error.start}") from error
    return [line.strip() for line in text.split("\n") if line.strip()]
