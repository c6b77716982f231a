"""Released AToken checkpoints in and out: strict, bit-exact, and with the options that reproduce the release."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

import tok4d.weights
from tok4d import Tokenizer
from tok4d.config.loader import from_mapping, read_yaml, to_mapping
from tok4d.config.schema import FSQConfig, StackConfig, TextConfig, TokenizerConfig
from tok4d.errors import ConfigError, DataError
from tok4d.testing.models import tiny_tokenizer
from tok4d.weights import export_atoken, load_atoken
from tok4d.weights.atoken import lost_in_export
from tok4d.weights.atoken_arch import arch_cfg, arch_of, config_of, kind_of
from tok4d.weights.checkpoints import read_checkpoint

GOLDEN = Path(__file__).parents[1] / "parity" / "data" / "c16_hd16"
ARCH = json.loads((GOLDEN / "weights.json").read_text())["arch_cfg"]
FSQ = {
    "latent_channels": 48,
    "use_quantizer": True,
    "quantizer_type": "fsq",
    "quantizer_codebook_size": 4096,
    "quantizer_feature_dim": 48,
    "quantizer_num_codebooks": 8,
    "quantizer_chunk_size": 1,
}
RELEASED = """
model:
    class_name: models.pretrained.autoencoder_kl.AutoencoderKLTrain
    model_cfg:
        eval_imagenet_zeroshot: True
        eval_fid: True
        arch_cfg:
            patch_size: [4, 16, 16]
            in_channels: 3072
            out_channels: 3072
            latent_channels: &latent_channels 48
            encoder_model_channels: 1152
            encoder_num_blocks: 27
            encoder_num_heads: 16
            encoder_mlp_channels: 4304
            encoder_attn_mode: "full"
            encoder_pe_mode: "joint"
            encoder_qk_rms_norm: False
            encoder_use_bias: True
            encoder_use_rms_norm: False
            decoder_model_channels: 1152
            decoder_num_blocks: 27
            decoder_num_heads: 16
            decoder_mlp_channels: 4304
            decoder_attn_mode: "full"
            decoder_pe_mode: "joint"
            decoder_qk_rms_norm: True
            decoder_use_bias: False
            decoder_use_rms_norm: True
            use_decoder: True
            use_quantizer: True
            quantizer_type: "fsq"
            quantizer_codebook_size: 4096
            quantizer_feature_dim: *latent_channels
            quantizer_num_codebooks: 8
            quantizer_chunk_size: 1
"""


@pytest.fixture
def state() -> dict[str, torch.Tensor]:
    """The golden weights, bf16 as they are stored."""
    return {**load_file(GOLDEN / "weights_encoder.safetensors"), **load_file(GOLDEN / "weights_decoder.safetensors")}


def bits(tensors: dict[str, torch.Tensor]) -> dict[str, tuple[torch.dtype, tuple[int, ...], bytes]]:
    return {k: (v.dtype, tuple(v.shape), v.view(-1).view(torch.uint8).numpy().tobytes()) for k, v in tensors.items()}


# --- in ---------------------------------------------------------------------------------------------------------------


def test_a_released_file_becomes_the_configuration_that_reproduces_it(tmp_path):
    (tmp_path / "atoken-sod.yaml").write_text(RELEASED)
    assert config_of(read_yaml(tmp_path / "atoken-sod.yaml")) == TokenizerConfig(
        name="atoken",
        patch_size=[4, 16, 16],
        latent=48,
        positions="joint",
        table_extent="tokens",
        windows="batch",
        tile_steps=4,
        cached_steps=0,
        inputs={"image": {"fit": "crop"}, "video": {"fit": "crop", "frames": "floor"}, "mesh3d": {"t_offset": 1}},
        encoder=StackConfig(width=1152, blocks=27, heads=16, mlp=4304, norm="layer", bias=True, qk_norm=False),
        decoder=StackConfig(width=1152, blocks=27, heads=16, mlp=4304, norm="rms", bias=False, qk_norm=True),
        quantizer=FSQConfig(groups=8, levels=[4] * 6),
        text=TextConfig(kind="siglip2", source="google/siglip2-so400m-patch16-naflex", log_scale=4.8438, bias=-15.5625),
    )


def test_only_an_encoder_as_wide_as_the_text_tower_gets_one():
    assert config_of(ARCH).text is None
    assert config_of({**ARCH, "encoder_model_channels": 1152, "encoder_num_heads": 16}).text is not None


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_tensors_become_the_model_without_a_copy(state, dtype):
    state = {name: tensor.to(dtype) for name, tensor in state.items()}
    model = load_atoken(state, ARCH)
    assert not model.training
    parameters = dict(model.named_parameters())
    assert parameters.keys() == state.keys()
    assert all(parameters[name].data_ptr() == tensor.data_ptr() for name, tensor in state.items())
    assert model.latent_mean.tolist() == [0.0] * 16
    assert model.latent_std.tolist() == [1.0] * 16
    assert {tensor.dtype for tensor in model.state_dict().values()} == {dtype}


def test_the_whole_yaml_file_serves_as_well_as_its_arch(state):
    assert load_atoken(state, {"model": {"model_cfg": {"eval_fid": True, "arch_cfg": ARCH}}}).config == config_of(ARCH)


@pytest.mark.parametrize(
    ("kind", "arch"),
    [
        ("stage 1: continuous, images", {"latent_channels": 32}),
        ("stage 2 or 3: continuous", {"latent_channels": 48}),
        ("stage 4: discrete", FSQ),
        ("continuous; no released model has 16", {}),
    ],
)
def test_which_released_model_it_is(kind, arch):
    assert kind_of(config_of({**ARCH, **arch})).startswith(kind)


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"laten_channels": 4}, "unknown key 'laten_channels'. Did you mean 'latent_channels'?"),
        ({"encoder_attn_mode": "swin"}, "encoder_attn_mode: 'swin' is not supported; every released model has 'full'"),
        ({"decoder_pe_mode": "rope"}, "decoder_pe_mode: 'rope' is not supported; every released model has 'joint'"),
        ({"decoder_use_bias": True}, "decoder_use_bias: True is not supported"),
        ({"use_decoder": False}, "use_decoder: False is not supported"),
        ({"use_decoder": 1}, "use_decoder: 1 is not supported"),
        ({"in_channels": 768}, "in_channels: 768 is not the width of a patch of 4 x 16 x 16 pixels in RGB, 3072"),
        ({"patch_size": [2, 16, 16]}, "in_channels: 3072 is not the width of a patch of 2 x 16 x 16"),
        ({"patch_size": 16}, "patch_size must be frames, height and width, got 16"),
        ({"latent_channels": "48"}, "latent_channels must be a whole number from 1 to 1000000, got '48'"),
        ({"encoder_num_blocks": True}, "encoder_num_blocks must be a whole number"),
        ({"encoder_num_blocks": 10**5}, "encoder.blocks must be at most 1000"),
        ({"encoder_num_heads": 5}, "encoder: width 64 must be divisible by heads 5"),
        ({"representation_config": {}}, "configuration of a Gaussian decoder.*load_atoken_gaussians"),
        ({**FSQ, "quantizer_codebook_size": 1024}, "quantizer_codebook_size: 1024 is not 4\\^6: 8 codebooks of 6"),
        ({**FSQ, "quantizer_chunk_size": 2}, "quantizer_chunk_size: 2 is not supported; every released model has 1"),
        ({**FSQ, "quantizer_type": "lfq"}, "quantizer_type: 'lfq' is not supported"),
        ({**FSQ, "quantizer_feature_dim": 64}, "quantizer_feature_dim: 64 is not latent_channels: 48"),
        ({**FSQ, "quantizer_num_codebooks": 7}, "quantizer_num_codebooks: 7 does not divide latent_channels: 48"),
        ({**FSQ, "use_quantizer": "yes"}, "use_quantizer must be true or false, got 'yes'"),
        ({"use_quantizer": True}, "use_quantizer needs quantizer_codebook_size, quantizer_feature_dim"),
    ],
)
def test_configurations_that_cannot_be_used(changes, error):
    with pytest.raises(ConfigError, match=error):
        config_of({**ARCH, **changes})


def test_missing_sizes_are_named():
    arch = {key: value for key, value in ARCH.items() if key not in ("latent_channels", "decoder_model_channels")}
    with pytest.raises(ConfigError, match="lacks latent_channels, decoder_model_channels"):
        config_of(arch)


def test_a_quantizer_that_is_not_used_says_nothing():
    assert config_of({**ARCH, **FSQ, "use_quantizer": False, "quantizer_chunk_size": 3}).quantizer is None


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        (
            {"latent_channels": 48},
            r"latent_channels: 48 in the config, but proj.weight is \[32, 64\], that is 16$",
        ),
        (
            {"encoder_num_blocks": 5, "decoder_num_blocks": 1},
            "encoder_num_blocks: 5 in the config, but 2 in the weights; decoder_num_blocks: 1 in the config, but 3 in",
        ),
        (
            {"latent_channels": 8, "encoder_model_channels": 1152, "encoder_num_heads": 16, "decoder_mlp_channels": 3},
            "latent_channels: 8 .*encoder_model_channels: 1152 in the config.*decoder_mlp_channels: 3 .*, that is 96$",
        ),
        ({"decoder_num_heads": 2}, r"decoder_num_heads: 2 in the config, but \S+gamma is \[4, 16\], that is 4"),
        (
            {"patch_size": [1, 16, 16], "in_channels": 768, "out_channels": 768, "latent_channels": 8},
            "latent_channels: 8 .*in_channels: 768 .*out_channels: 768 .*that is 3072$",
        ),
        (
            {"latent_channels": 8, "encoder_mlp_channels": 8, "decoder_mlp_channels": 8, "decoder_num_blocks": 9},
            "; and 1 more$",
        ),
    ],
)
def test_the_wrong_config_for_the_weights(state, changes, error):
    with pytest.raises(DataError, match=error) as caught:
        load_atoken(state, {**ARCH, **changes}, where="a.pt")
    assert str(caught.value).startswith("a.pt: does not fit its config: ")


def edited(**changes: torch.Tensor | None):
    def edit(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        merged = {**state, **{name.replace("__", "."): value for name, value in changes.items()}}
        return {name: value for name, value in merged.items() if value is not None}

    return edit


@pytest.mark.parametrize(
    ("edit", "error"),
    [
        (edited(proj__weight=None), "lacks proj.weight"),
        (edited(proj__bias=torch.zeros(2, dtype=torch.bfloat16)), "has unknown proj.bias"),
        (
            edited(encoder__head__probe=torch.zeros(3, dtype=torch.bfloat16)),
            r"has encoder.head.probe \(3,\) instead of",
        ),
        (edited(proj__weight=torch.zeros(32, 64)), r"mixes bfloat16 \(\d+ tensors\) with float32 \(proj.weight\)"),
        (edited(latent_mean=torch.zeros(16, dtype=torch.bfloat16)), "has unknown latent_mean"),
        (edited(step=torch.tensor(3)), "step is int64, not one of float32, bfloat16, float16, float64"),
        (edited(step=3), "step is a int, not a tensor"),
        (lambda state: {}, "holds no tensors"),
        (lambda state: {f"module.{name}": value for name, value in state.items()}, "lacks encoder"),
        (lambda state: {"offset_perturbation": torch.zeros(2, 3)}, "holds a Gaussian decoder.*load_atoken_gaussians"),
    ],
)
def test_weights_that_are_not_the_model_are_refused_by_name(state, edit, error):
    with pytest.raises(DataError, match=error):
        load_atoken(edit(state), ARCH)


# --- out --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_round_trip_is_bit_exact(state, tmp_path, dtype):
    state = {name: tensor.to(dtype) for name, tensor in state.items()}
    torch.save(state, tmp_path / "a.pt")
    model = load_atoken(read_checkpoint(tmp_path / "a.pt"), ARCH)
    model.save_pretrained(tmp_path / "model")
    assert bits(export_atoken(model)) == bits(state)
    again = Tokenizer.from_pretrained(tmp_path / "model")
    assert bits(export_atoken(again)) == bits(state)
    assert again.config == config_of(ARCH)
    assert again.digest == model.digest
    assert lost_in_export(again) == []


@pytest.mark.parametrize("changes", [{}, FSQ, {"latent_channels": 32}])
def test_the_configuration_comes_back(changes):
    assert arch_cfg(arch_of(config_of({**ARCH, **changes}))) == {**ARCH, **changes}


def test_the_configuration_is_nested_as_released():
    released = yaml.safe_load(RELEASED)
    exported = arch_of(config_of(released))
    assert exported["model"]["class_name"] == released["model"]["class_name"]
    assert exported["model"]["model_cfg"]["arch_cfg"] == released["model"]["model_cfg"]["arch_cfg"]


@pytest.mark.parametrize(
    ("overrides", "error"),
    [
        ({"positions": "table"}, "positions is table, not joint"),
        ({"positions": "table", "table_side": 8}, "positions is table, not joint; table_side is 8, not 16"),
        ({"table_resize": "bicubic"}, "table_resize is bicubic, not bilinear"),
        ({"rope_scale": 0.5}, "rope_scale is 0.5, not 1.0"),
        ({"heads": {"mesh3d": {}}}, r"it has extra decoders \(mesh3d\)"),
        ({"encoder": {"qk_norm": True}}, "encoder.qk_norm is True, not False"),
        (
            {"decoder": {"bias": True, "norm": "layer"}},
            "decoder.norm is layer, not rms; decoder.bias is True, not False",
        ),
        ({"latent": 18, "quantizer": {"groups": 9, "levels": [8, 5]}}, r"quantizer.levels are \[8, 5\], not all 4"),
    ],
)
def test_what_the_release_cannot_express_is_not_exported(overrides, error):
    model = tiny_tokenizer()
    data = to_mapping(model.config)
    for key, value in overrides.items():
        data[key] = {**data[key], **value} if isinstance(data[key], dict) else value
    model.config = from_mapping(TokenizerConfig, data, "test")
    with pytest.raises(ConfigError, match=f"the released format cannot hold this model: {error}$"):
        export_atoken(model)


def test_a_model_whose_rope_is_still_being_raised_is_not_exported():
    model = tiny_tokenizer()
    model.encoder.rope_scale = 0.3
    with pytest.raises(ConfigError, match="its RoPE is scaled"):
        export_atoken(model)


def test_what_an_export_leaves_out_is_listed():
    model = tiny_tokenizer()
    exported = export_atoken(model)
    assert exported.keys() == model.state_dict().keys() - {"latent_mean", "latent_std"}
    model.latent_std.mul_(2)
    lost = lost_in_export(model)
    assert [line.split(":")[0] for line in lost] == [
        "table_extent",
        "windows",
        "cached_steps",
        "latent_mean and latent_std",
    ]


# --- the package ------------------------------------------------------------------------------------------------------


def test_names_load_on_first_use_without_torch():
    code = "import sys, tok4d.weights; assert 'torch' not in sys.modules; from tok4d.weights import load_atoken"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
    with pytest.raises(AttributeError, match="has no attribute 'load_nothing'"):
        _ = tok4d.weights.load_nothing
