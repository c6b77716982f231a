"""`Tokenizer`: sizes, independence of the batch, gradients, precision, memory."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from made import make_tokens

from tok4d import Tokenizer
from tok4d.config.loader import load_preset
from tok4d.errors import ConfigError, Tok4dError
from tok4d.model import tokenizer as module
from tok4d.plugins.registry import config_names
from tok4d.testing.models import tiny_tokenizer
from tok4d.tokens import TokenSet

SMALL = (1, 2, 2)
STACK = {"width": 32, "blocks": 3, "heads": 2, "mlp": 32}
CLOSE = {"rtol": 1e-5, "atol": 1e-5}
FSQ = {"quantizer": {"groups": 2, "levels": [4, 4, 4]}, "latent": 6}
# An image, nothing, a clip over two tiles, a voxel set, one token.
GRIDS = [(1, 5, 7, 1), (2, 2, 2, 1), (6, 3, 3, 1), (1, 4, 4, 4), (1, 1, 1, 1)]
LENGTHS = [35, 0, 40, 21, 1]


def make_model(**overrides: object) -> Tokenizer:
    """Three blocks, random norms and biases: what stands at its neutral start would hide mistakes."""
    made = tiny_tokenizer(SMALL, **{"encoder": STACK, "decoder": STACK, "latent": 6, **overrides})
    rng = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=rng) * 0.2)
    return made


@pytest.fixture(scope="module")
def model() -> Tokenizer:
    return make_model()


def mixed(width: int = 12, **options: object) -> TokenSet:
    return make_tokens(LENGTHS, width, GRIDS, **options)


@pytest.mark.parametrize("name", config_names("presets"))
def test_presets_have_the_parameters_they_say(name):
    config = load_preset(name)
    with torch.device("meta"):
        made = Tokenizer(config)
    assert sum(p.numel() for p in made.parameters()) == config.parameters
    assert config.name == name


def test_the_papers_sizes():
    assert round(load_preset("so400m").parameters / 1e6, 1) == 845.7
    assert round(load_preset("base").parameters / 1e6, 1) == 182.3


@torch.no_grad()
def test_a_batch_equals_its_samples_alone(model):
    tokens = mixed()
    together = model.encode(tokens)
    patches = model.decode(together.latents()).unpack()
    for number, part in enumerate(tokens.unpack()):
        alone = model.encode(part)
        rows = slice(tokens.seqs.starts[number], tokens.seqs.starts[number + 1])
        torch.testing.assert_close(alone.features.feats, together.features.feats[rows], **CLOSE)
        torch.testing.assert_close(alone.posterior.mean, together.posterior.mean[rows], **CLOSE)
        torch.testing.assert_close(alone.posterior.logvar, together.posterior.logvar[rows], **CLOSE)
        torch.testing.assert_close(alone.pooled[0], together.pooled[number], **CLOSE)
        torch.testing.assert_close(model.decode(alone.latents()).feats, patches[number].feats, **CLOSE)
    assert torch.equal(together.pooled[1], torch.zeros(32)), "an empty sample pools to zeros"
    assert torch.equal(together.embedding[1], torch.zeros(32))


@torch.no_grad()
def test_order_of_samples_and_tokens_changes_nothing(model):
    tokens = mixed()
    parts = tokens.unpack()
    before = [model.encode(part) for part in parts]
    shuffled = []
    for number, part in enumerate(parts):
        order = torch.randperm(part.num_tokens, generator=torch.Generator().manual_seed(number))
        shuffled.append((order, TokenSet(part.feats[order], part.coords[order], part.lengths, part.origins)))
    turned = [4, 2, 0, 3, 1]
    after = model.encode(TokenSet.pack([shuffled[i][1] for i in turned]))
    patches = model.decode(after.latents()).unpack()
    for place, i in enumerate(turned):
        order = shuffled[i][0]
        torch.testing.assert_close(after.pooled[place], before[i].pooled[0], **CLOSE)
        torch.testing.assert_close(patches[place].feats, model.decode(before[i].latents()).feats[order], **CLOSE)


@torch.no_grad()
def test_nothing_but_empty_samples(model):
    for lengths in ([], [0, 0]):
        tokens = make_tokens(lengths, 12)
        encoded = model.encode(tokens)
        assert encoded.pooled.shape == (len(lengths), 32)
        assert model.decode(encoded.latents()).feats.shape == (0, 12)


@torch.no_grad()
def test_inner_layers_are_the_stream_after_a_block(model):
    tokens = mixed()
    encoded = model.encode(tokens, layers=(0, -1), pool=False)
    assert set(encoded.inner) == {0, -1}
    assert encoded.pooled is None
    last = encoded.inner[-1]
    torch.testing.assert_close(model.encoder.post_layernorm(last.feats), encoded.features.feats, **CLOSE)
    shallow = make_model(encoder={**STACK, "blocks": 1})
    shallow.encoder.load_state_dict(
        {k: v for k, v in model.encoder.state_dict().items() if not k.startswith(("blocks.1", "blocks.2"))}
    )
    first = shallow.encode(tokens, layers=[0], pool=False).inner[0]
    torch.testing.assert_close(encoded.inner[0].feats, first.feats, **CLOSE)
    with pytest.raises(Tok4dError, match=r"blocks \[3\] do not exist; there are 3"):
        model.encode(tokens, layers=[0, 3])


def test_encode_and_decode_are_differentiable():
    model = make_model(encoder={**STACK, "blocks": 1}, decoder={**STACK, "blocks": 1}, latent=2).double()
    latents = make_tokens([2, 3], 2, [(1, 2, 2, 1), (6, 1, 1, 1)], dtype=torch.float64)
    assert torch.autograd.gradcheck(
        lambda z: model.decode(latents.replace(z)).feats[:, :3], latents.feats.requires_grad_(), eps=1e-5
    )
    patches = make_tokens([2, 1], 12, (1, 2, 2, 1), dtype=torch.float64)

    def outputs(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        encoded = model.encode(patches.replace(x))
        return encoded.posterior.sample(torch.ones(3, 2).double()), encoded.pooled[:, :3]

    assert torch.autograd.gradcheck(outputs, patches.feats.requires_grad_(), eps=1e-5)


@torch.no_grad()
def test_codes_decode_like_their_latents():
    model = make_model(**FSQ)
    encoded = model.encode(mixed())
    codes = model.quantize(encoded)
    assert (codes.indices.shape, codes.indices.dtype, codes.vocabulary) == ((97, 2), torch.int32, (64, 64))
    expected = model.decode(codes.latents())
    got = model.decode_codes(codes.indices, mixed().coords, LENGTHS, mixed().origins)
    assert torch.equal(got.feats, expected.feats)
    one = mixed().unpack()[0]
    alone = model.decode_codes(codes.indices[:35], one.coords, origins=one.origins)
    torch.testing.assert_close(alone.feats, expected.feats[:35], **CLOSE)


def test_codes_pass_gradients_to_the_encoder():
    model = make_model(**FSQ)
    model.decode(model.quantize(model.encode(mixed())).latents()).feats.square().sum().backward()
    assert model.encoder.input_layer.weight.grad.abs().max() > 0


@torch.no_grad()
def test_half_precision_stays_close(model):
    tokens = mixed()
    half = make_model().bfloat16()
    exact, coarse = model.encode(tokens), half.encode(tokens.to(dtype=torch.bfloat16))
    assert coarse.posterior.mean.dtype == coarse.pooled.dtype == torch.bfloat16
    spread = exact.posterior.mean.std()
    assert (coarse.posterior.mean.float() - exact.posterior.mean).abs().mean() < 0.03 * spread
    patches, expected = half.decode(coarse.latents()).feats, model.decode(exact.latents()).feats
    assert patches.dtype == torch.bfloat16
    assert (patches.float() - expected).abs().mean() < 0.05 * expected.std()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed_precision = model.decode(model.encode(tokens).latents()).feats
    assert (mixed_precision.float() - expected).abs().mean() < 0.05 * expected.std()


@torch.no_grad()
def test_normalize_uses_the_saved_statistics():
    model = make_model()
    model.latent_mean.copy_(torch.arange(6.0))
    model.latent_std.copy_(torch.arange(1.0, 7.0))
    latents = make_tokens([3], 6)
    normal = model.normalize(latents)
    torch.testing.assert_close(normal.feats, (latents.feats - torch.arange(6.0)) / torch.arange(1.0, 7.0))
    torch.testing.assert_close(model.denormalize(normal).feats, latents.feats)


def test_freeze_by_prefix_and_back():
    model = make_model()
    model.freeze(["encoder.", "proj."])
    trained = {name.split(".")[0] for name, p in model.named_parameters() if p.requires_grad}
    assert trained == {"decoder"}
    model.freeze(["decoder.blocks.1."])
    frozen = {name[:16] for name, p in model.named_parameters() if not p.requires_grad}
    assert frozen == {"decoder.blocks.1"}
    model.freeze([])
    assert all(p.requires_grad for p in model.parameters())
    with pytest.raises(ConfigError, match="'enc0der' matches no parameter; parts are decoder, encoder, proj"):
        model.freeze(["enc0der"])


def test_an_extra_decoder_keeps_its_own_start(monkeypatch):
    class Radar:
        def head(self, config: dict[str, float]) -> torch.nn.Module:
            head = torch.nn.Linear(2, 2)
            torch.nn.init.constant_(head.weight, config["start"])
            return head

    monkeypatch.setattr(module, "modality", lambda name: Radar())
    made = tiny_tokenizer(SMALL, heads={"radar": {"start": 0.25}})
    assert torch.equal(made.heads["radar"].weight, torch.full((2, 2), 0.25))


def test_refusals_name_what_was_given(model):
    with pytest.raises(Tok4dError, match=r"patches of width 12 \(1, 2, 2\), got 11"):
        model.encode(mixed(11))
    with pytest.raises(Tok4dError, match="has 6 latent channels, got 5"):
        model.decode(mixed(5))
    with pytest.raises(Tok4dError, match=r"cached_steps must be in \[0, 4\], got 5"):
        model.decode(mixed(6), cached_steps=5)
    with pytest.raises(Tok4dError, match="continuous latents"):
        model.quantize(model.encode(mixed()))
    with pytest.raises(ConfigError, match="Did you mean 'latent'"):
        Tokenizer.from_preset("tiny", latnet=3)
    with pytest.raises(Tok4dError, match=r"code 64 of token 0, group 1"):
        make_model(**FSQ).decode_codes(torch.tensor([[0, 64]]), torch.zeros(1, 4, dtype=torch.int32))


MEMORY = """
import resource, torch
from tok4d.plugins.registry import config_names
from tok4d.testing.models import tiny_tokenizer
from tok4d.tokens import TokenSet

torch.set_num_threads(2)
model = tiny_tokenizer((1, 2, 2))


def peak(side):
    coords = torch.stack(torch.meshgrid(*[torch.arange(n) for n in (1, side, side, 1)], indexing="ij"), -1)
    tokens = TokenSet(torch.zeros(side * side, 12), coords.view(-1, 4).int(), (side * side,))
    with torch.no_grad():
        model.encode(tokens)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


print(*[peak(side) for side in (32, 64, 90, 128)])
"""


def test_memory_grows_linearly_with_tokens():
    """1k (warm-up), 4k, 8k and 16k tokens in one sample; one 16k x 16k float32 matrix alone would be 1 GB."""
    done = subprocess.run([sys.executable, "-c", MEMORY], capture_output=True, text=True, check=True, timeout=120)
    start, *peaks = (float(item) for item in done.stdout.split())
    assert peaks[-1] - start < 200
    assert peaks[2] - peaks[1] < 3 * max(10, peaks[1] - start), "a quadratic term would make it four"
