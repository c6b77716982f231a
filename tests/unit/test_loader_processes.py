"""Data-loading processes that die, and training that ends before they have handed over their last batch."""

from __future__ import annotations

import os
import signal
import sys
from multiprocessing import current_process, resource_sharer
from multiprocessing.connection import Client

import pytest
from torch.utils.data import DataLoader, Dataset

from tok4d.errors import Tok4dError
from tok4d.training.data import _in_worker, _Loader, raise_if_worker_died


class Deadly(Dataset[int]):
    """Its second item ends the process that reads it."""

    def __len__(self) -> int:
        return 2

    def __getitem__(self, index: int) -> int:
        if index:
            os.kill(os.getpid(), signal.SIGKILL)
        return index


def _death() -> RuntimeError:
    """What PyTorch raises of it."""
    with pytest.raises(RuntimeError) as caught:
        list(DataLoader(Deadly(), num_workers=1))
    return caught.value


def _mistaken(death: RuntimeError) -> ValueError:
    """As a library that was at work when the process died and took the error for one of its own."""
    error = ValueError("you tried to log 0.5 which is currently not supported")
    error.__context__ = death
    return error


def test_a_dead_process_is_named_wherever_training_was():
    death = _death()
    for error in (death, _mistaken(death)):
        with pytest.raises(Tok4dError, match="a data-loading process died") as caught:
            raise_if_worker_died(error)
        assert caught.value.__cause__ is error


def test_other_errors_are_left_alone():
    try:
        raise RuntimeError("shapes differ") from ValueError("3 and 4")
    except RuntimeError as error:
        raise_if_worker_died(error)


class Unreachable(Dataset[int]):
    """Its data is on a server that hangs up."""

    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> int:
        raise ConnectionResetError("the server hung up")


@pytest.mark.parametrize("workers", [0, 1])
def test_a_lost_connection_to_the_data_is_no_death(workers):
    with pytest.raises(ConnectionResetError, match="the server hung up"):
        list(_Loader(Unreachable(), num_workers=workers))


def test_a_process_that_is_gone_when_its_batch_is_fetched(monkeypatch):
    def fetched(_: object) -> int:
        raise ConnectionResetError(104, "Connection reset by peer")

    monkeypatch.setattr("torch.utils.data.dataloader._MultiProcessingDataLoaderIter._next_data", fetched)
    with pytest.raises(Tok4dError, match="a data-loading process died"):
        list(_Loader(Deadly(), num_workers=1))


@pytest.fixture
def in_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "excepthook", sys.__excepthook__)
    _in_worker(0)


@pytest.mark.usefixtures("in_worker")
def test_a_loader_process_is_silent_when_its_reader_has_hung_up(capfd):
    handle = resource_sharer.DupFd(1)  # how PyTorch hands tensors over: a thread waits for the reader to fetch them
    address, _ = handle._id
    Client(address, authkey=current_process().authkey).close()
    resource_sharer.stop(timeout=10)
    assert capfd.readouterr().err == ""


@pytest.mark.usefixtures("in_worker")
@pytest.mark.parametrize("error", [ValueError("a mistake"), OSError("no space left")])
def test_its_own_errors_are_still_printed(capsys, error):
    sys.excepthook(type(error), error, None)
    assert str(error) in capsys.readouterr().err
