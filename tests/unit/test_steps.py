"""A step of several parts: micro-batches and tasks of every step give the gradient of the sum of the mean losses."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from tok4d import Tokenizer
from tok4d.config.loader import load_curriculum
from tok4d.config.schema import StageConfig, TaskConfig
from tok4d.data.batches import StageBatches
from tok4d.errors import ConfigError, DataError, Tok4dError
from tok4d.plugins.registry import modality
from tok4d.testing.models import tiny_tokenizer
from tok4d.training.module import TokenizerModule
from tok4d.training.parallel import clip
from tok4d.training.stage_loss import StageLoss, channels_in_use, targets

PATCH = (1, 8, 8)
OPTIONS = {"split": "train", "count": 40, "side": 24}


def task(batch: int = 4, weight: float = 1.0, **more: object) -> TaskConfig:
    losses = {"l1": 1.0, "l2": 10.0, "kl": 0.01}
    return TaskConfig(source="image/shapes", batch=batch, weight=weight, options=dict(OPTIONS), losses=losses, **more)


def stage(micro: int = 1, riders: tuple[str, ...] = (), **tasks: TaskConfig) -> StageConfig:
    found = tasks or {"image": task()}
    made = StageConfig(steps=6, tasks=found, every_step={name: task(2) for name in riders}, micro=micro)
    made.check("images")
    return made


def batches(config: StageConfig, rank: int = 0, world: int = 1) -> StageBatches:
    return StageBatches(config, "images", 5, PATCH, rank, world)


def test_parts_of_a_step_in_order():
    config = stage(2, ("u", "v"), a=task(weight=2), b=task())
    served, alone = batches(config), batches(stage(a=task(weight=2), b=task()))
    assert (config.parts, len(served), len(alone)) == (6, 36, 6)
    for step in range(6):
        parts = [served[step * 6 + part] for part in range(6)]
        assert [part.task for part in parts] == [alone[step].task] * 2 + ["u"] * 2 + ["v"] * 2
        assert sorted(parts[0].keys + parts[1].keys) == sorted(alone[step].keys)
        assert {part.share for part in parts} == {0.5}
        assert {part.step for part in parts} == {step}
        assert len(parts[2].keys) == 1


def test_riders_are_a_function_of_the_step_alone():
    """Whatever else is scheduled, and in one process or two: two a step, one after the other."""
    served = batches(stage(1, ("u",), a=task(), b=task()))
    single = batches(stage(1, ("u",)))
    keys = [served[2 * step + 1].keys for step in range(6)]
    assert keys == [single[2 * step + 1].keys for step in range(6)]
    assert len({key for pair in keys for key in pair}) == 12, "no sample twice in an epoch"
    shared = [batches(stage(1, ("u",), a=task(), b=task()), rank, 2) for rank in (0, 1)]
    assert [shared[0][2 * step + 1].keys + shared[1][2 * step + 1].keys for step in range(6)] == keys


@pytest.mark.parametrize("tokens", [0, 150])
def test_a_part_holds_the_same_samples_however_many_processes_there_are(tokens):
    """A loss that compares samples with each other sees those of a part: otherwise it would see others."""
    config = stage(2, image=task(16, tokens=tokens))
    for part in range(12):
        whole = batches(config)[part]
        for world in (2, 4):
            mine = [batches(config, rank, world)[part] for rank in range(world)]
            assert sorted(key for one in mine if one.share for key in one.keys) == sorted(whole.keys)
            assert sum(one.share for one in mine) == pytest.approx(whole.share)


def gradients(module: TokenizerModule) -> dict[str, torch.Tensor]:
    return {name: p.grad.clone() for name, p in module.tokenizer.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("tokens", [0, 40])
def test_the_gradient_is_that_of_the_sum_of_mean_losses(tokens):
    """As Lightning runs the parts: every returned loss over their number, gradients added up."""
    config = stage(2, ("u",), image=task(tokens=tokens))
    module = TokenizerModule(tiny_tokenizer(PATCH), config)
    for part in range(4):
        (module.training_step(batches(config)[part], part) / 4).backward()
    found = gradients(module)
    whole = stage(1, ("u",), image=task(tokens=tokens))
    plain = TokenizerModule(tiny_tokenizer(PATCH), whole)
    sum(plain.loss(batches(whole)[part])[0].total for part in range(2)).backward()
    expected = gradients(plain)
    assert set(found) == set(expected)
    for name, value in expected.items():
        assert float((found[name] - value).norm()) <= 2e-6 * float(value.norm()) + 1e-9, name


@pytest.mark.parametrize("tokens", [0, 40])
def test_two_processes_have_the_gradient_of_one(tokens):
    """DDP averages over processes what `_scaled` has multiplied by their number: the sum of share times loss."""
    config = stage(image=task(tokens=tokens))
    one, two = TokenizerModule(tiny_tokenizer(PATCH), config), TokenizerModule(tiny_tokenizer(PATCH), config)
    one.training_step(batches(config)[0], 0).backward()
    for rank in (0, 1):
        batch = batches(config, rank, 2)[0]
        (two.loss(batch)[0].total * batch.share).backward()
    expected, found = gradients(one), gradients(two)
    assert all(float((found[n] - g).norm()) <= 1e-6 * float(g.norm()) + 1e-9 for n, g in expected.items())


def test_losses_of_a_step_are_means_over_its_parts():
    config = stage(2, ("u",))
    module = TokenizerModule(tiny_tokenizer(PATCH), config)
    for part in range(4):
        module.training_step(batches(config)[part], part)
    report, faults, _ = module._tally.close()
    plain = TokenizerModule(tiny_tokenizer(PATCH), stage(1, ("u",)))
    for part, name in enumerate(("image", "u")):
        loss, _ = plain.loss(batches(stage(1, ("u",)))[part])
        assert report.losses[f"{name}/loss"] == pytest.approx(float(loss.total.detach()), rel=1e-5)
        assert report.losses[f"{name}/l1"] == pytest.approx(float(loss.terms["l1"]), rel=1e-5)
    assert faults == 0


def test_captions_and_labels_reach_the_losses():
    batch = batches(stage())[0]
    assert all(batch.captions)
    found = targets(batch)
    assert [sample.caption for sample in found] == list(batch.captions)
    assert [sample.label for sample in found] == list(batch.labels)


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ("stages.images.every_step.image={source: image/shapes}", "are among both tasks and every_step"),
        ("stages.images.every_step.u={source: image/shapes, weight: 2}", "weight 2.0 has no meaning for a task of ev"),
        ("stages.images.micro=3", "batch 4 of task 'image' must be divisible by micro 3"),
        ("stages.images.micro=0", "micro must be positive"),
        ("stages.images.grow=scroes", "grow must be one of random, scores, "),
        ("strategy=dpp", "strategy must be one of auto, ddp, fsdp"),
        ("devices=two", "devices must be a number or 'auto', got 'two'"),
        ("devices=0", "devices must be positive"),
        ("on_nan=ignore", "on_nan must be one of stop, skip"),
    ],
)
def test_a_stage_that_cannot_be(change, error):
    with pytest.raises(ConfigError, match=error):
        load_curriculum("smoke", [change])


def test_a_batch_that_processes_and_parts_cannot_share():
    with pytest.raises(DataError, match="batch 4 must be divisible by 2 processes x micro 4"):
        batches(stage(4), 0, 2)


def fake_optimizer(module: TokenizerModule) -> SimpleNamespace:
    return SimpleNamespace(param_groups=[{"params": list(module.tokenizer.parameters())}])


def broken(module: TokenizerModule) -> None:
    """A gradient that is no number, from a loss that is one."""
    for parameter in module.tokenizer.parameters():
        parameter.grad = torch.ones_like(parameter)
    module.tokenizer.proj.weight.grad[0, 0] = float("nan")


def test_a_skipped_step_leaves_no_gradient_and_too_many_stop(monkeypatch, caplog):
    module = TokenizerModule(tiny_tokenizer(PATCH), stage(), tolerated=1)
    monkeypatch.setattr(module, "log_dict", lambda *_: None)
    module._tally.add(batches(stage())[0], torch.tensor(1.0), {})
    broken(module)
    module.configure_gradient_clipping(fake_optimizer(module), 1.0)
    assert module.report.skipped
    assert all(parameter.grad is None for parameter in module.tokenizer.parameters())
    assert "step skipped (1 so far): gradient norm is nan at step 0; samples: shapes/0/" in caplog.text
    broken(module)
    with pytest.raises(Tok4dError, match="2 steps were not finite, more than max_nan = 1"):
        module.configure_gradient_clipping(fake_optimizer(module), 1.0)


def test_without_leave_to_skip_a_bad_gradient_stops():
    module = TokenizerModule(tiny_tokenizer(PATCH), stage())
    broken(module)
    with pytest.raises(Tok4dError, match="gradient norm is nan at step 0"):
        module.configure_gradient_clipping(fake_optimizer(module), 1.0)


def test_clipping_by_hand():
    """Gradients (3, 4) have norm 5; a bound of 1 leaves a fifth of them."""
    parameters = [torch.nn.Parameter(torch.zeros(1)) for _ in range(3)]
    parameters[0].grad, parameters[1].grad = torch.tensor([3.0]), torch.tensor([4.0])
    assert float(clip([{"params": parameters}], 1.0)) == pytest.approx(5.0)
    assert float(parameters[0].grad) == pytest.approx(0.6, rel=1e-5)
    assert parameters[2].grad is None


def test_a_task_of_meaning_alone_decodes_nothing(monkeypatch):
    """Its decoder would only cost time."""
    stack = {"width": 16, "heads": 2, "blocks": 1, "mlp": 16}
    text = {"kind": "words", "width": 64, "log_scale": 2.3026, "bias": -10.0}
    model = Tokenizer.from_preset("tiny", encoder=stack, decoder=stack, text=text, patch_size=list(PATCH))
    monkeypatch.setattr(model, "decode", lambda *_: pytest.fail("decoded"))
    config = stage(a=replace(task(), losses={"sigmoid": {"weight": 1.0, "text": {"kind": "words"}}}))
    loss, encoded = StageLoss(model, config).loss(batches(config)[0])
    loss.total.backward()
    assert encoded.embedding.shape == (4, 64)
    assert all(parameter.grad is None for parameter in model.decoder.parameters())
    assert float(model.text_head.proj.weight.grad.abs().sum()) > 0


def test_what_is_zero_is_not_multiplied_and_all_gradients_are_the_same():
    """Pictures use the first frame of four: losses and gradients against every channel multiplied."""
    config, size = stage(), (4, 8, 8)
    batch = StageBatches(config, "images", 5, size)[0]
    plain, narrow = TokenizerModule(tiny_tokenizer(size), config), TokenizerModule(tiny_tokenizer(size), config)
    encoded = plain.tokenizer.encode(batch.tokens, pool=False)
    got = plain.tokenizer.decode(plain.stage_loss.latents(encoded, batch))
    target = targets(batch)
    expected = plain.objectives["image"](target, modality("image").unpatchify(got), encoded).total
    found = narrow.loss(batch)[0].total
    assert float(found.detach()) == pytest.approx(float(expected.detach()), rel=1e-6)
    expected.backward()
    found.backward()
    wanted, have = gradients(plain), gradients(narrow)
    assert all(float((have[n] - g).norm()) <= 1e-6 * float(g.norm()) + 1e-9 for n, g in wanted.items())
    assert float(have["decoder.out_layer.weight"][192:].abs().max()) == 0


def test_from_which_channel_on_patches_are_zero():
    tokens = batches(stage())[0].tokens
    assert channels_in_use(tokens) == 192
    assert channels_in_use(replace(tokens, origins=())) is None
