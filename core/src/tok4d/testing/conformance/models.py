"""Checks with a tokenizer: the whole line of data from sample to tokens to latents and back."""

from __future__ import annotations

import torch

from tok4d.modality import Modality, Sample
from tok4d.testing.conformance.base import Case, describe, fail
from tok4d.tokens import TokenSet


class ModelChecks(Case):
    """An untrained tiny tokenizer restores the shape, not the content."""

    def test_encode_and_decode(self, modality: Modality, samples: list[Sample], tokens: list[TokenSet]) -> None:
        from tok4d.testing.models import tiny_tokenizer

        tokenizer = tiny_tokenizer(self.patch_size)
        with torch.no_grad():
            decoded = tokenizer.decode(tokenizer.encode(TokenSet.pack(tokens)).latents("mean"))
        restored = modality.unpatchify(decoded)
        if len(restored) != len(samples):
            fail(f"a batch of {len(samples)} samples came back from the model as {len(restored)}")
        for index, (sample, again) in enumerate(zip(samples, restored, strict=True)):
            values, shape = again.data[modality.field], sample.data[modality.field].shape
            if values.shape != shape:
                fail(f"{describe(index, sample)} came back from the model as {list(values.shape)}")
            if not bool(torch.isfinite(values).all()):
                fail(f"{describe(index, sample)} came back from the model with values that are not finite")

    def test_objective_trains(self, modality: Modality, samples: list[Sample], tokens: list[TokenSet]) -> None:
        from tok4d.testing.models import tiny_tokenizer

        tokenizer = tiny_tokenizer(self.patch_size)
        encoded = tokenizer.encode(TokenSet.pack(tokens))
        restored = modality.unpatchify(tokenizer.decode(encoded.latents("mean")))
        loss = modality.objective({"l1": 1.0, "l2": 1.0})(samples, restored, encoded).total
        if loss.shape != () or not bool(torch.isfinite(loss)):
            fail(f"objective must give one finite number, got {loss}")
        loss.backward()
        gradients = {name: p.grad for name, p in tokenizer.named_parameters() if p.grad is not None}
        if not any(name.startswith("encoder") and bool(g.any()) for name, g in gradients.items()):
            fail("the objective gives the encoder no gradient; is it computed from the reconstruction?")
        if bad := [name for name, g in gradients.items() if not bool(torch.isfinite(g).all())]:
            fail(f"the objective gives gradients that are not finite, first at {bad[0]}")
