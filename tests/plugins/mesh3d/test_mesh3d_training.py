"""Training of the Gaussian decoder on pictures: the loss, what travels beside the tokens, and that it learns."""

from __future__ import annotations

import pytest
import torch
from made_assets import HEAD, HOST, box_sample, decoded, voxel_cloud, with_data

from tok4d.config.schema import OptimizerConfig, StageConfig, TaskConfig
from tok4d.data.batches import StageBatches, validation_batches
from tok4d.errors import ConfigError
from tok4d.modality import DEFAULT_PATCH
from tok4d.model.tokenizer import Tokenizer
from tok4d.ssim import ssim as exact_ssim
from tok4d.training.evaluate import reconstructor, score
from tok4d.training.module import TokenizerModule
from tok4d.training.stage_loss import targets
from tok4d_mesh3d import objective
from tok4d_mesh3d.head import make_head
from tok4d_mesh3d.objective import Render
from tok4d_mesh3d.renders import render

SOURCE = {"count": 4, "resolution": 8, "views": 4, "size": 64, "supersample": 1, "targets": 6, "target_size": 24}
OPTIONS = {**SOURCE, "targets_at_once": 2, "cache_gb": 0}


def small_model(head: bool = True) -> Tokenizer:
    stack = {"width": 32, "blocks": 1, "heads": 1, "mlp": 32}
    torch.manual_seed(0)
    return Tokenizer.from_preset("tiny", encoder=stack, decoder=stack, heads={"mesh3d": HEAD} if head else {})


def stage(**losses: object) -> StageConfig:
    task = TaskConfig("mesh3d/solids", dict(OPTIONS), 1.0, batch=2, losses=losses)
    return StageConfig(steps=2, tasks={"solid": task}, optimizer=OptimizerConfig())


def test_pictures_travel_beside_the_tokens():
    batches = StageBatches(stage(), "s", 0, DEFAULT_PATCH)
    batch = batches[0]
    assert [set(extras) for extras in batch.extras] == [
        {"views", "masks", "depth", "world_to_camera", "intrinsics", "background"}
    ] * 2
    wanted = targets(batch)
    assert [sample.data["views"].shape for sample in wanted] == [(2, 3, 24, 24)] * 2
    assert [sample.key for sample in wanted] == list(batch.keys)
    second = batch.unpack()[1]
    assert torch.equal(targets(second)[0].data["views"], wanted[1].data["views"])
    assert batch.to("cpu").extras[0]["views"].shape == (2, 3, 24, 24)
    again = StageBatches(stage(), "s", 0, DEFAULT_PATCH)[0]
    assert torch.equal(again.extras[1]["views"], batch.extras[1]["views"])
    whole = next(iter(validation_batches(stage().tasks, DEFAULT_PATCH)))
    assert whole.extras[0]["views"].shape[0] == 6  # validation has all pictures


@pytest.mark.parametrize("losses", [{"l1": 1.0}, {"l1": 1.0, "render": {"weight": 2.0, "views": 1}}])
def test_a_model_with_a_head_learns_from_pictures(losses):
    module = TokenizerModule(small_model(), stage(**losses))
    loss, _ = module.loss(StageBatches(stage(), "s", 0, DEFAULT_PATCH)[0])
    assert set(loss.terms) == {"l1", "render"}
    loss.total.backward()
    gradients = {name: p.grad for name, p in module.tokenizer.named_parameters() if p.grad is not None}
    # The last layer starts at zero, so at first nothing else of the head can learn.
    assert bool(gradients["heads.mesh3d.out_layer.weight"].any())
    assert all(bool(g.isfinite().all()) for g in gradients.values())
    with torch.no_grad():
        module.tokenizer.heads["mesh3d"].out_layer.weight.normal_(std=0.05)
    module.zero_grad()
    module.loss(StageBatches(stage(), "s", 0, DEFAULT_PATCH)[0])[0].total.backward()
    still = [name for name, p in module.tokenizer.heads.named_parameters() if not bool(p.grad.any())]
    assert still == []
    assert bool(module.tokenizer.decoder.out_layer.weight.grad[:768].any())


def test_what_the_loss_needs_is_named():
    batch = StageBatches(stage(), "s", 0, DEFAULT_PATCH)[0]
    bare = TokenizerModule(small_model(head=False), stage(render={"weight": 1.0}))
    with pytest.raises(ConfigError, match=r"needs a model with `heads: \{mesh3d"):
        bare.loss(batch)
    quiet = TokenizerModule(small_model(head=False), stage(l1=1.0))
    assert float(quiet.loss(batch)[0].terms["render"]) == 0.0
    task = TaskConfig("mesh3d/solids", {**OPTIONS, "targets": 0}, 1.0, batch=2, losses={"render": 1.0})
    blind = StageConfig(steps=2, tasks={"solid": task})
    with pytest.raises(ConfigError, match="needs a source with pictures"):
        TokenizerModule(small_model(), blind).loss(StageBatches(blind, "s", 0, DEFAULT_PATCH)[0])
    off = TokenizerModule(small_model(), stage(l1=1.0, render=0))
    assert set(off.loss(batch)[0].terms) == {"l1"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"views": 0}, "views must be a whole number"),
        ({"l1": -1}, "render.l1 must be a weight"),
        ({"l1": 0, "ssim": 0}, "no weight above 0"),
        ({"pictures": {"lpisp": 1}}, "lpisp"),
        ({"lpips": 0.2}, "unexpected keyword argument 'lpips'"),
    ],
)
def test_options_of_the_loss(options, message):
    with pytest.raises(ValueError, match=message):
        HOST.objective({"render": {"weight": 1.0, **options}})


def test_the_loss_by_hand(tmp_path):
    target = box_sample(tmp_path)
    got = with_data(target, voxel_cloud(target))
    seen = render(got, target, 3)
    assert seen.images.shape == (3, 3, 64, 64)
    l1 = float((seen.images - seen.wanted).abs().mean())
    one_minus = 1 - float(objective.ssim(seen.images, seen.wanted).mean())
    assert float(Render(views=3)([target], [got], None)) == pytest.approx(l1 + 0.2 * one_minus, rel=1e-5)
    mask = float((seen.alphas - seen.masks).abs().mean())
    assert float(Render(views=3, l1=0, ssim=0, mask=2)([target], [got], None)) == pytest.approx(2 * mask, rel=1e-5)
    # Another term by its name sees the same pictures.
    by_name = Render(views=3, l1=0, ssim=0, pictures={"l1": 1.0})([target], [got], None)
    assert float(by_name) == pytest.approx(l1, rel=1e-5)


def test_pictures_are_compared_over_the_targets_background(tmp_path):
    white = box_sample(tmp_path, background=(1.0, 1.0, 1.0))
    got = with_data(white, voxel_cloud(white))
    seen = render(got, white)
    nothing = ((seen.alphas == 0) & (seen.masks == 0)).expand_as(seen.images)
    assert int(nothing.sum()) > 1000
    assert seen.images[nothing].unique().tolist() == seen.wanted[nothing].unique().tolist() == [1.0]


def test_ssim_of_training_agrees_with_the_reported_one():
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(2, 3, 200, 200, generator=generator) * 2 - 1
    y = (x + 0.3 * torch.randn(x.shape, generator=generator)).clamp(-1, 1)
    inside = torch.stack([exact_ssim(a[None], b[None])[0] for a, b in zip(x, y, strict=True)])
    assert objective.ssim(x, y).tolist() == pytest.approx(inside.tolist(), abs=2e-3)  # borders count differently
    assert objective.ssim(x, x).tolist() == pytest.approx([1.0, 1.0])
    with pytest.raises(ConfigError, match="at least 11 x 11"):
        objective.ssim(x[..., :10], y[..., :10])


def test_evaluation_compares_pictures():
    model = small_model().eval()
    found = score(validation_batches(stage().tasks, DEFAULT_PATCH), reconstructor(model), model)
    assert set(found.values) == {f"mesh3d/{name}" for name in HOST.metrics()}
    assert all(len(column) == 4 for column in found.values.values())
    bare = score(validation_batches(stage().tasks, DEFAULT_PATCH), reconstructor(model))
    assert set(bare.values) == {"mesh3d/psnr"}


def test_a_head_alone_learns_an_asset(tmp_path):
    """Forty steps on a box; the whole check (30 dB on views not trained on) is `tok4d_bench.gaussian_overfit`."""
    sample = box_sample(tmp_path, views=8, size=48)
    torch.manual_seed(0)
    head = make_head({**HEAD, "num_gaussians": 8})
    loss, optimizer = Render(views=4), torch.optim.Adam(head.parameters(), lr=5e-3)
    values = []
    for _ in range(40):
        value = loss([sample], [decoded(sample, head)], None).mean()
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        values.append(float(value.detach()))
    assert values[-1] < 0.5 * values[0]
