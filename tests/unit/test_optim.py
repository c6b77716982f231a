"""Parameter groups, schedule and averages, by hand."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tok4d.config.schema import OptimizerConfig
from tok4d.errors import ConfigError
from tok4d.testing.models import tiny_tokenizer
from tok4d.training.optim import AveragedWeights, learning_rate, make_adamw, param_groups, set_lr

CONFIG = OptimizerConfig(encoder_scale=0.1, ends_scale=0.01, weight_decay=0.2)


def groups_by_name(frozen: tuple[str, ...] = ()) -> dict[str, tuple[float, float]]:
    model = tiny_tokenizer((1, 2, 2))
    model.freeze(frozen)
    names = {parameter: name for name, parameter in model.named_parameters()}
    found: dict[str, tuple[float, float]] = {}
    for group in param_groups(model, CONFIG):
        for parameter in group["params"]:
            assert names[parameter] not in found
            found[names[parameter]] = (group["scale"], group["weight_decay"])
    return found


def test_only_the_matrices_of_blocks_decay():
    """Encoder x 0.1, ends of the model and everything that is no matrix x 0.01, both where both hold."""
    expected = {
        "encoder.blocks.0.attn.to_qkv.weight": (0.1, 0.2),
        "encoder.blocks.0.mlp.mlp.2.weight": (0.1, 0.2),
        "encoder.head.attention.to_kv.weight": (0.1, 0.2),
        "decoder.blocks.0.attn.to_out.weight": (1.0, 0.2),
        "encoder.blocks.0.norm1.weight": (0.001, 0.0),
        "encoder.blocks.0.attn.to_qkv.bias": (0.001, 0.0),
        "encoder.head.probe": (0.001, 0.0),
        "encoder.pos_embedder.position_embedding.weight": (0.001, 0.0),
        "encoder.input_layer.weight": (0.001, 0.0),
        "proj.weight": (0.001, 0.0),
        "decoder.blocks.0.attn.q_rms_norm.gamma": (0.01, 0.0),
        "decoder.out_norm.weight": (0.01, 0.0),
        "decoder.pos_embedder.position_embedding.weight": (0.01, 0.0),
        "decoder.input_layer.weight": (0.01, 0.0),
        "decoder.out_layer.weight": (0.01, 0.0),
    }
    found = groups_by_name()
    assert {name: tuple(round(x, 9) for x in found[name]) for name in expected} == expected
    decayed = {name for name, (_, decay) in found.items() if decay}
    assert all(".blocks." in name or ".head." in name for name in decayed)
    assert len(found) == len(list(tiny_tokenizer((1, 2, 2)).parameters()))


def test_frozen_parameters_are_in_no_group():
    found = groups_by_name(("encoder.", "proj."))
    assert {name.split(".")[0] for name in found} == {"decoder"}
    model = tiny_tokenizer((1, 2, 2))
    model.freeze(["encoder", "proj", "decoder"])
    with pytest.raises(ConfigError, match="freeze leaves no parameter to train"):
        make_adamw(model, CONFIG)


def test_learning_rate_by_hand():
    """Four steps up, then half a cosine over the other eight, down to the last step."""
    config = OptimizerConfig(lr=1.0, min_lr=0.2, warmup=4)
    values = [learning_rate(config, step, 13) for step in range(13)]
    assert values[:5] == [0.25, 0.5, 0.75, 1.0, 1.0]
    assert values[8] == pytest.approx(0.6)
    assert values[6] == pytest.approx(0.2 + 0.4 * (1 + 2**-0.5))
    assert values[12] == pytest.approx(0.2)
    assert learning_rate(config, 99, 13) == pytest.approx(0.2)
    assert learning_rate(OptimizerConfig(lr=1.0, min_lr=0.2, warmup=0), 0, 1) == 1.0


def test_set_lr_respects_the_scales():
    optimizer = make_adamw(tiny_tokenizer((1, 2, 2)), CONFIG)
    set_lr(optimizer, 2.0)
    assert sorted({round(group["lr"], 9) for group in optimizer.param_groups}) == [0.002, 0.02, 0.2, 2.0]


def test_averages_by_hand():
    """Decay min(0.5, (1 + t) / (10 + t)): 2/11, 3/12, ..., 0.5 from step 8 on."""
    model = nn.Linear(1, 1, bias=False)
    with torch.no_grad():
        model.weight.fill_(1.0)
        averages, expected = AveragedWeights(model, 0.5), 1.0
        for step in range(1, 12):
            model.weight.fill_(float(step * step))
            averages.update(model, step)
            decay = min(0.5, (1 + step) / (10 + step))
            expected = decay * expected + (1 - decay) * step * step
            assert float(averages.values["weight"]) == pytest.approx(expected, rel=1e-6)


def test_swapping_twice_changes_nothing():
    model = tiny_tokenizer((1, 2, 2))
    averages = AveragedWeights(model, 0.9)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1)
    trained = {name: p.detach().clone() for name, p in model.named_parameters()}
    held = {name: value.clone() for name, value in averages.values.items()}
    averages.swap(model)
    assert all(torch.equal(p, held[name]) for name, p in model.named_parameters())
    assert all(torch.equal(value, trained[name]) for name, value in averages.values.items())
    averages.swap(model)
    assert all(torch.equal(p, trained[name]) for name, p in model.named_parameters())
    assert all(torch.equal(value, held[name]) for name, value in averages.values.items())
