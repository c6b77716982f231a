"""Canonical texts, templates, label vectors by hand, and the cache of text embeddings."""

from __future__ import annotations

import multiprocessing
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tok4d.data.recipes import load_recipe
from tok4d.errors import ConfigError, DataError, Tok4dError
from tok4d.text import TEMPLATES, EmbeddingCache, TextEncoder, load_text_encoder, zero_shot_weights
from tok4d.text.hf import describing_files, transformers
from tok4d.text.minilm import mean_pool
from tok4d.text.siglip2 import canonicalize
from tok4d.text.zero_shot import check_labels, fill, load_templates, read_lines
from tok4d.weights.folder import write_tensors

TABLE = {"x": (3.0, 0.0), "a x": (0.0, 5.0), "y": (-1.0, 0.0), "a y": (-2.0, 0.0), "": (0.0, 1.0)}


class Table(TextEncoder):
    """A tower that looks texts up, and counts the texts it is given."""

    kind, width, device = "table", 2, torch.device("cpu")

    def __init__(self, digest: str = "d" * 64) -> None:
        self._digest, self.seen = digest, []

    @property
    def digest(self) -> str:
        return self._digest

    def canonical(self, text: str) -> str:
        return canonicalize(text)

    def forward(self, texts: list[str]) -> Tensor:
        self.seen += texts
        return torch.tensor([TABLE[text] for text in texts])


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("This is a photo of a Cat.", "this is a photo of a cat"),
        ("  two\n\twords  ", "two words"),
        ("T-shirt, red_blue!", "tshirt red blue"),
        ("ÉTÉ «là»", "été «là»"),
        ("{}?!", ""),
    ],
)
def test_canonical_texts(text, canonical):
    assert canonicalize(text) == canonical
    assert canonicalize(canonical) == canonical


def test_encode_normalises_and_asks_for_each_text_once():
    tower = Table()
    expected = torch.tensor([[1.0, 0], [0, 1], [1, 0], [-1, 0], [1, 0]])
    assert torch.equal(tower.encode(["x", "a x", "X!", "y", " x "]), expected)
    assert tower.seen == ["x", "a x", "y"]
    assert tower.encode([]).shape == (0, 2)
    with pytest.raises(Tok4dError, match="must be a list of strings, got the string 'x'"):
        tower.encode("x")


def test_the_mean_over_tokens_leaves_padding_out():
    states = torch.tensor([[[1.0, 2], [3, 6], [100, 100]], [[5, 5], [7, 7], [9, 9]]])
    mask = torch.tensor([[1, 1, 0], [0, 0, 0]])
    assert mean_pool(states, mask).tolist() == [[2, 4], [0, 0]]


def test_label_vectors_are_means_of_unit_vectors():
    half = 0.5**0.5
    found = zero_shot_weights(Table(), ["x", "y"], ["{}", "a {label}"])
    torch.testing.assert_close(found, torch.tensor([[half, half], [-1, 0]]))
    assert torch.equal(zero_shot_weights(Table(), ["x"], ["{}."]), torch.tensor([[1.0, 0]]))


def test_templates_fill_in_one_place():
    assert fill("a {} in a {label}", "cat") == "a {} in a cat"
    assert fill("a {} of {0!r}", "{label}") == "a {label} of {0!r}"
    assert [fill(t, "cat") for t in TEMPLATES["siglip"] + TEMPLATES["plain"]] == ["This is a photo of cat.", "cat"]
    assert len(TEMPLATES["openai7"]) == 7
    assert all(fill(template, "") != template for some in TEMPLATES.values() for template in some)


@pytest.mark.parametrize(
    ("labels", "error"),
    [
        ([], "no labels"),
        (["x", "?!"], r"label '\?!' holds nothing to read"),
        (["x", "y", "x"], "label 'x' is there twice"),
        (["x", "X."], r"labels 'x' and 'X\.' are the same text: 'x'"),
    ],
)
def test_labels_that_cannot_be_told_apart(labels, error):
    with pytest.raises(Tok4dError, match=error):
        zero_shot_weights(Table(), labels, ["{}"])


def test_labels_before_there_is_a_tower():
    check_labels(["x", "X."])
    with pytest.raises(Tok4dError, match="is there twice"):
        check_labels(["x", "x"])
    with pytest.raises(Tok4dError, match="the same text: 'x'"):
        check_labels(["x", " x"])


def test_templates_by_name_and_from_files(tmp_path):
    assert load_templates("openai7") is TEMPLATES["openai7"]
    path = tmp_path / "mine.txt"
    path.write_bytes("\ufeffa {}\r\n\r\n  ein {label} \u2028 dort\n".encode())
    assert load_templates(str(path)) == ("a {}", "ein {label} \u2028 dort")
    with pytest.raises(Tok4dError, match=r"Did you mean 'plain'\? .*or a file with one template a line"):
        load_templates("plian")
    for content, error in (
        ("a {}\nno place", "template 'no place' has no place for the label"),
        ("\n", "no templates: give at least one"),
        (b"\xff\xfe{}", "not UTF-8 text"),
    ):
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        with pytest.raises(DataError, match=error) as caught:
            load_templates(str(path))
        assert caught.value.path == str(path)
    with pytest.raises(DataError, match="No such file"):
        read_lines(tmp_path / "none.txt")
    with pytest.raises(Tok4dError, match="no templates"):
        zero_shot_weights(Table(), ["x"], [])


# --- cache ---


def test_a_list_is_embedded_once_by_tower_and_content(tmp_path):
    cache, tower = EmbeddingCache(tmp_path), Table()
    first = cache.encode(tower, ["x", "y"])
    assert torch.equal(first, torch.tensor([[1.0, 0], [-1, 0]]))
    again = Table()
    assert torch.equal(cache.encode(again, ["X!", "y"]), first)
    assert again.seen == [], "equal as the tower reads it"
    cache.encode(again, ["y", "x"])
    assert again.seen == ["y", "x"], "the order matters"
    other = Table("e" * 64)
    cache.encode(other, ["x", "y"])
    assert other.seen == ["x", "y"], "another tower"
    assert len([path for path in tmp_path.rglob("*") if path.is_file()]) == 3
    assert cache.path(tower, ["a b", "c"]) != cache.path(tower, ["a", "b c"])


@pytest.mark.parametrize(
    "spoil",
    [
        lambda path: path.write_bytes(path.read_bytes()[:20]),
        lambda path: path.write_bytes(b""),
        lambda path: write_tensors(path, {"embedding": torch.eye(3)}),
        lambda path: write_tensors(path, {"other": torch.eye(2)}),
        lambda path: write_tensors(path, {"embedding": torch.full((2, 2), float("nan"))}),
        lambda path: write_tensors(path, {"embedding": torch.zeros(2, 2)}),
        lambda path: write_tensors(path, {"embedding": torch.eye(2).double()}),
    ],
)
def test_a_broken_cache_file_is_made_anew(tmp_path, spoil):
    cache, texts = EmbeddingCache(tmp_path), ["x", "y"]
    expected = cache.encode(Table(), texts)
    spoil(cache.path(Table(), texts))
    again = Table()
    assert torch.equal(cache.encode(again, texts), expected)
    assert again.seen == texts
    healed = Table()
    cache.encode(healed, texts)
    assert healed.seen == []


def test_a_cache_that_cannot_be_written_changes_nothing(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    tower = Table()
    for _ in range(2):
        assert torch.equal(EmbeddingCache(tmp_path / "file").encode(tower, ["x"]), torch.tensor([[1.0, 0]]))
    assert tower.seen == ["x", "x"]
    monkeypatch.setenv("TOK4D_CACHE", str(tmp_path / "chosen"))
    EmbeddingCache().encode(tower, ["x"])
    assert [path.suffix for path in (tmp_path / "chosen" / "text" / tower.digest).iterdir()] == [".safetensors"]


def _compete(folder: Path) -> None:
    cache, texts = EmbeddingCache(folder), ["x", "a x", "y"]
    expected = Table().encode(texts)
    for _ in range(30):
        cache.path(Table(), texts).unlink(missing_ok=True)
        assert torch.equal(cache.encode(Table(), texts), expected)


@pytest.mark.skipif(sys.platform != "linux", reason="forks")
def test_processes_share_a_cache(tmp_path):
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=_compete, args=(tmp_path,)) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert [worker.exitcode for worker in workers] == [0] * 4
    EmbeddingCache(tmp_path).encode(Table(), ["x", "a x", "y"])
    assert [path.suffix for path in tmp_path.rglob("*") if path.is_file()] == [".safetensors"]


# --- around the towers ---


def test_without_transformers_the_error_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    for kind in ("siglip2", "minilm"):
        with pytest.raises(ConfigError, match=r"need the package 'transformers' .*pip install \"tok4d\[siglip\]\""):
            load_text_encoder(kind, str(tmp_path))
    monkeypatch.undo()
    assert transformers().__name__ == "transformers"


def test_an_unknown_tower_is_named():
    with pytest.raises(ConfigError, match=r"unknown text tower 'clip'.*Available: minilm, siglip2"):
        load_text_encoder("clip")


def test_the_identity_of_a_folder_covers_its_tokenizer(tmp_path):
    (tmp_path / "config.json").write_text("1")
    before = describing_files(tmp_path)
    (tmp_path / "vocab.txt").write_text("2")
    (tmp_path / "README.md").write_text("3")
    assert before == [b"config.json\0001"]
    assert describing_files(tmp_path) == [b"config.json\0001", b"vocab.txt\0002"]


def test_the_recipe_of_minilm_brings_what_the_tower_needs():
    (package,) = load_recipe("minilm").packages
    names = {Path(member).name for member in package.members}
    assert {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"} <= names
    assert len(names) == len(package.members), "members are unpacked under base names"
    assert not any(name.endswith((".bin", ".pt", ".py")) for name in names)
