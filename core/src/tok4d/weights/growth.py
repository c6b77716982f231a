"""What a model is given when a stage begins: from pictures to clips."""

from __future__ import annotations

import torch

from tok4d.model.tokenizer import Tokenizer


@torch.no_grad()
def repeat_first_frame(model: Tokenizer) -> None:
    """Let a model of pictures write its picture to every frame of a patch: training on clips begins at stills.

    A picture is frame 0 of its patch, so a model trained on pictures never wrote the others. The output rows of frame 0
    are copied to them; what pictures look like does not change. The input needs nothing: what it does with frames 1
    to 3, its start at zero included, pictures never used.
    """
    layer = model.decoder.out_layer
    frames = model.patch_size[0]
    for values in (layer.weight, layer.bias):
        if values is not None:
            parts = values.unflatten(0, (frames, -1))
            parts[1:] = parts[:1]
