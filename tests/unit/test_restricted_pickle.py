"""Arrays from pickles of strangers: what numpy wrote comes back, and nothing else is read, let alone run."""

from __future__ import annotations

import functools
import os
import pickle
import random
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tok4d.errors import DataError
from tok4d.networks import restricted
from tok4d.networks.restricted import load_arrays

ARRAYS = {
    "kernel": np.arange(24, dtype=np.float32).reshape(2, 3, 4),
    "by_columns": np.asfortranarray(np.arange(6, dtype=np.float64).reshape(2, 3)),
    "half": np.array([1.5, -2], np.float16),
    "scalar": np.array(7, np.int64),
    "empty": np.zeros((0, 3), np.uint8),
    "flags": np.array([True, False]),
    "big_endian": np.array([1, 2, 3], ">i4"),
}


def written(path: Path, value: Any, protocol: int = 3) -> Path:
    path.write_bytes(value if isinstance(value, bytes) else pickle.dumps(value, protocol))
    return path


@pytest.mark.parametrize("protocol", [3, 4, 5])
def test_arrays_come_back_as_they_were(protocol: int, tmp_path: Path) -> None:
    nested = {"net": OrderedDict(layer=ARRAYS), "list": [ARRAYS["half"], (ARRAYS["kernel"],)]}
    found = load_arrays(written(tmp_path / "a.ckpt", nested, protocol))
    assert list(found) == [*(f"net/layer/{name}" for name in ARRAYS), "list/0", "list/1/0"]
    for name, array in ARRAYS.items():
        back = found[f"net/layer/{name}"]
        assert (back.dtype, back.shape) == (array.dtype, array.shape)
        assert np.array_equal(back, array)
    assert np.array_equal(found["list/1/0"], ARRAYS["kernel"])


def test_names_of_numpy_before_its_second_version(tmp_path: Path) -> None:
    old = pickle.dumps(ARRAYS["kernel"], 3).replace(b"numpy._core", b"numpy.core")
    assert b"numpy.core.multiarray" in old
    assert np.array_equal(load_arrays(written(tmp_path / "a.ckpt", old))[""], ARRAYS["kernel"])


class Call:
    """Pickled, it asks for a call."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.asked = function, arguments

    def __reduce__(self) -> Any:
        return self.asked


@pytest.mark.parametrize(
    ("value", "named"),
    [
        (Call(os.mkdir, "ran"), "mkdir"),
        (Call(eval, "__import__('os').mkdir('ran')"), "builtins.eval"),
        (Call(getattr, "text", "upper"), "builtins.getattr"),
        (functools.partial(os.mkdir, "ran"), "functools.partial"),
        (np.float32(1), "scalar"),
        (torch.zeros(2), "torch"),
        ({1, 2}, "set"),
        (Path("x"), "pathlib"),
        (np.ma.masked_array([1.0]), "numpy.ma"),
    ],
)
@pytest.mark.parametrize("protocol", [3, 4])
def test_whatever_else_a_file_names_is_refused_by_name(
    value: Any, named: str, protocol: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = written(tmp_path / "a.ckpt", {"good": ARRAYS["half"], "bad": value}, protocol)
    with pytest.raises(DataError) as caught:
        load_arrays(path)
    assert str(path) in str(caught.value)
    assert named in str(caught.value) or "instruction EMPTY_SET" in str(caught.value)
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.ckpt"]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"(S'mkdir ran'\nios\nsystem\n.", "instruction STRING"),
        (b"\x80\x03(X\x03\x00\x00\x00ranios\nmkdir\n.", "instruction INST"),
        (b"\x80\x03cnumpy\nndarray\n)\x81.", "instruction NEWOBJ"),
        (b"\x80\x03X\x05\x00\x00\x00dtypeX\x02\x00\x00\x00f4\x85R.", "of type str where a call belongs"),
        (b"\x80\x03cnumpy\nndarray\n)R.", "of type object where a call belongs"),
        (b"\x80\x02\x82\x01.", "instruction EXT1"),
        (b"\x80\x03}K\x01K\x02s.", "of type int where a name belongs"),
        (b"\x80\x03}}b.", "of type dict where an array belongs"),
        (b"", "is no complete pickle"),
        (b"\x80\x03}", "is no complete pickle"),
        (b"\x80\x03.", "is no complete pickle"),
        (b"not a pickle at all", "is no complete pickle"),
        (b"\x80\x03h\x07.", "is no complete pickle"),
        (b"\x80\x03cnumpy\ndtype\nX\x02\x00\x00\x00O8\x85R.", "holds a _Type"),
    ],
)
def test_pickles_written_by_hand(data: bytes, message: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=message):
        load_arrays(written(tmp_path / "a.ckpt", data))


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.array([{}, "x"], object), "content is not plain bytes"),
        (np.array(["text"]), "of type '<U4'"),
        (np.array([(1, 2.0)], [("a", "i4"), ("b", "f4")]), "V"),
        (np.array([1 + 2j]), "c16"),
        (np.array(["2020-01-01"], "datetime64[D]"), "M8"),
    ],
)
def test_arrays_of_anything_but_numbers_are_refused(array: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=message):
        load_arrays(written(tmp_path / "a.ckpt", array))


@pytest.mark.parametrize("value", [{"step": 3}, {"name": "x"}, [None], {"a": {"b": b"bytes"}}])
def test_only_arrays_are_leaves(value: Any, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="not an array"):
        load_arrays(written(tmp_path / "a.ckpt", value))


def test_sizes_are_bounded(tmp_path: Path) -> None:
    one = np.zeros(1000, np.uint8)
    path = written(tmp_path / "one.ckpt", [one])
    assert load_arrays(path, path.stat().st_size)["0"].nbytes == 1000
    with pytest.raises(DataError, match=r"bytes, more than the 999 expected"):
        load_arrays(path, 999)
    same = written(tmp_path / "same.ckpt", [one] * 50)  # small on disk, since it is stored once
    assert same.stat().st_size < 2000
    with pytest.raises(DataError, match=r"holds arrays of 50,000 bytes, more than the 2,000"):
        load_arrays(same, 2000)


def test_a_shape_that_the_bytes_do_not_fill(tmp_path: Path) -> None:
    data = pickle.dumps(np.zeros(200, np.uint8), 3)
    assert data.count(b"K\xc8") == 1  # its length, 200
    with pytest.raises(DataError, match=r"holds 200 bytes for an array of shape \(201,\) and type uint8"):
        load_arrays(written(tmp_path / "a.ckpt", data.replace(b"K\xc8", b"K\xc9")))


def test_values_within_values_are_bounded(tmp_path: Path) -> None:
    laughs: list[Any] = [ARRAYS["half"]]
    for _ in range(12):
        laughs = [laughs] * 10
    with pytest.raises(DataError, match="more than 100,000 values"):
        load_arrays(written(tmp_path / "laughs.ckpt", laughs))
    itself: list[Any] = []
    itself.append(itself)
    with pytest.raises(DataError, match="nested more than 16 deep"):
        load_arrays(written(tmp_path / "itself.ckpt", itself))
    tall = b"\x80\x03)" + b"\x85" * 50_000 + b"}" + b"s."  # hashing such a tuple would overflow the stack
    with pytest.raises(DataError):
        load_arrays(written(tmp_path / "tall.ckpt", tall))
    many = b"\x80\x03" + b"N" * (restricted._MAX_STEPS + 1) + b"."
    with pytest.raises(DataError, match="more than 100,000 instructions"):
        load_arrays(written(tmp_path / "many.ckpt", many))


def test_damage_is_always_one_error(tmp_path: Path) -> None:
    data = pickle.dumps({"a": ARRAYS["half"], "b": [ARRAYS["kernel"]]}, 4)
    path, dice = tmp_path / "a.ckpt", random.Random(0)
    for cut in range(len(data)):
        with pytest.raises(DataError):
            load_arrays(written(path, data[:cut]))
    for _ in range(1500):
        spoiled = bytearray(data)
        for _ in range(dice.randint(1, 4)):
            spoiled[dice.randrange(len(data))] = dice.randrange(256)
        try:
            found = load_arrays(written(path, bytes(spoiled)))
        except DataError:
            continue
        assert all(isinstance(array, np.ndarray) and array.dtype.kind in "biuf" for array in found.values())


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be read: No such file"):
        load_arrays(tmp_path / "none.ckpt")
    with pytest.raises(DataError, match="cannot be read: Is a directory"):
        load_arrays(tmp_path)
