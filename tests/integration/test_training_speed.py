"""The benchmark of training steps: what it compares and what it writes. No times are asserted."""

from __future__ import annotations

import json

import pytest

from tok4d.model.tokenizer import Tokenizer
from tok4d_bench import training_speed


def test_a_step_multiplies_no_more_than_the_bare_products(tmp_path, monkeypatch):
    stack = {"width": 64, "blocks": 1, "heads": 1, "mlp": 64}
    monkeypatch.setattr(training_speed, "build", lambda name: Tokenizer.from_preset(name, encoder=stack, decoder=stack))
    out = tmp_path / "speed.json"
    training_speed.main(["--presets", "tiny", "--pictures", "2x32", "--repeats", "1", "-o", str(out)])
    report = json.loads(out.read_text())
    (row,) = report["steps"]
    assert (row["preset"], row["tokens"], report["limit"]) == ("tiny", 8, 1.3)
    assert row["ratio"] == pytest.approx(
        row["step"]["median_cpu_seconds"] / row["bare"]["median_cpu_seconds"], rel=0.01
    )
    assert row["step"]["flops"] == row["loss"]["flops"]
    # Both ends with a quarter of the channels: forward and the weights' gradients twice, the stream's gradient once.
    saved = 2 * 8 * 64 * (3072 - 768) * (2 + 3)
    assert row["bare"]["flops"] - row["step"]["flops"] == saved
