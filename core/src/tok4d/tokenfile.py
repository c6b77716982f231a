"""Token files: latents or codes of samples in one safetensors file, restorable without the originals.

T = tokens of all samples, L = latent channels, G = FSQ groups.

Tensors: `coords [T, 4]` int32 and either `latents [T, L]` float32/float16 or `codes [T, G]` int32. The metadata has one
key, `tok4d-tokens`, whose JSON value holds version, model digest, kind, lengths and origins (one key, because
safetensors writes several in no fixed order, and equal tokens should give equal files).

A token file may come from anywhere, so the reader trusts nothing: sizes are checked before anything is allocated.
"""

from __future__ import annotations

import json
import re
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor

from tok4d.errors import DataError, Tok4dError
from tok4d.model.fsq import Codes
from tok4d.origin import Origin
from tok4d.tokens import TokenSet
from tok4d.weights.folder import write_tensors

FORMAT = "tok4d-tokens"
VERSION = 1
SUFFIX = ".tok.safetensors"
MAX_FILE_BYTES = 4 * 2**30
MAX_HEADER_BYTES = 64 * 2**20
MAX_ELEMENTS = 2**31  # values that one file may restore to: 8 GiB of float32
MAX_CELLS = 2**21  # grid cells that sparse data (a 128^3 volume) may span beyond its number of values

Kind = Literal["latents", "codes"]
_BYTES = {"F32": 4, "F16": 2, "I32": 4}
_KINDS: dict[str, tuple[str, ...]] = {"latents": ("F32", "F16"), "codes": ("I32",)}
_DIGEST = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, eq=False)
class TokenFile:
    """What a token file holds.

    Attributes:
        version: format version.
        digest: digest of the model that made it; another model cannot decode it.
        kind: `latents` or `codes`.
        modality: modality of all its samples.
        lengths, origins: tokens per sample, and what each sample was.
        coords: `[T, 4]` int32.
        values: latents `[T, L]` float32 or float16, or codes `[T, G]` int32.
    """

    version: int
    digest: str
    kind: Kind
    modality: str
    lengths: tuple[int, ...]
    origins: tuple[Origin, ...]
    coords: Tensor
    values: Tensor

    def tokens(self, dtype: torch.dtype | None = None) -> TokenSet:
        """The latents as a TokenSet, optionally cast.

        Raises:
            Tok4dError: when the file holds codes; `Tokenizer.decode_codes` takes those.
        """
        if self.kind != "latents":
            raise Tok4dError("this token file holds codes, not latents; decode it with decode_codes")
        return TokenSet(self.values.to(dtype or self.values.dtype), self.coords, self.lengths, self.origins)


def save_tokens(
    path: str | Path, tokens: TokenSet | Codes, *, model_digest: str, dtype: torch.dtype = torch.float32
) -> None:
    """Write latents or codes with their origins; the file is complete or not there at all.

    Args:
        path: file to write; its folder must exist.
        tokens: latents as a TokenSet, or `Codes`.
        model_digest: `Tokenizer.digest` of the model that made them.
        dtype: float32 or float16, for latents.

    Raises:
        Tok4dError: for tokens without origins, of several modalities, with invalid values, or beyond float16.
        DataError: when the file cannot be written.
    """
    codes = isinstance(tokens, Codes)
    place = tokens.tokens if isinstance(tokens, Codes) else tokens
    values = tokens.indices.to(torch.int32) if isinstance(tokens, Codes) else _stored(tokens.feats, dtype)
    if not len(place) or len(place.origins) != len(place):
        raise Tok4dError(f"a token file needs an origin per sample, got {len(place.origins)} for {len(place)}")
    if len(names := sorted({origin.modality for origin in place.origins})) > 1:
        raise Tok4dError(f"a token file holds one modality, got {', '.join(names)}; write one file each")
    if not _DIGEST.fullmatch(model_digest):
        raise Tok4dError(f"model_digest must be 64 hexadecimal digits, got {model_digest!r}")
    place.validate()
    head = {
        "version": VERSION,
        "digest": model_digest,
        "kind": "codes" if codes else "latents",
        "modality": names[0],
        "lengths": list(place.lengths),
        "origins": [origin.to_json() for origin in place.origins],
    }
    tensors = {"coords": place.coords.cpu(), str(head["kind"]): values.cpu()}
    try:
        write_tensors(Path(path), tensors, {FORMAT: json.dumps(head, sort_keys=True, allow_nan=False)})
    except (OSError, SafetensorError, TypeError, ValueError) as error:
        raise DataError(path, f"cannot write: {getattr(error, 'strerror', None) or error}") from error


def _stored(latents: Tensor, dtype: torch.dtype) -> Tensor:
    if dtype not in (torch.float32, torch.float16):
        raise Tok4dError(f"token files hold float32 or float16, got {dtype}")
    stored = latents.detach().to(dtype)
    if bool((torch.isinf(stored) & torch.isfinite(latents)).any()):
        raise Tok4dError(f"latents up to {float(latents.abs().max()):.3g} do not fit float16; store float32")
    return stored


def load_tokens(path: str | Path, *, max_elements: int = MAX_ELEMENTS) -> TokenFile:
    """Read a token file from anywhere.

    Args:
        max_elements: bound on the number of values that all its samples together restore to.

    Raises:
        DataError: for anything that is not a complete and consistent token file, with the reason.
    """
    try:
        data, raw = _open(Path(path))
        head, kind = _head(raw)
        _check_sizes(raw, kind, len(data) - 8 - int.from_bytes(data[:8], "little"))
        tensors = load(data)
        return _checked(head, kind, tensors, max_elements)
    except DataError:
        raise
    except Tok4dError as error:
        raise DataError(path, str(error)) from error
    except SafetensorError as error:
        raise DataError(path, f"damaged safetensors file: {error}") from error
    except OSError as error:
        raise DataError(path, f"cannot be read: {error.strerror or error}") from error


def is_token_file(path: str | Path) -> bool:
    """Whether a file says that it is a token file; it may still be damaged."""
    try:
        return FORMAT in _metadata(_open(Path(path), header_only=True)[1])
    except (Tok4dError, OSError):
        return False


def _open(path: Path, header_only: bool = False) -> tuple[bytes, dict[str, Any]]:
    """All bytes and the parsed header, after checks of the file's kind and sizes."""
    if path.is_dir():
        raise DataError(path, "is a folder, not a token file")
    if not path.exists():
        raise DataError(path, "no such file")
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise DataError(path, "is not a regular file")
    if status.st_size == 0:
        raise DataError(path, "is empty")
    if status.st_size > MAX_FILE_BYTES:
        raise DataError(path, f"is {status.st_size} bytes long; a token file has at most {MAX_FILE_BYTES}")
    with path.open("rb") as stream:
        start = stream.read(8)
        size = int.from_bytes(start, "little")
        if len(start) < 8 or not 2 <= size <= MAX_HEADER_BYTES:
            raise DataError(path, "is not a safetensors file")
        if size > status.st_size - 8:
            raise DataError(path, f"is truncated: {status.st_size} bytes, its header alone has {size + 8}")
        text = stream.read(size)
        try:
            raw = _json(text)
        except Tok4dError as error:
            raise DataError(path, f"is not a safetensors file: {error}") from error
        return (b"" if header_only else start + text + stream.read(MAX_FILE_BYTES)), raw


def _json(text: str | bytes) -> dict[str, Any]:
    """A JSON object from untrusted text; NaN and infinity are refused."""

    def refuse(constant: str) -> None:
        raise ValueError(f"{constant} is no JSON")

    try:
        data = json.loads(text, parse_constant=refuse)
    except (ValueError, RecursionError) as error:
        raise Tok4dError(f"malformed JSON: {error}") from error
    if not isinstance(data, dict):
        raise Tok4dError(f"expected a JSON object, got {type(data).__name__}")
    return data


def _metadata(raw: Mapping[str, Any]) -> Mapping[str, Any]:
    metadata = raw.get("__metadata__")
    return metadata if isinstance(metadata, Mapping) else {}


def _head(raw: Mapping[str, Any]) -> tuple[dict[str, Any], Kind]:
    """The token file's own header, with the checks that need no tensor."""
    text = _metadata(raw).get(FORMAT)
    if not isinstance(text, str):
        raise Tok4dError("is a safetensors file, but not a token file")
    head = _json(text)
    if head.get("version") != VERSION or isinstance(head.get("version"), bool):
        raise Tok4dError(f"has token file version {head.get('version')!r}; this tok4d reads version {VERSION}")
    if not isinstance(head.get("digest"), str) or not _DIGEST.fullmatch(head["digest"]):
        raise Tok4dError(f"has no valid model digest: {head.get('digest')!r}")
    for kind in ("latents", "codes"):
        if head.get("kind") == kind:
            return head, kind
    raise Tok4dError(f"kind must be latents or codes, got {head.get('kind')!r}")


def _check_sizes(raw: Mapping[str, Any], kind: Kind, payload: int) -> None:
    """Names, dtypes and shapes in the header; together they must explain every byte of the file."""
    specs = {name: spec for name, spec in raw.items() if name != "__metadata__"}
    if set(specs) != {"coords", kind}:
        raise Tok4dError(f"must hold the tensors coords and {kind}, got {sorted(specs)}")
    rows, coords_bytes = _spec("coords", specs["coords"], ("I32",), 4)
    values_rows, values_bytes = _spec(kind, specs[kind], _KINDS[kind], None)
    if rows != values_rows:
        raise Tok4dError(f"has {rows} coords for {values_rows} {kind}")
    if (needed := coords_bytes + values_bytes) != payload:
        what = "is truncated" if needed > payload else "has bytes that belong to nothing"
        raise Tok4dError(f"{what}: its tensors need {needed} bytes, the file has {payload}")


def _spec(name: str, spec: Any, dtypes: tuple[str, ...], width: int | None) -> tuple[int, int]:
    """Rows and bytes of one tensor by its header entry."""
    dtype, shape = (spec.get("dtype"), spec.get("shape")) if isinstance(spec, Mapping) else (None, None)
    known = isinstance(shape, list) and len(shape) == 2 and all(type(n) is int and 0 <= n < 2**31 for n in shape)
    if dtype not in dtypes or not known or shape is None or width not in (None, shape[1]):
        raise Tok4dError(f"tensor {name} has dtype {dtype!r} and shape {shape!r}")
    return shape[0], prod(shape) * _BYTES[dtype]


def _checked(head: Mapping[str, Any], kind: Kind, tensors: Mapping[str, Tensor], max_elements: int) -> TokenFile:
    """The values themselves."""
    coords, values = tensors["coords"], tensors[kind]
    origins = _origins(head.get("origins"), head.get("modality"), max_elements)
    lengths = head.get("lengths")
    if not isinstance(lengths, list) or any(isinstance(n, bool) or not isinstance(n, int) for n in lengths):
        raise Tok4dError(f"lengths must be a list of integers, got {str(lengths)[:80]}")
    if len(lengths) != len(origins):
        raise Tok4dError(f"has {len(lengths)} lengths for {len(origins)} origins")
    blank = values if kind == "latents" else torch.zeros(len(coords), 0)
    TokenSet(blank, coords, tuple(lengths), origins).validate()
    if kind == "codes" and bool((values < 0).any()):
        raise Tok4dError(f"has a negative code {int(values.min())}")
    return TokenFile(VERSION, head["digest"], kind, origins[0].modality, tuple(lengths), origins, coords, values)


def _origins(data: Any, modality: Any, max_elements: int) -> tuple[Origin, ...]:
    if not isinstance(data, list) or not data:
        raise Tok4dError("must have an origin for each of its samples, got none")
    origins = tuple(Origin.from_json(item) for item in data)
    if not all(origin.modality == modality for origin in origins):
        raise Tok4dError(f"says modality {modality!r}, but an origin differs")
    if (elements := sum(prod(origin.shape) for origin in origins)) > max_elements:
        raise Tok4dError(f"would restore {elements} values, the bound is {max_elements}")
    for origin in origins:
        if prod(origin.grid) > max(prod(origin.shape), MAX_CELLS):
            raise Tok4dError(f"has a grid of {origin.grid} for a sample of shape {origin.shape}")
    return origins
