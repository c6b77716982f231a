"""`init: siglip2` with `rope_ramp`: training starts exactly at the tower and takes RoPE in step by step."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
import torch.nn.functional as F

sys.path.insert(0, str(Path(__file__).parents[1] / "parity"))

import siglip2_towers as towers

from tok4d import Tokenizer, TokenSet
from tok4d.config.loader import load_curriculum
from tok4d.config.schema import Curriculum
from tok4d.errors import ConfigError
from tok4d.patches import patchify
from tok4d.training.check import check_curriculum
from tok4d.training.module import TokenizerModule
from tok4d.training.run import train
from tok4d.training.start import fresh_model
from tok4d.weights.siglip2 import siglip2_config

RAMP, STEPS = 4, 6
BITS = ("model.safetensors", "config.yaml", "training/weights.safetensors", "training/optimizer.safetensors")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return towers.save(towers.naflex(), tmp_path_factory.mktemp("hub") / "tower")


def curriculum(folder: Path, **changes: Any) -> Curriculum:
    model = {
        "positions": "joint",
        "decoder": {"width": 32, "blocks": 1, "heads": 1, "mlp": 32},
        **siglip2_config(folder),
        **changes.pop("overrides", {}),
    }
    images = {"steps": STEPS, "rope_ramp": RAMP, **changes.pop("images", {})}
    options = {
        "model": {"overrides": model},
        "init": "siglip2",
        "init_from": str(folder),
        "checkpoint_every": 1,
        "order": ["images"],
        "stages": {"images": images},
        **changes,
    }
    made = load_curriculum("smoke", options)
    made.stages["images"].every_step = {}  # one batch a step
    return made


class Watch(pl.Callback):
    """The encoder's and the decoder's scale in every step, and an end in the middle where one is asked for."""

    def __init__(self, stop: int | None = None) -> None:
        self.seen: list[tuple[int, float, float]] = []
        self.stop = stop

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        assert isinstance(pl_module, TokenizerModule)
        if pl_module.trained == self.stop:
            raise ConnectionResetError("the machine went away")
        model = pl_module.tokenizer
        self.seen.append((pl_module.trained, model.encoder.rope_scale, model.decoder.rope_scale))


@pytest.fixture(scope="module")
def whole(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Watch]:
    out, watch = tmp_path_factory.mktemp("whole") / "run", Watch()
    train(curriculum(folder), out, callbacks=lambda *_: [watch])
    return out, watch


def test_the_first_step_is_the_tower(folder):
    config = curriculum(folder)
    model = fresh_model(config).eval()
    pictures = [towers.picture(3, 7), towers.picture(5, 5, seed=1)]
    tokens = TokenSet.pack([patchify(image, "image") for image in pictures])
    expected = towers.run_naflex(towers.naflex(), pictures)
    pooled = torch.stack([one for _, one in expected])
    with torch.no_grad():
        assert not torch.allclose(model.encode(tokens).embedding, F.normalize(pooled, dim=-1), atol=1e-3)
        module = TokenizerModule(model, config.stages["images"])
        encoded = module.tokenizer.encode(tokens)
    torch.testing.assert_close(encoded.embedding, F.normalize(pooled, dim=-1), atol=1e-4, rtol=0)
    features = torch.cat([one for one, _ in expected])
    torch.testing.assert_close(encoded.features.feats, features, atol=1e-4, rtol=0)


def test_the_scale_of_every_step(whole):
    out, watch = whole
    assert watch.seen == [(step, min(1.0, step / RAMP), 1.0) for step in range(STEPS)]
    last = Tokenizer.from_pretrained(out / "checkpoints" / "last")
    assert (last.encoder.rope_scale, last.config.rope_scale) == (1, 1)


def test_a_run_that_stops_in_the_ramp_continues_to_the_same_bits(folder, whole, tmp_path):
    out, moved = tmp_path / "run", tmp_path / "tower"
    config = curriculum(folder)
    with pytest.raises(ConnectionResetError):
        train(config, out, callbacks=lambda *_: [Watch(stop=3)])
    middle = Tokenizer.from_pretrained(out / "checkpoints" / "last")
    assert (middle.encoder.rope_scale, middle.decoder.rope_scale) == (3 / RAMP, 1)
    watch = Watch()
    folder.rename(moved)  # what a run started from is not needed to continue it
    try:
        train(config, out, resume=True, callbacks=lambda *_: [watch])
    finally:
        moved.rename(folder)
    assert watch.seen == [(3, 3 / RAMP, 1.0), (4, 1.0, 1.0), (5, 1.0, 1.0)]
    for name in BITS:
        assert (out / "checkpoints/last" / name).read_bytes() == (whole[0] / "checkpoints/last" / name).read_bytes()


def test_a_checkpoint_in_the_ramp_evaluates_as_in_training(folder, tmp_path):
    """What validation saw at step 2 is what the saved model gives."""
    config = curriculum(folder, validate_every=2, images={"steps": 4, "rope_ramp": 4})
    seen: list[float] = []
    tokens = patchify(towers.picture(3, 7), "image")

    class Compare(pl.Callback):
        def on_train_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
            assert isinstance(pl_module, TokenizerModule)
            if pl_module.trained != 2:
                return
            pl_module.ema.swap(pl_module.tokenizer)
            with torch.no_grad():
                live = pl_module.tokenizer.encode(tokens).features.feats
                kept = Tokenizer.from_pretrained(tmp_path / "run/checkpoints/last").encode(tokens).features.feats
            pl_module.ema.swap(pl_module.tokenizer)
            seen.append(float((live - kept).abs().max()))

    result = train(config, tmp_path / "run", callbacks=lambda *_: [Compare()])
    assert seen == [0.0]
    assert [row["step"] for row in result.validation] == [2, 4]


def test_without_a_ramp_the_models_own_scale_stays(folder, tmp_path):
    config = curriculum(
        folder,
        overrides={"rope_scale": 0.0},
        order=["frozen", "images"],
        stages={
            "frozen": {"steps": 1, "freeze": ["encoder"], "tasks": {"image": _shapes()}},
            "images": {"steps": 2, "rope_ramp": 2},
        },
    )
    watch = Watch()
    result = train(config, tmp_path / "run", callbacks=lambda *_: [watch])
    assert watch.seen == [(0, 0.0, 1.0), (0, 0.0, 1.0), (1, 0.5, 1.0)]
    assert result.model.config.rope_scale == 1


def _shapes() -> dict[str, Any]:
    return {"source": "image/shapes", "batch": 2, "options": {"count": 16, "side": 32}}


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"images": {"rope_ramp": 7}}, r"stages.images.rope_ramp: 7 steps do not fit into the stage's 6"),
        ({"overrides": {"positions": "table"}}, r"rope_ramp: this model has no RoPE \(positions: table\)"),
        ({"overrides": {"table_side": 4}}, r"init_from: SigLIP2 tower .* table_side is 4, not 16"),
        ({"init_from": "/nowhere"}, "init_from: /nowhere: no such folder"),
        (
            {
                "order": ["before", "images"],
                "stages": {"before": {"steps": 1, "tasks": {"image": _shapes()}}, "images": {"rope_ramp": 2}},
            },
            "stages.images.rope_ramp: earlier stages train with rope_scale 1, and a ramp starts at 0",
        ),
    ],
)
def test_what_cannot_work_is_refused_before_any_work(folder, tmp_path, changes, reason):
    config = curriculum(folder, **changes)
    with pytest.raises(ConfigError, match=reason):
        check_curriculum(config)
    with pytest.raises(ConfigError, match=reason):
        train(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_start_needs_its_source(folder):
    with pytest.raises(ConfigError, match="init_from goes with init: siglip2"):
        curriculum(folder, init_from="")
