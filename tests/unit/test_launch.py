"""Processes that cannot come together are refused before they wait for each other; launches that can are not."""

from __future__ import annotations

import os

import pytest

from tok4d.config.loader import load_curriculum
from tok4d.errors import ConfigError
from tok4d.training import launch
from tok4d.training.launch import refuse_launch

LAUNCHERS = ("WORLD_SIZE", "RANK", "LOCAL_RANK", "GROUP_RANK", "NODE_RANK", "MASTER_ADDR", "MASTER_PORT")


@pytest.fixture(autouse=True)
def from_a_shell(monkeypatch):
    """A machine with four cores and no GPU, and none of a launcher's variables."""
    for name in list(os.environ):
        if name in LAUNCHERS or name.startswith(("TORCHELASTIC_", "SLURM_", "LSB_", "JSM_", "OMPI_", "PMI_")):
            monkeypatch.delenv(name)
    monkeypatch.setattr(os, "cpu_count", lambda: 4)
    monkeypatch.setattr(launch, "_gpus", lambda: 0)


def asked(devices: int | str = 1, nodes: int = 1, accelerator: str = "cpu") -> None:
    refuse_launch(load_curriculum("smoke", [f"devices={devices}", f"nodes={nodes}", f"accelerator={accelerator}"]))


def environment(monkeypatch: pytest.MonkeyPatch, **values: object) -> None:
    for name, value in values.items():
        monkeypatch.setenv(name, str(value))


def test_the_paper_on_one_machine_is_refused():
    with pytest.raises(ConfigError, match=r"nodes: 32 machines are asked for.*no torchrun, no srun, no MASTER_PORT"):
        refuse_launch(load_curriculum("atoken", ["accelerator=cpu"]))
    with pytest.raises(ConfigError, match="accelerator: gpu is asked for and there is none here; accelerator=cpu"):
        refuse_launch(load_curriculum("atoken"))


@pytest.mark.parametrize(
    ("accelerator", "error"),
    [("gppu", "unknown accelerator 'gppu'. Did you mean 'gpu'"), ("tpu", "tpu is asked for and there is none here")],
)
def test_an_accelerator_that_is_no_name_or_not_here(accelerator, error):
    with pytest.raises(ConfigError, match=error):
        asked(accelerator=accelerator)


def test_one_machine_has_no_more_processes_than_cores_or_gpus(monkeypatch):
    for accelerator in ("cpu", "auto"):
        asked(4, accelerator=accelerator)
        asked("auto", accelerator=accelerator)
        with pytest.raises(ConfigError, match=r"devices: 5 processes on a machine with 4 cores.*at most devices=4"):
            asked(5, accelerator=accelerator)
    monkeypatch.setattr(os, "cpu_count", lambda: 1)
    asked(2)  # to try what several processes do
    monkeypatch.setattr(launch, "_gpus", lambda: 2)
    asked(2, accelerator="gpu")
    with pytest.raises(ConfigError, match="devices: 3 are asked for and there are 2 GPUs here"):
        asked(3, accelerator="gpu")


def test_torchrun_decides_how_many_there_are(monkeypatch):
    environment(monkeypatch, TORCHELASTIC_RUN_ID="x", WORLD_SIZE=256, RANK=9, LOCAL_RANK=1, GROUP_RANK=1)
    asked(8, nodes=32)
    asked("auto", nodes=32)
    with pytest.raises(ConfigError, match=r"devices: 8, nodes: 1 are not what TorchElastic has started.*size \(256\)"):
        asked(8)


def test_slurm_decides_how_many_there_are(monkeypatch):
    environment(monkeypatch, SLURM_NTASKS=256, SLURM_NTASKS_PER_NODE=8, SLURM_NNODES=32, SLURM_JOB_NAME="train")
    asked(8, nodes=32)
    with pytest.raises(ConfigError, match=r"devices: 4, nodes: 32 are not what SLURM has started.*ntasks-per-node=8"):
        asked(4, nodes=32)
    monkeypatch.delenv("SLURM_NTASKS_PER_NODE")
    with pytest.raises(ConfigError, match=r"this launch cannot be used: .*Use `--ntasks-per-node"):
        asked(8, nodes=32)
    monkeypatch.setenv("SLURM_JOB_NAME", "bash")  # an interactive shell: a process that srun did not start
    with pytest.raises(ConfigError, match="nodes: 32 machines"):
        asked(2, nodes=32)


def test_machines_that_know_where_to_meet_are_not_refused(monkeypatch):
    """Lightning's own way without a launcher: the same command on every machine, with an address and a port."""
    environment(monkeypatch, MASTER_ADDR="10.0.0.1", MASTER_PORT=29500, NODE_RANK=1)
    asked(4, nodes=32)
    with pytest.raises(ConfigError, match="5 processes on a machine with 4 cores"):
        asked(5, nodes=32)


def test_a_process_that_was_started_as_one_of_many_is_not_refused(monkeypatch):
    environment(monkeypatch, LOCAL_RANK=7, WORLD_SIZE=16)
    asked(8, nodes=2)
    assert launch._launcher() is None
