"""Two processes on the CPU against one: data parallel and sharded, through growth, riders and checkpoints."""

from __future__ import annotations

import json
import signal
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))

from fork_server import Command, Server
from safetensors.torch import load_file
from self_signals import At

from tok4d import Tokenizer
from tok4d.errors import DataError
from tok4d.training import checkpoint

CURRICULUM = Path(__file__).parent / "four_stages.yaml"
SMALL = [
    "accelerator=cpu",
    "order=[images, clips]",
    "stages.images.steps=4",
    "stages.clips.steps=6",
    "stages.clips.quantizer={groups: 2, levels: [4, 4, 4, 4, 4, 4]}",
]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    made = Server(tmp_path_factory.mktemp("logs"))
    yield made
    made.close()


def train(out: Path, *more: str) -> list[object]:
    return ["train", CURRICULUM, "-o", out, *SMALL, *more]


def two(server: Server, out: Path, *more: str, first: At | None = None) -> list[Command]:
    """Two processes of `tok4d train` as torchrun starts them."""
    return pair(server, *train(out, "devices=2", *more), first=first)


def pair(server: Server, *argv: object, program: str = "", first: At | None = None) -> list[Command]:
    """Two processes with the same arguments, as torchrun starts them; `first`: a signal that the first gets."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    shared = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "GROUP_RANK": "0", "TORCHELASTIC_RUN_ID": "test"}
    shared |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    own = zip(("0", "1"), (first, None), strict=True)
    return [server.start(*argv, program=program, at=at, **shared, RANK=rank, LOCAL_RANK=rank) for rank, at in own]


def finished(*commands: Command) -> None:
    for code, said in [command.wait() for command in commands]:
        assert code == 0, said


@pytest.fixture(scope="module")
def runs(server: Server, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One curriculum in one process, in two that hold all, and in two that hold shards and write while training."""
    out = {name: tmp_path_factory.mktemp(name) / "run" for name in ("one", "ddp", "fsdp")}
    finished(server.start(*train(out["one"])))
    finished(*two(server, out["ddp"], "strategy=ddp"))
    finished(*two(server, out["fsdp"], "strategy=fsdp", "asynchronous=true"))
    return out


def losses(out: Path) -> list[dict[str, float]]:
    lines = [json.loads(line) for line in (out / "losses.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if isinstance(value, float)} for line in lines]


def distance(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    """Of all tensors together, relative."""
    assert set(one) == set(other)
    apart = sum(float((one[name] - other[name]).detach().double().square().sum()) for name in one)
    return (apart / sum(float(value.detach().double().square().sum()) for value in one.values())) ** 0.5


def test_one_process_and_two_learn_the_same(runs):
    one, ddp = losses(runs["one"]), losses(runs["ddp"])
    assert len(one) == len(ddp) == 10
    assert [set(row) for row in one] == [set(row) for row in ddp]
    for name, value in one[0].items():
        assert ddp[0][name] == pytest.approx(value, rel=1e-6), name
    for step, (mine, theirs) in enumerate(zip(one, ddp, strict=True)):
        # The last bits differ, AdamW's first steps magnify them (g / |g|), and FSQ rounds to one side or the other.
        assert theirs == pytest.approx(mine, rel=1e-4 if step < 4 else 1e-2)
    weights = [load_file(runs[name] / "checkpoints/last/training/weights.safetensors") for name in ("one", "ddp")]
    assert distance(*weights) < 1e-3


def test_validation_is_shared_out_and_merged(runs):
    rows = {name: json.loads((out / "results.json").read_text()) for name, out in runs.items()}
    assert [(row["step"], row.pop("stage")) for row in rows["one"]] == [(4, "images"), (10, "clips")]
    assert [row.pop("stage") for name in ("ddp", "fsdp") for row in rows[name]] == ["images", "clips"] * 2
    assert rows["ddp"][0] == pytest.approx(rows["one"][0], rel=1e-4)
    assert rows["fsdp"][0] == pytest.approx(rows["ddp"][0], rel=1e-4)


def test_shards_are_data_parallel_training(runs):
    for mine, theirs in zip(losses(runs["ddp"]), losses(runs["fsdp"]), strict=True):
        assert theirs == pytest.approx(mine, rel=1e-4)
    found, expected = (checkpoint.load(runs[name] / "checkpoints" / "last") for name in ("fsdp", "ddp"))
    assert distance(dict(expected.model.named_parameters()), dict(found.model.named_parameters())) < 1e-5
    assert distance(expected.ema.values, found.ema.values) < 1e-5
    assert distance(expected.moments, found.moments) < 1e-5
    assert (found.state.processes, found.state.step, found.state.stage) == (2, 6, "clips")


def test_sharded_checkpoints_hold_parts_and_the_last_is_a_model(runs):
    folder = runs["fsdp"] / "checkpoints"
    assert sorted(path.name for path in folder.iterdir()) == ["clips-00000004", "clips-00000006", "last"]
    sizes = [len(load_file(path)["proj.weight"]) for path in sorted(folder.glob("clips-00000004/training/weights-*"))]
    assert sizes == [12, 12]
    assert Tokenizer.from_pretrained(folder / "last").quantizer is not None
    model = load_file(folder / "last" / "model.safetensors")
    assert distance(model, load_file(runs["ddp"] / "checkpoints/last/model.safetensors")) < 1e-5


def test_sigterm_to_one_process_stops_both(server, runs, tmp_path):
    out = tmp_path / "run"
    for code, said in [each.wait() for each in two(server, out, "strategy=fsdp", first=At(signal.SIGTERM, step=3))]:
        assert code == 128 + signal.SIGTERM, said
    assert (out / "checkpoints" / "last" / "model.safetensors").exists()
    finished(*two(server, out, "strategy=fsdp", "--resume"))
    assert losses(out) == losses(runs["fsdp"])


def test_a_process_whose_assets_have_no_pictures_does_not_keep_the_others_waiting(server, tmp_path):
    """Its loss of pictures has nothing to compare; its part of every exchange of gradients is there all the same."""
    found = {}
    for strategy in ("ddp", "fsdp"):
        more = ["order=[assets]", "stages.assets.tasks={asset: {losses: {render: {weight: 1.0, optional: true}}}}"]
        more += ["stages.assets.every_step={}", "model.overrides.heads.mesh3d={resolution: 8, num_gaussians: 2}"]
        more += ["accelerator=cpu", f"strategy={strategy}", "devices=2"]
        argv = ["train", CURRICULUM, "-o", tmp_path / strategy, *more]
        finished(*pair(server, *argv, program="no_pictures_worker"))
        found[strategy] = losses(tmp_path / strategy)
    assert any(row.get("asset/render", 0.0) > 0 for row in found["ddp"])
    for mine, theirs in zip(found["ddp"], found["fsdp"], strict=True):
        assert theirs == pytest.approx(mine, rel=1e-4)


def test_consolidation_in_one_process(runs):
    older = runs["fsdp"] / "checkpoints" / "clips-00000004"
    with pytest.raises(DataError, match=r"model\.safetensors: no such file"):
        Tokenizer.from_pretrained(older)
    checkpoint.consolidate(older)
    found = load_file(older / "model.safetensors")
    assert distance(found, load_file(runs["ddp"] / "checkpoints/clips-00000004/model.safetensors")) < 1e-5
    broken = older / "training" / "averages-00001-of-00002.safetensors"
    (older / "model.safetensors").unlink()
    broken.write_bytes(b"")
    with pytest.raises(DataError, match="averages-00001-of-00002"):
        checkpoint.consolidate(older)


def test_a_sharded_run_goes_on_in_one_process(server, runs, tmp_path):
    out = tmp_path / "run"
    commands = two(server, out, "strategy=fsdp", first=At(signal.SIGKILL, step=4 + 3))
    assert commands[0].wait()[0] == -signal.SIGKILL
    commands[1].kill()
    assert commands[1].wait()[0] != 0
    assert (out / "checkpoints" / "last").resolve().name == "clips-00000002"
    code, said = server.run(*train(out, "--resume"))
    assert code == 0, said
    assert "resuming with 1 processes, not 2 as before" in said
    weights = load_file(out / "checkpoints/last/training/weights.safetensors")
    expected = checkpoint.load(runs["ddp"] / "checkpoints" / "last").model
    assert distance(dict(expected.named_parameters()), weights) < 1e-4


# All kinds of tasks: pictures, clips by a budget of tokens and in two parts, assets, captions beside them, codes.
EVERY_KIND = [
    "accelerator=cpu",
    "workers=0",
    *(f"stages.{name}.steps={steps}" for name, steps in {"images": 2, "clips": 3, "assets": 2, "codes": 3}.items()),
    "stages.clips.tasks.clip.tokens=24",
]


@pytest.fixture(scope="module")
def unmoved(server: Server, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The same in one process and in two, with the gradients of every step and without a change of any weight."""
    one, both = (tmp_path_factory.mktemp(name) / "run" for name in ("alone", "both"))
    finished(server.start(CURRICULUM, one, *EVERY_KIND, program="gradient_worker"))
    finished(*pair(server, CURRICULUM, both, *EVERY_KIND, "devices=2", program="gradient_worker"))
    return one, both


def test_two_processes_have_the_gradients_of_one(unmoved):
    """Parameter by parameter. Where all but rounding cancels, the step's whole gradient is the measure."""
    steps = [sorted(path.name for path in (out / "gradients").iterdir()) for out in unmoved]
    assert steps[0] == steps[1]
    assert {name[3:].split(".")[0] for name in steps[0]} == {"image", "clip", "asset"}
    worst = {}
    for name in steps[0]:
        one, both = (load_file(out / "gradients" / name) for out in unmoved)
        assert set(one) == set(both)
        whole = sum(float(value.double().square().sum()) for value in one.values()) ** 0.5
        assert whole > 1e-3
        for key, value in one.items():
            apart, size = float((value - both[key]).double().norm()), float(value.double().norm())
            worst[name, key] = apart / max(size, 1e-3 * whole)
    named = max(worst, key=lambda key: worst[key])
    assert worst[named] < 1e-6, named


def test_two_processes_have_the_metrics_of_one(unmoved):
    one, both = (json.loads((out / "results.json").read_text()) for out in unmoved)
    assert [row.pop("stage") for row in one] == [row.pop("stage") for row in both]
    for mine, theirs in zip(one, both, strict=True):
        assert theirs == pytest.approx(mine, rel=1e-6)


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_no_number_stops_all_processes_alike(server, tmp_path, strategy):
    more = ("stages.images.optimizer={lr: 1.0e+30, warmup: 0}", "on_nan=skip", "max_nan=1", f"strategy={strategy}")
    for code, said in [command.wait() for command in two(server, tmp_path / "run", *more)]:
        assert code == 1, said
        assert "2 steps were not finite, more than max_nan = 1; " in said
        assert "Traceback" not in said
