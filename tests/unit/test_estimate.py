"""What a run will cost: seconds by hand, memory against what autograd really keeps, times, and what a manifest says."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from made import make_tokens

from tok4d.config.loader import from_mapping, load_curriculum, load_preset
from tok4d.config.schema import Curriculum
from tok4d.errors import ConfigError, Tok4dError
from tok4d.model.tokenizer import Tokenizer
from tok4d.testing.models import tiny_tokenizer
from tok4d.training import memory, rehearsal, sizing
from tok4d.training.estimate import Rehearsal, StageCost, TaskCost, too_large
from tok4d.training.limits import StopAfter, parse_duration
from tok4d.training.loggers import check_loggers, make_loggers
from tok4d.training.manifest import code_state, hardware, manifest, write_manifest
from tok4d.training.memory import Need, activations_of, available_memory, need_of, total_memory

CPU = torch.device("cpu")


def stage(workers: int, loading: float = 0.0) -> StageCost:
    """Three quarters of the steps 2 s, a quarter 6 s, half a second of every step for a rider, 0.1 s to update."""
    tasks = [
        TaskCost("a", 0.75, 4, 100, loading, 2.0, memory=7),
        TaskCost("b", 0.25, 2, 300, loading, 6.0, memory=9),
        TaskCost("rider", 1.0, 8, 40, loading, 0.5),
    ]
    return StageCost("s", 10, 1000, 1000, Need(1, 2, 3, 4), tasks, 0.1, workers)


def test_a_stage_costs_its_mixture():
    assert stage(0).step_seconds == pytest.approx(0.75 * 2 + 0.25 * 6 + 0.5 + 0.1)
    assert stage(0).seconds == pytest.approx(36)
    assert stage(0).tokens == pytest.approx(75 + 75 + 40)
    assert stage(0).memory == 9


def test_loading_is_waited_for_without_workers_and_hidden_by_enough_of_them():
    """Two samples' worth of loading, 4 s each: 8 s a step."""
    assert stage(0, 4.0).step_seconds == pytest.approx(3.6 + 8)
    assert stage(1, 4.0).step_seconds == pytest.approx(8)
    assert stage(4, 4.0).step_seconds == pytest.approx(3.6)
    assert [stage(workers, 4.0).waiting for workers in (0, 1, 4)] == pytest.approx([80, 44, 0])
    assert Rehearsal([stage(0, 4.0), stage(1, 4.0)]).waiting == pytest.approx(124)


def test_a_curriculum_costs_its_stages_and_is_json():
    found = Rehearsal([stage(0), stage(0)], 100).mapping()
    assert found["seconds"] == pytest.approx(72)
    assert found["peak_memory"] == 9
    assert json.loads(json.dumps(found))["stages"][1]["tasks"][0]["task"] == "a"
    unknown = StageCost("s", 10, 1, 1, Need(1, 1, 1, 1))
    assert Rehearsal([stage(0), unknown]).seconds is None


def test_state_of_a_model_is_five_times_its_parameters():
    with torch.device("meta"):
        model = Tokenizer(load_preset("tiny", {}))
    model.freeze(["decoder"])
    total = sum(p.numel() for p in model.parameters())
    trained = sum(p.numel() for n, p in model.named_parameters() if not n.startswith("decoder"))
    need = need_of(model)
    assert total == 5_303_040
    assert (need.averages, need.gradients, need.moments) == (4 * total, 4 * trained, 8 * trained)
    assert need.weights == 4 * (total + 2 * 48)
    assert need_of(model, copied=True).copies == need.weights + need.averages + need.moments


@pytest.mark.parametrize(("preset", "blocks"), [("tiny", 1), ("tiny", 4), ("base", 2)])
def test_activations_are_what_autograd_keeps(preset, blocks):
    """Bytes of all storages that a forward pass saves, weights left out. The estimate must not be below that."""
    stack = {"blocks": blocks}
    model = Tokenizer(load_preset(preset, {"encoder": stack, "decoder": stack}))
    tokens = make_tokens([64, 64], 3072, (1, 8, 8, 1), ordered=True)
    own = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept: dict[int, Any] = {}

    def keep(x: torch.Tensor) -> torch.Tensor:
        storage = x.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage  # held, so that no address comes twice
        return x

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
        encoded = model.encode(tokens, pool=False)
        error = model.decode(encoded.latents("sample")).feats - tokens.feats
        (error.abs().mean() + error.square().mean() + encoded.posterior.kl().mean()).backward()
    measured = sum(storage.nbytes() for storage in kept.values())
    assert measured <= activations_of(model.config, 128) <= 1.4 * measured
    assert activations_of(model.config, 128, recomputed=True) < activations_of(model.config, 128) or blocks == 1


def test_what_will_not_fit_is_said_with_both_numbers_and_the_way_out():
    need = Need(4_000_000_000, 4_000_000_000, 4_000_000_000, 8_000_000_000, 1_000_000_000)
    assert need.total == 900_000_000 + 23_100_000_000
    assert too_large("videos", need, 24_000_000_000) == ""
    assert too_large("videos", need, None) == ""
    said = too_large("videos", need, 20_000_000_000)
    assert said.startswith("stage 'videos' needs about 24.0 GB (weights 4.00 GB,")
    assert "activations 1.00 GB) and 20.0 GB are free here; less need checkpoint_activations: true" in said
    assert need.times(0.5) == Need(2_000_000_000, 2_000_000_000, 2_000_000_000, 4_000_000_000, 1_000_000_000)


def test_available_memory_is_part_of_all():
    available, total = available_memory(CPU), total_memory()
    if available is None or total is None:
        pytest.skip("this system does not say")
    assert 0 < available <= total


def test_limits_of_containers_and_jobs_count_and_cached_files_are_free(tmp_path, monkeypatch):
    """In a container with 100 GB, 95 of them used, a job that may have 8 and holds 3, of which 1 is cached."""
    (tmp_path / "cgroup").write_text("12:cpu,cpuacct:/x\n0::/box/job_5/step\n")
    sizes = {"box/job_5": (8, 3, 1), "box": (100, 95, 0)}
    for folder, (limit, used, cached) in sizes.items():
        (tmp_path / folder).mkdir(parents=True, exist_ok=True)
        (tmp_path / folder / "memory.max").write_text(f"{limit * 10**9}\n")
        (tmp_path / folder / "memory.current").write_text(f"{used * 10**9}\n")
        (tmp_path / folder / "memory.stat").write_text(f"file 7\ninactive_file {cached * 10**9}\nactive_file 9\n")
    (tmp_path / "box/job_5/step").mkdir()
    (tmp_path / "box/job_5/step/memory.max").write_text("max\n")
    monkeypatch.setattr(memory, "CGROUPS", tmp_path / "cgroup")
    version = {"": (tmp_path, *memory._VERSIONS[""][1:])}
    monkeypatch.setattr(memory, "_VERSIONS", version)
    assert memory._container() == [(8 * 10**9, 2 * 10**9), (100 * 10**9, 95 * 10**9)]
    assert total_memory() == 8 * 10**9
    assert (available_memory(CPU) or 0) <= 5 * 10**9
    (tmp_path / "cgroup").write_text("0::/elsewhere/outside\n")
    assert memory._container() == [], "the root has no limit"


def test_peak_memory_sees_what_came_and_went():
    """In a process of its own: one that has run a thousand tests holds freed memory, which new tensors only reuse."""
    program = """
import torch
from tok4d.training.memory import peak_memory, reset_peak
device = torch.device("cpu")
reset_peak(device)
before = peak_memory(device)
made = torch.ones(50_000_000)
del made
print("none" if before is None else peak_memory(device) - before)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=120)
    if done.stdout.strip() == "none":
        pytest.skip("this system does not say")
    assert int(done.stdout) > 150_000_000


def test_a_rehearsed_step_changes_no_weight():
    curriculum = load_curriculum("smoke", ["stages.images.tasks.image.options.side=32"])
    model = tiny_tokenizer().train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    step = rehearsal._Step(curriculum, "images", model, CPU)
    parts, _ = rehearsal._Served(curriculum, "images").load("image", 1)
    cost = step.cost(TaskCost("image", 1.0, 0, 0, 0.0), parts)
    step.update()
    assert (cost.samples, cost.tokens) == (4, 4 * 4)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    moments = sum(v.numel() for state in step.optimizer.state.values() for n, v in state.items() if n != "step")
    assert moments == 2 * sum(p.numel() for p in step.trained), "memory is measured with the moments there"


def test_the_curriculum_is_checked_by_the_sizes_of_its_processes():
    """Two processes on a CPU hold two models, or one together when it is sharded."""
    both = load_curriculum("smoke", ["devices=2", "strategy=ddp"])
    assert sizing.spread(both, CPU) == (2.0, 2)
    sharded = load_curriculum("smoke", ["devices=2", "strategy=fsdp", "nodes=4"])
    assert sizing.spread(sharded, CPU) == (2 / 8, 2)
    assert sizing.spread(sharded, torch.device("cuda")) == (1 / 8, 1)
    assert sizing.spread(load_curriculum("smoke"), CPU) == (1.0, 1)


def test_the_largest_batch_is_known_before_there_are_data():
    """Of 2 processes and 2 parts: 16 pictures of at most 2 x 2 patches are 4 x 4 tokens, 80 tokens 20 and 1.5 clips."""
    image = {"source": "image/folder", "batch": 16, "options": {"path": "nowhere", "size": 32}}
    clip = {"source": "video/folder", "options": {"path": "nowhere", "frames": 5, "size": 32}}
    config = load_preset("tiny", {})

    def stage(**tasks: dict[str, Any]) -> StageCost:
        whole = {"order": ["s"], "devices": 2, "stages": {"s": {"micro": 2, "tasks": tasks}}}
        (found,) = sizing.sized(from_mapping(Curriculum, whole, "test"), CPU)
        return found

    known = stage(image=image, other={"source": "image/folder", "batch": 4, "options": {"path": "nowhere"}})
    assert known.need.activations == activations_of(config, 4 * 4)
    assert known.unknown == ("other",)
    assert "batches of other are known from their data alone" in known.foretold
    assert known.held is not None
    assert known.held.activations == 2 * known.need.activations, "two processes in one memory"
    packed = stage(clip={**clip, "tokens": 80})
    assert packed.unknown == ()
    assert packed.need.activations == activations_of(config, 80 // 4 + 12)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("00:30:00", 1800),
        ("1-12:00:00", 129_600),
        ("100:00:01", 360_001),
        ("90m", 5400),
        ("1h30m", 5400),
        ("1.5h", 5400),
        (" 2D ", 172_800),
        ("3600s", 3600),
        ("45", 45),
    ],
)
def test_times_are_read(text, seconds):
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "0", "00:00:00", "m", "-5m", "30:00", "1h 30m", "nan", "10x", "00:99:00"])
def test_other_times_are_refused(text):
    with pytest.raises(Tok4dError, match="a time is written 00:30:00, 90m"):
        parse_duration(text)


def test_a_run_stops_at_the_end_of_a_step_that_is_over_when_the_time_is():
    now = [10.0]
    agreed: list[bool] = []

    def agree(over: bool, all: bool) -> bool:
        assert not all
        agreed.append(over)
        return over

    trainer: Any = SimpleNamespace(should_stop=False, strategy=SimpleNamespace(reduce_boolean_decision=agree))
    module: Any = SimpleNamespace(between_steps=True)
    stop = StopAfter(5.0, begun=10.0, clock=lambda: now[0])
    now[0] = 14.9
    stop.on_train_batch_end(trainer, module)
    assert not trainer.should_stop
    now[0], module.between_steps = 15.0, False
    stop.on_train_batch_end(trainer, module)
    assert not trainer.should_stop, "in the middle of a step"
    module.between_steps = True
    stop.on_train_batch_end(trainer, module)
    assert trainer.should_stop
    assert agreed == [False, True]


def git(folder: Path, *arguments: str) -> str:
    identity = ("-c", "user.name=n", "-c", "user.email=e@example.org", "-c", "init.defaultBranch=main")
    return subprocess.run(
        ["git", "-C", str(folder), *identity, *arguments], check=True, capture_output=True, text=True
    ).stdout.strip()


def test_a_manifest_knows_the_commit_and_whether_the_tree_was_dirty(tmp_path):
    assert code_state(tmp_path) == {"commit": None, "dirty": None}
    git(tmp_path, "init")
    (tmp_path / ".gitignore").write_text("venv\n")
    inside = tmp_path / "src"
    inside.mkdir()
    (inside / "a.py").write_text("a = 1\n")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-m", "one")
    commit = git(tmp_path, "rev-parse", "HEAD")
    assert code_state(inside) == {"commit": commit, "dirty": False}
    (inside / "b.py").write_text("b = 1\n")
    assert code_state(inside) == {"commit": commit, "dirty": True}
    (tmp_path / "venv").mkdir()
    assert code_state(tmp_path / "venv") == {"commit": None, "dirty": None}, "an installed package is no checkout"


def test_a_manifest_holds_what_could_change_a_number(tmp_path):
    write_manifest(tmp_path, {"seed": 3})
    write_manifest(tmp_path, {"seed": 3})
    write_manifest(tmp_path, {"seed": 3})
    found = json.loads((tmp_path / "manifest.json").read_text())
    assert found["curriculum"] == {"seed": 3}
    assert found["torch"] == torch.__version__
    assert found["packages"]["numpy"] == np.__version__
    assert set(manifest()) <= set(found)
    assert found["hardware"]["cores"] >= 1
    assert found["hardware"]["memory"] == total_memory()
    assert len(found["before"]) == 2, "the parts of a run that was continued twice"
    assert all(part["started"] and "before" not in part and "curriculum" not in part for part in found["before"])
    (tmp_path / "manifest.json").write_text("[broken")
    write_manifest(tmp_path, {})
    assert json.loads((tmp_path / "manifest.json").read_text())["before"] == []
    assert hardware()["cpu"]


def test_loggers_by_name(tmp_path, monkeypatch):
    assert make_loggers([], tmp_path) == []
    (board,) = make_loggers(["tensorboard", "tensorboard"], tmp_path)
    assert Path(board.log_dir) == tmp_path / "logs"
    with pytest.raises(ConfigError, match=r"unknown logger 'tensorbord'. Did you mean 'tensorboard'"):
        make_loggers(["tensorbord"], tmp_path)
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(ConfigError, match=r'wandb needs the package "wandb" .*; pip install wandb'):
        check_loggers(["wandb"])
