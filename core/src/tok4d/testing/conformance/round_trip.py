"""Checks of patchify and unpatchify: exact, by coordinates, differentiable, unclamped, the same in any batch."""

from __future__ import annotations

import json
from dataclasses import replace

import torch

from tok4d.errors import Tok4dError
from tok4d.modality import Modality, Sample
from tok4d.origin import Origin
from tok4d.testing.conformance.base import Case, copy_of, describe, fail, only_tok4d_errors, same_values
from tok4d.tokens import TokenSet

_CLEAR = "give a result or raise Tok4dError with the reason"


def shuffled(tokens: TokenSet, seed: int = 3) -> TokenSet:
    """One sample's tokens in another order."""
    order = torch.randperm(tokens.num_tokens, generator=torch.Generator().manual_seed(seed))
    return TokenSet(tokens.feats[order], tokens.coords[order], tokens.lengths, tokens.origins)


class RoundTripChecks(Case):
    """One sample there and back."""

    def test_round_trip(self, modality: Modality, samples: list[Sample], tokens: list[TokenSet]) -> None:
        for index, (sample, t) in enumerate(zip(samples, tokens, strict=True)):
            if t.feats.dtype != torch.float32:
                fail(f"{describe(index, sample)}: patchify of float32 gave {t.feats.dtype}")
            restored = modality.unpatchify(t)
            if not isinstance(restored, list) or len(restored) != 1:
                fail(f"unpatchify must return a list with one Sample per sample, got {restored!r}")
            if restored[0].modality != modality.name:
                fail(f"unpatchify must name the modality {modality.name!r}, got {restored[0].modality!r}")
            self.assert_same(
                restored[0], sample, self.patch_tolerance, f"{describe(index, sample)} after patchify, unpatchify"
            )

    def test_origin_survives_json(self, modality: Modality, samples: list[Sample], tokens: list[TokenSet]) -> None:
        for index, (sample, t) in enumerate(zip(samples, tokens, strict=True)):
            origin = t.origins[0]
            try:
                text = json.dumps(origin.to_json(), allow_nan=False)
            except (TypeError, ValueError) as error:
                fail(f"{describe(index, sample)}: Origin is not JSON: {error}; keep plain values in Origin.extra")
            again = Origin.from_json(json.loads(text))
            if again != origin:
                fail(f"Origin changes on the way through JSON: {origin} became {again}; use lists in Origin.extra")
            restored = modality.unpatchify(TokenSet(t.feats, t.coords, t.lengths, (again,)))[0]
            self.assert_same(
                restored, sample, self.patch_tolerance, f"{describe(index, sample)} restored by its Origin from JSON"
            )

    def test_grid_agrees_with_patchify(self, modality: Modality, samples: list[Sample], tokens: list[TokenSet]) -> None:
        for index, (sample, t) in enumerate(zip(samples, tokens, strict=True)):
            shape = tuple(sample.data[modality.field].shape)
            coords, origin = modality.grid(shape, self.patch_size)
            if coords.dtype != torch.int32 or not torch.equal(coords, t.coords):
                fail(f"{describe(index, sample)}: grid({shape}) gives other coordinates than patchify")
            for name in ("modality", "shape", "grid", "patch", "channels", "padding"):
                if getattr(origin, name) != getattr(t.origins[0], name):
                    values = f"{getattr(origin, name)!r}, patchify's {getattr(t.origins[0], name)!r}"
                    fail(f"{describe(index, sample)}: grid({shape}) gives Origin.{name} = {values}")

    def test_deterministic_and_pure(self, modality: Modality, samples: list[Sample], tokens: list[TokenSet]) -> None:
        for index, (sample, first) in enumerate(zip(samples, tokens, strict=True)):
            before = copy_of(sample)
            second = modality.patchify(sample, self.patch_size)
            if not torch.equal(first.feats, second.feats) or not torch.equal(first.coords, second.coords):
                fail(f"{describe(index, sample)}: patchify twice gives different tokens; it must not draw at random")
            for key, value in before.data.items():
                if not torch.equal(value, sample.data[key]):
                    fail(f"{describe(index, sample)}: patchify changed data[{key!r}] of its argument; work on a copy")
            feats = second.feats.clone()
            once, twice = modality.unpatchify(second)[0], modality.unpatchify(second)[0]
            if not torch.equal(feats, second.feats):
                fail(f"{describe(index, sample)}: unpatchify changed the features it was given; work on a copy")
            self.assert_same(twice, once, 0.0, f"{describe(index, sample)}: unpatchify a second time")

    def test_bfloat16(self, modality: Modality, samples: list[Sample], tokens: list[TokenSet]) -> None:
        for index, (sample, t) in enumerate(zip(samples, tokens, strict=True)):
            rounded = t.to(dtype=torch.bfloat16)
            restored = modality.unpatchify(rounded)[0].data[modality.field]
            expected = modality.unpatchify(rounded.to(dtype=torch.float32))[0].data[modality.field]
            bound = 2**-7 * max(1.0, float(expected.abs().max()))
            same_values(restored.float(), expected, bound, f"{describe(index, sample)}: unpatchify of bfloat16")


class GradientChecks(Case):
    """A loss on the restored sample must reach every feature in use, whatever its value."""

    def test_unpatchify_is_differentiable(
        self, modality: Modality, samples: list[Sample], tokens: list[TokenSet]
    ) -> None:
        for index, (sample, t) in enumerate(zip(samples, tokens, strict=True)):
            reached = self._gradient(modality, t, 1.0, describe(index, sample)) != 0
            if not bool(reached.any(1).all()):
                fail(f"{describe(index, sample)}: some tokens get no gradient from unpatchify; do they have an effect?")
            used = t.origins[0].channels
            if used is not None and bool(reached[:, used:].any()):
                fail(f"{describe(index, sample)}: unpatchify reads beyond Origin.channels = {used}")

    def test_unpatchify_does_not_clamp(self, modality: Modality, samples: list[Sample], tokens: list[TokenSet]) -> None:
        for index, (sample, t) in enumerate(zip(samples, tokens, strict=True)):
            where = describe(index, sample)
            near, far = (self._gradient(modality, t, factor, where) != 0 for factor in (1.0, 100.0))
            if bool((near & ~far).any()):
                fail(f"{where}: large features get no gradient from unpatchify; clamp in write() and metrics instead")
            value, large = (modality.unpatchify(t.replace(t.feats * f))[0].data[modality.field] for f in (1.0, 100.0))
            if float(value.abs().max()) > 0 and float(large.abs().max()) <= 2 * float(value.abs().max()):
                fail(f"{where}: unpatchify limits its values; clamp in write() and metrics instead")

    def _gradient(self, modality: Modality, tokens: TokenSet, factor: float, where: str) -> torch.Tensor:
        feats = (tokens.feats * factor).detach().requires_grad_()
        restored = modality.unpatchify(tokens.replace(feats))[0].data[modality.field]
        if not restored.requires_grad:
            fail(f"{where}: unpatchify is not differentiable; use torch operations without detach() or rounding")
        (gradient,) = torch.autograd.grad(restored.square().sum() + restored.sum(), feats)
        return gradient


class BatchChecks(Case):
    """Several samples at once, and tokens as a set."""

    def test_batch(self, modality: Modality, samples: list[Sample], tokens: list[TokenSet]) -> None:
        self._check_batch(modality, samples, tokens, list(range(len(samples))), "in a batch")

    def test_permuted_samples(self, modality: Modality, samples: list[Sample], tokens: list[TokenSet]) -> None:
        order = list(range(len(samples)))[::-1]
        self._check_batch(modality, samples, tokens, order, "in a batch of another order")

    def _check_batch(
        self, modality: Modality, samples: list[Sample], tokens: list[TokenSet], order: list[int], what: str
    ) -> None:
        restored = modality.unpatchify(TokenSet.pack([tokens[i] for i in order]))
        if len(restored) != len(order):
            fail(f"unpatchify gave {len(restored)} samples for a batch of {len(order)}; return one per sample")
        for sample, i in zip(restored, order, strict=True):
            self.assert_same(sample, samples[i], self.patch_tolerance, f"{describe(i, samples[i])} {what}")

    def test_permuted_tokens(self, modality: Modality, samples: list[Sample], tokens: list[TokenSet]) -> None:
        for seed in range(3):
            mixed = TokenSet.pack([shuffled(t, seed) for t in tokens])
            with only_tok4d_errors("unpatchify of shuffled tokens", "place tokens by their coordinates"):
                restored = modality.unpatchify(mixed)
            for index, (sample, again) in enumerate(zip(samples, restored, strict=True)):
                what = f"{describe(index, sample)} from shuffled tokens (place tokens by coordinates, not by order)"
                self.assert_same(again, sample, self.patch_tolerance, what)

    def test_dropped_tokens(self, modality: Modality, samples: list[Sample], tokens: list[TokenSet]) -> None:
        for index, (sample, t) in enumerate(zip(samples, tokens, strict=True)):
            if t.num_tokens < 2:
                continue
            keep = torch.arange(t.num_tokens) % 2 == 1  # not the first: tokens must not slide to the front
            try:
                with only_tok4d_errors("unpatchify of some tokens of a sample", _CLEAR):
                    some = modality.unpatchify(t.select(keep))[0].data[modality.field]
            except Tok4dError:
                continue
            if not bool(torch.isfinite(some).all()):
                fail(f"{describe(index, sample)}: values are not finite where tokens are missing; fill with zeros")
            self._kept_in_place(modality, t, keep, some, describe(index, sample))

    def _kept_in_place(
        self, modality: Modality, tokens: TokenSet, keep: torch.Tensor, some: torch.Tensor, where: str
    ) -> None:
        whole = modality.unpatchify(tokens)[0].data[modality.field]
        if some.shape != whole.shape:  # sparse data lose what their tokens held
            return
        moved = modality.unpatchify(tokens.replace(tokens.feats + (~keep[:, None]).float()))[0].data[modality.field]
        untouched = moved == whole  # values that the dropped tokens do not determine
        same_values(some[untouched], whole[untouched], self.patch_tolerance, f"{where}: what the kept tokens hold")

    def test_empty_batch(self, modality: Modality, tokens: list[TokenSet]) -> None:
        t = tokens[0]
        nothing = TokenSet(t.feats[:0], t.coords[:0], ())
        hollow = TokenSet(t.feats[:0], t.coords[:0], (0,), t.origins)
        for batch, what in ((nothing, "a batch without samples"), (hollow, "a sample without tokens")):
            try:
                with only_tok4d_errors(f"unpatchify of {what}", _CLEAR):
                    restored = modality.unpatchify(batch)
            except Tok4dError:
                continue
            if len(restored) != len(batch):
                fail(f"unpatchify of {what} gave {len(restored)} samples, expected {len(batch)}")

    def test_tokens_without_origin(self, modality: Modality, tokens: list[TokenSet]) -> None:
        bare = TokenSet(tokens[0].feats, tokens[0].coords, tokens[0].lengths)
        try:
            with only_tok4d_errors("unpatchify of tokens without origins", "raise Tok4dError: origins are missing"):
                restored = modality.unpatchify(bare)
        except Tok4dError:
            return
        if len(restored) != 1:
            fail(f"unpatchify of tokens without origins gave {len(restored)} samples; raise Tok4dError or give one")

    def test_tokens_of_another_modality(self, modality: Modality, tokens: list[TokenSet]) -> None:
        t = tokens[0]
        foreign = TokenSet(t.feats, t.coords, t.lengths, (replace(t.origins[0], modality="another"),))
        advice = "raise Tok4dError when origin.modality is not the modality's own name"
        try:
            with only_tok4d_errors("unpatchify of another modality's tokens", advice):
                modality.unpatchify(foreign)
        except Tok4dError:
            return
        fail(f"unpatchify accepts another modality's tokens; {advice}")
