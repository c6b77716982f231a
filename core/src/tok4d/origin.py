"""`Origin`: what a tokenised sample was, in enough detail to restore it exactly without the original."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from tok4d.errors import Tok4dError

ORIGIN_VERSION = 1


@dataclass(frozen=True)
class Origin:
    """Where one sample of a `TokenSet` comes from. Immutable and JSON-serialisable.

    Attributes:
        modality: name of the modality that patchified the sample.
        shape: shape of the sample's main tensor before padding, e.g. `(3, height, width)`.
        grid: extent of the token grid along t, x, y, z. It stays with the sample when tokens are dropped, so that
            selecting tokens never moves positions.
        patch: patch size (frames, height, width) used by patchify.
        channels: leading feature channels in use; the rest of the patch width is zero padding that losses, metrics
            and warm start ignore. None: all of them.
        padding: per axis of `shape`, how much was added (before, after).
        fps: frames (or samples) per second, where time exists.
        extra: whatever else the modality needs to restore the sample; JSON values only.
        version: version of `extra`'s meaning, owned by the modality.
    """

    modality: str
    shape: tuple[int, ...]
    grid: tuple[int, int, int, int]
    patch: tuple[int, int, int]
    channels: int | None = None
    padding: tuple[tuple[int, int], ...] = ()
    fps: float | None = None
    extra: Mapping[str, Any] = field(default_factory=dict, hash=False)
    version: int = ORIGIN_VERSION

    def to_json(self) -> dict[str, Any]:
        """A plain dictionary of JSON values; `from_json` restores an equal Origin."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Any) -> Origin:
        """Restore an Origin from untrusted JSON.

        Raises:
            Tok4dError: when a field is missing, unknown or not of its type, naming field and value.
        """
        if not isinstance(data, Mapping):
            raise Tok4dError(f"an origin must be a JSON object, got {type(data).__name__}")
        known = {f.name for f in fields(cls)}
        if unknown := sorted(set(data) - known):
            raise Tok4dError(f"origin has unknown fields {unknown}; written by a newer version?")
        if missing := sorted({"modality", "shape", "grid", "patch"} - set(data)):
            raise Tok4dError(f"origin lacks the fields {missing}")
        fps = data.get("fps")
        if fps is not None and (isinstance(fps, bool) or not isinstance(fps, (int, float)) or not 0 < fps < 1e9):
            raise Tok4dError(f"origin field 'fps' must be a positive number, got {fps!r}")
        channels = data.get("channels")
        extra = data.get("extra", {})
        if not isinstance(data["modality"], str) or not isinstance(extra, Mapping):
            raise Tok4dError("origin fields 'modality' and 'extra' must be a string and an object")
        return cls(
            modality=data["modality"],
            shape=_ints("shape", data["shape"]),
            grid=_exactly("grid", data["grid"], 4),  # type: ignore[arg-type]
            patch=_exactly("patch", data["patch"], 3),  # type: ignore[arg-type]
            channels=None if channels is None else _ints("channels", [channels])[0],
            padding=_pairs(data.get("padding", ())),
            fps=None if fps is None else float(fps),
            extra=dict(extra),
            version=_ints("version", [data.get("version", ORIGIN_VERSION)])[0],
        )


def _ints(name: str, value: Any) -> tuple[int, ...]:
    """Non-negative 31-bit integers, or an error that shows the value."""
    if not isinstance(value, (list, tuple)):
        raise Tok4dError(f"origin field {name!r} must be a list of integers, got {value!r}")
    for item in value:
        if isinstance(item, bool) or not isinstance(item, int) or not 0 <= item < 2**31:
            raise Tok4dError(f"origin field {name!r} must hold integers in [0, 2^31), got {item!r}")
    return tuple(value)


def _exactly(name: str, value: Any, count: int) -> tuple[int, ...]:
    items = _ints(name, value)
    if len(items) != count or min(items) < 1:
        raise Tok4dError(f"origin field {name!r} must hold {count} positive integers, got {list(items)}")
    return items


def _pairs(value: Any) -> tuple[tuple[int, int], ...]:
    if not isinstance(value, (list, tuple)):
        raise Tok4dError(f"origin field 'padding' must be a list of pairs, got {value!r}")
    pairs = [_ints("padding", pair) for pair in value]
    if any(len(pair) != 2 for pair in pairs):
        raise Tok4dError(f"origin field 'padding' must be a list of pairs, got {value!r}")
    return tuple((pair[0], pair[1]) for pair in pairs)
