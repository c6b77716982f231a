"""Whether the processes that a curriculum asks for can come together, before one waits for others in vain."""

from __future__ import annotations

import os
import warnings
from typing import TYPE_CHECKING

import torch

from tok4d.config.schema import Curriculum
from tok4d.errors import ConfigError, unknown_name

if TYPE_CHECKING:
    from pytorch_lightning.plugins.environments import ClusterEnvironment

GPUS = ("gpu", "cuda")
TEST = 2  # processes that any CPU may have, so that a run of several can be tried


def refuse_launch(curriculum: Curriculum) -> None:
    """Compare a curriculum's `accelerator`, `devices` and `nodes` with how this process was started.

    Under a launcher (torchrun, srun, jsrun, mpirun) its own numbers count, and they must be the curriculum's. Without
    one this command starts the processes of its own machine and nobody starts those of others: they can only join it
    at an address and a port that they know beforehand, which is `MASTER_PORT`; without it the port is drawn at random.

    Raises:
        ConfigError: naming the numbers, and how to start so many processes.
    """
    devices = None if curriculum.devices == "auto" else int(curriculum.devices)
    _refuse_absent(curriculum.accelerator)
    launcher = _launcher()
    if launcher is not None:
        if devices is not None:
            _refuse_other(launcher, devices, curriculum.nodes)
        return
    if "LOCAL_RANK" in os.environ:  # someone starts every process by hand; so does Lightning those of one machine
        return
    if curriculum.nodes > 1 and "MASTER_PORT" not in os.environ:
        raise ConfigError(
            f"nodes: {curriculum.nodes} machines are asked for, and nothing here starts the processes on the others: "
            f"no torchrun, no srun, no MASTER_PORT at which they could join. Start it with one of these on every "
            "machine (see docs/training.md, several processes), or set nodes=1 and the devices of this machine"
        )
    if devices is not None:
        _refuse_many(curriculum.accelerator, devices)


def _launcher() -> ClusterEnvironment | None:
    """What started this process, by Lightning's own tests and in its order; None: a shell, or nobody that it knows."""
    from pytorch_lightning.plugins import environments as known

    kinds: tuple[type[ClusterEnvironment], ...] = (
        known.TorchElasticEnvironment,
        known.SLURMEnvironment,
        known.LSFEnvironment,
        known.MPIEnvironment,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # advice to use srun, which the trainer gives too
        try:
            return next((kind() for kind in kinds if kind.detect()), None)
        except RuntimeError as error:  # what its constructor refuses, the trainer would refuse too
            raise ConfigError(f"this launch cannot be used: {error}") from error


def _refuse_other(launcher: ClusterEnvironment, devices: int, nodes: int) -> None:
    try:
        launcher.validate_settings(num_devices=devices, num_nodes=nodes)
    except ValueError as error:
        name = type(launcher).__name__.removesuffix("Environment")
        raise ConfigError(
            f"devices: {devices}, nodes: {nodes} are not what {name} has started ({error}); give its numbers"
        ) from error


def _refuse_absent(accelerator: str) -> None:
    from pytorch_lightning.accelerators import AcceleratorRegistry as Known

    names = Known.available_accelerators()
    if accelerator not in ("auto", "gpu", *names):
        raise ConfigError(unknown_name("accelerator", accelerator, ["auto", "gpu", *names]))
    try:
        there = _gpus() > 0 if accelerator in GPUS else accelerator == "auto" or Known.get(accelerator).is_available()
    except ImportError:  # the package that drives it
        there = False
    if not there:
        raise ConfigError(f"accelerator: {accelerator} is asked for and there is none here; accelerator=cpu needs none")


def _refuse_many(accelerator: str, devices: int) -> None:
    """Processes of one machine, which this command would start: no more than it has GPUs, or cores."""
    if accelerator in ("auto", *GPUS) and _gpus():
        if devices > _gpus():
            raise ConfigError(f"devices: {devices} are asked for and there are {_gpus()} GPUs here")
    elif accelerator in ("auto", "cpu"):
        # All cores of the machine, also those that this process may not use: too many is better than a refusal.
        cores = os.cpu_count() or TEST
        if devices > max(cores, TEST):
            raise ConfigError(
                f"devices: {devices} processes on a machine with {cores} cores would only wait for each other; "
                f"give at most devices={max(cores, TEST)}"
            )


def _gpus() -> int:
    """GPUs that torch sees, Apple's among them."""
    return torch.cuda.device_count() if torch.cuda.is_available() else int(torch.backends.mps.is_available())
