"""`tok4d train` as people run it: dry runs, time limits, profiles, loggers, and what is left behind."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "integration"))

from fork_server import Server

from tok4d.config.loader import load_curriculum
from tok4d.training.rehearsal import rehearse

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")

STACK = "{width: 32, blocks: 1, heads: 1, mlp: 32}"
CURRICULUM = f"""
seed: 0
model: {{preset: tiny, overrides: {{latent: 8, encoder: {STACK}, decoder: {STACK}, patch_size: [2, 8, 8]}}}}
checkpoint_every: 2
log_every: 1
order: [images, codes]
stages:
  images:
    steps: 6
    micro: 2
    tasks:
      image: {{source: image/shapes, batch: 4, options: {{split: train, count: 64, side: 32}}}}
    every_step:
      rider: {{source: image/shapes, batch: 2, options: {{split: train, count: 32, side: 16}}}}
    validation:
      image: {{source: image/shapes, batch: 4, options: {{split: val, count: 40, side: 32}}}}
    optimizer: {{lr: 1.0e-3, warmup: 2, ema: 0.9}}
  codes:
    steps: 4
    quantizer: {{groups: 2, levels: [4, 4, 4, 4]}}
    tasks:
      image: {{source: image/shapes, batch: 4, options: {{split: train, count: 64, side: 32}}}}
      clip: {{source: video/moving, weight: 3, batch: 2, options: {{split: train, count: 16, frames: 6, size: 16}}}}
    validation:
      still: {{source: image/shapes, batch: 4, options: {{split: val, count: 40, side: 32}}}}
      large: {{source: image/shapes, batch: 4, options: {{split: val, count: 40, side: 48}}}}
      clip: {{source: video/moving, batch: 1, options: {{split: val, count: 8, frames: 6, size: 32}}}}
    optimizer: {{lr: 1.0e-3, warmup: 1, ema: 0.9}}
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WANDB_MODE", "offline")
        made = Server(tmp_path_factory.mktemp("logs"))
    yield made
    made.close()


@pytest.fixture(scope="module")
def curriculum(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("curriculum") / "mine.yaml"
    path.write_text(CURRICULUM)
    return path


@pytest.fixture(scope="module")
def whole(server: Server, curriculum: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nobody stopped."""
    out = tmp_path_factory.mktemp("whole") / "run"
    code, said = server.run("train", curriculum, "-o", out)
    assert code == 0, said
    assert "of peak" in said
    return out


def rows(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_run_reports_its_tasks_speed_and_shares(whole):
    """Steps by stage: 6 with a rider each; then 4, of which three in four are clips. Tokens counted by hand."""
    found = json.loads((whole / "throughput.json").read_text())
    assert list(found) == ["images", "codes"]
    images, codes = found["images"]["tasks"], found["codes"]["tasks"]
    assert (images["image"]["samples"], images["rider"]["samples"]) == (24, 12)
    assert (images["image"]["tokens"], images["rider"]["tokens"]) == (24 * 16, 12 * 4)
    assert images["rider"]["batches"] == 12, "six steps of two parts"
    assert (codes["clip"]["samples"], codes["image"]["samples"]) == (3 * 2, 4)
    assert codes["clip"]["tokens"] == 6 * 3 * 4
    assert codes["clip"]["token_share"] == pytest.approx(72 / (72 + 64))
    for stage in found.values():
        assert 0 < stage["peak_share"] < 1
        assert 0 <= stage["waiting_share"] < 1
        assert stage["flops_per_second"] == pytest.approx(stage["flops_per_token"] * stage["tokens_per_second"])


def test_validation_has_rows_of_every_task_and_of_the_codes(whole):
    first, last = json.loads((whole / "results.json").read_text())
    assert "image/codes/usage" not in first
    assert 0 < last["image/codes/usage"] <= 1
    assert last["video/codes/tokens"] == 2 * 3 * 16, "a fifth of 8 clips, of 3 x 4 x 4 tokens"
    assert last["image/psnr"] == pytest.approx((last["still/psnr"] + last["large/psnr"]) / 2)


def test_pictures_of_every_task_are_logged(whole):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(whole / "logs"), size_guidance={"images": 0})
    events.Reload()
    tasks = {tag.split("/")[0] for tag in events.Tags()["images"]}
    assert tasks == {"image", "still", "large", "clip"}
    assert {"waiting_share", "peak_share", "validation/image/psnr"} <= set(events.Tags()["scalars"])


def test_a_run_stopped_by_the_clock_goes_on_to_the_same_bits(server, curriculum, whole, tmp_path):
    out = tmp_path / "run"
    code, said = server.run("train", curriculum, "-o", out, "--max-time", "0.001s")
    assert code == 0, said
    assert f"stopped after 0.001s in stage images, step 1; go on: tok4d train {curriculum} -o {out} --resume" in said
    assert (out / "checkpoints" / "last").resolve().name == "images-00000001"
    code, said = server.run("train", curriculum, "-o", out, "--resume", "--json")
    assert code == 0, said
    assert json.loads(said[said.index("{") :])["stopped"] is None
    for name in ("model.safetensors", "training/weights.safetensors", "training/optimizer.safetensors"):
        assert (out / "checkpoints/last" / name).read_bytes() == (whole / "checkpoints/last" / name).read_bytes()
    assert (out / "losses.jsonl").read_text() == (whole / "losses.jsonl").read_text()
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["command"].startswith("tok4d train ")
    assert manifest["command"].endswith("--resume --json")
    assert "--max-time 0.001s" in manifest["before"][0]["command"]
    assert list(json.loads((out / "throughput.json").read_text())) == ["images", "codes"]


def test_a_dry_run_costs_everything_and_writes_nothing(server, curriculum, tmp_path):
    before = sorted(path.name for path in tmp_path.iterdir())
    code, said = server.run("train", curriculum, "--dry-run", "--json")
    assert code == 0, said
    found = json.loads(said)
    assert found["fits"] is True
    assert found["problems"] == []
    images, codes = found["stages"]
    costs = {task["task"]: task for task in images["tasks"]}
    assert (costs["image"]["samples"], costs["image"]["tokens"], costs["image"]["share"]) == (4, 64, 1.0)
    assert (costs["rider"]["samples"], costs["rider"]["tokens"], costs["rider"]["share"]) == (2, 8, 1.0)
    assert [task["share"] for task in codes["tasks"]] == [0.25, 0.75]
    assert all(task["seconds"] > 0 and task["losses"]["loss"] > 0 for task in (*images["tasks"], *codes["tasks"]))
    assert images["peak_memory"] > 1e8
    assert images["seconds"] == pytest.approx(6 * images["seconds_per_step"])
    assert found["seconds"] == pytest.approx(images["seconds"] + codes["seconds"])
    assert sorted(path.name for path in tmp_path.iterdir()) == before


def test_a_dry_run_has_the_losses_of_the_run(curriculum, whole):
    """Of a stage with one step, whose batch is the run's first: the same model, samples and noise."""
    found = rehearse(load_curriculum(curriculum, ["order=[images]", "stages.images.steps=1"]))
    first = rows(whole / "losses.jsonl")[0]
    for task in found.stages[0].tasks:
        assert task.losses["loss"] == pytest.approx(first[f"{task.task}/loss"], rel=1e-6)


def test_what_does_not_fit_is_refused_in_a_sentence_before_it_is_tried(server, curriculum):
    huge = ("model.overrides.encoder.width=65536", "model.overrides.encoder.mlp=262144")
    code, said = server.run("train", curriculum, *huge, "--dry-run")
    assert code == 1, said
    assert "error: stage 'images' needs about" in said
    assert "Traceback" not in said
    code, said = server.run("train", curriculum, *huge, "--dry-run", "--json")
    assert code == 1
    found = json.loads(said[: said.rindex("}") + 1])
    assert found["fits"] is False
    assert found["seconds"] is None
    assert found["stages"][0]["estimated_memory"]["total"] > found["available_memory"]


def test_a_dry_run_names_data_that_cannot_be_used(server, curriculum, tmp_path):
    old = "{source: video/moving, weight: 3, batch: 2, options: {split: train, count: 16, frames: 6, size: 16}}"
    assert old in curriculum.read_text()
    (tmp_path / "gone.yaml").write_text(
        curriculum.read_text().replace(old, "{source: video/folder, options: {path: nowhere}}")
    )
    code, said = server.run("train", tmp_path / "gone.yaml", "--dry-run")
    assert code == 1, said
    assert "error: stages.codes.tasks.clip: nowhere: no such file or folder" in said
    assert said.index("codes: 0.1M parameters") < said.index("error: "), "memory is estimated before anything else"
    assert "batches of clip are known from their data alone" in said


def test_the_paper_is_estimated_where_its_weights_data_and_devices_are_missing(server):
    command = server.start("train", "atoken", "--dry-run", "--json", "accelerator=cuda", HF_HUB_OFFLINE="1")
    code, said = command.wait()
    assert code == 1, said
    end = said.rindex("}") + 1
    found, errors = json.loads(said[:end]), said[end:]
    assert [stage["stage"] for stage in found["stages"]] == ["images", "video", "assets", "discrete"]
    for stage in found["stages"]:
        device, process = stage["estimated_memory"], stage["estimated_memory_of_one_process"]
        assert process["moments"] == 2 * 4 * stage["trained_parameters"]
        assert device["moments"] == pytest.approx(process["moments"] / 256, abs=1), "shards of 256 processes"
        assert device["activations"] == process["activations"] > 1e8
    assert [stage["not_estimated"] for stage in found["stages"]] == [[], [], *2 * [["asset_u", "asset"]]]
    missing = found["problems"] if torch.cuda.is_available() else found["problems"][1:]
    assert [text.split(":")[0].split(" ")[0] for text in missing] == [
        "stages.images.tasks.image",
        "stages.assets.tasks.asset_u",
        "stages.assets.validation.asset",
        "init_from",
    ]
    if not torch.cuda.is_available():
        assert found["fits"] is None
        assert found["problems"][0].startswith("accelerator: cuda is asked for and torch sees none here")
    assert errors.count("error: ") == len(found["problems"])
    assert "Traceback" not in said


def test_a_profile_is_a_table_and_a_trace(server, curriculum, tmp_path):
    out = tmp_path / "run"
    code, said = server.run("train", curriculum, "-o", out, "--profile", "order=[images]")
    assert code == 0, said
    assert "Self CPU" in said
    assert f"trace of 3 steps: {out / 'profile' / 'images.json'}" in said
    trace = json.loads((out / "profile" / "images.json").read_text())
    assert any(event.get("name") == "aten::mm" or event.get("name") == "aten::addmm" for event in trace["traceEvents"])
    steps = [event for event in trace["traceEvents"] if event.get("name") == "Optimizer.step#AdamW.step"]
    assert len(steps) == 3


def test_weights_and_biases_without_an_account(server, curriculum, tmp_path):
    pytest.importorskip("wandb")
    out = tmp_path / "run"
    code, said = server.run("train", curriculum, "-o", out, "loggers=[wandb]", "order=[images]")
    assert code == 0, said
    assert len((out / "wandb" / "id").read_text()) == 16
    assert list(out.glob("wandb/offline-run-*/*.wandb"))
    assert list(out.glob("wandb/offline-run-*/files/media/images/image/*/*.png"))
    assert not (out / "logs").exists()


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        ((), 2, "give the run folder: --out RUN"),
        (("--dry-run", "-o", "run", "--resume"), 2, "does not go with --out, --resume"),
        (("-o", "run", "--max-time", "soon"), 2, "a time is written 00:30:00"),
        (("-o", "run", "loggers=[wandbb]"), 1, "unknown logger 'wandbb'. Did you mean 'wandb'"),
    ],
)
def test_what_cannot_be_meant_is_refused(server, curriculum, arguments, code, text):
    found, said = server.run("train", curriculum, *arguments)
    assert found == code, said
    assert text in " ".join(said.replace("│", " ").split())
    assert not Path("run").exists()
