"""The run manifest: how a run was started."""

from __future__ import annotations

import sys

import pytest

from tok4d.training.manifest import command_line


@pytest.mark.parametrize(
    ("typed", "seen", "expected"),
    [
        (["/a/python", "/a/tok4d", "train", "a b"], ["/a/tok4d", "train", "a b"], "tok4d train 'a b'"),
        (
            ["/a/python", "-m", "tok4d_bench.mini", "-o", "x"],
            ["/b/mini.py", "-o", "x"],
            "python -m tok4d_bench.mini -o x",
        ),
        (["/a/python", "-u", "-m", "tok4d_bench.mini"], ["/b/mini.py"], "python -u -m tok4d_bench.mini"),
        (["python", "script.py", "-m", "model"], ["script.py", "-m", "model"], "script.py -m model"),
    ],
)
def test_a_command_is_named_without_the_folders_of_its_programs(monkeypatch, typed, seen, expected):
    monkeypatch.setattr(sys, "orig_argv", typed)
    monkeypatch.setattr(sys, "argv", seen)
    assert command_line() == expected
