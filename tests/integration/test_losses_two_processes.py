"""Losses in two real processes (gloo): values and gradients of one process that has the whole batch."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parent))

import loss_worker

from tok4d.errors import Tok4dError
from tok4d.losses.gather import gather, processes
from tok4d.weights.folder import read_tensors


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Tensor]]:
    """What either process found."""
    folder = tmp_path_factory.mktemp("processes")
    environment = {**os.environ, "TOK4D_CACHE": str(folder / "cache"), "OMP_NUM_THREADS": "1"}
    started = [
        subprocess.Popen(
            [sys.executable, loss_worker.__file__, str(rank), "2", str(folder)],
            env=environment,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    for process in started:
        _, said = process.communicate(timeout=120)
        assert process.returncode == 0, said
    return [read_tensors(folder / f"{rank}.safetensors") for rank in range(2)]


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Tensor]:
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("TOK4D_CACHE", str(tmp_path_factory.mktemp("cache")))
        patched.setattr("tok4d.losses.texts._banks", {})
        return loss_worker.outcome(0, 1)


@pytest.mark.parametrize("name", sorted(loss_worker.CONFIGS))
def test_value_and_gradients_are_those_of_one_process(
    both: list[dict[str, Tensor]], alone: dict[str, Tensor], name: str
) -> None:
    keys = [key for key in alone if key.startswith(f"{name}/")]
    assert f"{name}/value" in keys
    for found in both:
        for key in keys:
            torch.testing.assert_close(found[key], alone[key], rtol=1e-6, atol=1e-6)


def test_what_learns_has_gradients(alone: dict[str, Tensor]) -> None:
    for name in ("sigmoid", "distill", "bank"):
        assert float(alone[f"{name}/turn"].abs().max()) > 1e-3
        assert float(alone[f"{name}/log_scale"].abs()) > 1e-3
    assert float(alone["sigmoid/bias"].abs()) > 1e-3
    for name in ("l1", "lpips", "gram", "teacher", "ssim", "ms_ssim"):
        assert float(alone[f"{name}/gain"].abs()) > 1e-6


def test_captions_of_the_other_process_count(alone: dict[str, Tensor]) -> None:
    """Without the exchange, half a batch would have another value."""
    assert float((alone["half"] - alone["sigmoid/value"]).abs()) > 0.01


@pytest.mark.parametrize("name", ["unequal", "none"])
def test_gather(both: list[dict[str, Tensor]], alone: dict[str, Tensor], name: str) -> None:
    for found in both:
        assert torch.equal(found[f"{name}/rows"], alone[f"{name}/rows"])
        torch.testing.assert_close(found[f"{name}/gradient"], alone[f"{name}/gradient"])
        assert found["numbers"].tolist() == [0, 1, 2, 3, 4, 5]


def test_a_process_that_stands_by_adds_no_caption(both: list[dict[str, Tensor]], alone: dict[str, Tensor]) -> None:
    for found in both:
        assert found["standing by"].tolist() == [0, 1, 2]
        torch.testing.assert_close(2 * found["one share"], alone["one share"], rtol=1e-6, atol=1e-6)


def test_statistics_of_codes_add_up(both: list[dict[str, Tensor]], alone: dict[str, Tensor]) -> None:
    for found in both:
        assert torch.equal(found["codes"], alone["codes"])
    assert int(alone["codes"].sum()) == 80


def test_gather_of_one_process_is_the_tensor_itself() -> None:
    rows = torch.ones(2, 3, requires_grad=True)
    assert processes() == 1
    assert gather(rows) is rows
    with pytest.raises(Tok4dError, match="got a scalar"):
        gather(torch.tensor(1.0))
