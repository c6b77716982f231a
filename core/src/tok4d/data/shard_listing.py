"""The samples of one shard as text, a line each, of which an `Entry` is made when it is asked for.

A line is `"KEY":{"EXTENSION":[start,size],...}`, as it stands in an index (`tok4d.data.shard_index`). A sample of three
members takes about 90 bytes this way, and 750 as an `Entry`.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from operator import add
from typing import Any

import numpy as np

from tok4d.data.shards import Entry, Shard, Span

Samples = Mapping[str, Mapping[str, Any]]  # by key and extension: start and size of a member
_BREAK = b",\n"
_written = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False).encode
_escaped = json.JSONEncoder(separators=(",", ":")).encode


class Listing:
    """Samples of a shard by number.

    Args:
        shard: the tar.
        size: its bytes, that no member may exceed.
        text: the lines, with a comma and a line feed between them.
    """

    def __init__(self, shard: Shard, size: int, text: bytes) -> None:
        self.shard, self.size, self.text = shard, size, text
        self._breaks = np.flatnonzero(np.frombuffer(text, np.uint8) == _BREAK[-1])

    @classmethod
    def of(cls, shard: Shard, samples: Samples) -> Listing:
        """The listing of samples that are known to be right."""
        ends = (sum(span) for members in samples.values() for span in members.values())
        return cls(shard, max(ends, default=0), _BREAK.join(_line(key, members) for key, members in samples.items()))

    def __len__(self) -> int:
        return len(self._breaks) + 1 if self.text else 0

    @property
    def nbytes(self) -> int:
        """Bytes that it takes."""
        return len(self.text) + self._breaks.nbytes

    def entry(self, row: int) -> Entry:
        """Sample `row`.

        Raises:
            ValueError, TypeError, AttributeError, RecursionError: when its line is damaged.
        """
        start = self._breaks[row - 1] + 1 if row else 0
        end = self._breaks[row] + 1 - len(_BREAK) if row < len(self._breaks) else len(self.text)
        ((key, members),) = json.loads(b"{%b}" % self.text[start:end]).items()
        return checked_entry(self.shard, self.size, key, members)

    def samples(self) -> Samples:
        """All samples at once, their members unchecked.

        Raises:
            ValueError, RecursionError: when a line is damaged, or a key stands in two.
        """
        found: Samples = json.loads(b"{%b}" % self.text)
        if len(found) != len(self):
            raise ValueError(f"it has {len(found):,} keys in {len(self):,} lines")
        return found


def _line(key: str, members: Mapping[str, Any]) -> bytes:
    line = {key: members}
    try:
        return _written(line)[1:-1].encode()
    except UnicodeEncodeError:  # a name in a tar need not be UTF-8
        return _escaped(line)[1:-1].encode()


def checked_entry(shard: Shard, size: int, key: str, members: Mapping[str, Any]) -> Entry:
    """A sample whose members lie inside the `size` bytes of its shard.

    Raises:
        ValueError, TypeError, AttributeError: when one does not, or `members` is something else.
    """
    spans = {name: Span(*span) for name, span in members.items()}
    for name, span in spans.items():
        if not all(type(value) is int for value in span) or min(span) < 0 or sum(span) > size:
            raise ValueError(f"member {key}.{name} lies at {list(span)} of {size} bytes")
    return Entry(shard, key, spans)


def check_samples(shard: Shard, size: int, samples: Samples) -> None:
    """Refuse what `checked_entry` would refuse of any sample; many times faster where there is nothing to refuse."""
    spans = [span for members in samples.values() for span in members.values()]
    if set(map(type, spans)) <= {list} and set(map(len, spans)) <= {2}:
        numbers = list(chain.from_iterable(spans))
        whole = set(map(type, numbers)) <= {int}
        if whole and min(numbers, default=0) >= 0 and max(map(add, numbers[::2], numbers[1::2]), default=0) <= size:
            return
    for key, members in samples.items():
        checked_entry(shard, size, key, members)


def kinds_of(samples: Samples) -> dict[tuple[str, ...], int]:
    """How many samples have members of exactly these extensions (sorted)."""
    return dict(Counter(tuple(sorted(members)) for members in samples.values()))


def having(kinds: Iterable[tuple[Sequence[str], int]], extensions: Sequence[str]) -> int:
    """How many samples have a member of one of `extensions`."""
    return sum(count for kind, count in kinds if not set(extensions).isdisjoint(kind))
