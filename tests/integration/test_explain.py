"""`tok4d bench explain` and its parts: gradients, landscape and distances against sums by hand, on tiny models."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from typer.testing import CliRunner

from tok4d.config.schema import TaskConfig
from tok4d.errors import ConfigError
from tok4d.networks.base import FeatureNetwork
from tok4d.testing import tiny_tokenizer
from tok4d_bench.explain.distances import distances
from tok4d_bench.explain.gradients import pulls
from tok4d_bench.explain.heatmap import CELL, SHADES, heat_map, shades
from tok4d_bench.explain.landscape import landscape, moved, random_direction
from tok4d_bench.explain.subject import Case, make_case, task_of
from tok4d_bench.measures import base

SHAPES = {"count": 12, "side": 32}


def case(losses: dict[str, object], limit: int = 6, batch: int = 4) -> Case:
    task = TaskConfig(source="image/shapes", options=SHAPES, batch=batch, losses=losses)
    return make_case(tiny_tokenizer(), task, limit)


def test_gradients_are_those_of_the_terms() -> None:
    found = pulls(case({"l1": 1.0, "l2": 10.0, "kl": 0.01}))
    again = case({"l1": 1.0, "l2": 10.0, "kl": 0.01})
    l1, outputs, values = [], [], []
    for batch in again.batches:
        again.model.zero_grad()
        done = again.run(batch)
        done.patches.retain_grad()
        value = torch.stack(
            [
                (a.data["image"] - b.data["image"]).abs().mean()
                for a, b in zip(done.targets, done.reconstructions, strict=True)
            ]
        ).mean()
        value.backward()
        values.append(float(value.detach()))
        outputs.append(float(done.patches.grad.norm()))  # type: ignore[union-attr]
        l1.append(float(torch.cat([p.grad.flatten() for p in again.model.parameters() if p.grad is not None]).norm()))
    assert found.samples == 6
    assert found.terms["l1"].value == pytest.approx(np.mean(values), rel=1e-5)
    assert found.terms["l1"].norms["decoder_output"] == pytest.approx(np.mean(outputs), rel=1e-4)
    assert found.terms["l1"].norms["parameters"] == pytest.approx(np.mean(l1), rel=1e-4)
    assert found.terms["kl"].norms["decoder_output"] == 0  # the KL does not see what is decoded
    assert found.terms["kl"].norms["parameters"] > 0
    assert found.cosines["decoder_output"]["kl"]["l1"] is None
    assert found.cosines["parameters"]["l2"]["l2"] == pytest.approx(1)
    assert sum(term.shares["parameters"] for term in found.terms.values()) == pytest.approx(1)


def test_pictures_become_squares() -> None:
    task = TaskConfig(source="image/shapes", options={"count": 3, "side": 64}, batch=2)
    made = make_case(tiny_tokenizer(), task, 8, side=32)
    assert [len(batch.keys) for batch in made.batches] == [2, 1]
    assert made.run(made.batches[0]).targets[0].data["image"].shape == (3, 32, 32)
    assert make_case(tiny_tokenizer(), task, 1).batches[0].tokens.lengths == (16,)


def test_weights_scale_norms_and_leave_cosines() -> None:
    one, ten = pulls(case({"l1": 1.0, "l2": 1.0})), pulls(case({"l1": 1.0, "l2": 10.0}))
    for place in ("decoder_output", "parameters"):
        assert ten.terms["l2"].norms[place] == pytest.approx(10 * one.terms["l2"].norms[place], rel=1e-5)
        assert ten.cosines[place]["l1"]["l2"] == pytest.approx(one.cosines[place]["l1"]["l2"], abs=1e-6)
    a, b = (one.terms[name].norms["parameters"] for name in ("l1", "l2"))
    assert one.total["parameters"] <= a + b + 1e-9


def test_directions_are_as_long_as_the_filters() -> None:
    model = tiny_tokenizer()
    found = random_direction(model, 0, 0)
    for name, parameter in model.named_parameters():
        if parameter.ndim < 2:
            assert name not in found
        else:
            torch.testing.assert_close(found[name].flatten(1).norm(dim=1), parameter.detach().flatten(1).norm(dim=1))
    assert all((random_direction(model, 0, 0)[name] == found[name]).all() for name in found)
    other = random_direction(model, 0, 1)
    assert not torch.equal(other["proj.weight"], found["proj.weight"])


def test_landscape_is_the_loss_at_moved_weights_and_leaves_the_model() -> None:
    one = case({"l1": 1.0, "l2": 10.0})
    before = {name: tensor.clone() for name, tensor in one.model.state_dict().items()}
    found = landscape(one, points=3, radius=0.5, seed=3)
    assert all(torch.equal(tensor, before[name]) for name, tensor in one.model.state_dict().items())
    assert (found.steps, found.samples) == ([-0.5, 0.0, 0.5], 6)
    axes = [random_direction(one.model, 3, axis) for axis in (0, 1)]
    with torch.no_grad():
        with moved(one.model, axes, (0.5, -0.5)):
            corner = sum(float(one.loss(batch).total) * len(batch.keys) for batch in one.batches) / 6
        centre = sum(float(one.loss(batch).total) * len(batch.keys) for batch in one.batches) / 6
    assert found.losses[2][0] == pytest.approx(corner, rel=1e-6)
    assert found.centre == found.losses[1][1] == pytest.approx(centre, rel=1e-6)
    border = [value for i, row in enumerate(found.losses) for j, value in enumerate(row) if (i, j) != (1, 1)]
    assert found.rise == pytest.approx(np.mean(border) / centre)
    assert landscape(one, points=3, radius=0.5, seed=3) == found
    with pytest.raises(RuntimeError, match="stop"), moved(one.model, axes, (1, 1)):
        raise RuntimeError("stop")
    assert all(torch.equal(tensor, before[name]) for name, tensor in one.model.state_dict().items())
    with pytest.raises(ConfigError, match="4 points must be odd"):
        landscape(one, points=4)


class Corner(FeatureNetwork):
    """The mean of each colour."""

    name, width, preprocessing = "corner", 3, "none"

    def features(self, samples: Tensor) -> Tensor:
        return samples.mean((2, 3))


def test_distances_by_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(base, "load_network", lambda name, source="", device="cpu": Corner().freeze())
    found = distances(case({"l1": 1.0}, limit=12), ["vgg16-features", "inception-v3-fid"], pca=1)
    values = {value["metric"]: value for value in found["vgg16-features"]["values"]}
    assert {"FD-VGG16", "FD-VGG16/null", "FD-VGG16-pca-1/mean", "KD-VGG16"} <= set(values)
    parts = [values[f"FD-VGG16-pca-1/{part}"]["value"] for part in ("mean", "covariance")]
    assert sum(parts) == pytest.approx(values["FD-VGG16-pca-1"]["value"])
    assert "values" in found["inception-v3-fid"] or "network inception-v3-fid" in found["inception-v3-fid"]["why"]
    with pytest.raises(ConfigError, match="Did you mean 'vgg16-features'"):
        distances(case({"l1": 1.0}), ["vgg16-feature"])


def test_heat_map(tmp_path: Path) -> None:
    colours = shades(np.array([[1.0, 10.0], [100.0, np.nan]]))
    assert colours[0, 0].tolist() == list(SHADES[0])
    assert colours[0, 1].tolist() == list(SHADES[2])  # halfway on a logarithmic scale
    assert colours[1, 0].tolist() == list(SHADES[4])
    assert colours[1, 1].tolist() == [128] * 3
    heat_map([[1, 2, 3], [4, 5, 6], [7, 8, 9]], tmp_path / "map.png")
    with Image.open(tmp_path / "map.png") as picture:
        assert picture.size == (3 * CELL, 3 * CELL)
        assert picture.getpixel((1, 3 * CELL - 1)) == SHADES[0]  # the first row is at the bottom


def test_task_of_a_curriculum() -> None:
    task = task_of("smoke", None, None, None, {})
    assert task.source
    assert task_of("smoke", None, None, "image/shapes", {"options": SHAPES}).losses == task.losses
    with pytest.raises(ConfigError, match="unknown stage of smoke"):
        task_of("smoke", "nowhere", None, None, {})
    with pytest.raises(ConfigError, match="unknown task of smoke"):
        task_of("smoke", None, "nothing", None, {})
    with pytest.raises(ConfigError, match="give --data SOURCE"):
        task_of(None, None, None, None, {})
    with pytest.raises(ConfigError, match="give --curriculum"):
        task_of(None, "s", None, "image/shapes", {})


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("explain") / "model"
    tiny_tokenizer().save_pretrained(folder)
    return folder


def run(*arguments: str) -> tuple[int, str]:
    from tok4d.cli.main import app

    found = CliRunner().invoke(app, ["bench", "explain", *arguments])
    return found.exit_code, found.output + (str(found.exception) if found.exception else "")


def test_command_writes_the_same_twice(model: Path, tmp_path: Path) -> None:
    arguments = ["-m", str(model), "--data", "image/shapes", "--options", "{count: 6, side: 32}", "--side", "32"]
    arguments += ["--losses", "{l1: 1, kl: 1e-2}", "--points", "3", "--parts", "gradients,landscape"]
    for name in ("one", "two"):
        code, output = run(*arguments, "-o", str(tmp_path / name))
        assert code == 0, output
        assert "Landscape of the weights" in output
    first = (tmp_path / "one" / "explain.json").read_text()
    assert first == (tmp_path / "two" / "explain.json").read_text()
    found = json.loads(first)
    assert (found["schema"], found["samples"], found["task"]["losses"]) == (1, 6, {"l1": 1, "kl": 0.01})
    assert set(found["gradients"]["terms"]) == {"l1", "kl"}
    page = (tmp_path / "one" / "explain.md").read_text()
    assert "norm at decoder output" in page
    assert (tmp_path / "one" / "landscape.png").is_file()


def test_files_that_cannot_be_used_are_named_and_left_out(model: Path, tmp_path: Path) -> None:
    from PIL import Image

    for number in range(4):
        Image.new("RGB", (32, 32), (40 * number, 90, 10)).save(tmp_path / f"{number}.png")
    (tmp_path / "1.png").write_bytes(b"")
    arguments = ["-m", str(model), "--data", "image/folder", "--options", f"{{path: {tmp_path}}}", "--side", "32"]
    code, output = run(*arguments, "--losses", "{l1: 1}", "--parts", "gradients", "-o", str(tmp_path / "out"))
    assert code == 1
    assert f"left out: {tmp_path}/1.png: is empty (0 bytes)" in output
    found = json.loads((tmp_path / "out" / "explain.json").read_text())
    assert (found["samples"], len(found["bad"])) == (3, 1)
    assert "1 could not be used and are left out" in (tmp_path / "out" / "explain.md").read_text()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--data", "image/shapes", "--parts", "gradient"], "Did you mean 'gradients'"),
        (["--data", "image/shapes", "--options", "{count"], "is no YAML"),
        (["--data", "image/shapes", "--losses", "l1"], "must be a mapping"),
        (["--data", "image/shape"], "Did you mean 'image/shapes'"),
        (["--data", "image/shapes", "--losses", "{l3: 1}"], "unknown loss 'l3'"),
        (["--data", "image/shapes", "--points", "4"], "landscape: 4 points must be odd and at least 3"),
        ([], "give --data SOURCE"),
    ],
)
def test_wrong_uses_are_named(model: Path, tmp_path: Path, arguments: list[str], said: str) -> None:
    code, output = run("-m", str(model), "-o", str(tmp_path / "out"), *arguments)
    assert code != 0
    assert said in output
    assert not (tmp_path / "out").exists()


def test_a_folder_that_cannot_be_made_is_found_before_the_work(model: Path, tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setattr("tok4d_bench.cli.explain._measured", lambda *_: pytest.fail("the work has begun"))
    code, output = run("-m", str(model), "-o", str(tmp_path / "file" / "out"), "--data", "image/shapes")
    assert code == 1
    assert "cannot make the folder: Not a directory" in output
