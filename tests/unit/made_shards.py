"""Tar shards and their indices, written for tests."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

from tok4d.data.shard_index import index_file
from tok4d.data.shards import index_shard

EACH, LINE = 400, 39  # samples of a made-up index, and the bytes of one in it
NBYTES = EACH * LINE + (EACH - 1) * (2 + 8)  # held: the lines, what parts them, and where


def write_tar(path: Path, members: list[tuple[str, bytes]]) -> Path:
    with tarfile.open(path, "w") as out:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            out.addfile(info, io.BytesIO(content))
    return path


def write_old(shard: Path) -> None:
    """An index of before `kinds`: one line."""
    found = shard.stat()
    samples = {entry.key: {name: list(span) for name, span in entry.members.items()} for entry in index_shard(shard)}
    head = {"format": "tok4d-shard-index", "version": 1, "size": found.st_size, "changed": str(found.st_mtime_ns)}
    index_file(shard).write_text(json.dumps({**head, "samples": samples}, separators=(",", ":")))


def write_made(folder: Path, count: int) -> list[Path]:
    """Shards whose bytes no test reads, of 400 samples with an index, by hand."""
    shards = [folder / f"m-{number:02d}.tar" for number in range(count)]
    for number, shard in enumerate(shards):
        with shard.open("wb") as out:
            out.truncate(1 << 20)
        lines = [f'"{number * EACH + i:06d}":{{"txt":[512,3],"png":[{1024 + i},7]}}' for i in range(1000, 1400)]
        text = ",\n".join(lines)
        head = f'"format":"tok4d-shard-index","version":1,"size":1048576,"changed":"{shard.stat().st_mtime_ns}"'
        head += f',"kinds":[[["png","txt"],{EACH}]],"bytes":{len(text)}'
        index_file(shard).write_text(f'{{{head},"samples":{{\n{text}\n}}}}')
    return shards
