"""Released Gaussian decoders: everything is used or named."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from made import make_tokens
from torch import Tensor

from tok4d.config.gaussians import GaussianConfig
from tok4d.errors import ConfigError, DataError
from tok4d.model.gaussians import GaussianDecoder
from tok4d.weights.gaussians import config_of, load_atoken_gaussians

OURS = GaussianConfig(resolution=16, latent=8, width=16, blocks=2, heads=2, mlp=24, window=4, num_gaussians=3)


def released(**changes: Any) -> dict[str, Any]:
    """The YAML of a decoder like OURS; `representation_config` and `lr` change key by key."""
    lr = {"_xyz": 1.0, "_features_dc": 1.0, "_opacity": 1.0, "_scaling": 1.0, "_rotation": 0.1, **changes.pop("lr", {})}
    representation = {
        "lr": lr,
        "perturb_offset": True,
        "voxel_size": 1.5,
        "num_gaussians": 3,
        "2d_filter_kernel_size": 0.1,
        "3d_filter_kernel_size": 9e-4,
        "scaling_bias": 4e-3,
        "opacity_bias": 0.1,
        "scaling_activation": "softplus",
        **changes.pop("representation_config", {}),
    }
    config = {
        "class_name": "decoder",
        "resolution": 16,
        "model_channels": 16,
        "latent_channels": 8,
        "num_blocks": 2,
        "num_heads": 2,
        "mlp_channels": 24,
        "attn_mode": "swin",
        "window_size": 4,
        "representation_config": representation,
        **changes,
    }
    return {key: value for key, value in config.items() if value is not None}


def weights() -> dict[str, Tensor]:
    torch.manual_seed(0)
    return {name: torch.randn_like(tensor) * 0.3 for name, tensor in GaussianDecoder(OURS).state_dict().items()}


def test_names_are_the_release_s():
    block = ["norm1.weight", "norm2.weight", "attn.to_qkv.weight", "attn.to_out.weight", "mlp.mlp.0.weight"]
    block += ["mlp.mlp.2.weight"]
    ends = ["offset_perturbation", "input_layer.weight", "out_layer.weight", "out_layer.bias"]
    assert set(weights()) == {*ends, *(f"blocks.{i}.{name}" for i in range(2) for name in block)}


@pytest.mark.parametrize("wrap", [lambda c: c, lambda c: {"model": c}, lambda c: {"model": {"model_cfg": c}}])
def test_the_configuration_however_deep(wrap):
    assert config_of(wrap(released())) == replace(OURS, softcap=30.0)


def test_all_values_find_their_place():
    lr = {"_xyz": 2, "_features_dc": 3, "_scaling": 4, "_rotation": 5, "_opacity": 6}
    representation = {"voxel_size": 2, "2d_filter_kernel_size": 0.2, "3d_filter_kernel_size": 0.3}
    config = config_of(released(lr=lr, representation_config=representation), softcap=None)
    assert (config.offset_gain, config.color_gain, config.scaling_gain) == (2, 3, 4)
    assert (config.rotation_gain, config.opacity_gain, config.softcap) == (5, 6, None)
    assert (config.voxel_size, config.filter_2d, config.filter_3d) == (2, 0.2, 0.3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_weights_are_taken_without_a_copy(dtype):
    tensors = {name: tensor.to(dtype) for name, tensor in weights().items()}
    extra = {"lpips_loss.net.lin0.weight": torch.zeros(1), "lpips_loss.scale": torch.zeros(3)}
    decoder = load_atoken_gaussians({**tensors, **extra}, released())
    assert not decoder.training
    state = decoder.state_dict()
    assert set(state) == set(tensors)
    assert all(state[name].data_ptr() == tensor.data_ptr() for name, tensor in tensors.items())
    (made,) = decoder(make_tokens([5], 8, (1, 16, 16, 16), dtype=dtype))
    assert len(made) == 15
    assert torch.isfinite(made.means).all()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"num_block": 2}, r"unknown key 'num_block'. Did you mean 'num_blocks'"),
        ({"mlp_channels": None, "window_size": None}, "lacks mlp_channels, window_size"),
        ({"representation_config": {"sh_degree": 3}}, "unknown key 'representation_config.sh_degree'"),
        ({"lr": {"_colour": 1.0}}, "unknown key 'representation_config.lr._colour'"),
        ({"attn_mode": "full"}, "attn_mode: 'full' is not supported; the released decoder has 'swin'"),
        ({"representation_config": {"perturb_offset": False}}, "representation_config.perturb_offset: False"),
        ({"representation_config": {"scaling_activation": "exp"}}, "scaling_activation: 'exp' is not supported"),
        ({"representation_config": {"voxel_size": "1.5"}}, "voxel_size must be a number, got '1.5'"),
        ({"num_heads": 3}, "width 16 must be divisible by heads 3"),
        ({"num_blocks": True}, "num_blocks must be a number, got True"),
    ],
)
def test_configurations_that_cannot_be_used(change, reason):
    with pytest.raises(ConfigError, match=reason):
        load_atoken_gaussians(weights(), released(**change))


def test_a_tokenizer_s_configuration_is_recognised():
    with pytest.raises(ConfigError, match=r"lacks representation_config.*load_atoken loads"):
        load_atoken_gaussians(weights(), {"model": {"arch_cfg": {"latent_channels": 48}}})


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"lpips.weight": torch.zeros(1)}, "file.pt: .*has unknown lpips.weight"),
        ({"out_layer.bias": None}, "lacks out_layer.bias"),
        ({"out_layer.weight": torch.zeros(42, 8)}, r"has out_layer.weight \(42, 8\) instead of \(42, 16\)"),
        ({"out_layer.bias": "zeros"}, "out_layer.bias is a str, not a tensor"),
        ({"proj.weight": torch.zeros(1)}, "holds a tokenizer; tok4d.weights.load_atoken loads it"),
    ],
)
def test_weights_that_do_not_fit_are_named(change, reason):
    tensors = {name: tensor for name, tensor in {**weights(), **change}.items() if tensor is not None}
    with pytest.raises(DataError, match=reason):
        load_atoken_gaussians(tensors, released(), where="file.pt")


def test_no_weights_at_all():
    with pytest.raises(DataError, match="holds no tensors"):
        load_atoken_gaussians({}, released())
