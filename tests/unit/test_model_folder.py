"""Model folders: bit-exact round trips, a digest that sees everything, and clear errors for broken ones."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
import torch
import yaml
from made import make_tokens
from safetensors.torch import load_file, save_file

from tok4d import Tokenizer
from tok4d.errors import DataError, Tok4dError
from tok4d.testing.models import tiny_tokenizer
from tok4d.weights import folder


@pytest.fixture
def model() -> Tokenizer:
    made = tiny_tokenizer((1, 2, 2))
    made.latent_mean.add_(0.5)
    return made


@pytest.fixture
def saved(model, tmp_path) -> Path:
    model.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def test_a_model_comes_back_bit_for_bit(model, saved):
    loaded = Tokenizer.from_pretrained(saved)
    state = model.state_dict()
    assert list(loaded.state_dict()) == list(state)
    assert all(torch.equal(value, state[name]) for name, value in loaded.state_dict().items())
    assert not loaded.training
    assert all(parameter.requires_grad for parameter in loaded.parameters())
    tokens = make_tokens([20, 3], 12)
    with torch.no_grad():
        assert torch.equal(loaded.encode(tokens).posterior.mean, model.encode(tokens).posterior.mean)
    assert loaded.digest == model.digest
    assert loaded.config == model.config
    assert sorted(path.name for path in saved.iterdir()) == ["config.yaml", "model.safetensors"]


def test_half_precision_stays_half_precision(model, tmp_path):
    model.bfloat16().save_pretrained(tmp_path / "half")
    assert Tokenizer.from_pretrained(tmp_path / "half").proj.weight.dtype == torch.bfloat16


def test_a_loaded_model_does_not_need_its_file_any_more(model, saved):
    loaded = Tokenizer.from_pretrained(saved)
    (saved / "model.safetensors").write_bytes(b"")
    assert loaded.digest == model.digest


def test_the_digest_sees_one_bit_and_the_config(model):
    before = model.digest
    assert len(before) == 64
    with torch.no_grad():
        bits = model.proj.weight.view(torch.int32)
        bits[3, 4] ^= 1
    changed = model.digest
    assert changed != before
    with torch.no_grad():
        bits[3, 4] ^= 1
    assert model.digest == before
    model.config.cached_steps = 0
    assert model.digest != before


def test_the_digest_is_over_sorted_names_and_bytes():
    config = tiny_tokenizer((1, 2, 2)).config
    tensors = {"b": torch.arange(3.0), "a": torch.ones(2, 2, dtype=torch.bfloat16).T}
    digest = folder.digest(config, tensors)
    assert digest == folder.digest(config, dict(reversed(tensors.items())))
    assert digest != folder.digest(config, {**tensors, "b": torch.arange(3.0).double()})
    assert digest != folder.digest(config, {**tensors, "b": torch.arange(3.0)[None]})
    assert digest != hashlib.sha256(b"").hexdigest()


def test_writing_where_one_cannot_is_a_clear_error(model, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match="the model cannot be written"):
        model.save_pretrained(tmp_path / "file")


def test_an_interrupted_write_keeps_the_old_model(model, saved, monkeypatch):
    before = {path.name: path.read_bytes() for path in saved.iterdir()}

    def full(*_args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(folder.os, "replace", full)
    with pytest.raises(DataError, match="No space left on device"):
        tiny_tokenizer((1, 2, 2), seed=9).save_pretrained(saved)
    assert {path.name: path.read_bytes() for path in saved.iterdir()} == before


def test_a_full_disk_is_an_os_error_whoever_writes(tmp_path, monkeypatch):
    def full(*_args: object) -> None:
        raise folder.SafetensorError("I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(folder, "save_file", full)
    with pytest.raises(OSError, match="No space left on device"):
        folder.write_tensors(tmp_path / "a", {"a": torch.zeros(1)})
    assert list(tmp_path.iterdir()) == []


def test_tensors_of_any_kind_go_through_a_file_and_lie_at_even_addresses(tmp_path):
    """What lies at an odd place of the file must not stay there: it changes the last bits of matrix products."""
    tensors = {
        "bytes": torch.arange(3, dtype=torch.uint8),
        "halves": torch.arange(5, dtype=torch.bfloat16),
        "turned": torch.arange(6.0).view(2, 3).T,
        "flags": torch.tensor([True, False]),
        "one": torch.tensor(7),
        "none": torch.zeros(0, 3),
    }
    folder.write_tensors(tmp_path / "a.safetensors", tensors, {"format": "test"})
    for read in (folder.read_tensors(tmp_path / "a.safetensors"), load_file(tmp_path / "a.safetensors")):
        assert read.keys() == tensors.keys()
        assert all(
            torch.equal(read[name], value) and read[name].dtype == value.dtype for name, value in tensors.items()
        )
    read = folder.read_tensors(tmp_path / "a.safetensors")
    assert {value.data_ptr() % 64 for value in read.values()} == {0}


def drop(name: str):
    return lambda path: (path / name).unlink()


def truncate(size: int):
    return lambda path: (path / "model.safetensors").write_bytes((path / "model.safetensors").read_bytes()[:size])


def tensors(change):
    def apply(path: Path) -> None:
        data = load_file(path / "model.safetensors")
        save_file(change({k: v.clone() for k, v in data.items()}), path / "model.safetensors")

    return apply


def config(**values: object):
    def apply(path: Path) -> None:
        data = {**yaml.safe_load((path / "config.yaml").read_text()), **values}
        (path / "config.yaml").write_text(yaml.safe_dump(data))

    return apply


@pytest.mark.parametrize(
    ("damage", "error"),
    [
        (drop("config.yaml"), "not a model folder: it has no config.yaml"),
        (drop("model.safetensors"), "model.safetensors: no such file"),
        (truncate(0), "not a complete safetensors file"),
        (truncate(5), "not a complete safetensors file"),
        (truncate(5000), "not a complete safetensors file"),
        (truncate(-1), "not a complete safetensors file"),
        (config(latent=24), r"has proj.weight \(96, 32\) instead of \(48, 32\)"),
        (config(latent=24), "and 1 more"),
        (config(positions="rope"), "has unknown encoder.pos_embedder.position_embedding.weight"),
        (config(latnet=24), "Did you mean 'latent'"),
        (config(patch_size="big"), "patch_size"),
        (tensors(lambda t: {k: v for k, v in t.items() if k != "proj.weight"}), "lacks proj.weight"),
        (tensors(lambda t: {**t, "proj.bias": torch.zeros(2)}), "has unknown proj.bias"),
        (
            tensors(lambda t: {**t, "proj.weight": t["proj.weight"].int()}),
            "has proj.weight of type torch.int32 instead of torch.float32",
        ),
    ],
)
def test_broken_folders_are_one_clear_error(saved, damage, error):
    damage(saved)
    with pytest.raises(Tok4dError, match=error) as caught:
        Tokenizer.from_pretrained(saved)
    assert str(saved) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_path_that_is_no_folder(tmp_path):
    (tmp_path / "file").touch()
    for name in ("file", "missing"):
        with pytest.raises(DataError, match="no such model folder"):
            Tokenizer.from_pretrained(tmp_path / name)
