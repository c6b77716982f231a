"""The model equals the numeric contract on golden data: max abs error 5e-5 in float32, FSQ indices exact."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

import pytest
import torch
from goldens import COMPACT, FULL, ROOT, load_case, load_model, pack
from safetensors.torch import load_file

from tok4d import Tokenizer
from tok4d.config.schema import FSQConfig
from tok4d.model.fsq import FSQ

TOLERANCE = 5e-5
ROW_SUM_TOLERANCE = 5e-4
CASES = sorted(
    (folder.name, case.stem)
    for folder in ROOT.iterdir()
    if folder.is_dir()
    for case in folder.glob("[a-e]_*.safetensors")
)

model = cache(lambda name: load_model(ROOT / name))


def close(actual: torch.Tensor, expected: torch.Tensor, tolerance: float = TOLERANCE) -> None:
    assert (actual.double() - expected.double()).abs().max() <= tolerance


def test_the_compact_subset_is_part_of_the_full_set() -> None:
    """What travels with the repository is the same data, so that a stranger's run means the same."""
    if ROOT == COMPACT:
        assert CASES == [("c16_hd16", "a_image"), ("c16_hd16", "e_mixed")]
        return
    for path in COMPACT.rglob("*.safetensors"):
        full = load_file(FULL / path.relative_to(COMPACT))
        for name, tensor in load_file(path).items():
            whole = full[name] if name in full else full[name.removesuffix("_768")][:, :768]
            assert tensor.dtype == whole.dtype
            assert torch.equal(tensor, whole), f"{path}: {name}"


def test_the_compact_subset_stays_small() -> None:
    """Every clone carries it."""
    assert sum(path.stat().st_size for path in COMPACT.rglob("*") if path.is_file()) < 5_000_000


@pytest.mark.parametrize(("folder", "case"), CASES)
@torch.no_grad()
def test_encode(folder: str, case: str) -> None:
    tokens, golden = load_case(ROOT / folder, case)
    encoded = model(folder).encode(tokens)
    close(encoded.posterior.mean, golden["mean"])
    close(encoded.posterior.logvar, golden["logvar"])
    close(encoded.posterior.kl(), golden["kl"], ROW_SUM_TOLERANCE)
    close(encoded.features.feats, golden["x_no_proj"])
    close(encoded.pooled, golden["image_feat"])
    close(encoded.embedding, golden["image_feat_normalized"])


@pytest.mark.parametrize(("folder", "case"), CASES)
@torch.no_grad()
def test_decode(folder: str, case: str) -> None:
    tokens, golden = load_case(ROOT / folder, case)
    latents = tokens.replace(golden.get("fsq_codes", golden["mean"]))
    patches = model(folder).decode(latents).feats
    expected = golden["decode_feats"] if "decode_feats" in golden else golden["decode_feats_768"]
    close(patches[:, : expected.shape[1]], expected)
    close(patches.double().sum(1), golden["decode_rowsum"], ROW_SUM_TOLERANCE)


@pytest.mark.parametrize(("folder", "case"), [pair for pair in CASES if pair[0].endswith("fsq")])
@torch.no_grad()
def test_codes(folder: str, case: str) -> None:
    tokens, golden = load_case(ROOT / folder, case)
    codes = model(folder).quantize(model(folder).encode(tokens))
    assert torch.equal(codes.indices, golden["fsq_indices"])
    close(codes.values, golden["fsq_codes"], 0.0)


@pytest.mark.parametrize("folder", sorted({path.parent.name for path in ROOT.glob("*/c2_video_kvcache.safetensors")}))
@pytest.mark.parametrize(("steps", "cached"), [(3, 1), (2, 2)])
@torch.no_grad()
def test_decode_with_cached_steps(folder: str, steps: int, cached: int) -> None:
    """Tiles of `steps` latent steps that see the last `cached` ones of the tile before."""
    golden = load_file(ROOT / folder / "c2_video_kvcache.safetensors")
    fresh: Tokenizer = load_model(ROOT / folder)
    fresh.config.tile_steps = fresh.decoder.tile_steps = steps
    patches = fresh.decode(pack(golden["mean"], golden["coords"]), cached_steps=cached).feats
    name = f"stride{4 * steps}_kv{4 * cached}"
    close(patches[:, :768], golden[f"decode_feats_{name}"])
    close(patches.double().sum(1), golden[f"decode_rowsum_{name}"], ROW_SUM_TOLERANCE)
    uncached = fresh.decode(pack(golden["mean"], golden["coords"]), cached_steps=0).feats
    assert (patches - uncached).abs().max() > 100 * TOLERANCE, "the cache must matter for this test to mean anything"


BOOKS = json.loads((ROOT / "fsq_only.json").read_text())["codebooks"]


@pytest.mark.parametrize("name", sorted(BOOKS))
def test_fsq_alone(name: str) -> None:
    golden = load_file(Path(ROOT) / "fsq_only.safetensors")
    book = BOOKS[name]
    quantizer = FSQ(FSQConfig(groups=book["num_codebooks"], levels=book["levels"]))
    values, indices = quantizer(golden[f"{name}.z"])
    assert torch.equal(indices, golden[f"{name}.indices"].view(indices.shape))
    assert torch.equal(values, golden[f"{name}.codes"])
    assert torch.equal(quantizer.values(indices), values)
