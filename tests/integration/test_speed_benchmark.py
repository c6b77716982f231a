"""The speed benchmark compares like with like, and writes what it promises. No times are asserted."""

from __future__ import annotations

import json

import pytest
import torch
import torch.nn.functional as F

from tok4d.modality import patch_width
from tok4d_bench.speed import build, count_flops, main
from tok4d_bench.speed_parts import BareProducts, Load, full_pass, training_step

DTYPES = {"float32": torch.float32, "bf16": torch.bfloat16}


@pytest.fixture(autouse=True)
def one_thread():
    """Threads that wait for a core cost such small passes more than their work."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def model():
    return build("tiny", 2)


def sides(model, name, dtype="float32"):
    load = Load.parse(name, model.config)
    tokens = load.tokens(patch_width(model.patch_size), DTYPES[dtype])
    return tokens, BareProducts(model, tokens)


@pytest.mark.parametrize("name", ["1x64", "3x48", "clip16"])
def test_both_sides_do_the_same_products(model, name):
    tokens, bare = sides(model, name)
    with torch.no_grad():
        flops = count_flops(bare.forward)
        assert flops == count_flops(lambda: full_pass(model, tokens))
    config, length = model.config, len(tokens.feats) // len(tokens)
    width, hidden = config.encoder.width, config.encoder.mlp
    block = 2 * tokens.num_tokens * (4 * width * width + 2 * width * hidden + 2 * length * width)
    assert 4 * block < flops < 8 * block  # two blocks a stack, and the ends


def test_both_sides_make_the_same_calls(model, monkeypatch):
    """Shapes of every product and attention, in order; also those that the counter leaves out (vectors)."""
    calls: list[tuple[object, ...]] = []

    def record(name):
        plain = getattr(F, name)

        def call(*args, **kwargs):
            calls.append((name, *(tuple(x.shape) if x is not None else None for x in args)))
            return plain(*args, **kwargs)

        return call

    for name in ("linear", "scaled_dot_product_attention"):
        monkeypatch.setattr(F, name, record(name))
    tokens, bare = sides(model, "2x64")
    with torch.no_grad():
        full_pass(model, tokens)
        of_model = sorted(calls, key=str)
        calls.clear()
        bare.forward()
    assert of_model == sorted(calls, key=str)
    assert sum(name == "scaled_dot_product_attention" for name, *_ in calls) == 5


def test_a_training_step_has_the_products_of_its_bare_side(model):
    tokens, bare = sides(model, "2x64")
    assert count_flops(bare.forward_backward) == count_flops(lambda: training_step(model, tokens))


def test_the_bare_side_leaves_the_model_as_it_was(model):
    before = {name: value.clone() for name, value in model.state_dict().items()}
    bare = sides(model, "1x64")[1]
    bare.forward_backward()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize("dtype", DTYPES)
def test_passes_that_overwrite_give_what_passes_with_gradients_give(dtype):
    model = build("tiny", 2).to(DTYPES[dtype])
    tokens, _ = sides(model, "2x64", dtype)
    before = tokens.feats.clone()
    traced = full_pass(model, tokens).feats
    with torch.no_grad():
        first, second = (full_pass(model, tokens).feats for _ in range(2))
    assert traced.requires_grad
    torch.testing.assert_close(first, traced.detach())
    assert torch.equal(first, second)
    assert torch.equal(tokens.feats, before)


@pytest.mark.slow
def test_the_command_writes_its_report(tmp_path, capsys):
    out = tmp_path / "new" / "speed.json"
    options = ["--preset", "tiny", "--loads", "1x64,clip4", "--training", "1x64", "--repeats", "1", "--memory", "1024"]
    main([*options, "-o", str(out)])
    report = json.loads(out.read_text())
    assert report["preset"] == "tiny"
    assert report["command"].startswith("python -m tok4d_bench.speed --preset tiny")
    assert report["machine"]["torch"] == torch.__version__
    assert [(row["load"], row["dtype"], row["tokens"]) for row in report["loads"]] == [
        ("1x64", "float32", 16),
        ("clip4", "float32", 256),
        ("1x64", "bf16", 16),
        ("clip4", "bf16", 256),
    ]
    for row in [*report["loads"], report["training"]]:
        model, bare = row["model"], row["bare"]
        assert model["flops"] == bare["flops"] > 0
        assert len(model["cpu_seconds"]) == len(bare["seconds"]) == 1
        assert row["ratio"] == pytest.approx(model["median_cpu_seconds"] / bare["median_cpu_seconds"], abs=1e-3)
    assert all({"linear", "attention", "gelu", "nn/norms.py"} <= set(row["parts"]) for row in report["loads"])
    assert [row["kind"] for row in report["memory"]] in ([], ["image", "clip"])
    assert all(min(row["bytes"]) >= 0 for row in report["memory"])
    table = out.with_suffix(".md").read_text()
    assert "| clip4 | bf16 | 4 | 256 |" in table
    assert table.strip() in capsys.readouterr().out


@pytest.mark.parametrize("name", ["huge", "1x", "clip", "clip17", "x256"])
def test_a_load_that_cannot_be_is_refused(model, name):
    with pytest.raises(ValueError, match=name):
        Load.parse(name, model.config)
