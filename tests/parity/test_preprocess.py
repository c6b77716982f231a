"""Pixels to tokens and back equal the numeric contract: max abs error 5e-5, coordinates exact.

Golden pixels are int8 q with pixel = q / 64. The released code takes a detour over 0..255 without rounding on its way,
so that pixels come back as they were.
"""

from __future__ import annotations

import pytest
import torch
from goldens import ROOT, load_case, pack
from safetensors.torch import load_file
from torch import Tensor

from tok4d import TokenSet
from tok4d.modality import Sample
from tok4d.patches import patchify, unpatchify
from tok4d.plugins.registry import modality

TOLERANCE = 5e-5
RELEASED = {"fit": "crop", "frames": "floor"}
GOLDEN = load_file(ROOT / "preprocess.safetensors")
PICTURES = sorted(
    (folder.name, case.stem)
    for folder in ROOT.iterdir()
    if folder.is_dir()
    for case in folder.glob("[a-e]_*.safetensors")
    if not case.stem.startswith("d_")  # voxels only
)


def pixels(name: str) -> Tensor:
    """`[F, H, W, 3]` or `[H, W, 3]` of the file as `[..., 3, H, W]` in [-1, 1]."""
    return GOLDEN[name].float().movedim(-1, -3) / 64


def features(name: str) -> Tensor:
    """`[T, 3072]`; the compact set leaves out an image's columns beyond 768, which are zero."""
    if name in GOLDEN:
        return GOLDEN[name].float()
    return torch.nn.functional.pad(GOLDEN[f"{name}_768"].float(), (0, 3072 - 768))


def check(tokens: TokenSet, name: str) -> None:
    assert torch.equal(tokens.coords, GOLDEN[f"{name}_coords"])
    assert (tokens.feats - features(f"{name}_feats")).abs().max() <= TOLERANCE


def test_a_picture_is_cropped_to_whole_patches() -> None:
    """70 x 101: an odd rest, so that the offset floor(rest / 2) shows."""
    image = modality("image").configured({"fit": "crop"})
    tokens = image.patchify(Sample("image", {"image": pixels("img_hwc")}))
    check(tokens, "img")
    (back,) = image.unpatchify(tokens)
    assert torch.equal(back.data["image"], pixels("img_hwc")[:, 3:67, 2:98])


def test_a_clip_is_floored_to_whole_steps() -> None:
    """17 frames of 40 x 55: the last one is dropped."""
    tokens = patchify(pixels("vid"), "video", **RELEASED)
    check(tokens, "vid")
    back = unpatchify(tokens.feats, tokens.coords, tokens.origins[0])
    assert torch.equal(back, pixels("vid")[:16, :, 4:36, 3:51])


def test_a_short_clip_is_filled_with_grey_frames() -> None:
    """3 frames are no whole step; nothing is left to floor to."""
    tokens = patchify(pixels("vid3"), "video", **RELEASED)
    check(tokens, "vid3")
    assert tokens.origins[0].shape[0] == 3


def test_a_batch_of_pictures_there_and_back() -> None:
    batch = GOLDEN["bt"].float() / 64
    tokens = TokenSet.pack([patchify(picture, "image", **RELEASED) for picture in batch])
    expected = pack(tokens.feats, GOLDEN["bt_coords"])
    assert tokens.lengths == expected.lengths
    assert torch.equal(tokens.coords, expected.coords)
    if "bt_feats" in GOLDEN:
        assert (tokens.feats - GOLDEN["bt_feats"]).abs().max() <= TOLERANCE
    first = tokens.unpack()[0]
    back = unpatchify(first.feats, first.coords, first.origins[0])
    assert (back - GOLDEN["bt_back_image"][0]).abs().max() <= TOLERANCE


@pytest.mark.skipif("bt_back_video" not in GOLDEN, reason="only in the full set")
def test_tokens_of_a_picture_read_as_a_clip() -> None:
    """The same tokens with the origin of a clip give all four frames of the step; those beyond the first are grey."""
    tokens = patchify(GOLDEN["bt"][1].float() / 64, "image", **RELEASED)
    clip = patchify(GOLDEN["bt_back_video"], "video", **RELEASED)
    back = unpatchify(tokens.feats, tokens.coords, clip.origins[0])
    assert (back - GOLDEN["bt_back_video"]).abs().max() <= TOLERANCE
    assert torch.equal(clip.coords, tokens.coords)


@pytest.mark.parametrize(("folder", "case"), PICTURES)
def test_the_inputs_of_the_model_cases(folder: str, case: str) -> None:
    """Every picture and clip of the model's goldens, from its pixels."""
    tokens, golden = load_case(ROOT / folder, case)
    names = sorted(name for name in golden if name.startswith("pixels_"))
    assert names
    for name, part in zip(names, tokens.unpack(), strict=False):  # a mixed case ends with voxels
        made = patchify(golden[name].float().movedim(-1, -3) / 64, "clip", **RELEASED)
        assert torch.equal(made.coords, part.coords)
        assert (made.feats - part.feats).abs().max() <= TOLERANCE
