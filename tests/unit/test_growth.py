"""What a stage changes in a model: stills for clips, more latent channels, a scale that suits FSQ."""

from __future__ import annotations

import copy

import pytest
import torch

from tok4d.config.schema import FSQConfig
from tok4d.errors import ConfigError
from tok4d.model.tokenizer import Tokenizer
from tok4d.patches import patchify, unpatchify
from tok4d.testing.models import tiny_tokenizer
from tok4d.tokens import TokenSet
from tok4d.training.discrete import Entry
from tok4d.training.grow import Learned, quantize, widen
from tok4d.training.optim import AveragedWeights
from tok4d.weights.growth import (
    discrete_config,
    new_rows,
    rebuilt,
    reordered,
    repeat_first_frame,
    rescaled,
    widened,
    wider_config,
)

PATCH = (4, 8, 8)


def picture() -> TokenSet:
    return patchify(torch.rand(3, 16, 24, generator=torch.Generator().manual_seed(1)) * 2 - 1, "x", PATCH)


def restored(model: Tokenizer) -> torch.Tensor:
    return model.decode(model.encode(picture(), pool=False).latents()).feats


@torch.no_grad()
def test_clips_begin_as_stills_and_pictures_do_not_change():
    model = tiny_tokenizer(PATCH, decoder={"bias": True, "norm": "layer", "qk_norm": False})
    torch.nn.init.normal_(model.decoder.out_layer.bias)
    image, clip = torch.rand(3, 16, 24), torch.rand(6, 3, 16, 24)
    tokens = {"picture": patchify(image, "x", PATCH), "clip": patchify(clip, "x", PATCH)}

    def again(name):
        patches = model.decode(model.encode(tokens[name]).latents())
        return unpatchify(patches.feats, patches.coords, tokens[name].origins[0])

    before = {name: again(name) for name in tokens}
    repeat_first_frame(model)
    assert torch.equal(again("picture"), before["picture"])
    after = again("clip")
    for first in (0, 4):
        assert torch.equal(after[first], before["clip"][first])
        assert torch.equal(after[first : first + 4], after[first].expand_as(after[first : first + 4]))
    assert not torch.equal(before["clip"][0], before["clip"][1])


def test_widening_by_hand():
    """Two channels become three: mean rows 0, 1, new; log-variance rows 2, 3, new."""
    proj = torch.tensor([[1.0, 1], [2, 2], [3, 3], [4, 4]])
    rows = torch.tensor([[[5.0, 5]], [[6, 6]]])
    assert widened("proj.weight", proj, 2, 3, rows)[:, 0].tolist() == [1, 2, 5, 3, 4, 6]
    assert widened("proj.weight", proj, 2, 3)[:, 0].tolist() == [1, 2, 0, 3, 4, 0]
    assert widened("decoder.input_layer.weight", proj, 2, 3).tolist()[0] == [1, 1, 0]
    assert widened("latent_mean", torch.tensor([7.0, 8]), 2, 3).tolist() == [7, 8, 0]
    assert widened("latent_std", torch.tensor([7.0, 8]), 2, 3).tolist() == [7, 8, 1]
    assert widened("decoder.out_layer.weight", proj, 2, 3) is proj


def test_rescaling_by_hand():
    proj = torch.tensor([[8.0], [9], [3], [4]])
    scale = torch.tensor([2.0, 3.0])
    assert rescaled("proj.weight", proj, scale)[:, 0].tolist() == [4, 3, 3, 4]
    assert rescaled("proj.weight", proj, scale, -2)[:, 0].tolist() == [32, 81, 3, 4]
    assert rescaled("decoder.input_layer.weight", torch.tensor([[1.0, 1]]), scale).tolist() == [[2, 3]]
    assert rescaled("latent_std", torch.tensor([2.0, 3.0]), scale).tolist() == [1, 1]
    assert rescaled("proj.bias", proj, scale) is proj


def grow_latent(model: Tokenizer, latent: int, seed: int) -> Tokenizer:
    before = model.config.latent
    config = wider_config(model.config, latent)
    rows = new_rows(before, latent, config.encoder.width, seed)
    return rebuilt(config, {name: widened(name, t, before, latent, rows) for name, t in model.state_dict().items()})


def enter_fsq(model: Tokenizer, quantizer: FSQConfig, scale: torch.Tensor) -> Tokenizer:
    config = discrete_config(model.config, quantizer)
    return rebuilt(config, {name: rescaled(name, t, scale) for name, t in model.state_dict().items()})


@pytest.mark.parametrize("seed", [0, 7])
def test_more_latent_channels_restore_the_same_and_can_learn(seed):
    model = tiny_tokenizer(PATCH, latent=8)
    grown = grow_latent(model, 12, seed)
    assert grown.config.latent == 12
    assert torch.allclose(restored(grown), restored(model), atol=1e-6)
    rows = new_rows(8, 12, 32, seed)
    assert torch.equal(grown.proj.weight[8:12], rows[0])
    assert torch.equal(grown.proj.weight[20:24], rows[1])
    assert torch.equal(rows, new_rows(8, 12, 32, seed))
    assert not torch.equal(rows, new_rows(8, 12, 32, seed + 1))
    assert 0.01 < float(rows.std()) < 0.03
    restored(grown).square().sum().backward()
    assert float(grown.decoder.input_layer.weight.grad[:, 8:].abs().min()) > 0


@torch.no_grad()
def test_fsq_gets_latents_of_one_scale_and_without_it_nothing_changes():
    model = tiny_tokenizer(PATCH, latent=6)
    model.proj.weight[:6] *= torch.tensor([100.0, 10, 1, 0.1, 5, 50])[:, None]
    mean = model.encode(picture(), pool=False).posterior.mean
    scale = mean.square().mean(0).sqrt()
    grown = enter_fsq(model, FSQConfig(groups=2, levels=[4, 4, 4]), scale)
    assert grown.config.quantizer is not None
    rms = grown.encode(picture(), pool=False).posterior.mean.square().mean(0).sqrt()
    assert torch.allclose(rms, torch.ones(6), atol=1e-4)
    assert torch.allclose(restored(grown), restored(model), rtol=1e-4, atol=1e-5)
    used = grown.quantize(grown.encode(picture(), pool=False)).values
    assert float((used.abs() == 1).float().mean()) < 0.9
    with pytest.raises(ConfigError, match="quantizer needs latent = groups x levels, got 6 != 8 x 6"):
        enter_fsq(model, FSQConfig(), scale)


def test_latent_channels_only_grow():
    with pytest.raises(ConfigError, match="latent channels only grow: the model has 8, 6 are wanted"):
        grow_latent(tiny_tokenizer(PATCH, latent=8), 6, 0)


def trained() -> Learned:
    """A model with averages and moments that all differ."""
    model = tiny_tokenizer(PATCH, latent=6)
    ema = AveragedWeights(tiny_tokenizer(PATCH, seed=1, latent=6), 0.9)
    shapes = {name: p.shape for name, p in model.named_parameters()}
    rng = torch.Generator().manual_seed(2)
    moments = {f"{name}/{key}": torch.rand(shape, generator=rng) for name, shape in shapes.items() for key in KEYS}
    return Learned(model, ema, {**moments, "proj.weight/step": torch.tensor(9.0)})


KEYS = ("exp_avg", "exp_avg_sq")


def test_averages_and_moments_grow_with_the_weights():
    before = trained()
    old = copy.deepcopy(before)
    after = widen(before, 8, seed=3)
    rows = new_rows(6, 8, 32, 3)
    for values in (dict(after.model.named_parameters()), after.ema.values):
        assert torch.equal(values["proj.weight"][6:8], rows[0])
        assert torch.equal(values["proj.weight"][14:], rows[1])
    assert torch.equal(after.ema.values["proj.weight"][8:14], old.ema.values["proj.weight"][6:])
    for key in KEYS:
        moment = after.moments[f"proj.weight/{key}"]
        assert torch.equal(moment[:6], old.moments[f"proj.weight/{key}"][:6])
        assert float(moment[6:8].abs().max()) == float(moment[14:].abs().max()) == 0
        assert after.moments[f"decoder.input_layer.weight/{key}"].shape == (32, 8)
    assert float(after.moments["proj.weight/step"]) == 9
    assert old.model.config.latent == 6


def test_moments_follow_the_scale_as_gradients_do():
    """The gradient of w / s is s times that of w, and of w * s one s-th: moments after entering FSQ are such."""
    before = trained()
    scale, order, gain = torch.tensor([2.0, 4, 8, 0.5, 1, 16]), torch.tensor([3, 0, 1, 5, 4, 2]), torch.ones(6)
    quantizer = FSQConfig(groups=1, levels=[4] * 6)
    after = quantize(before, quantizer, Entry(order, scale, gain))
    plain = quantize(Learned(before.model), quantizer, Entry(order, scale, gain)).model
    plain.quantizer = None
    torch.testing.assert_close(restored(plain), restored(before.model), rtol=1e-4, atol=1e-5)
    for model in (before.model, plain):
        restored(model).square().sum().backward()
    for name in ("proj.weight", "decoder.input_layer.weight"):
        old, new = (dict(model.named_parameters())[name].grad for model in (before.model, plain))
        old = reordered(name, old, order)
        expected = {"exp_avg": rescaled(name, old, scale, -1), "exp_avg_sq": rescaled(name, old**2, scale, -2)}
        assert torch.allclose(new, expected["exp_avg"], rtol=1e-3, atol=1e-5)
        assert torch.allclose(new**2, expected["exp_avg_sq"], rtol=2e-3, atol=1e-5)
        for key, power in (("exp_avg", -1), ("exp_avg_sq", -2)):
            full = f"{name}/{key}"
            assert torch.equal(
                after.moments[full], rescaled(name, reordered(name, trained().moments[full], order), scale, power)
            )
    assert after.model.config.quantizer.groups == 1


def test_reordering_by_hand():
    proj = torch.tensor([[1.0], [2], [3], [4]])
    order = torch.tensor([1, 0])
    assert reordered("proj.weight", proj, order)[:, 0].tolist() == [2, 1, 4, 3]
    assert reordered("decoder.input_layer.weight", torch.tensor([[5.0, 6]]), order).tolist() == [[6, 5]]
    assert reordered("latent_mean", torch.tensor([7.0, 8]), order).tolist() == [8, 7]
    assert reordered("encoder.input_layer.weight", proj, order) is proj


def test_the_gain_is_the_decoders_alone():
    before, scale = trained(), torch.tensor([2.0, 4, 8, 0.5, 1, 16])
    ones, order = torch.ones(6), torch.arange(6)
    after = quantize(before, FSQConfig(groups=1, levels=[4] * 6), Entry(order, ones, scale))
    old = trained()
    for values in (dict(after.model.named_parameters()), after.ema.values):
        assert values.keys() >= {"proj.weight"}
    name = "decoder.input_layer.weight"
    assert torch.equal(after.model.state_dict()[name], old.model.state_dict()[name] * scale)
    assert torch.equal(after.model.state_dict()["proj.weight"], old.model.state_dict()["proj.weight"])
    assert torch.equal(after.moments[f"{name}/exp_avg"], old.moments[f"{name}/exp_avg"] / scale)
