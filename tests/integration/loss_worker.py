"""One of two processes that compute losses on their share of a batch: `python loss_worker.py RANK WORLD FOLDER`.

Run as a program by test_losses_two_processes.py, which computes the same in one process with `outcome`.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import torch.distributed as dist
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[1] / "unit"))

from loss_inputs import HashTower, SmallTrunk, encoded, image, noise

from tok4d.config.schema import TextConfig
from tok4d.losses import CodeStatistics, Objective
from tok4d.losses.gather import gather, standing_by
from tok4d.model.text_head import TextHead
from tok4d.weights.folder import write_tensors

CAPTIONS = ["a cat", "a dog", "A cat", "two cups", "a lamp", "a dog"]  # 0 and 2, 1 and 5 are on different processes
BANK = ["a cat", "a dog", "a cup"]
CONFIGS: dict[str, dict[str, Any]] = {
    "l1": {"l1": 1},
    "l2": {"l2": 1},
    "charbonnier": {"charbonnier": 1},
    "kl": {"kl": 1},
    "lpips": {"lpips": {"size": 16}},
    "gram": {"gram": {"size": None}},
    "teacher": {"teacher": {"network": "vgg16", "size": 16}},
    "ssim": {"ssim": 1},
    "ms_ssim": {"ms_ssim": 1},
    "sigmoid": {"sigmoid": 1},
    "distill": {"distill": {"teacher_log_scale": 1.0}},
    "bank": {"distill": {"bank": BANK, "teacher_log_scale": 1.0}},
    "all": {"l1": 1, "lpips": 10, "gram": 1000, "ssim": 1, "kl": 0.1, "sigmoid": 1, "distill": 1},
}


class Classifier:
    """Stands for EfficientNet-Lite0."""

    class_names = ("cat", "chair", "cup")

    def logits(self, pictures: Tensor) -> Tensor:
        return 5 * pictures.mean((2, 3))


def shares(world: int) -> list[list[int]]:
    """Which samples each process has."""
    return [list(range(len(CAPTIONS)))] if world == 1 else [[0, 1, 2], [3, 4, 5]]


def outcome(rank: int, world: int) -> dict[str, Tensor]:
    """Values and gradients by configuration, averaged over processes as DDP does; codes and gathered rows."""
    trunk = SmallTrunk()
    found: dict[str, Tensor] = {}
    with (
        mock.patch("tok4d.losses.trunks.load_network", return_value=trunk),
        mock.patch("tok4d.losses.perceptual.lpips_heads", return_value=trunk.heads()),
        mock.patch("tok4d.losses.texts.load_text_encoder", return_value=HashTower()),
        mock.patch("tok4d.losses.teachers.load_network", return_value=Classifier()),
    ):
        for name, config in CONFIGS.items():
            found |= {f"{name}/{key}": value for key, value in _one(config, shares(world)[rank], world).items()}
        if world == 1:
            found["half"] = _one(CONFIGS["sigmoid"], [0, 1, 2], world)["value"]
    return found | _gathered(rank, world) | _codes(rank, world)


def _one(config: dict[str, Any], chosen: Sequence[int], world: int, share: float = 1.0) -> dict[str, Tensor]:
    """Of a model with one weight for pictures, one for features, and a text head."""
    gain = torch.tensor(0.7, requires_grad=True)
    turn = noise(6, 6, seed=50).requires_grad_()
    head = TextHead(TextConfig(kind="minilm", log_scale=1.0, bias=-1.0, width=6), 6)
    target = [image(noise(3, 12 + 4 * i, 20, seed=i), CAPTIONS[i], key=f"{i}") for i in chosen]
    got = [image(gain * noise(3, 12 + 4 * i, 20, seed=20 + i)) for i in chosen]
    pooled = torch.stack([noise(6, seed=40 + i) for i in chosen]) @ turn
    made = encoded(len(chosen), pooled, head)
    made.posterior.mean[:] = torch.tensor(chosen)[:, None] / 3
    loss = Objective.from_config(config)(target, got, made).total + 0 * (gain + turn.sum())
    (loss * share).backward()
    parts = {"value": loss.detach(), "gain": gain.grad, "turn": turn.grad}
    parts |= {"log_scale": head.log_scale.grad, "bias": head.bias.grad}
    return {key: _mean(part, world) for key, part in parts.items() if part is not None}


def _mean(value: Tensor, world: int) -> Tensor:
    value = value.clone()
    if world > 1:
        dist.all_reduce(value)
    return value / world


def _gathered(rank: int, world: int) -> dict[str, Tensor]:
    """Unequal counts of rows, one process without any, and the gradient of a sum that weighs every row differently."""
    rows = noise(5, 3, seed=60)
    found = {}
    for name, split in {"unequal": 2, "none": 0}.items():
        parts = [rows] if world == 1 else [rows[:split], rows[split:]]
        own = parts[rank].clone().requires_grad_()
        every = gather(own)
        weights = noise(5, 3, seed=61) * (rank + 1 if world > 1 else 3)  # 1 + 2 of both processes together
        (every * weights).sum().backward()
        found |= {f"{name}/rows": every.detach(), f"{name}/gradient": gather(own.grad)}
    with standing_by(rank == 1):
        found["standing by"] = gather(torch.arange(3) if rank == 0 else torch.tensor([7]))
    with standing_by(rank == 1):  # the second process has a sample of the first, and counts it not at all
        found["one share"] = _one(CONFIGS["sigmoid"], [0, 1, 2] if rank == 0 else [0], world, float(rank == 0))["turn"]
    found["numbers"] = gather(torch.arange(3 * rank, 3 * rank + 3) if world > 1 else torch.arange(6))
    return found


def _codes(rank: int, world: int) -> dict[str, Tensor]:
    indices = torch.randint(0, 6, (40, 2), generator=torch.Generator().manual_seed(7))
    statistics = CodeStatistics(2, [3, 2])
    statistics.add(indices if world == 1 else (indices[:11], indices[11:])[rank])
    statistics.sync()
    return {"codes": statistics.counts}


if __name__ == "__main__":
    number, count, folder = int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=number, world_size=count)
    write_tensors(folder / f"{number}.safetensors", {k: v.contiguous() for k, v in outcome(number, count).items()})
    dist.destroy_process_group()
