"""On the terminal: tables, of which nothing is ever cut, and the progress of a run."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from tok4d.cli.console import FOLDED, table
from tok4d.cli.train import progress

NAME = "some/long/path/to/" + "x" * 40 + ".glb"


@pytest.mark.parametrize(("width", "parts"), [(20, 8), (60, 4), (80, 3), (300, 1)])
def test_wide_tables_come_in_parts_of_which_nothing_is_cut(capsys, monkeypatch, width, parts):
    """A part has the path, of 24 characters at least, and figures of 15 with gaps of 3: 60 is just enough for two."""
    monkeypatch.setenv("COLUMNS", str(width))
    columns = [f"figure_number_{i}" for i in range(8)]
    table(("file", *columns), [(NAME, *(12.34 + i for i in range(8)))], fold=("file",))
    text = capsys.readouterr().out
    found = [part.splitlines() for part in text.split("\n\n")]
    assert len(found) == parts
    assert [name for head, *_ in found for name in head.split()[1:]] == columns
    figures = [f"{12.34 + i:.2f}" for i in range(8)]
    assert [word for _, _, first, *_ in found for word in first.split()[1:]] == figures
    for head, _, *rows in found:
        column = head.index("figure") - 3
        assert column >= FOLDED
        assert "".join(line[:column].strip() for line in rows) == NAME
        assert len(head) <= max(width, FOLDED + 3 + 15)


def test_every_part_says_what_its_rows_are(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "30")
    table(("task", "metric", "one", "other"), [("photos", "psnr", "1" * 10, "2" * 10)], keys=2)
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert [line for line in lines if "task" in line] == [["task", "metric", "one"], ["task", "metric", "other"]]
    assert ["photos", "psnr", "2" * 10] in lines


def test_a_table_that_fits_is_as_wide_as_the_terminal_lets_it_be(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    table(("file", "psnr"), [(NAME, 12.5)], fold=("file",))
    lines = capsys.readouterr().out.splitlines()
    assert lines[2].split() == [NAME, "12.50"]


def test_progress_is_told_of_whole_steps_alone(capsys, monkeypatch):
    """Of a step in parts, the first part has no loss and no speed to tell."""
    now = [0.0]
    monkeypatch.setattr("tok4d.cli.train.time.monotonic", lambda: now[0])
    lines: Any = progress("images", 0, 10)
    module = SimpleNamespace(trained=0, between_steps=False, report=SimpleNamespace(losses={}))
    trainer = SimpleNamespace(is_global_zero=True, callback_metrics={"tokens_per_second": 1234.4})
    now[0] = 8.0
    lines.on_train_batch_end(trainer, module)
    assert capsys.readouterr().err == ""
    module.trained, module.between_steps, module.report.losses = 1, True, {"picture/loss": 0.25}
    lines.on_train_batch_end(trainer, module)
    assert capsys.readouterr().err == "images: step 1/10  picture/loss 0.2500  1,234 tokens/s  72 s left\n"
