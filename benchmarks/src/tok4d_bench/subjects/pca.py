"""PCA of patches: the linear floor. A fixed number of components a patch, fitted on a training source.

V = feature channels in use. A patch of a clip is 4 frames, that of an asset the pixels of a voxel; assets are drawn as
one splat a voxel, so that their views can be compared, too.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from typing import Any

import torch

from tok4d.config.schema import TaskConfig
from tok4d.data.build import build_source
from tok4d.errors import ConfigError, DataError
from tok4d.modality import DEFAULT_PATCH, Sample
from tok4d.plugins.registry import modality, source_factory
from tok4d.training.start import fit_pca
from tok4d_bench.contracts import Restored, Subject, UnsuitedError
from tok4d_bench.subjects.common import digest_of
from tok4d_bench.subjects.splats import OPACITY, SCALE, splats_of
from tok4d_bench.subjects.tiles import tile_samples

SAMPLES = 256
TOKENS = 16_384  # of a piece of a clip: patches are independent, and a long clip in pieces needs no more memory
SPLATTED = "mesh3d"


class Pca(Subject):
    """Patches through the first components of their PCA and back, continuous as a KL tokenizer's latents are.

    Args:
        source: training source to fit on, such as `image/photos`; its modality is what this can reconstruct.
        channels: components a patch, to compare with a tokenizer's latent channels.
        options: of the source; `split: train` unless they say otherwise, so that nothing leaks from `val`.
        samples: how many samples to fit on at most (and 100,000 patches).
        seed: which samples.

    Raises:
        Tok4dError: for a source that does not exist or cannot be read, or more channels than a patch has values.
    """

    def __init__(
        self,
        source: str,
        *,
        device: str = "cpu",
        dtype: str = "float32",
        channels: int = 48,
        options: Mapping[str, Any] | None = None,
        samples: int = SAMPLES,
        seed: int = 0,
    ) -> None:
        if samples < 1:
            raise ConfigError(f"pca: samples must be at least 1, got {samples}")
        if not source:
            raise ConfigError("baseline pca needs the source that it is fitted on: pca:image/photos,channels=48")
        chosen = dict(options or {})
        if "split" in {f.name for f in fields(source_factory(source))}:
            chosen.setdefault("split", "train")
        task = TaskConfig(source=source, options=chosen)
        owner = build_source(task).host
        self._pca = fit_pca(task, DEFAULT_PATCH, samples, seed)
        if not 1 <= channels <= len(self._pca.mean):
            raise ConfigError(f"pca: channels must be in [1, {len(self._pca.mean)}], got {channels}")
        self.channels, self.reconstructs = channels, (owner.name,)
        self.name = f"pca{channels}"
        basis = hashlib.sha256(self._pca.mean.numpy().tobytes())
        basis.update(self._pca.components[:, :channels].contiguous().numpy().tobytes())
        drawn = {"splats": [SCALE, OPACITY]} if owner.name == SPLATTED else {}
        basis_of = {"channels": channels, "patch": DEFAULT_PATCH, "basis": basis.hexdigest()}
        self.digest = digest_of(kind="pca", version=1, **basis_of, **drawn)
        fitted = {"source": source, "options": chosen, "samples": samples, "seed": seed}
        self._facts = {
            "kind": "pca",
            "parameters": len(self._pca.mean) * (channels + 1),
            "latent": channels,
            "patch_size": list(DEFAULT_PATCH),
            "values": len(self._pca.mean),
            "fitted_on": fitted,
        }

    def facts(self) -> dict[str, Any]:
        return dict(self._facts)

    @torch.inference_mode()
    def reconstruct(self, samples: Sequence[Sample]) -> list[Restored]:
        """Each patch on its own.

        Raises:
            DataError: for samples whose patches have more values than those that it was fitted on.
        """
        return [self._restored(sample) for sample in samples]

    def _restored(self, sample: Sample) -> Restored:
        owner = modality(sample.modality)
        pieces = tile_samples(sample, _frames(sample.data[owner.field])) if owner.streams else iter([sample])
        parts = [self._through(piece) for piece in pieces]
        restored = parts[0].sample
        if len(parts) > 1:
            whole = torch.cat([part.sample.data[owner.field] for part in parts])
            restored = replace(restored, data={owner.field: whole})
        if owner.name == SPLATTED:
            restored = splats_of(restored)
        restored.key, restored.fps = sample.key, sample.fps
        return Restored(restored, tokens=sum(part.tokens for part in parts))

    def _through(self, sample: Sample) -> Restored:
        owner = modality(sample.modality)
        tokens = owner.patchify(sample, DEFAULT_PATCH)
        (origin,) = tokens.origins
        if (used := origin.channels or tokens.width) > len(self._pca.mean):
            raise DataError(
                sample.key or "sample", f"its patches have {used} values, the PCA's have {len(self._pca.mean)}"
            )
        (restored,) = owner.unpatchify(self._pca.reconstruct(tokens, self.channels))
        return Restored(restored, tokens=tokens.num_tokens)

    def features(self, samples: Sequence[Sample], where: str) -> torch.Tensor:
        """Mean over patches of the scores, `[n, channels]`, for a probe at `latents`.

        Raises:
            UnsuitedError: for any other place.
        """
        if where != "latents":
            raise UnsuitedError(f"{self.name} has latents to probe, no {where}")
        rows = []
        for sample in samples:
            tokens = modality(sample.modality).patchify(sample, DEFAULT_PATCH)
            scores = (tokens.feats[:, : len(self._pca.mean)] - self._pca.mean) @ self._pca.components
            rows.append(scores[:, : self.channels].double().mean(0).float())
        return torch.stack(rows)


def _frames(clip_F3HW: torch.Tensor) -> int:
    """Frames of a piece of a clip: whole latent steps of at most `TOKENS` tokens, or one step."""
    step, height, width = DEFAULT_PATCH
    tokens = -(-clip_F3HW.shape[-2] // height) * -(-clip_F3HW.shape[-1] // width)
    return step * max(1, TOKENS // tokens)
