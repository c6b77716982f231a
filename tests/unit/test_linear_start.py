"""`init: linear`: a transformer that begins as the PCA of its patches, for patches of any kind."""

from __future__ import annotations

import pytest
import torch
from made import make_tokens

from tok4d import Tokenizer
from tok4d.config.schema import Curriculum, ModelConfig, StageConfig, TaskConfig
from tok4d.errors import ConfigError
from tok4d.model.pca import PatchPCA
from tok4d.tokens import TokenSet
from tok4d.training.start import fit_pca, fresh_model
from tok4d.weights.linear import init_linear

PATCH = (2, 8, 8)  # 384 channels
STACK = {"width": 96, "blocks": 2, "heads": 3, "mlp": 96}


def patches(used: int, seed: int = 0, count: int = 400) -> torch.Tensor:
    """Patches of a 1/f kind: strongly correlated, a few directions carry most, mean far from zero."""
    rng = torch.Generator().manual_seed(used)
    directions = torch.linalg.qr(torch.randn(used, used, generator=rng)).Q
    scores = torch.randn(count, used, generator=torch.Generator().manual_seed(seed))
    spectrum = torch.arange(1, used + 1).float() ** -1.0
    return (scores * spectrum * 3) @ directions.T + 0.3 * directions[:, 0]


def tokens_of(x: torch.Tensor, width: int = 384) -> TokenSet:
    place = make_tokens([100, 80], 1, (1, 12, 12, 1))
    return place.replace(torch.nn.functional.pad(x[:180], (0, width - x.shape[1])))


def make_model(**overrides: object) -> Tokenizer:
    torch.manual_seed(0)
    return Tokenizer.from_preset("tiny", encoder=STACK, decoder=STACK, patch_size=list(PATCH), **overrides).eval()


@pytest.mark.parametrize("used", [192, 384, 60, 12], ids=lambda n: f"{n}-channels")
@torch.no_grad()
def test_the_start_equals_the_pca(used):
    """An image fills part of a patch, video all of it, a narrow modality fewer channels than there are latents."""
    pca, model = PatchPCA.fit(patches(used)), make_model()
    init_linear(model, pca)
    tokens = tokens_of(patches(used, seed=1))
    encoded = model.encode(tokens)
    got, expected = model.decode(encoded.latents()), pca.reconstruct(tokens, 48)
    signal = (tokens.feats[:, :used] - pca.mean).square().mean()
    assert (got.feats - expected.feats)[:, :used].square().mean() < 1e-4 * signal
    assert torch.equal(got.feats[:, used:], torch.zeros_like(got.feats[:, used:]))
    floor = (expected.feats - tokens.feats).square().mean()
    assert (got.feats - tokens.feats).square().mean() < floor + 1e-4 * signal
    assert (encoded.posterior.logvar + 12).abs().max() < 0.1
    held = min(48, used)
    means = encoded.posterior.mean
    assert ((means[:, :held].std(0) - 1).abs() < 0.35).all(), "latents start whitened"
    assert torch.equal(means[:, held:], torch.zeros_like(means[:, held:]))


@torch.no_grad()
def test_residual_branches_start_at_zero_and_can_learn():
    model = make_model()
    init_linear(model, PatchPCA.fit(patches(192)))
    for stack in (model.encoder, model.decoder):
        for block in stack.blocks:
            for linear in (block.attn.to_out, block.mlp.mlp[2]):
                assert linear.weight.abs().max() == 0
                assert linear.bias is None or linear.bias.abs().max() == 0
    with torch.enable_grad():
        tokens = tokens_of(patches(192, seed=1))
        model.decode(model.encode(tokens, pool=False).latents()).feats.square().sum().backward()
    for stack in (model.encoder, model.decoder):
        assert all(block.attn.to_out.weight.grad.abs().max() > 0 for block in stack.blocks)


@torch.no_grad()
def test_local_heads_look_at_a_neighbour():
    """Give the first head of the first block an output and see where it looks: at the token above."""
    model = make_model()
    init_linear(model, PatchPCA.fit(patches(192)))
    block, side = model.encoder.blocks[0], 8
    coords = torch.tensor([[0, x, y, 0] for x in range(side) for y in range(side)], dtype=torch.int32)
    feats = torch.nn.functional.pad(patches(192, seed=2)[: side * side], (0, 192))
    tokens = TokenSet(feats, coords, (side * side,))
    block.attn.to_out.weight[:32, :32] = torch.eye(32)
    _, inner = model.encoder.run(tokens, 0, [0])
    block.attn.to_out.weight.zero_()
    plain, _ = model.encoder.run(tokens, 0)
    added = (inner[0] - plain).view(side, side, -1)[..., :32]
    stream = block.norm1(plain).view(side, side, -1)[..., 8:40]
    above = torch.nn.functional.cosine_similarity(added[1:], stream[:-1], dim=-1).mean()
    itself = torch.nn.functional.cosine_similarity(added[1:], stream[1:], dim=-1).mean()
    assert above > 0.7
    assert above > itself + 0.3


def test_models_that_cannot_start_linearly_say_why():
    pca = PatchPCA.fit(patches(192))
    with pytest.raises(ConfigError, match="needs a position table; use positions: joint or table"):
        init_linear(make_model(positions="rope"), pca)
    narrow = {**STACK, "width": 48}
    with pytest.raises(ConfigError, match=r"needs decoder\.width > latent \+ 8, got 48 and 48"):
        init_linear(Tokenizer.from_preset("tiny", encoder=STACK, decoder=narrow, patch_size=list(PATCH)), pca)


def test_without_rope_there_are_no_local_heads_but_the_start_holds():
    pca, model = PatchPCA.fit(patches(192)), make_model(positions="table")
    init_linear(model, pca)
    tokens = tokens_of(patches(192, seed=1))
    with torch.no_grad():
        got = model.decode(model.encode(tokens).latents())
    error = (got.feats - pca.reconstruct(tokens, 48).feats).square().mean()
    assert error < 1e-4 * tokens.feats.square().mean()


def test_a_fresh_model_is_a_function_of_the_curriculum():
    task = TaskConfig("image/shapes", {"count": 8, "side": 32, "split": "all"})
    model = ModelConfig("tiny", {"encoder": STACK, "decoder": STACK, "patch_size": [1, 4, 4]})
    curriculum = Curriculum(model=model, init="linear", order=["a"], stages={"a": StageConfig(tasks={"a": task})})
    first, again = fresh_model(curriculum), fresh_model(curriculum)
    assert first.digest == again.digest
    random = Curriculum(seed=1, model=model, order=["a"], stages=curriculum.stages)
    assert fresh_model(random).digest not in (first.digest, fresh_model(Curriculum(model=model, order=["a"])).digest)
    assert len(fit_pca(task, (1, 4, 4), 3, 0).mean) == 48
