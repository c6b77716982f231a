"""Picture terms over samples: mixed sizes, clips, what is shared, what is refused."""

from __future__ import annotations

import gc
import weakref
from math import sqrt

import pytest
import torch
from loss_inputs import SmallTrunk, clip, encoded, image, noise, use_trunk

from tok4d.errors import ConfigError
from tok4d.losses import LPIPS, MSSSIMLoss, Objective
from tok4d.losses.pictures import pictures_of, resized
from tok4d.losses.shared import shared, sharing
from tok4d.losses.terms import Charbonnier
from tok4d.modality import Sample

TEACHER = {"network": "vgg16"}
PICTURE_TERMS = {"lpips": {}, "gram": {}, "teacher": TEACHER, "ssim": {}, "ms_ssim": {}}
TARGET = [image(noise(3, 16, 24)), clip(noise(4, 3, 20, 12, seed=1)), image(noise(3, 16, 24, seed=2))]
GOT = [image(noise(3, 16, 24, seed=3)), clip(noise(4, 3, 20, 12, seed=4)), image(noise(3, 16, 24, seed=5))]


@pytest.fixture
def trunk(monkeypatch: pytest.MonkeyPatch) -> SmallTrunk:
    return use_trunk(monkeypatch, SmallTrunk())


def values(config: dict[str, object], target: list[Sample], got: list[Sample]) -> torch.Tensor:
    """Per sample, of the only term."""
    (term,) = Objective.from_config(config).terms.values()
    return term(target, got, encoded(len(target)))


def test_charbonnier_by_hand() -> None:
    target, got = image(torch.zeros(3, 1, 2)), image(torch.tensor([0.0, 3.0]).expand(3, 1, 2))
    found = values({"charbonnier": {"eps": 4.0}}, [target, target], [got, target])
    assert found.tolist() == pytest.approx([(4 + 5) / 2, 4.0])
    assert values({"charbonnier": 1}, [target], [got]).tolist() == pytest.approx([(1e-3 + sqrt(9 + 1e-6)) / 2])
    for bad in (0, -1, True, "small", float("inf")):
        with pytest.raises(ConfigError, match=r"losses\.charbonnier\.eps must be a number above 0"):
            Charbonnier(bad)  # type: ignore[arg-type]


@pytest.mark.parametrize("size", [None, 18])
def test_a_sample_is_the_mean_over_its_pictures(trunk: SmallTrunk, size: int | None) -> None:
    found = values({"lpips": {"size": size}}, TARGET, GOT)
    loss = LPIPS(size=size, trunk=trunk, heads=trunk.heads())
    expected = [loss(pictures_of(got), pictures_of(wanted)).mean() for got, wanted in zip(GOT, TARGET, strict=True)]
    torch.testing.assert_close(found, torch.stack(expected))


def test_the_default_size_is_the_papers(trunk: SmallTrunk) -> None:
    values({"lpips": 1}, TARGET, GOT)
    assert trunk.calls == [(6, 3, 224, 224)] * 2
    wanted, got = (resized(samples[0].data["image"][None], 224) for samples in (TARGET, GOT))
    expected = LPIPS(trunk=trunk, heads=trunk.heads())(got, wanted)
    torch.testing.assert_close(values({"lpips": 1}, TARGET[:1], GOT[:1]), expected)


@pytest.mark.parametrize("name", sorted(PICTURE_TERMS))
@pytest.mark.parametrize("size", [None, 18])
def test_order_and_company_change_nothing(trunk: SmallTrunk, name: str, size: int | None) -> None:
    config = {name: {**PICTURE_TERMS[name], "size": size}}
    whole = values(config, TARGET, GOT)
    turned = values(config, TARGET[::-1], GOT[::-1])
    alone = torch.cat([values(config, [wanted], [got]) for wanted, got in zip(TARGET, GOT, strict=True)])
    torch.testing.assert_close(turned.flip(0), whole, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(alone, whole, rtol=1e-5, atol=1e-6)
    assert values(config, TARGET, TARGET).tolist() == [0.0, 0.0, 0.0]


@pytest.mark.parametrize(
    ("frames", "chosen"), [(1, [2]), (2, [1, 3]), (3, [0, 2, 3]), (4, [0, 1, 2, 3]), (9, [0, 1, 2, 3])]
)
def test_frames_are_evenly_spaced(trunk: SmallTrunk, frames: int, chosen: list[int]) -> None:
    found = values({"lpips": {"size": None, "frames": frames}}, TARGET[1:2], GOT[1:2])
    wanted, got = (samples[1].data["video"][chosen] for samples in (TARGET, GOT))
    torch.testing.assert_close(found[0], LPIPS(trunk=trunk, heads=trunk.heads())(got, wanted).mean())
    assert trunk.calls[0] == (len(chosen), 3, 20, 12)


def test_one_forward_of_the_trunk_serves_all_terms(trunk: SmallTrunk) -> None:
    """One for the targets, without gradients, and one for the reconstructions, with."""
    got = [Sample(s.modality, {k: v.clone().requires_grad_() for k, v in s.data.items()}) for s in GOT]
    full = {"l1": 1, "lpips": 10, "gram": 1000, "teacher": TEACHER, "ssim": 1}
    loss = Objective.from_config(full)(TARGET, got, encoded(3))
    assert trunk.calls == [(6, 3, 224, 224)] * 2
    assert trunk.with_gradients == 1
    loss.total.backward()
    assert all(bool(tensor.grad.any()) for sample in got for tensor in sample.data.values())
    alone = {name: Objective.from_config({name: full[name]})(TARGET, got, encoded(3)) for name in full}
    torch.testing.assert_close(loss.total, torch.stack([one.total for one in alone.values()]).sum())
    trunk.calls.clear()
    native = {"lpips": {"size": None}, "gram": {"size": None}}
    Objective.from_config(native)(TARGET, got, encoded(3))
    assert sorted(trunk.calls) == [(2, 3, 16, 24), (2, 3, 16, 24), (4, 3, 20, 12), (4, 3, 20, 12)]
    trunk.calls.clear()
    Objective.from_config({"lpips": {"size": 16}, "gram": {"size": 18}})(TARGET, got, encoded(3))
    assert len(trunk.calls) == 4, "features of other sizes are others"


def test_two_calls_share_nothing(trunk: SmallTrunk) -> None:
    """Samples changed in between are seen as they are."""
    objective = Objective.from_config({"lpips": {"size": None}})
    got = [image(noise(3, 16, 24, seed=3))]
    before = objective(TARGET[:1], got, encoded()).total
    got[0].data["image"] = TARGET[0].data["image"]
    assert objective(TARGET[:1], got, encoded()).total == 0 < before


def test_what_is_shared_goes_with_the_call() -> None:
    class Thing:
        pass

    thing = Thing()
    with sharing():
        first = shared("a", (thing,), (), Thing)
        assert shared("a", (thing,), (), Thing) is first
        assert shared("a", (Thing(),), (), Thing) is not first
        assert shared("a", (thing,), (2,), Thing) is not first
        assert shared("b", (thing,), (), Thing) is not first
        with sharing():
            assert shared("a", (thing,), (), Thing) is not first
        assert shared("a", (thing,), (), Thing) is first
    assert shared("a", (thing,), (), Thing) is not shared("a", (thing,), (), Thing)
    gone = weakref.ref(first)
    del first
    gc.collect()
    assert gone() is None


def test_samples_without_pictures_are_named_or_cost_nothing(trunk: SmallTrunk) -> None:
    asset = Sample("mesh3d", {"voxels": torch.zeros(2, 4)}, key="chair.glb")
    with pytest.raises(
        ConfigError, match=r"'lpips' needs pictures, and modality 'mesh3d' has none \(sample 'chair.glb"
    ):
        values({"lpips": 1}, [TARGET[0], asset], [GOT[0], asset])
    found = values({"lpips": {"optional": True, "size": None}}, [asset, TARGET[0]], [asset, GOT[0]])
    assert found[0] == 0
    torch.testing.assert_close(found[1:], values({"lpips": {"size": None}}, TARGET[:1], GOT[:1]))
    assert values({"ssim": {"optional": True}}, [asset], [asset]).tolist() == [0.0]
    empty = clip(torch.zeros(0, 3, 8, 8))
    assert values({"ssim": 1}, [empty, TARGET[0]], [empty, TARGET[0]]).tolist() == [0.0, 0.0]


def test_half_precision_reconstructions(trunk: SmallTrunk) -> None:
    """What a decoder gives under autocast; the loss is float32 and its gradient finite."""
    got = [image(noise(3, 16, 24, seed=3).bfloat16().requires_grad_())]
    with torch.autocast("cpu", torch.bfloat16):
        loss = Objective.from_config({"l1": 1, **{name: dict(o) for name, o in PICTURE_TERMS.items()}})(
            TARGET[:1], got, encoded()
        )
    loss.total.backward()
    assert loss.total.dtype == torch.float32
    assert bool(got[0].data["image"].grad.isfinite().all())
    exact = Objective.from_config({"lpips": 1})(TARGET[:1], got, encoded()).total
    assert float(loss.terms["lpips"]) == pytest.approx(float(exact.detach()), rel=0.05)


@pytest.mark.parametrize(
    ("config", "error"),
    [
        ({"lpips": {"size": 0}}, r"losses\.lpips\.size must be a whole number of at least 1, or null; got 0"),
        ({"gram": {"frames": 1.5}}, r"losses\.gram\.frames must be a whole number"),
        ({"ssim": {"frames": True}}, "whole number"),
        ({"lpips": {"net": "squeeze"}}, "unknown LPIPS network 'squeeze'"),
        ({"gram": {"layers": 3}}, r"losses\.gram: .*'layers'"),
        ({"teacher": 1}, "take a trunk"),
        ({"teacher": {"network": "vgg"}}, "unknown network 'vgg'"),
    ],
)
def test_unusable_options(config: dict[str, object], error: str) -> None:
    with pytest.raises(ConfigError, match=error):
        Objective.from_config(config)


def test_pairs_that_do_not_fit(trunk: SmallTrunk) -> None:
    with pytest.raises(
        ConfigError, match=r"its pictures are \[1, 3, 16, 24\], those of the reconstruction \[1, 3, 16, 23"
    ):
        values({"lpips": 1}, TARGET[:1], [image(noise(3, 16, 23))])


def test_networks_that_are_no_trunk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tok4d.losses.trunks.load_network", lambda name, device: torch.nn.Identity())
    with pytest.raises(ConfigError, match="network 'effnet-lite0' gives no activations"):
        values({"teacher": {"network": "effnet-lite0"}}, TARGET[:1], GOT[:1])


def test_the_papers_loss_of_renders_in_one_line(trunk: SmallTrunk) -> None:
    """Parts and weights; what a render is, the 3D modality's tests tell."""
    from tok4d.plugins.registry import modality

    config = {"render": {"l1": 1, "ssim": 0, "ms_ssim": 0.2, "pictures": {"lpips": 0.2}}}
    (term,) = modality("mesh3d").objective(config).terms.values()
    assert term.weights == {"l1": 1, "ssim": 0, "ms_ssim": 0.2, "mask": 0.0}
    assert isinstance(term.ms_ssim, MSSSIMLoss)
    assert term.others.weights == {"lpips": 0.2}
