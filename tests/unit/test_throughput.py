"""Operations counted by hand and by torch's own counter; shares and rates from a clock that is set by hand."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from made import make_tokens
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

from tok4d.config.schema import StackConfig, TaskConfig, TextConfig, TokenizerConfig
from tok4d.data.batches import Batch, validation_batches
from tok4d.model.tokenizer import Tokenizer
from tok4d.tokens import TokenSet
from tok4d.training.flops import forward_flops, product_peak
from tok4d.training.throughput import GoOn, Throughput

SMALL = StackConfig(width=16, blocks=2, heads=2, mlp=24)
CONFIG = TokenizerConfig(
    patch_size=[1, 2, 2], latent=4, encoder=SMALL, decoder=replace(SMALL, width=8, heads=1, blocks=3), tile_steps=2
)


def test_operations_of_two_pictures_by_hand():
    """Three and five tokens, W = 1*2*2*3 = 12: all figures are multiply-adds, doubled at the end."""
    tokens = make_tokens([3, 5], 12)
    encoder = 8 * 12 * 16 + 2 * (8 * 16 * 48 + 8 * 16 * 16 + 2 * 8 * 16 * 24 + 2 * (9 + 25) * 16)
    decoder = 8 * 4 * 8 + 3 * (8 * 8 * 24 + 8 * 8 * 8 + 2 * 8 * 8 * 24 + 2 * (9 + 25) * 8) + 8 * 8 * 12
    assert forward_flops(CONFIG, tokens) == 2 * (encoder + 8 * 16 * 8 + decoder)
    pooled = 8 * 16 * 32 + 16 * 16 + 2 * 8 * 16 + 2 * 16 * 16 + 2 * 2 * 16 * 24
    assert forward_flops(CONFIG, tokens, pool=True) == 2 * (encoder + 8 * 16 * 8 + decoder + pooled)
    assert forward_flops(CONFIG, tokens, decode=False) == 2 * (encoder + 8 * 16 * 8)
    aligned = replace(CONFIG, text=TextConfig(width=10))
    assert forward_flops(aligned, tokens, pool=True) == 2 * (encoder + 8 * 16 * 8 + decoder + pooled + 2 * 16 * 10)


def counted(work: Any) -> int:
    aten = torch.ops.aten
    kernels = {
        aten._scaled_dot_product_flash_attention_for_cpu: lambda q, k, v, *_, **__: sdpa_flop_count(q, k, v),
        aten._scaled_dot_product_flash_attention_for_cpu_backward: (
            lambda grad, q, k, v, *_, **__: sdpa_backward_flop_count(grad, q, k, v)
        ),
    }
    with FlopCounterMode(display=False, custom_mapping=kernels) as counter:
        work()
    return int(counter.get_total_flops())


def clip(steps: int, side: int) -> TokenSet:
    return make_tokens([steps * side * side] * 2, 12, (steps, side, side, 1), ordered=True)


@pytest.mark.parametrize("tokens", [make_tokens([4, 4, 6], 12), clip(5, 2)], ids=["pictures", "three tiles a clip"])
def test_operations_are_those_that_torch_counts(tokens):
    model = Tokenizer(CONFIG)
    with torch.no_grad():
        ran = counted(lambda: model.decode(model.encode(tokens).latents()))
    assert forward_flops(CONFIG, tokens, pool=True) == pytest.approx(ran, rel=1e-3)


def test_a_training_step_is_three_passes_but_for_two_things():
    """Patches need no gradient; and attention's backward pass computes its logits once more."""
    model, tokens = Tokenizer(CONFIG), make_tokens([40, 40], 12, (1, 8, 8, 1))

    def step() -> None:
        encoded = model.encode(tokens, pool=False)
        model.decode(encoded.latents()).feats.square().sum().backward()

    logits = 2 * (2 * 40 * 40) * (2 * 16 + 3 * 8)
    assert counted(step) == 3 * forward_flops(CONFIG, tokens) - 2 * 80 * 12 * 16 + logits


def test_the_peak_is_measured_once_and_plausible():
    first = product_peak("cpu", torch.float32, torch.get_num_threads())
    assert 1e8 < first < 1e14
    assert product_peak("cpu", torch.float32, torch.get_num_threads()) == first


def batches(task: str, side: int, count: int) -> Batch:
    config = TaskConfig("image/shapes", {"count": count, "side": side}, batch=count)
    return next(iter(validation_batches({task: config}, (1, 2, 2))))


def test_shares_and_rates_of_a_stage():
    """A step waits 1 s and works 3 s; then one of another task waits 2 s and works 4 s; 5 s of validation between."""
    now = [100.0]
    throughput = Throughput("float32", clock=lambda: now[0])
    logged: dict[str, float] = {}
    tasks = {"small": SimpleNamespace(pools=False, restores=True), "large": SimpleNamespace(pools=True, restores=True)}
    model = SimpleNamespace(config=CONFIG)
    module: Any = SimpleNamespace(objectives=tasks, tokenizer=model, device=torch.device("cpu"), log_dict=logged.update)
    trainer: Any = SimpleNamespace(is_global_zero=False, world_size=2)
    small, large = batches("small", 4, 3), batches("large", 8, 2)  # 3 x 4 and 2 x 16 tokens
    throughput.on_train_start(trainer, module)
    for batch, waiting, working in ((small, 1, 3), (large, 2, 4)):
        now[0] += waiting
        throughput.on_train_batch_start(trainer, module, batch, 0)
        now[0] += working
        throughput.on_train_batch_end(trainer, module, None, batch, 0)
        now[0] += 5
        GoOn(throughput).on_train_batch_end(trainer, module)
    throughput.sums.peak = 1e6
    found = throughput.sums.summary()
    assert found["seconds"] == 10
    assert found["waiting_share"] == pytest.approx(0.3)
    assert found["tokens_per_second"] == pytest.approx(2 * 44 / 10)
    assert found["samples_per_second"] == pytest.approx(2 * 5 / 10)
    flops = 3 * (forward_flops(CONFIG, small.tokens) + forward_flops(CONFIG, large.tokens, pool=True))
    assert found["flops_per_second"] == pytest.approx(2 * flops / 10)
    assert found["peak_share"] == pytest.approx(flops / 10 / 1e6)
    assert found["flops_per_token"] == pytest.approx(flops / 44)
    assert found["tasks"]["small"] == {
        "tokens": 12, "samples": 3, "batches": 1, "token_share": 12 / 44, "batch_share": 0.5
    }  # fmt: skip
    assert logged["waiting_share"] == pytest.approx(0.3)
