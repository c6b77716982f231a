"""Our own models as subjects: any modality, by codes where the model has some, else by posterior means.

T = packed tokens, L = latent channels, G = FSQ groups, n = samples, D = width of an embedding, C = encoder channels.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tok4d.cli.console import note
from tok4d.errors import ConfigError, DataError, Tok4dError
from tok4d.modality import Modality, Sample
from tok4d.model.bottleneck import Encoded
from tok4d.model.fsq import Codes
from tok4d.model.tokenizer import Tokenizer
from tok4d.plugins.registry import modalities, modality
from tok4d.text.encoder import TextEncoder
from tok4d.tokens import TokenSet
from tok4d_bench.contracts import Restored, Subject, UnsuitedError
from tok4d_bench.subjects.common import PRECISIONS, digest_of, parameters
from tok4d_bench.subjects.tiles import by_tiles, embed_by_tiles, tiles_of

PACKED = 16_384  # tokens of a pass: a group of more is worked off in parts, and a clip of more tile by tile
PROBES = ("features", "latents", "codes")


class Tok4dSubject(Subject):
    """A model folder.

    Args:
        source: the folder.
        codes: reconstruct from FSQ codes; default: if the model has a quantizer. False decodes the means before it.
        cached_steps: latent steps of the previous tile that the decoder sees; default: the model's own.
        inputs: options of modalities that take the place of the model's own, such as `{image: {fit: pad}}`.

    Raises:
        Tok4dError: for a missing or broken folder, and codes of a model that has none.
    """

    def __init__(
        self,
        source: str,
        *,
        device: str = "cpu",
        dtype: str = "float32",
        codes: bool | None = None,
        cached_steps: int | None = None,
        inputs: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> None:
        if not source:
            raise ConfigError("baseline tok4d needs a model folder: tok4d:FOLDER, or FOLDER alone")
        model = Tokenizer.from_pretrained(source)
        self._model_digest = model.digest  # of the weights as saved, before any cast
        self._weights = parameters(model)
        self.model = model.to(torch.device(device), PRECISIONS[dtype])
        if codes and model.quantizer is None:
            raise ConfigError(f"{source}: codes=true, but this model has continuous latents")
        self.codes = model.quantizer is not None if codes is None else bool(codes)
        self.cached_steps, self.dtype = cached_steps, dtype
        self.inputs = {**model.config.inputs, **(inputs or {})}
        for name, options in self.inputs.items():
            modality(name).configured(options)  # what cannot work is refused before hours are spent
        self.name = Path(source).resolve().name if Path(source).name != "model" else Path(source).resolve().parent.name
        settings = {"codes": self.codes, "cached_steps": cached_steps, "inputs": self.inputs, "dtype": dtype}
        self.digest = digest_of(kind="tok4d", version=1, model=self._model_digest, **settings)
        self.reconstructs = self.embeds = tuple(modalities())
        self.discrete = self.codes
        self._tower: TextEncoder | None = None

    # --- what it is -----------------------------------------------------------------------------------------------

    def facts(self) -> dict[str, Any]:
        config, fsq = self.model.config, self.model.config.quantizer
        return {
            "kind": "tok4d",
            "preset": config.name,
            "model": self._model_digest,
            "parameters": self._weights,
            "dtype": self.dtype,
            "patch_size": list(config.patch_size),
            "latent": config.latent,
            "quantizer": None if fsq is None else {"groups": fsq.groups, "levels": list(fsq.levels)},
            "bits_per_token": self.bits(1),
            "decoded_from": "codes" if self.codes else "posterior means",
            "inputs": self.inputs,
            "heads": sorted(self.model.heads),
            "embedding_width": self.model.embedding_width,
            "text_tower": None if config.text is None else f"{config.text.kind} {config.text.source}".strip(),
        }

    def bits(self, tokens: int) -> float | None:
        """Size of so many tokens at a fixed length of the code: sum over groups of log2 of the vocabulary each."""
        if not self.codes or self.model.quantizer is None:
            return None
        return tokens * sum(math.log2(size) for size in self.model.quantizer.vocabulary)

    # --- what it does ---------------------------------------------------------------------------------------------

    @torch.inference_mode()
    def reconstruct(self, samples: Sequence[Sample]) -> list[Restored]:
        """Encode and decode; see `Subject.reconstruct`.

        Raises:
            DataError: for a sample that the model's `inputs` cut, since what is cut away cannot be compared.
        """
        restored: dict[int, Restored] = {}
        for places, tokens in self._packs(samples):
            if tokens.num_tokens > PACKED and self._host(samples[places[0]]).streams:
                restored[places[0]] = by_tiles(self, samples[places[0]], tokens.lengths[0])
                continue
            encoded = self.model.encode(tokens, pool=False)
            codes = self.model.quantize(encoded) if self.codes else None
            latents = encoded.latents("mean") if codes is None else codes.latents()
            patches = self.model.decode(latents, cached_steps=self.cached_steps)
            for place, one in zip(places, self._restored(patches, codes), strict=True):
                restored[place] = one
        return [_checked(restored[i], sample) for i, sample in enumerate(samples)]

    def _restored(self, patches: TokenSet, codes: Codes | None) -> list[Restored]:
        parts = [None] * len(patches) if codes is None else list(codes.indices.cpu().split(patches.lengths))
        return [
            Restored(self.sample_of(part), self.bits(part.num_tokens), part.num_tokens, indices)
            for part, indices in zip(patches.unpack(), parts, strict=True)
        ]

    def sample_of(self, patches: TokenSet) -> Sample:
        """Patches of one sample in float32 on the CPU; with the model's extra decoder where it has one."""
        owner = modality(patches.origins[0].modality)
        head = dict(self.model.heads.items()).get(owner.name)
        (sample,) = owner.unpatchify(patches.to("cpu" if head is None else None, dtype=torch.float32), head)
        return replace(sample, data={name: tensor.cpu() for name, tensor in sample.data.items()})

    @torch.inference_mode()
    def embed(self, samples: Sequence[Sample]) -> Tensor:
        """Unit vectors `[n, D]`: of the text head where the model has one, else the pooled features."""
        return torch.stack(self._pooled(samples, "embedding"))

    def embed_texts(self, texts: Sequence[str]) -> Tensor:
        """Embeddings `[n, D]` of the text tower that the model names, through the cache on disk.

        Raises:
            Tok4dError: for a model that is aligned with no text, or a tower that is not there.
        """
        from tok4d.text import EmbeddingCache

        return EmbeddingCache().encode(self.tower, texts).cpu()

    @property
    def tower(self) -> TextEncoder:
        """The text tower, loaded on first use; errors as in `embed_texts`."""
        if self._tower is None:
            from tok4d.text import load_text_encoder

            config = self.model.config.text
            if config is None:
                raise UnsuitedError(f"{self.name} is aligned with no text: its config has no `text`")
            tower = load_text_encoder(config.kind, config.source, self.model.proj.weight.device, note)
            if tower.width != self.model.embedding_width:
                raise Tok4dError(
                    f"{self.name}: its embeddings have width {self.model.embedding_width}, those of its text tower "
                    f"{config.kind} {config.source or '(default)'} {tower.width}"
                )
            self._tower = tower
        return self._tower

    @torch.inference_mode()
    def features(self, samples: Sequence[Sample], where: str) -> Tensor:
        """What a probe reads, float32: `features` `[n, C]` pooled, `latents` or `codes` `[n, L]`, means over tokens.

        Raises:
            Tok4dError: for another place, or codes of a model that has none.
        """
        if where not in PROBES:
            raise Tok4dError(f"features are probed at {', '.join(PROBES)}, got {where!r}")
        if where == "codes" and self.model.quantizer is None:
            raise UnsuitedError(f"{self.name} has continuous latents: there are no codes to probe")
        if where == "features":
            return torch.stack(self._pooled(samples, "pooled"))
        rows: dict[int, Tensor] = {}
        for places, tokens in self._packs(samples):
            values = self._means(self.model.encode(tokens, pool=False), where)
            for place, part in zip(places, values.split(tokens.lengths), strict=True):
                rows[place] = part.double().mean(0).float().cpu()
        return torch.stack([rows[i] for i in range(len(samples))])

    def encoded(self, samples: Sequence[Sample]) -> Iterator[Encoded]:
        """Posteriors of all tokens, some samples at a time, without pooling: what statistics of latents read."""
        for places, tokens in self._packs(samples):
            sample = samples[places[0]]
            long = tokens.num_tokens > PACKED and self._host(sample).streams
            for part in tiles_of(self, sample) if long else (tokens,):
                yield self.model.encode(part, pool=False)

    def _means(self, encoded: Encoded, where: str) -> Tensor:
        return self.model.quantize(encoded).values if where == "codes" else encoded.posterior.mean

    def _pooled(self, samples: Sequence[Sample], attribute: str) -> list[Tensor]:
        """`embedding` or `pooled` of every sample, float32 on the CPU."""
        rows: dict[int, Tensor] = {}
        for places, tokens in self._packs(samples):
            if tokens.num_tokens > PACKED and self._host(samples[places[0]]).streams:
                vectors = getattr(embed_by_tiles(self, samples[places[0]]), attribute)
            else:
                vectors = getattr(self.model.encode(tokens), attribute)
            for place, vector in zip(places, vectors, strict=True):
                rows[place] = vector.float().cpu()
        return [rows[i] for i in range(len(samples))]

    # --- samples to tokens ----------------------------------------------------------------------------------------

    def _host(self, sample: Sample) -> Modality:
        """The sample's modality with the options in force."""
        return modality(sample.modality).configured(self.inputs.get(sample.modality, {}))

    def tokens_of(self, sample: Sample) -> TokenSet:
        """Patches of one sample, on the model's device and in its precision."""
        weight = self.model.proj.weight
        return self._host(sample).patchify(sample, self.model.patch_size).to(weight.device, weight.dtype)

    def _packs(self, samples: Sequence[Sample]) -> Iterator[tuple[list[int], TokenSet]]:
        """Consecutive samples in packs of at most `PACKED` tokens or one sample; a function of the group."""
        places: list[int] = []
        waiting: list[TokenSet] = []
        for place, sample in enumerate(samples):
            tokens = self.tokens_of(sample)
            if waiting and sum(t.num_tokens for t in waiting) + tokens.num_tokens > PACKED:
                yield places, TokenSet.pack(waiting)
                places, waiting = [], []
            places.append(place)
            waiting.append(tokens)
        if waiting:
            yield places, TokenSet.pack(waiting)


def _checked(restored: Restored, original: Sample) -> Restored:
    """The result under the original's key, with the shape that it must have."""
    owner = modality(original.modality)
    got, wanted = restored.sample.data[owner.field].shape, original.data[owner.field].shape
    if got != wanted:
        raise DataError(
            original.key or "sample",
            f"the model cuts it from {list(wanted)} to {list(got)} and the rest cannot be compared; prepare samples of "
            f"whole patches, or let the model pad: inputs={{{owner.name}: {{}}}}",
        )
    sample = replace(restored.sample, key=original.key, fps=original.fps)
    return replace(restored, sample=sample)
