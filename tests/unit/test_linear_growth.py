"""New latent channels of a linear start: the scores that follow, or the motion that stills leave over."""

from __future__ import annotations

import pytest
import torch
from made import make_tokens

from tok4d import Tokenizer
from tok4d.errors import ConfigError
from tok4d.model.pca import PatchPCA
from tok4d.tokens import TokenSet
from tok4d.weights.growth import repeat_first_frame
from tok4d.weights.linear import init_linear
from tok4d.weights.linear_growth import grow_motion, grow_scores

PATCH = (3, 4, 4)  # 48 values a frame, 144 a patch
STACK = {"width": 56, "blocks": 2, "heads": 7, "mlp": 56}
BEFORE, AFTER = 16, 24


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
    return torch.cat([first, first + change + 0.03, first + 2 * change + 0.05], 1)


def made(latent: int) -> Tokenizer:
    torch.manual_seed(0)
    return Tokenizer.from_preset(
        "tiny", encoder=STACK, decoder=STACK, patch_size=list(PATCH), latent=latent, positions="table"
    ).eval()


def grown(pca: PatchPCA) -> Tokenizer:
    """A model of the larger latent that begins as one of the smaller: its new channels are still to be filled."""
    small, large = made(BEFORE), made(AFTER)
    init_linear(small, pca)
    state = small.state_dict()
    proj, into = torch.randn(2 * AFTER, 56), torch.randn(56, AFTER)
    proj[:BEFORE], proj[AFTER : AFTER + BEFORE] = state["proj.weight"][:BEFORE], state["proj.weight"][BEFORE:]
    into[:, :BEFORE] = state["decoder.input_layer.weight"]
    state |= {"proj.weight": proj, "decoder.input_layer.weight": into}
    state |= {name: getattr(large, name) for name in ("latent_mean", "latent_std")}
    large.load_state_dict(state)
    return large


def tokens_of(x: torch.Tensor) -> TokenSet:
    return make_tokens([len(x)], 1, (1, 16, 16, 1)).replace(x)


def through(model: Tokenizer, x: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return model.decode(model.encode(tokens_of(x)).latents()).feats


def picture(x: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.pad(x, (0, 96))


def test_scores_that_follow():
    pca = PatchPCA.fit(frames(500, 1))
    model = grown(pca)
    grow_scores(model, pca, BEFORE)
    x = picture(frames(100, 2))
    wanted = pca.reconstruct(tokens_of(x), AFTER).feats[:, :48]
    assert float((through(model, x)[:, :48] - wanted).square().mean()) < 1e-4 * float(x[:, :48].square().mean())
    encoded = model.encode(tokens_of(x))
    assert float((encoded.posterior.logvar + 12).abs().max()) < 0.1
    assert ((encoded.posterior.mean.std(0) - 1).abs() < 0.4).all(), "new latents are whitened as the old ones are"


@pytest.fixture(scope="module")
def moving() -> tuple[Tokenizer, PatchPCA]:
    pca = PatchPCA.fit(frames(500, 1))
    model = grown(pca)
    repeat_first_frame(model)
    grow_motion(model, pca, BEFORE, clips(800, 3))
    return model, pca


def test_motion_is_the_pca_of_what_stills_leave_over(moving):
    model, pca = moving
    train, x = clips(800, 3), clips(100, 5)
    basis = pca.components[:, :BEFORE]

    def still(values: torch.Tensor) -> torch.Tensor:
        return ((values[:, :48] - pca.mean) @ basis @ basis.T + pca.mean).repeat(1, 2)

    rest = train[:, 48:] - still(train)
    centred = rest - rest.mean(0)
    leading = torch.linalg.eigh(centred.double().T @ centred.double()).eigenvectors[:, -(AFTER - BEFORE) :].float()
    wanted = still(x) + rest.mean(0) + (x[:, 48:] - still(x) - rest.mean(0)) @ leading @ leading.T
    got = through(model, x)
    assert float((got[:, 48:] - wanted).square().mean()) < 2e-4 * float(x.square().mean())
    before, after = (still(x) - x[:, 48:]).square().mean(), (got[:, 48:] - x[:, 48:]).square().mean()
    assert float(after) < 0.5 * float(before)


def test_pictures_stay_as_they_were(moving):
    model, pca = moving
    x = picture(frames(100, 2))
    wanted = pca.reconstruct(tokens_of(x), BEFORE).feats[:, :48]
    assert float((through(model, x)[:, :48] - wanted).square().mean()) < 2e-4 * float(x[:, :48].square().mean())


def test_a_start_on_clips_has_no_motion_to_add():
    pca = PatchPCA.fit(clips(300, 1))
    with pytest.raises(ConfigError, match="one frame has 48 values, the PCA of the start 144"):
        grow_motion(made(AFTER), pca, BEFORE, clips(300, 3))
