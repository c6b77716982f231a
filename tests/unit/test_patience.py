"""Reading again what failed for a moment, and nothing else."""

from __future__ import annotations

import errno
from dataclasses import dataclass

import pytest

from tok4d.data import patience
from tok4d.data.patience import PAUSES, patiently, transient
from tok4d.errors import DataError


def caused(error: OSError) -> DataError:
    """As readers of files give it."""
    made = DataError("a.png", "cannot be read")
    made.__cause__ = error
    return made


@dataclass
class Flaky:
    """Fails so many times."""

    failures: int
    error: Exception

    def __call__(self) -> int:
        if self.failures:
            self.failures -= 1
            raise self.error
        return 7


@pytest.fixture
def slept(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    pauses: list[float] = []
    monkeypatch.setattr(patience.time, "sleep", pauses.append)
    return pauses


LOST = [OSError(errno.EIO, "Input/output error"), TimeoutError(), ConnectionResetError()]
FOUND = [FileNotFoundError(errno.ENOENT, "no such file"), OSError("image file is truncated"), ValueError("x")]


@pytest.mark.parametrize("error", [*LOST, *map(caused, LOST)], ids=repr)
def test_what_may_be_gone_is_tried_again(slept, error):
    assert patiently(Flaky(2, error)) == 7
    assert slept == list(PAUSES[:2])
    with pytest.raises(type(error)):
        patiently(Flaky(len(PAUSES) + 1, error))
    assert slept[2:] == list(PAUSES)


@pytest.mark.parametrize("error", FOUND, ids=repr)
def test_what_is_wrong_with_the_file_is_not(slept, error):
    assert not transient(error)
    with pytest.raises(type(error)):
        patiently(Flaky(1, error))
    assert slept == []
