"""Training in real processes: killed, interrupted, refused, and continued to the same bits."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from fork_server import Server
from self_signals import At

from tok4d import Tokenizer

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")

STEPS = 30
STACK = "{width: 32, blocks: 1, heads: 1, mlp: 32}"
# `smoke` with a model and pictures small enough for a few milliseconds a step.
SMALL = [
    "init=none",
    "order=[images]",
    f"model.overrides={{encoder: {STACK}, decoder: {STACK}, patch_size: [1, 8, 8]}}",
    "checkpoint_every=3",
    f"stages.images.steps={STEPS}",
    "stages.images.tasks.image.options={split: train, count: 64, side: 64, flips: [horizontal]}",
    "stages.images.validation.image.batch=16",
]
BITS = ("model.safetensors", "training/weights.safetensors", "training/optimizer.safetensors")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    made = Server(tmp_path_factory.mktemp("logs"))
    yield made
    made.close()


def train(out: Path, *more: str) -> list[object]:
    return ["train", "smoke", "-o", out, *SMALL, *more]


@pytest.fixture(scope="module")
def whole(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nobody interrupted."""
    out = tmp_path_factory.mktemp("whole") / "run"
    code, said = server.run(*train(out))
    assert code == 0, said
    return out


def last_step(out: Path) -> int:
    """Step of the newest complete checkpoint; 0 when there is none."""
    last = out / "checkpoints" / "last"
    return int(last.resolve().name.rsplit("-", 1)[1]) if last.exists() else 0


def bits(out: Path) -> dict[str, bytes]:
    assert last_step(out) == STEPS
    return {name: (out / "checkpoints" / "last" / name).read_bytes() for name in BITS}


def test_a_run_leaves_a_model_and_its_record(whole):
    model = Tokenizer.from_pretrained(whole / "checkpoints" / "last")
    assert float(model.latent_std.min()) > 0
    assert float((model.latent_std - 1).abs().max()) > 1e-3, "statistics of the latents are measured"
    rows = json.loads((whole / "results.json").read_text())
    assert [row["step"] for row in rows] == [STEPS]
    state = json.loads((whole / "checkpoints" / "last" / "training" / "state.json").read_text())
    assert (state["step"], state["stage"], state["threads"], state["bad_files"]) == (STEPS, "images", 1, 0)
    assert sorted(path.name for path in (whole / "checkpoints").iterdir()) == [
        f"images-{STEPS - 3:08d}",
        f"images-{STEPS:08d}",
        "last",
    ]
    assert json.loads((whole / "manifest.json").read_text())["torch"]


@pytest.mark.parametrize("workers", [0, 2])
def test_killed_runs_continue_to_the_same_bits(server, whole, tmp_path, workers):
    """Killed before the first checkpoint, between two, and while one is being written."""
    out = tmp_path / "run"
    more = (f"workers={workers}", "--resume")
    reached = []
    for moment in ({"step": 1}, {"step": 8}, {"opens": rf"\.images-{18:08d}\.part/training/"}):
        command = server.start(*train(out, *more), at=At(signal.SIGKILL, **moment))
        assert command.wait()[0] == -signal.SIGKILL
        reached.append(last_step(out))
    assert reached == [0, 6, 15]
    assert (out / "checkpoints" / f".images-{18:08d}.part" / "training").is_dir(), "half a checkpoint was left"
    code, said = server.run(*train(out, *more))
    assert code == 0, said
    assert bits(out) == bits(whole)
    assert (out / "results.json").read_text() == (whole / "results.json").read_text()
    assert not list((out / "checkpoints").glob(".*"))


def test_ctrl_c_exits_130_and_the_run_continues(server, whole, tmp_path):
    out = tmp_path / "run"
    code, said = server.start(*train(out), at=At(signal.SIGINT, step=7)).wait()
    assert code == 130, said
    assert said.splitlines()[-1] == "interrupted"
    assert "Traceback" not in said
    assert last_step(out) == 6
    code, said = server.run(*train(out, "--resume"))
    assert code == 0, said
    assert bits(out) == bits(whole)


def one_line(result: tuple[int, str]) -> str:
    """The only line that a failed command printed."""
    code, said = result
    assert code == 1, said
    assert said.count("\n") == 1, said
    return said


def test_sigterm_ends_the_step_with_a_checkpoint_and_a_second_one_the_process(server, whole, tmp_path):
    """As `kill` and schedulers send it: exit code 143, and the run goes on to the bits of one that nobody stopped."""
    out = tmp_path / "run"
    code, said = server.start(*train(out), at=At(signal.SIGTERM, step=7)).wait()
    assert code == 128 + signal.SIGTERM, said
    assert f"stopped by a signal in stage images, step {last_step(out)}; go on: tok4d train" in said
    assert last_step(out) in (7, 8)
    code, said = server.run(*train(out, "--resume"))
    assert code == 0, said
    assert bits(out) == bits(whole)


def test_an_existing_run_is_not_overwritten(server, whole):
    before = bits(whole)
    assert f"error: {whole} already holds a run; add --resume" in one_line(server.run(*train(whole)))
    assert bits(whole) == before


def test_another_configuration_is_not_continued(server, whole):
    before = (whole / "curriculum.yaml").read_text()
    changed = ("--resume", "seed=5", "stages.images.optimizer.lr=0.1", "workers=1")
    said = one_line(server.run(*train(whole, *changed)))
    assert "was trained with another configuration (differs in: seed, stages.images.optimizer.lr);" in said
    assert (whole / "curriculum.yaml").read_text() == before


def test_a_finished_run_has_nothing_left_to_do(server, whole):
    before = bits(whole)
    code, said = server.run(*train(whole, "--resume", "workers=1"))
    assert code == 0, said
    assert bits(whole) == before


def test_a_loss_that_is_no_number_names_the_samples(server, tmp_path):
    """The first step throws the weights far away, the second sees it; no such weights are saved."""
    out = tmp_path / "run"
    said = one_line(server.run(*train(out, "stages.images.optimizer={lr: 1.0e+30, warmup: 0}")))
    assert "error: loss is nan at step 1 of task 'image' (" in said
    assert "samples: shapes/0/" in said
    assert last_step(out) == 0


def test_a_factor_on_the_rates_is_other_rates(server, tmp_path):
    rates = [f"stages.images.optimizer.{name}={value}" for name, value in (("lr", 5e-4), ("min_lr", 5e-5))]
    for name, more in (("scaled", ["lr_scale=0.5"]), ("given", rates), ("as_it_was", [])):
        code, said = server.run(*train(tmp_path / name, "stages.images.steps=4", *more))
        assert code == 0, said
    weights = {path.name: (path / "checkpoints/last" / BITS[1]).read_bytes() for path in tmp_path.iterdir()}
    assert weights["scaled"] == weights["given"] != weights["as_it_was"]


def test_a_loader_process_that_dies_stops_the_run_and_it_continues(server, whole, tmp_path):
    out = tmp_path / "run"
    more = ("workers=2", "stages.images.tasks.image.batch=32")
    code, said = server.start(*train(out, *more), at=At(signal.SIGKILL, step=4, worker=True)).wait()
    assert code == 1, said
    lines = [line for line in said.splitlines() if ": step " not in line]  # a slow machine tells how far it is
    assert len(lines) == 1, said
    assert "error: a data-loading process died" in lines[0]
    assert 3 <= last_step(out) < STEPS
    code, said = server.run(*train(out, "workers=1", "stages.images.tasks.image.batch=32", "--resume"))
    assert code == 0, said
    assert last_step(out) == STEPS


@pytest.mark.parametrize("workers", [0, 1])
def test_unusable_files_stop_the_run_in_one_line(server, tmp_path, workers):
    for number in range(3):
        (tmp_path / f"{number}.png").write_bytes(b"\x89PNG")
    curriculum = tmp_path / "broken.yaml"
    task = f"{{source: image/folder, batch: 2, options: {{path: {tmp_path}}}}}"
    curriculum.write_text(f"order: [images]\nworkers: {workers}\nstages: {{images: {{tasks: {{image: {task}}}}}}}\n")
    said = one_line(server.run("train", curriculum, "-o", tmp_path / "run"))
    assert "error: task 'image': 16 files in a row cannot be used; last: " in said
    assert ".png" in said


def test_a_folder_that_cannot_be_written_is_one_line(server, tmp_path):
    (tmp_path / "file").touch()
    assert "is not a folder" in one_line(server.run(*train(tmp_path / "file")))
    assert "a run cannot be written here" in one_line(server.run(*train(tmp_path / "file" / "run")))


def test_a_typo_in_the_last_stage_is_found_before_anything_starts(server, tmp_path):
    said = one_line(server.run(*train(tmp_path / "run", "stages.images.validation.image.options.conut=3")))
    assert "unknown option 'conut'. Did you mean 'count'" in said
    assert not (tmp_path / "run").exists()


def test_a_part_that_is_slow_must_exist(server, tmp_path):
    said = one_line(server.run(*train(tmp_path / "run", "stages.images.optimizer.slow=[encoder.blokcs.0]")))
    assert "stages.images: optimizer.slow: 'encoder.blokcs.0' matches no parameter" in said


def test_files_of_a_later_stage_are_missed_before_anything_starts(server, tmp_path):
    out, later = tmp_path / "run", "{steps: 2, tasks: {late: {source: image/folder, options: {path: PATH/*.png}}}}"
    more = [f"stages.later={later.replace('PATH', str(tmp_path / 'nowhere'))}", "order=[images,later]"]
    said = one_line(server.run(*train(out, *more)))
    assert "stages.later.tasks.late: " in said
    assert f"{tmp_path / 'nowhere'}: no such file or folder" in said
    assert not out.exists()


def test_a_copy_without_links_is_continued_where_it_was(server, whole, tmp_path):
    out = tmp_path / "run"
    shutil.copytree(whole, out, symlinks=True)
    (out / "checkpoints" / "last").unlink()
    code, said = server.run(*train(out, "--resume"))
    assert code == 0, said
    for name, before in bits(whole).items():
        assert (out / "checkpoints" / f"images-{STEPS:08d}" / name).read_bytes() == before
    assert len((out / "losses.jsonl").read_text().splitlines()) == STEPS


def test_damaged_figures_are_named(server, whole, tmp_path):
    out = tmp_path / "run"
    shutil.copytree(whole, out, symlinks=True)
    (out / "results.json").write_text("[{")
    said = one_line(server.run(*train(out, "--resume")))
    assert f"{out / 'results.json'}: is damaged" in said
