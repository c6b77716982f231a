"""Sidecar index of a tar shard: where its members lie, so that opening a shard costs one small read.

`NAME.tar.index` is JSON: `format`, `version`, `size` and `changed` of the tar that it belongs to, and `samples`, by key
the offset and size of every member by extension. `tok4d data index` writes it. It is used only for the very file it was
made from: when size or time of change (in object storage: the tag) differ, it is refused by name, since offsets into
another file would give wrong bytes without a word. Copies with a new time need a new index.
"""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from tok4d.data.shards import Entry, Shard, Span, index_shard
from tok4d.data.storage import Stamp, Stored, stamp_of
from tok4d.errors import DataError

FORMAT, VERSION = "tok4d-shard-index", 1
SUFFIX = ".index"
_REQUESTS = 16  # at a time, to object storage


def index_file(shard: Shard) -> Path | Stored:
    """Where the index of a shard is."""
    return shard.beside(SUFFIX) if isinstance(shard, Stored) else shard.with_name(shard.name + SUFFIX)


def write_index(shard: Shard) -> list[Entry]:
    """Read a shard's headers and write its index beside it, complete or not at all; returns the samples.

    Raises:
        DataError: when the shard cannot be used, or changes meanwhile.
        OSError: when the index cannot be written.
    """
    before = stamp_of(shard)
    entries = index_shard(shard)
    if stamp_of(shard) != before:
        raise DataError(str(shard), "changed while it was indexed")
    samples = {entry.key: {name: list(span) for name, span in entry.members.items()} for entry in entries}
    head = {"format": FORMAT, "version": VERSION, "size": before.size, "changed": before.version}
    text = json.dumps({**head, "samples": samples}, separators=(",", ":"), ensure_ascii=False)
    target = index_file(shard)
    if isinstance(target, Stored):
        target.write(text.encode())
    else:
        from tok4d.weights.folder import write_text

        write_text(target, text)
    return entries


def read_index(shard: Shard) -> list[Entry] | None:
    """Samples of a shard by its index; None when it has none.

    Raises:
        DataError: when the index is damaged or belongs to another content, with the command that renews it.
    """
    target = index_file(shard)
    if not (target.exists() if isinstance(target, Stored) else target.is_file()):
        return None
    try:
        content = target.read() if isinstance(target, Stored) else target.read_bytes()
        data = json.loads(content)
        if not isinstance(data, dict) or (data.get("format"), data.get("version")) != (FORMAT, VERSION):
            raise ValueError(f"it is no {FORMAT} of version {VERSION}")
        stamp = Stamp(data["size"], data["changed"])
        entries = [_entry(shard, stamp.size, key, members) for key, members in data["samples"].items()]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        if isinstance(error, DataError):
            raise
        raise _refused(target, shard, f"is damaged ({type(error).__name__}: {error})") from None
    if stamp != (found := stamp_of(shard)):
        what = f"{stamp.size:,} bytes of {stamp.version}, now {found.size:,} bytes of {found.version}"
        raise _refused(target, shard, f"belongs to another content of the shard ({what})")
    return entries


def usable_index(shard: Shard) -> list[Entry] | None:
    """Samples of a shard by its index; None when it has none that can be used."""
    try:
        return read_index(shard)
    except DataError:
        return None


def entries_of(shards: list[Shard]) -> list[Entry]:
    """Samples of shards in order, by their indices where they have one, else from the tars' headers.

    Raises:
        DataError: for a shard or an index that cannot be used.
    """
    if any(isinstance(shard, Stored) for shard in shards):
        with ThreadPoolExecutor(_REQUESTS) as pool:
            parts = list(pool.map(_entries, shards))
    else:
        parts = [_entries(shard) for shard in shards]
    return [entry for part in parts for entry in part]


def _entries(shard: Shard) -> list[Entry]:
    indexed = read_index(shard)
    return index_shard(shard) if indexed is None else indexed


def _entry(shard: Shard, size: int, key: str, members: dict[str, Any]) -> Entry:
    spans = {name: Span(*span) for name, span in members.items()}
    for name, span in spans.items():
        if not all(type(value) is int for value in span) or min(span) < 0 or sum(span) > size:
            raise ValueError(f"member {key}.{name} lies at {list(span)} of {size} bytes")
    return Entry(shard, key, spans)


def _refused(index: Path | Stored, shard: Shard, reason: str) -> DataError:
    return DataError(str(index), f"{reason}; renew it with: tok4d data index {shard}")
