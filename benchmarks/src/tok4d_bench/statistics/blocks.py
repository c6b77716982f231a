"""Rows in blocks of one size, however they come: a matrix product then has the same bits for any storage.

N = rows, D = width.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import numpy as np

from tok4d.errors import Tok4dError

ROWS = 512


def blocks(pieces: Iterable[Mapping[str, np.ndarray]], rows: int = ROWS) -> Iterator[dict[str, np.ndarray]]:
    """The rows of all pieces again, `rows` at a time and the rest at the end; columns of a piece stay aligned.

    Raises:
        Tok4dError: when columns of a piece have unequal lengths.
    """
    waiting: list[Mapping[str, np.ndarray]] = []
    count = 0
    for piece in pieces:
        lengths = {name: len(column) for name, column in piece.items()}
        if len(set(lengths.values())) > 1:
            raise Tok4dError(f"columns of one piece have unequal lengths: {lengths}")
        waiting.append(piece)
        count += next(iter(lengths.values()), 0)
        if count >= rows:
            joined = _joined(waiting)
            whole = count - count % rows
            for start in range(0, whole, rows):
                yield {name: column[start : start + rows] for name, column in joined.items()}
            waiting, count = [{name: column[whole:] for name, column in joined.items()}], count - whole
    if count:
        yield _joined(waiting)


def column(pieces: Iterable[Mapping[str, np.ndarray]], name: str) -> np.ndarray:
    """One whole column, for what needs all of it at once: a number a sample, say. Empty: float64 `[0]`."""
    parts = [piece[name] for piece in pieces]
    return np.concatenate(parts) if parts else np.zeros(0)


def _joined(pieces: list[Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
    return {name: np.concatenate([piece[name] for piece in pieces]) for name in pieces[0]}
