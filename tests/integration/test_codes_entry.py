"""`python -m tok4d_bench.codes_entry` on a model that started linearly."""

from __future__ import annotations

import json

from tok4d.config.loader import load_curriculum
from tok4d.training.start import fresh_model
from tok4d_bench import codes_entry


def test_uneven_levels_lose_less_of_a_linear_start(tmp_path, monkeypatch, capsys):
    image = "image: {source: image/shapes, batch: 4, options: {split: OF, count: 64, side: 64}}"
    kept = [
        f"stages.codes.{key}={{{image.replace('OF', of)}}}" for key, of in (("tasks", "train"), ("validation", "val"))
    ]
    overrides = ["model.overrides.latent=48", *kept]
    fresh_model(load_curriculum("smoke", overrides)).save_pretrained(tmp_path / "model")
    out = tmp_path / "codes.json"
    given = ["--curriculum", "smoke", "-m", str(tmp_path / "model"), "-o", str(out)]
    levels = ["--levels", "4,4,4,4,4,4", "16,3,3,3,3,3"]
    monkeypatch.setattr("sys.argv", ["codes_entry", *given, *levels, "--", *overrides])
    codes_entry.main()
    report = json.loads(out.read_text())
    continuous, even, uneven = report["rows"]
    assert [even["bits"], uneven["bits"]] == [96.0, 95.4]
    assert continuous["psnr"]["image"] > uneven["psnr"]["image"] > even["psnr"]["image"] + 1
    assert len(capsys.readouterr().out.splitlines()) == 3
    assert report["command"].startswith("python -m tok4d_bench.codes_entry --curriculum smoke")
