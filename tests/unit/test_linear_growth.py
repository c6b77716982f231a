"""A linear start that grows: new latent channels with the scores that follow, and a PCA of their own for clips."""

from __future__ import annotations

import pytest
import torch
from made import make_tokens

from tok4d import Tokenizer
from tok4d.errors import ConfigError
from tok4d.model.pca import PatchPCA
from tok4d.tokens import TokenSet
from tok4d.weights.linear import init_linear
from tok4d.weights.linear_growth import grow_scores
from tok4d.weights.linear_modes import add_clips
from tok4d.weights.linear_neurons import free_neurons

PATCH = (3, 4, 4)  # 48 values a frame, 144 a patch
STACK = {"width": 72, "blocks": 3, "heads": 9, "mlp": 96}
BEFORE, AFTER = 10, 16


def frames(count: int, seed: int) -> torch.Tensor:
    """Frames with a falling spectrum."""
    directions = torch.linalg.qr(torch.randn(48, 48, generator=torch.Generator().manual_seed(7))).Q
    scores = torch.randn(count, 48, generator=torch.Generator().manual_seed(seed))
    return (scores * torch.arange(1, 49).float() ** -1.0) @ directions.T + 0.2 * directions[:, 0]


def clips(count: int, seed: int) -> torch.Tensor:
    """Frames that change along a few directions, faster in the last."""
    first = frames(count, seed)
    ways = torch.randn(6, 48, generator=torch.Generator().manual_seed(9))
    change = torch.randn(count, 6, generator=torch.Generator().manual_seed(seed + 1)) @ ways * 0.05
    return torch.cat([first, first + change + 0.03, first + 2 * change + 0.05], 1) + 0.4


def made(latent: int, **overrides: object) -> Tokenizer:
    torch.manual_seed(0)
    options = {"encoder": STACK, "decoder": STACK, "patch_size": list(PATCH), "latent": latent, **overrides}
    return Tokenizer.from_preset("tiny", positions="table", **options).eval()


@torch.no_grad()
def grown(pca: PatchPCA, trained: bool = False) -> Tokenizer:
    """A model of the larger latent that begins as one of the smaller: its new channels are still to be filled."""
    small, large = made(BEFORE), made(AFTER)
    init_linear(small, pca)
    if trained:  # residual branches that do something, as after some training
        for name, parameter in small.named_parameters():
            if name.endswith(("attn.to_out.weight", "mlp.mlp.2.weight")):
                parameter.normal_(0, 0.02)
    state = small.state_dict()
    proj, into = torch.randn(2 * AFTER, 72), torch.randn(72, AFTER)
    proj[:BEFORE], proj[AFTER : AFTER + BEFORE] = state["proj.weight"][:BEFORE], state["proj.weight"][BEFORE:]
    into[:, :BEFORE] = state["decoder.input_layer.weight"]
    state |= {"proj.weight": proj, "decoder.input_layer.weight": into}
    state |= {name: getattr(large, name) for name in ("latent_mean", "latent_std")}
    large.load_state_dict(state)
    grow_scores(large, pca, BEFORE, BEFORE)
    return large


def tokens_of(x: torch.Tensor) -> TokenSet:
    return make_tokens([len(x)], 1, (1, 16, 16, 1)).replace(x)


@torch.no_grad()
def through(model: Tokenizer, x: torch.Tensor) -> torch.Tensor:
    return model.decode(model.encode(tokens_of(x)).latents()).feats


def picture(x: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.pad(x, (0, 96))


def error(a: torch.Tensor, b: torch.Tensor) -> float:
    """Mean squared difference over the mean square."""
    return float((a - b).square().mean() / b.square().mean())


STILLS, MOVING = frames(500, 1), clips(800, 3)
PICTURES, CLIPS = PatchPCA.fit(STILLS), PatchPCA.fit(MOVING)


@torch.no_grad()
def test_scores_that_follow():
    model, x = grown(PICTURES), picture(frames(100, 2))
    wanted = PICTURES.reconstruct(tokens_of(x), AFTER).feats[:, :48]
    assert error(through(model, x)[:, :48], wanted) < 1e-4
    encoded = model.encode(tokens_of(x))
    assert float((encoded.posterior.logvar + 12).abs().max()) < 0.1
    assert ((encoded.posterior.mean.std(0) - 1).abs() < 0.4).all(), "new latents are whitened as the old ones are"


@torch.no_grad()
def test_what_trained_blocks_wrote_into_new_scores_is_gone():
    """Nobody read it in the encoder; in the decoder it was a guess of what is now given."""
    model, x = grown(PICTURES, trained=True), picture(frames(100, 2))
    scores = (x[:, :48] - PICTURES.mean) @ PICTURES.components[:, BEFORE:AFTER] / PICTURES.deviations[BEFORE:AFTER]
    assert error(model.encode(tokens_of(x)).posterior.mean[:, BEFORE:], scores) < 1e-3
    from tok4d.weights.linear import CONSTANTS, plan_of

    columns = plan_of(PICTURES, 72, BEFORE).basis[:, BEFORE:AFTER]
    for block in model.decoder.blocks:
        for last in (block.attn.to_out, block.mlp.mlp[2]):
            assert float(last.weight.abs().max()) > 0.01
            assert float((columns.T @ last.weight[CONSTANTS:]).abs().max()) < 1e-6


@torch.no_grad()
def test_clips_begin_at_their_pca_and_pictures_stay_at_theirs():
    model = grown(PICTURES)
    add_clips(model, PICTURES, CLIPS, STILLS, MOVING, BEFORE)
    x, still = clips(100, 5), picture(frames(100, 2))
    assert error(through(model, x), CLIPS.reconstruct(tokens_of(x), AFTER - 1).feats) < 1e-3
    wanted = PICTURES.reconstruct(tokens_of(still), AFTER - 1).feats[:, :48]
    assert error(through(model, still)[:, :48], wanted) < 1e-3
    switch = [model.encode(tokens_of(values)).posterior.mean[:, -1] for values in (x, still)]
    assert float((switch[0] - 1).abs().max()) < 0.02
    assert float(switch[1].abs().max()) < 0.02


@torch.no_grad()
def test_a_disturbed_switch_still_chooses_one_basis():
    """Training moves the last latent; between 0.8 and 1.2 it is a clip, below 0.3 a picture."""
    model = grown(PICTURES)
    add_clips(model, PICTURES, CLIPS, STILLS, MOVING, BEFORE)
    for x, values in ((clips(50, 5), (0.8, 1.2)), (picture(frames(50, 2)), (-0.2, 0.3))):
        latents = model.encode(tokens_of(x)).latents()
        whole = model.decode(latents).feats
        for value in values:
            disturbed = latents.feats.clone()
            disturbed[:, -1] = value
            used = slice(0, 144 if float(x[:, 48:].abs().max()) else 48)
            assert error(model.decode(latents.replace(disturbed)).feats[:, used], whole[:, used]) < 1e-3


@torch.no_grad()
def test_grey_clips_are_clips():
    """Patches four levels of 255 from the middle grey are told from blank frames; flat white sockets once were not."""
    model = grown(PICTURES)
    add_clips(model, PICTURES, CLIPS, STILLS, MOVING, BEFORE)
    grey = torch.full((4, 144), 0.03) * torch.tensor([[1.0], [-1.0], [2.0], [-4.0]])
    assert float((model.encode(tokens_of(grey)).posterior.mean[:, -1] - 1).abs().max()) < 0.1


@torch.no_grad()
def test_the_switch_holds_when_attention_writes_beside_it():
    """Training lets attention write everywhere in the stream; what it once wrote there turned pictures into clips."""
    model = grown(PICTURES)
    add_clips(model, PICTURES, CLIPS, STILLS, MOVING, BEFORE)
    for block in model.encoder.blocks:
        block.attn.to_out.weight += 5e-2 * torch.randn(72, 72, generator=torch.Generator().manual_seed(4))
    for values, wanted in ((clips(100, 5), 1.0), (picture(frames(100, 2)), 0.0)):
        assert float((model.encode(tokens_of(values)).posterior.mean[:, -1] - wanted).abs().max()) < 0.2


def test_what_was_trained_stays_for_pictures():
    """Trained blocks read and write elsewhere: only what used the least scores' places is lost."""
    x = picture(frames(100, 2))
    before = grown(PICTURES, trained=True)
    after = grown(PICTURES, trained=True)
    add_clips(after, PICTURES, CLIPS, STILLS, MOVING, BEFORE)
    plain = error(through(before, x)[:, :48], x[:, :48])
    assert error(through(after, x)[:, :48], x[:, :48]) < plain + 0.02
    moving = clips(100, 5)
    floor = error(CLIPS.reconstruct(tokens_of(moving), AFTER - 1).feats, moving)
    assert error(through(after, moving), moving) < floor + 0.1


@torch.no_grad()
def test_what_pictures_taught_the_decoder_is_silent_for_clips():
    """It answers to pictures' scores; a clip would get detail of a picture that is not there."""
    model = grown(PICTURES)
    for block in model.decoder.blocks:
        last = block.mlp.mlp[2]
        last.weight.copy_(0.5 * torch.randn(last.weight.shape, generator=torch.Generator().manual_seed(6)))
    still, moving = picture(frames(100, 2)), clips(100, 5)
    before = through(model, still)[:, :48]
    wanted = PICTURES.reconstruct(tokens_of(still), AFTER).feats[:, :48]
    assert error(before, wanted) > 0.02, "pictures are restored with what was taught"
    add_clips(model, PICTURES, CLIPS, STILLS, MOVING, BEFORE)
    assert error(through(model, still)[:, :48], before) < 0.5 * error(before, wanted)
    assert error(through(model, moving), CLIPS.reconstruct(tokens_of(moving), AFTER - 1).feats) < 2e-3


@torch.no_grad()
def test_weights_and_averages_take_the_same_neurons():
    """Between two networks that differ a little, and were given the switch alike, every mixture works as they do."""
    one, other = grown(PICTURES, trained=True), grown(PICTURES, trained=True)
    for parameter in other.parameters():
        parameter += 1e-3 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(len(parameter)))
    free, moving = free_neurons(one), clips(100, 5)
    assert free != free_neurons(other)
    for model in (one, other):
        add_clips(model, PICTURES, CLIPS, STILLS, MOVING, BEFORE, free)
    ends = [error(through(model, moving), moving) for model in (one, other)]
    for parameter, end in zip(one.parameters(), other.parameters(), strict=True):
        parameter.lerp_(end, 0.5)
    assert error(through(one, moving), moving) < max(ends) + 1e-3


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (made(AFTER, encoder={**STACK, "blocks": 2}), "an encoder of 3 or more blocks"),
        (made(AFTER, decoder={**STACK, "mlp": 30}), "a decoder of 1 or more blocks, 47 channels and 38 neurons"),
    ],
)
def test_models_that_are_too_small_are_refused(model, message):
    with pytest.raises(ConfigError, match=message):
        add_clips(model, PICTURES, CLIPS, STILLS, MOVING, BEFORE)


def test_pcas_that_do_not_fit_are_refused():
    with pytest.raises(ConfigError, match="the PCA of pictures has 144 values, that of clips 144"):
        add_clips(made(AFTER), CLIPS, CLIPS, STILLS, MOVING, BEFORE)
