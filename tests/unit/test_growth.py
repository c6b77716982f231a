"""From pictures to clips: the first frame is repeated, pictures stay as they are."""

from __future__ import annotations

import torch

from tok4d.patches import patchify, unpatchify
from tok4d.testing.models import tiny_tokenizer
from tok4d.weights.growth import repeat_first_frame


@torch.no_grad()
def test_clips_begin_as_stills_and_pictures_do_not_change():
    model = tiny_tokenizer((4, 8, 8), decoder={"bias": True, "norm": "layer", "qk_norm": False})
    torch.nn.init.normal_(model.decoder.out_layer.bias)
    picture, clip = torch.rand(3, 16, 24), torch.rand(6, 3, 16, 24)
    tokens = {"picture": patchify(picture, "x", (4, 8, 8)), "clip": patchify(clip, "x", (4, 8, 8))}

    def restored(name):
        patches = model.decode(model.encode(tokens[name]).latents())
        return unpatchify(patches.feats, patches.coords, tokens[name].origins[0])

    before = {name: restored(name) for name in tokens}
    repeat_first_frame(model)
    assert torch.equal(restored("picture"), before["picture"])
    after = restored("clip")
    for first in (0, 4):
        assert torch.equal(after[first], before["clip"][first])
        assert torch.equal(after[first : first + 4], after[first].expand_as(after[first : first + 4]))
    assert not torch.equal(before["clip"][0], before["clip"][1])
