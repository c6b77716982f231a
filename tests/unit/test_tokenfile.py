"""Token files: exact round trips, and a reader that survives anything."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import product
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from tok4d.errors import DataError, Tok4dError
from tok4d.model.fsq import Codes
from tok4d.origin import Origin
from tok4d.tokenfile import FORMAT, TokenFile, is_token_file, load_tokens, save_tokens
from tok4d.tokens import TokenSet

DIGEST = "ab" * 32
RELAXED = settings(
    max_examples=60, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def origin(shape=(3, 32, 48), grid=(1, 2, 3, 1), **rest) -> Origin:
    return Origin("radar", shape, grid, (4, 16, 16), **rest)


def grid_tokens(width: int = 5) -> TokenSet:
    """Two samples: a 2x3 grid with all six tokens, and one with none."""
    coords = torch.tensor([[0, x, y, 0] for x in range(2) for y in range(3)], dtype=torch.int32)
    feats = torch.arange(6 * width, dtype=torch.float32).view(6, width) / 7
    return TokenSet(feats, coords, (6, 0), (origin(fps=12.5, extra={"a": [1, None]}), origin()))


def saved(path: Path, tokens: TokenSet | Codes | None = None) -> Path:
    save_tokens(path, tokens or grid_tokens(), model_digest=DIGEST)
    return path


def rewrite(path: Path, change, tensors=None) -> Path:
    """The same file with another header, as a hostile writer would make it."""
    data = {**load_file(path), **(tensors or {})}
    length = int.from_bytes(path.read_bytes()[:8], "little")
    head = json.loads(json.loads(path.read_bytes()[8 : 8 + length])["__metadata__"][FORMAT])
    head = change(head) or head
    save_file({k: v for k, v in data.items() if v is not None}, path, {FORMAT: json.dumps(head)})
    return path


def same(file: TokenFile, tokens: TokenSet) -> bool:
    return (
        torch.equal(file.values, tokens.feats)
        and torch.equal(file.coords, tokens.coords)
        and file.lengths == tokens.lengths
        and file.origins == tokens.origins
    )


def test_latents_come_back_bit_for_bit(tmp_path):
    file = load_tokens(saved(tmp_path / "a.tok.safetensors"))
    assert same(file, grid_tokens())
    assert (file.version, file.digest, file.kind, file.modality) == (1, DIGEST, "latents", "radar")
    assert torch.equal(file.tokens().feats, grid_tokens().feats)
    assert file.tokens(torch.bfloat16).feats.dtype == torch.bfloat16


def test_codes_come_back_and_are_not_latents(tmp_path):
    tokens = grid_tokens(2)
    indices = torch.arange(12, dtype=torch.int32).view(6, 2)
    file = load_tokens(saved(tmp_path / "a", Codes(indices, tokens.feats, (64, 64), tokens)))
    assert file.kind == "codes"
    assert torch.equal(file.values, indices)
    with pytest.raises(Tok4dError, match="holds codes"):
        file.tokens()


def test_equal_tokens_give_equal_files(tmp_path):
    assert saved(tmp_path / "a").read_bytes() == saved(tmp_path / "b").read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a", "b"]  # nothing temporary stays


def test_float16_halves_the_values_and_refuses_what_it_cannot_hold(tmp_path):
    save_tokens(tmp_path / "a", grid_tokens(), model_digest=DIGEST, dtype=torch.float16)
    assert torch.equal(load_tokens(tmp_path / "a").values, grid_tokens().feats.half())
    large = grid_tokens().replace(torch.full((6, 5), 1e5))
    with pytest.raises(Tok4dError, match=r"latents up to 1e\+05 do not fit float16"):
        save_tokens(tmp_path / "b", large, model_digest=DIGEST, dtype=torch.float16)
    assert not (tmp_path / "b").exists()


@pytest.mark.parametrize(
    ("change", "error"),
    [
        (lambda t: TokenSet(t.feats, t.coords, t.lengths), "an origin per sample, got 0 for 2"),
        (lambda t: t.replace(t.feats * float("nan")), "NaN"),
        (lambda t: replace(t, origins=(origin(), replace(origin(), modality="sonar"))), "radar, sonar"),
        (lambda t: replace(t, coords=t.coords * 0), "duplicate coordinate"),
    ],
)
def test_what_could_not_be_read_is_not_written(tmp_path, change, error):
    with pytest.raises(Tok4dError, match=error):
        saved(tmp_path / "a", change(grid_tokens()))
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_does_not_exist_is_one_clear_error(tmp_path):
    with pytest.raises(DataError, match="cannot write"):
        saved(tmp_path / "missing" / "a")


def test_an_interrupted_write_keeps_the_old_file(tmp_path, monkeypatch):
    path = saved(tmp_path / "a")
    before = path.read_bytes()

    def full(*_args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("tok4d.weights.folder.os.replace", full)
    with pytest.raises(DataError, match="No space left"):
        saved(path, grid_tokens(9))
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


def test_files_that_are_no_token_files(tmp_path):
    (tmp_path / "empty").touch()
    (tmp_path / "text").write_text("hello, world")
    (tmp_path / "short").write_bytes(b"\1\2")
    (tmp_path / "long").write_bytes((10**15).to_bytes(8, "little") + b"{}" * 20)
    save_file({"weight": torch.zeros(2)}, tmp_path / "foreign")
    reasons = {
        "missing": "no such file",
        ".": "is a folder",
        "empty": "is empty",
        "text": "not a safetensors file",
        "short": "not a safetensors file",
        "long": "not a safetensors file",
        "foreign": "is a safetensors file, but not a token file",
    }
    for name, reason in reasons.items():
        with pytest.raises(DataError, match=reason):
            load_tokens(tmp_path / name)
        assert not is_token_file(tmp_path / name)
    assert is_token_file(saved(tmp_path / "good"))


def test_every_truncation_is_named(tmp_path):
    whole = saved(tmp_path / "a").read_bytes()
    for length in range(9, len(whole), 37):
        (tmp_path / "cut").write_bytes(whole[:length])
        with pytest.raises(DataError, match="truncated"):
            load_tokens(tmp_path / "cut")


def update(**values):
    return lambda head: {**head, **values}


HUGE = origin(shape=(10**4, 10**4, 10**4)).to_json()
WIDE = origin(grid=(1, 50_000, 50_000, 1)).to_json()


@pytest.mark.parametrize(
    ("change", "error"),
    [
        (update(version=2), "has token file version 2; this tok4d reads version 1"),
        (update(version=True), "version True"),
        (update(digest="abc"), "no valid model digest: 'abc'"),
        (update(kind="pixels"), "kind must be latents or codes, got 'pixels'"),
        (update(kind="codes"), "must hold the tensors coords and codes"),
        (update(modality="sonar"), "says modality 'sonar'"),
        (update(lengths=[5, 0]), "lengths"),
        (update(lengths=[6]), "has 1 lengths for 2 origins"),
        (update(lengths=[7, -1]), "lengths"),
        (update(lengths="60"), "lengths must be a list of integers"),
        (update(origins=[]), "must have an origin"),
        (update(origins=[HUGE, HUGE]), "would restore 2000000000000 values, the bound is 2147483648"),
        (update(origins=[WIDE, WIDE]), "has a grid of"),
        (update(origins=[origin().to_json(), {"modality": "radar"}]), "origin lacks the fields"),
        (update(origins=[origin(grid=(1, 2, 2, 1)).to_json()] * 2), "outside its grid"),
        (lambda head: [head], "expected a JSON object, got list"),
    ],
)
def test_a_header_that_lies_is_refused(tmp_path, change, error):
    path = rewrite(saved(tmp_path / "a"), change)
    with pytest.raises(DataError, match=error) as caught:
        load_tokens(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("tensors", "error"),
    [
        ({"coords": torch.zeros(6, 3, dtype=torch.int32)}, r"coords has dtype 'I32' and shape \[6, 3\]"),
        ({"coords": torch.zeros(6, 4)}, "coords has dtype 'F32'"),
        ({"coords": torch.zeros(5, 4, dtype=torch.int32)}, "has 5 coords for 6 latents"),
        ({"coords": torch.zeros(6, 4, dtype=torch.int32)}, "duplicate coordinate"),
        ({"coords": torch.full((6, 4), -1, dtype=torch.int32)}, "negative coordinate"),
        ({"latents": torch.full((6, 5), float("inf"))}, "NaN or infinite"),
        ({"latents": torch.zeros(6, 5, dtype=torch.float64)}, "latents has dtype 'F64'"),
        ({"latents": torch.zeros(30)}, r"shape \[30\]"),
        ({"latents": None}, "must hold the tensors coords and latents"),
        ({"other": torch.zeros(1)}, "must hold the tensors"),
    ],
)
def test_tensors_that_do_not_fit_are_refused(tmp_path, tensors, error):
    path = rewrite(saved(tmp_path / "a"), lambda head: head, tensors)
    with pytest.raises(DataError, match=error):
        load_tokens(path)


def test_the_bound_on_restored_values_is_an_argument(tmp_path):
    path = saved(tmp_path / "a")
    assert load_tokens(path, max_elements=2 * 3 * 32 * 48)
    with pytest.raises(DataError, match="would restore 9216 values, the bound is 9215"):
        load_tokens(path, max_elements=9215)


@st.composite
def token_sets(draw) -> TokenSet:
    """Any valid TokenSet: any widths, sparse coordinates in any order, empty samples, float32 of any bits."""
    lengths, coords, origins = [], [], []
    for _ in range(draw(st.integers(1, 3))):
        grid = draw(st.tuples(*[st.integers(1, 4)] * 4))
        cells = list(product(*map(range, grid)))
        chosen = draw(st.permutations(cells))[: draw(st.integers(0, len(cells)))]
        lengths.append(len(chosen))
        coords += chosen
        extra = draw(st.dictionaries(st.text(max_size=4), st.integers() | st.text(max_size=4) | st.none(), max_size=2))
        shape, fps = (draw(st.integers(0, 99)),), draw(st.none() | st.just(24.0))
        origins.append(Origin("radar", shape, grid, (1, 2, 3), fps=fps, extra=extra))
    width = draw(st.integers(0, 4))
    numbers = st.floats(width=32, allow_nan=False, allow_infinity=False)
    values = draw(st.lists(numbers, min_size=len(coords) * width, max_size=len(coords) * width))
    return TokenSet(
        torch.tensor(values, dtype=torch.float32).view(len(coords), width),
        torch.tensor(coords, dtype=torch.int32).view(-1, 4),
        tuple(lengths),
        tuple(origins),
    )


@RELAXED
@given(tokens=token_sets())
def test_any_token_set_round_trips(tmp_path, tokens):
    file = load_tokens(saved(tmp_path / "a", tokens))
    assert same(file, tokens)
    assert file.values.numpy().tobytes() == tokens.feats.numpy().tobytes()  # signs of zeros included


@settings(RELAXED, max_examples=300)
@given(data=st.data())
def test_any_damage_is_refused_or_harmless(tmp_path, data):
    whole = bytearray(saved(tmp_path / "a").read_bytes())
    for _ in range(data.draw(st.integers(1, 3), "flips")):
        whole[data.draw(st.integers(0, len(whole) - 1), "at")] ^= data.draw(st.integers(1, 255), "by")
    if data.draw(st.booleans(), "cut"):
        whole = whole[: data.draw(st.integers(0, len(whole)), "length")]
    (tmp_path / "b").write_bytes(whole)
    try:
        file = load_tokens(tmp_path / "b")
    except DataError:
        return
    restored = TokenSet(file.values.float(), file.coords, file.lengths, file.origins)
    assert restored.validate() is restored
