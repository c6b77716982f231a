"""Checkpoint files of other programs: what can be read is read, and whatever else is one clear error."""

from __future__ import annotations

import argparse
import os
import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from tok4d.errors import DataError
from tok4d.weights.checkpoints import read_checkpoint

STATE = {"b.weight": torch.arange(6.0).view(2, 3), "a.bias": torch.ones(3, dtype=torch.bfloat16), "s": torch.tensor(7)}


class Code:
    """What a pickle with code in it looks like: unpickling this makes a folder."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.marker),)


def save(path: Path, data: object, zipped: bool = True) -> Path:
    torch.save(data, path, _use_new_zipfile_serialization=zipped)
    return path


def same(read: dict[str, torch.Tensor]) -> bool:
    return read.keys() == STATE.keys() and all(
        torch.equal(value, STATE[name]) and value.dtype == STATE[name].dtype for name, value in read.items()
    )


@pytest.mark.parametrize("name", ["a.pt", "a.pth", "a.bin", "a.ckpt"])
@pytest.mark.parametrize("zipped", [True, False])
def test_torch_files_old_and_new(tmp_path, name, zipped):
    assert same(read_checkpoint(save(tmp_path / name, STATE, zipped)))


@pytest.mark.parametrize("name", ["a.safetensors", "a.pt"])
def test_safetensors_under_any_name(tmp_path, name):
    save_file(STATE, tmp_path / name)
    assert same(read_checkpoint(tmp_path / name))


@pytest.mark.parametrize("wrapper", ["state_dict", "model", "model_state_dict", "module"])
def test_the_usual_wrappers_are_taken_off(tmp_path, wrapper):
    assert same(read_checkpoint(save(tmp_path / "a.pt", {"epoch": 3, wrapper: STATE, "optimizer": {"state": {}}})))


def test_parameters_become_plain_tensors(tmp_path):
    read = read_checkpoint(save(tmp_path / "a.pt", dict(torch.nn.Linear(2, 3).named_parameters())))
    assert {type(value) for value in read.values()} == {torch.Tensor}
    assert not any(value.requires_grad for value in read.values())


def test_new_torch_files_are_mapped_not_read(tmp_path):
    """Overwriting the file's bytes in place shows through: nothing was copied."""
    path = save(tmp_path / "a.pt", {"a": torch.full((4096,), 3.0)})
    tensor = read_checkpoint(path)["a"]
    data = path.read_bytes()
    with path.open("r+b") as stream:
        stream.write(
            data.replace(torch.full((4096,), 3.0).numpy().tobytes(), torch.full((4096,), 5.0).numpy().tobytes())
        )
    assert torch.equal(tensor, torch.full((4096,), 5.0))


@pytest.mark.parametrize("wrap", [lambda code: code, lambda code: {"a": torch.ones(2), "b": code}])
@pytest.mark.parametrize("zipped", [True, False])
def test_code_is_never_run(tmp_path, wrap, zipped):
    path = save(tmp_path / "a.pt", wrap(Code(tmp_path / "ran")), zipped)
    with pytest.raises(DataError, match=r"a\.pt: holds code \((posix|nt)\.mkdir\), which was not run"):
        read_checkpoint(path)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_code_in_a_plain_pickle_is_not_run_either(tmp_path, protocol):
    (tmp_path / "a.pt").write_bytes(pickle.dumps({"a": Code(tmp_path / "ran")}, protocol))
    with pytest.raises(DataError, match=r"not(hing in it was|) run"):
        read_checkpoint(tmp_path / "a.pt")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        ({"a": argparse.Namespace(lr=1), "model": STATE}, r"holds code \(argparse.Namespace\), which was not run"),
        (torch.nn.Linear(2, 2), r"holds code \(torch.nn.modules.linear.Linear\)"),
        ([torch.ones(2)], "holds a list, not tensors by name"),
        (torch.ones(2), "holds a Tensor, not tensors by name"),
        ({}, "holds no tensors"),
        ({"a": torch.ones(2), "epoch": 3}, r"holds more than tensors by name: 'epoch' \(int\)"),
        ({1: torch.ones(2)}, r"holds more than tensors by name: 1 \(Tensor\)"),
        ({"ema": STATE, "step": 3}, r"holds more than tensors by name: 'ema' \(dict\)"),
        ({"model": STATE, "ema": STATE}, r"holds several sets of tensors \(model, ema\)"),
        ({"a": torch.eye(3).to_sparse()}, "a is sparse, quantised or not stored in full"),
        ({"a": torch.empty(3, device="meta")}, "not stored in full"),
        ({"a": torch.ones(1).expand(10**12)}, "not stored in full"),
    ],
)
def test_files_that_hold_something_else(tmp_path, data, reason):
    assert_refused(save(tmp_path / "a.pt", data), reason)


def assert_refused(path: Path, reason: str) -> None:
    with pytest.raises(DataError, match=reason) as caught:
        read_checkpoint(path)
    message = str(caught.value)
    assert message.startswith(str(path))
    assert "\n" not in message
    assert "weights_only" not in message, "torch's advice to run the file is not passed on"


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "is empty"),
        (b"no checkpoint at all", "neither a complete torch.save file nor safetensors"),
        (b"\x89PNG\r\n\x1a\n" + bytes(range(256)), "neither a complete torch.save file nor safetensors"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n", "is a Git LFS pointer"),
        (b"\x00\x00\x00\x00\x00\x00\x00\xff{", "not a complete safetensors file"),
    ],
)
def test_files_that_are_something_else(tmp_path, content, reason):
    (tmp_path / "a.pt").write_bytes(content)
    assert_refused(tmp_path / "a.pt", reason)


@pytest.mark.parametrize("share", [0.001, 0.1, 0.5, 0.99])
@pytest.mark.parametrize(
    ("write", "reason"),
    [
        (lambda path: save(path, {"a": torch.rand(5000)}), "is truncated|neither a complete"),
        (lambda path: save(path, {"a": torch.rand(5000)}, zipped=False), "neither a complete"),
        (lambda path: save_file({"a": torch.rand(5000)}, path), "not a complete safetensors file|neither a complete"),
    ],
)
def test_truncated_files(tmp_path, write, reason, share):
    write(tmp_path / "a.pt")
    data = (tmp_path / "a.pt").read_bytes()
    (tmp_path / "a.pt").write_bytes(data[: max(1, int(share * len(data)))])
    assert_refused(tmp_path / "a.pt", reason)


def test_a_damaged_archive(tmp_path):
    data = save(tmp_path / "a.pt", STATE).read_bytes()
    (tmp_path / "a.pt").write_bytes(data.replace(b"data.pkl", b"atad.pkl"))
    assert_refused(tmp_path / "a.pt", "is damaged: ")


def test_paths_that_are_no_file(tmp_path):
    assert_refused(tmp_path, "is a folder; give the checkpoint file itself")
    assert_refused(tmp_path / "missing.pt", "no such file")
