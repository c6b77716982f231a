"""`TokenSet`: a packed batch of sparse 4D tokens, the one type that flows through the tokenizer.

T = packed tokens of all samples, C = feature channels, B = samples. Coordinates are (t, x, y, z); for images and
video x is the patch ROW and y the patch COLUMN.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, TypeVar

import torch
from torch import Tensor

from tok4d.errors import Tok4dError
from tok4d.origin import Origin
from tok4d.seqs import Seqs

Extent = tuple[int, int, int, int]
_V = TypeVar("_V")


@dataclass(frozen=True, eq=False)
class TokenSet:
    """A batch of samples, each an unordered set of tokens at distinct integer coordinates.

    Attributes:
        feats: features `[T, C]`, floating point.
        coords: coordinates `[T, 4]` int32 in the order t, x, y, z.
        lengths: tokens per sample, host side; zeros are allowed.
        origins: one `Origin` per sample, or empty (then only patches come back from a decoder).

    Raises:
        Tok4dError: on construction, when shapes, dtypes or the sum of lengths do not fit together. The full check of
            the values is `validate()`, called where data enters the program.
    """

    feats: Tensor
    coords: Tensor
    lengths: tuple[int, ...]
    origins: tuple[Origin, ...] = ()
    _shared: dict[Hashable, Any] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        if self.feats.ndim != 2 or not self.feats.is_floating_point():
            raise Tok4dError(f"feats must be floating point [T, C], got {self.feats.dtype} {tuple(self.feats.shape)}")
        if self.coords.shape != (len(self.feats), 4) or self.coords.dtype != torch.int32:
            raise Tok4dError(
                f"coords must be int32 [{len(self.feats)}, 4] (t, x, y, z), "
                f"got {self.coords.dtype} {tuple(self.coords.shape)}"
            )
        if any(length < 0 for length in self.lengths) or sum(self.lengths) != len(self.feats):
            raise Tok4dError(f"lengths {self.lengths} must be >= 0 and sum to the {len(self.feats)} tokens given")
        if self.origins and len(self.origins) != len(self.lengths):
            raise Tok4dError(f"{len(self.origins)} origins for {len(self.lengths)} samples; give one each or none")

    def __len__(self) -> int:
        return len(self.lengths)

    def __reduce__(self) -> tuple[type[TokenSet], tuple[Any, ...]]:
        return TokenSet, (self.feats, self.coords, self.lengths, self.origins)  # the shared cache stays behind

    @property
    def num_tokens(self) -> int:
        """Tokens of all samples together (T)."""
        return len(self.feats)

    @property
    def width(self) -> int:
        """Feature channels (C)."""
        return self.feats.shape[1]

    @property
    def device(self) -> torch.device:
        return self.feats.device

    @cached_property
    def seqs(self) -> Seqs:
        """Sample boundaries."""
        return self.shared("seqs", lambda: Seqs(self.lengths, self.coords.device))

    @property
    def cu_seqlens(self) -> Tensor:
        """Sample offsets, int32 `[B + 1]` on the device; built once."""
        return self.seqs.offsets

    @property
    def max_seqlen(self) -> int:
        """Tokens of the longest sample."""
        return self.seqs.longest

    def shared(self, key: Hashable, build: Callable[[], _V]) -> _V:
        """A value derived from coordinates and lengths alone, built once for this set and all its `replace` copies."""
        if key not in self._shared:
            with torch.inference_mode(False):  # a later pass with gradients may use it too
                self._shared[key] = build()
        return self._shared[key]  # type: ignore[no-any-return]

    def extents(self) -> tuple[Extent, ...]:
        """Grid extent (t, x, y, z) of every sample: from its origin, else largest coordinate present + 1."""
        if self.origins:
            return tuple(origin.grid for origin in self.origins)
        return self.present_extents()

    def present_extents(self) -> tuple[Extent, ...]:
        """Largest coordinate present + 1, per sample and axis; (1, 1, 1, 1) for an empty sample."""
        return self.shared("extents", self._present_extents)

    def _present_extents(self) -> tuple[Extent, ...]:
        largest = torch.zeros(len(self), 4, dtype=torch.int32, device=self.coords.device)
        index = self.seqs.index[:, None].expand(-1, 4)
        largest.scatter_reduce_(0, index, self.coords, "amax")
        return tuple((row[0] + 1, row[1] + 1, row[2] + 1, row[3] + 1) for row in largest.tolist())

    def replace(self, feats: Tensor) -> TokenSet:
        """The same tokens with other features `[T, any]`; everything derived from coordinates is reused."""
        copy = TokenSet(feats, self.coords, self.lengths, self.origins)
        object.__setattr__(copy, "_shared", self._shared)
        return copy

    def select(self, mask: Tensor) -> TokenSet:
        """Keep the tokens where `mask` (bool `[T]`) is true. Origins, and so positions, stay as they are."""
        if mask.shape != (self.num_tokens,) or mask.dtype != torch.bool:
            raise Tok4dError(f"mask must be bool [{self.num_tokens}], got {mask.dtype} {tuple(mask.shape)}")
        counts = torch.zeros(len(self), dtype=torch.int64, device=mask.device)
        counts.index_add_(0, self.seqs.index, mask.to(torch.int64))
        return TokenSet(self.feats[mask], self.coords[mask], tuple(counts.tolist()), self.origins)

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> TokenSet:
        """Move to a device and/or cast the features; coordinates stay int32."""
        feats = self.feats.to(device=device, dtype=dtype)
        return TokenSet(feats, self.coords.to(device=device), self.lengths, self.origins)

    def unpack(self) -> list[TokenSet]:
        """One single-sample TokenSet per sample; tensors are views.

        Split in one call: its gradient is one concatenation, where slices would each fill the whole batch with zeros.
        """
        parts = zip(self.feats.split(self.lengths), self.coords.split(self.lengths), strict=True)
        return [
            TokenSet(feats, coords, (len(feats),), self.origins[i : i + 1]) for i, (feats, coords) in enumerate(parts)
        ]

    @staticmethod
    def pack(sets: Sequence[TokenSet]) -> TokenSet:
        """Join batches into one, in order.

        Raises:
            Tok4dError: for an empty list, differing widths, or a mix of sets with and without origins.
        """
        if not sets:
            raise Tok4dError("TokenSet.pack needs at least one TokenSet, got an empty list")
        if len(widths := sorted({s.width for s in sets})) > 1:
            raise Tok4dError(f"cannot pack TokenSets of different widths {widths}; use one patch size for all")
        if len({bool(s.origins) for s in sets if len(s)}) > 1:
            raise Tok4dError("cannot pack TokenSets with and without origins; give all of them origins or none")
        return TokenSet(
            torch.cat([s.feats for s in sets]),
            torch.cat([s.coords for s in sets]),
            tuple(length for s in sets for length in s.lengths),
            tuple(origin for s in sets for origin in s.origins),
        )

    def validate(self) -> TokenSet:
        """Check the values and return self. Sorts and synchronises: call it where data enters, not in a loop.

        Raises:
            Tok4dError: for negative or duplicate coordinates, coordinates outside the origin's grid, or non-finite
                features, naming the sample and the value.
        """
        sample = self.seqs.index
        _refuse_first((self.coords < 0).any(1), sample, self.coords, "a negative coordinate")
        if self.origins and self.num_tokens:
            grid = torch.tensor([o.grid for o in self.origins], device=self.coords.device)[sample]
            _refuse_first((self.coords >= grid).any(1), sample, self.coords, "a coordinate outside its grid")
        rows = torch.cat([sample[:, None].to(torch.int32), self.coords], 1)
        unique, inverse, counts = torch.unique(rows, dim=0, return_inverse=True, return_counts=True)
        if len(unique) != len(rows):
            _refuse_first(counts[inverse] > 1, sample, self.coords, "a duplicate coordinate")
        if not torch.isfinite(self.feats.sum()):  # one cheap pass; only then look for where, since a sum may overflow
            _refuse_first(~torch.isfinite(self.feats).all(1), sample, self.coords, "a NaN or infinite feature")
        return self


def _refuse_first(bad: Tensor, sample: Tensor, coords: Tensor, what: str) -> None:
    if bad.any():
        first = int(bad.nonzero()[0])
        t, x, y, z = coords[first].tolist()
        raise Tok4dError(f"sample {int(sample[first])} has {what} at (t={t}, x={x}, y={y}, z={z}), token {first}")
