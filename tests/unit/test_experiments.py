"""The experiments on the mini curriculum and on the objective's terms: controls, floors and intervals by hand."""

from __future__ import annotations

import time

import pytest
import torch

from tok4d.config.loader import load_curriculum, to_mapping
from tok4d.config.schema import FSQConfig
from tok4d.errors import ConfigError
from tok4d.modality import Sample
from tok4d.training.check import check_curriculum
from tok4d_bench.mini.measuring import UNSEEN, channels_of, cpu_clock, held_out
from tok4d_bench.mini.report import NAMED, SHOWN, paired, summary, table, wilson
from tok4d_bench.mini.variants import changed, variant
from tok4d_bench.objectives.__main__ import ARMS, arm
from tok4d_bench.objectives.claims import DISTANCE, claims, interval
from tok4d_bench.subjects.splats import splats_of


@pytest.fixture(scope="module")
def whole():
    return load_curriculum("mini")


def test_the_curriculum_itself_is_a_variant(whole):
    assert variant(whole, "curriculum") is whole


def test_a_control_of_equal_steps_has_the_modality_s_share(whole):
    """Clips: picture, photo, turn 7, clip, pan, turn_naming: 12 parts, of which 2 are pictures; later 3 of 14."""
    control = variant(whole, "image-steps")
    assert control.order == ["images", "clips", "assets", "codes"]
    steps = [control.stages[name].steps for name in control.order]
    shares = [1.0, 2 / 12, 3 / 14, 3 / 14]
    for name, own, share in zip(control.order, steps, shares, strict=True):
        assert abs(own - share * whole.stages[name].steps) <= 2
    assert all(task.source.startswith("image/") for stage in control.stages.values() for task in stage.tasks.values())
    assert control.model.overrides["latent"] == 32, "channels come when they come in the curriculum"
    assert control.stages["clips"].grow == "scores", "a basis for clips has nothing to do here"
    assert not control.stages["clips"].optimizer.slow, "nor a switch to protect"
    assert whole.stages["clips"].grow == "clips", "the curriculum stays as it was"
    assert whole.stages["clips"].optimizer.slow


def test_a_control_of_equal_compute_has_all_the_steps(whole):
    total = sum(whole.stages[name].steps for name in whole.order)
    for host in ("image", "video", "mesh3d"):
        control = variant(whole, f"{host}-compute")
        assert abs(sum(control.stages[name].steps for name in control.order) - total) <= 2


def test_what_begins_later_begins_with_the_channels_it_has_there(whole):
    control = variant(whole, "video-steps")
    assert control.order == ["clips", "assets", "codes"]
    assert control.model.overrides["latent"] == 48
    first = control.stages["clips"]
    assert (first.latent, first.grow, first.repeat_first_frame) == (None, "random", False)
    assert not first.every_step, "pictures ride along in the curriculum, not here"
    assert variant(whole, "mesh3d-steps").order == ["assets", "codes"]


@pytest.mark.parametrize("name", ["image-steps", "video-compute", "mesh3d-steps"])
def test_controls_are_valid_curricula(whole, name):
    check_curriculum(variant(whole, name))


def test_unknown_variants_are_named(whole):
    with pytest.raises(ConfigError, match="unknown variant 'image-stpes'"):
        variant(whole, "image-stpes")
    with pytest.raises(ConfigError, match="no task of modality 'radar'"):
        variant(whole, "radar-steps")


def test_held_out_tasks_have_nouns_that_training_never_sees(whole):
    seen = set(whole.stages["images"].tasks["picture"].options["classes"])
    tasks = held_out(whole)
    assert {"unseen_picture", "unseen_turn", "unseen_asset"} <= set(tasks)
    assert "unseen_photo" not in tasks
    assert set(held_out(whole, "images")) == {"picture", "photo", "unseen_picture"}, "what a stage has not met is left"
    assert tasks["unseen_turn"].options["classes"] == UNSEEN
    assert not seen & set(UNSEEN)


def test_a_splat_a_voxel():
    voxels = torch.full((2, 768), -1.0)
    voxels[1, 0::3] = 1.0  # red
    coords = torch.tensor([[0, 0, 0], [15, 8, 4]], dtype=torch.int32)
    made = splats_of(Sample("mesh3d", {"voxels": voxels, "coords": coords}, meta={"resolution": 16}), 0.4, 0.7)
    torch.testing.assert_close(made.data["means"][1], torch.tensor([15.5 / 16, 8.5 / 16, 4.5 / 16]) - 0.5)
    assert float(made.data["scales"].unique()) == pytest.approx(0.4 / 16)
    rgb = 0.5 + 0.28209479177387814 * made.data["colors"]
    torch.testing.assert_close(rgb, torch.tensor([[0.0, 0, 0], [1, 0, 0]]), atol=1e-6, rtol=0)


def test_wilson_s_interval_by_hand():
    """10 of 20: centre 0.5, half = 1.96 sqrt(0.25/20 + 1.96^2/1600) / (1 + 1.96^2/20)."""
    low, high = wilson(0.5, 20)
    assert (low, high) == pytest.approx((0.2993, 0.7007), abs=1e-4)


def test_paired_differences():
    one = {"a": 1.0, "b": 2.0, "c": 3.0, "only here": 9.0}
    mean, low, high = paired(one, {"a": 0.5, "b": 1.5, "c": 2.5})
    assert (mean, low, high) == pytest.approx((0.5, 0.5, 0.5))
    mean, low, high = paired({str(i): float(i) for i in range(40)}, {str(i): 0.0 for i in range(40)})
    assert low < mean < high
    assert (high - low) / 2 == pytest.approx(1.96 * 11.69 / 40**0.5, rel=0.15)


def measured(psnr: float, accuracy: float) -> dict:
    samples: dict = {}
    for task, metric in SHOWN:
        samples.setdefault(task, {})[metric] = {"a": psnr, "b": psnr + 2}
    figures = {}
    for task in NAMED:
        figures |= {f"{task}/accuracy": accuracy, f"{task}/accuracy/samples": 20, f"{task}/macro_accuracy": 0.25}
        figures |= {f"{task}/accuracy/chance": 0.05, f"{task}/accuracy/majority": 0.15, f"{task}/recall@1": 0.125}
    return {"samples": samples, "figures": figures, "bad": []}


def test_the_page_from_values_per_object():
    """Two objects a task: 26 and 28 dB after the curriculum, 25 and 27 of the control, 24 and 26 of the floors."""
    common = {"steps": {"images": 5}, "manifest": {"commit": "abc"}}
    runs = {
        "tiny-0-curriculum": {**common, "cpu_seconds": 90, "stages": {"images": measured(26.0, 0.5)}},
        "tiny-0-image-steps": {**common, "cpu_seconds": 60, "stages": {"images": measured(25.0, 0.5)}},
    }
    floor = measured(24.0, 0.0)["samples"]
    fewer = {"images": {"picture": {"image/psnr": {"a": 20.0, "b": 22.0}}}}
    found = summary(runs, {"samples": floor, "own": {"picture": floor["picture"]}, "fewer": fewer})
    less = {(row["task"], row["less"]): row["mean"] for row in found["differences"]}
    assert less["picture", "floor"] == 6, "of this stage, with fewer channels, 20 and 22"
    assert ("turn", "floor") not in less
    assert less["picture", "tiny-0-image-steps"] == 1
    lines = table({"command": "python -m x", **found}).splitlines()
    assert "| tiny-0-curriculum | images | 27.00 | 27.00 | 27.00 | 27.00 | 27.00 | 90 |" in lines
    assert "| floor: a PCA of this task's data alone | | 25.00 | - | - | - | - | |" in lines
    assert "| floor of the stage images, with its channels | | 21.00 | - | - | - | - | |" in lines
    named = "| tiny-0-curriculum | images | turn | 0.500 [0.299, 0.701] | 0.250 | 0.050 | 0.150 | 20 | 0.125 |"
    assert named in lines
    assert "| tiny-0-curriculum | images | picture | tiny-0-image-steps | +1.00 [+1.00, +1.00] |" in lines


def test_seeds_and_other_settings_have_their_places_on_the_page():
    runs = {
        f"tiny-{seed}-curriculum": {
            "steps": {"images": 5},
            "manifest": {"commit": "abc"},
            "cpu_seconds": 9,
            "stages": {"images": measured(25.0 + seed, 0.5)},
        }
        for seed in range(3)
    }
    found = summary(runs, {"samples": measured(24.0, 0.0)["samples"], "own": {}})
    found["runs"]["tiny-1-curriculum"]["changed"] = ["stages.images.steps=5", "seed_of=x"]
    page = table({"command": "python -m x", **found})
    assert "| tiny, curriculum | 3 | images | 27.00, 26.00 to 28.00 | 27.00, 26.00 to 28.00 |" in page
    assert "* tiny-1-curriculum: `stages.images.steps=5 seed_of=x`" in page


def test_what_a_run_was_given_besides_preset_and_seed(whole):
    given = ["model.preset=small", "seed=3", "workers=1", "stages.clips.optimizer.lr=5e-4"]
    used = to_mapping(variant(load_curriculum("mini", given), "video-steps"))
    assert changed("mini", "small-3-video-steps", used) == ["stages.clips.optimizer.lr=0.0005"]
    assert changed("mini", "tiny-0-curriculum", to_mapping(whole)) == []
    with pytest.raises(ConfigError, match="'old-one' is no name of a run: it must end with its variant"):
        changed("mini", "old-one", to_mapping(whole))


@pytest.mark.parametrize("name", ARMS)
def test_arms_differ_in_losses_and_codes_alone(name):
    config, base = arm(name, 1, []), arm("a L1", 1, [])
    stage = config.stages["images"]
    assert stage.quantizer == (FSQConfig() if "FSQ" in name else None)
    assert {task.source for task in stage.tasks.values()} == {"image/emoji3d", "image/furniture"}
    assert (stage.steps, stage.optimizer, config.model) == (
        base.stages["images"].steps,
        base.stages["images"].optimizer,
        base.model,
    )
    check_curriculum(config)


def test_claims_by_hand():
    """Shares and differences over two seeds; t with one degree of freedom is 12.706."""

    def row(centre: list[float], covariance: list[float], psnr: list[float]) -> dict[str, object]:
        parts = {"mean": centre, "covariance": covariance}
        sets = {f"{DISTANCE}/{part}": [{"value": value} for value in values] for part, values in parts.items()}
        return {**sets, "psnr": {"by_seed": psnr}}

    arms = {name: row([1.0, 1.0], [3.0, 3.0], [20.0, 21.0]) for name in ARMS}
    arms["c L1 + LPIPS + Gram"] = row([1.0, 1.0], [2.0, 1.0], [20.5, 21.5])
    lines = claims(arms)
    assert "| a L1 | 0.75 [0.75, 0.75] |" in lines
    gram = next(line for line in lines if line.startswith("| Gram"))
    assert gram == "| Gram beside LPIPS | +0.00 [+0.00, +0.00] | -1.50 [-7.85, +4.85] | +0.50 [+0.50, +0.50] | - | - |"
    few = {name: arms[name] | {"icon accuracy": {"by_seed": [0.1, 0.3]}} for name in ("a L1", "e L1 + sigmoid")}
    few["e L1 + sigmoid"]["icon accuracy"] = {"by_seed": [0.2, 0.4]}
    questions = [line for line in claims(few) if line.startswith(("| the", "| Gram"))]
    assert len(questions) == 1, "what was not trained is not asked"
    assert questions[0].endswith("| +0.100 [+0.100, +0.100] | - |")
    assert interval([3.0])[0] == 3.0
    assert "neither confirms nor refutes" in lines[-1]


def test_a_clock_goes_on_in_the_next_command(tmp_path):
    file = tmp_path / "cpu_seconds.json"
    for _ in range(2):
        with cpu_clock(file) as clock:
            began = time.process_time()
            while time.process_time() - began < 0.05:
                pass
    assert 0.1 <= clock() < 1.0


def test_channels_by_stage(whole):
    assert channels_of(whole) == {"images": 32, "clips": 48, "assets": 48, "codes": 48}
