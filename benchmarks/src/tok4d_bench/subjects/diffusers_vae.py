"""Autoencoders of `diffusers` as subjects: one adapter, a table of families.

n = samples, F = frames, H, W = height and width.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from tok4d.errors import ConfigError, DataError, unknown_name
from tok4d.modality import Sample
from tok4d.text.encoder import module_digest
from tok4d.weights.hf_folder import read_json
from tok4d_bench.contracts import Restored, Subject
from tok4d_bench.subjects.common import PRECISIONS, by_shape, digest_of, parameters, pixels, with_main
from tok4d_bench.subjects.diffusers_families import FAMILIES, Coded, Family, bits_of_place
from tok4d_bench.subjects.hub import CONFIG, locate, one_line, quiet

WEIGHTS = "diffusion_pytorch_model"
AT_MOST = 3 << 22  # values of a pass: four million pixels, since activations are a hundred times as large


class DiffusersVae(Subject):
    """An autoencoder in the format of `diffusers`, by the class that its `config.json` names.

    Posteriors are decoded from their mode. Sizes that a model does not take are padded: repeated edges at the bottom
    and right, a repeated last frame, cut off again afterwards. Models of pictures take clips frame by frame; models of
    clips take a picture as one frame.

    Args:
        source: folder or hub id.
        subfolder: where in it; default: itself, or `vae` where that is what there is.
        tiling: switch on the model's own tiling, for pictures that are too large for memory. It changes the result.

    Raises:
        ConfigError: for a source that is not found or a class that is no autoencoder of pictures or clips.
        DataError: for files that are missing or broken.
    """

    def __init__(
        self,
        source: str,
        *,
        device: str = "cpu",
        dtype: str = "float32",
        subfolder: str | None = None,
        tiling: bool = False,
    ) -> None:
        import diffusers

        folder = _folder(source, subfolder)
        config = read_json(folder / CONFIG)
        self.family = _family(diffusers, str(config.get("_class_name")), folder)
        model = _load(diffusers, str(config["_class_name"]), folder, dtype)
        settings = {"dtype": dtype, "tiling": tiling or self.family.tiled, "version": diffusers.__version__}
        kept = json.dumps(config, sort_keys=True).encode()
        self.digest = digest_of(kind="diffusers", adapter=1, weights=module_digest(model, kept), **settings)
        if settings["tiling"]:
            with one_line(folder, "it has no tiling"):
                model.enable_tiling()
        self.model = model.to(torch.device(device))
        self.vocabulary = self.family.vocabulary(model)
        self.discrete = bool(self.vocabulary)
        self.name = _name(source, subfolder)
        self.reconstructs = ("image", "video")
        height, _ = self.family.sides(model)
        frames = self.family.frames(model) if self.family.frames is not None else None
        self._facts = {
            "kind": "diffusers",
            "class": config["_class_name"],
            "parameters": parameters(model),
            "dtype": dtype,
            "latent": next((config[k] for k in ("latent_channels", "z_dim", "z_channels") if k in config), None),
            "sides": f"{height.first} + k * {height.step}",
            "frames": None if frames is None else f"{frames.first} + k * {frames.step}",
            "quantizer": {"groups": 1, "levels": list(self.vocabulary)} if self.discrete else None,
            "library": f"diffusers {diffusers.__version__}",
        }

    def facts(self) -> dict[str, Any]:
        return dict(self._facts)

    @torch.inference_mode()
    def reconstruct(self, samples: Sequence[Sample]) -> list[Restored]:
        """Encode and decode; equal sizes together. What draws noise draws from torch's generator.

        Raises:
            DataError: for samples that the model cannot take at any padding.
        """
        results: dict[int, Restored] = {}
        clips = [self._as_clip(pixels(sample), sample) for sample in samples]
        made = by_shape(clips, self._run, AT_MOST)
        for place, (sample, (restored, tokens, codes)) in enumerate(zip(samples, made, strict=True)):
            whole = restored.transpose(0, 1) if pixels(sample).ndim == 4 else restored[:, 0]
            bits = tokens * bits_of_place(self.vocabulary) if self.discrete else None
            results[place] = Restored(with_main(sample, whole), bits, tokens, codes)
        return [results[i] for i in range(len(samples))]

    def _as_clip(self, values: Tensor, sample: Sample) -> Tensor:
        """`[3, F, H, W]`, one frame for a picture.

        Raises:
            DataError: for a side that is too long for the model.
        """
        sizes = self.family.sides(self.model)
        for size, side, name in zip(sizes, values.shape[-2:], ("height", "width"), strict=True):
            if size.fit(side) is None:
                raise DataError(
                    sample.key or "sample", f"{self.name} takes a {name} of {size.first} alone, got {side}; resize it"
                )
        return values.transpose(0, 1) if values.ndim == 4 else values[:, None]

    def _run(self, clips: Tensor) -> list[tuple[Tensor, int, Tensor | None]]:
        """Reconstruction `[3, F, H, W]`, places and codes of every clip of `[n, 3, F, H, W]`."""
        count, _, frames, height, width = clips.shape
        if self.family.frames is None:
            stills = clips.transpose(1, 2).flatten(0, 1)
            size = max(1, AT_MOST // stills[0].numel())
            parts = [self._through(some) for some in stills.split(size)]
            restored = torch.cat([part for part, _ in parts]).unflatten(0, (count, frames)).transpose(1, 2)
            codes = _joined([coded.codes for _, coded in parts], count)
            places = _places(parts[0][1]) * frames
        else:
            parts = [self._through(some) for some in clips.split(1 if self.family.tiled else count)]
            restored = torch.cat([part for part, _ in parts])
            codes, places = _joined([coded.codes for _, coded in parts], count), _places(parts[0][1])
        restored = restored[..., :height, :width].float().cpu()
        rows = [None] * count if codes is None else list(codes.cpu())
        return [(restored[i], places, rows[i]) for i in range(count)]

    def _through(self, values: Tensor) -> tuple[Tensor, Coded]:
        """Pad, scale, encode, decode, unscale, cut the frames; `[n, 3, (F,) H, W]`."""
        weight = next(self.model.parameters())
        padded = self._padded(values)
        shape = [3] + [1] * (padded.ndim - 2)
        mean = torch.tensor(self.family.mean).view(shape)
        std = torch.tensor(self.family.std).view(shape)
        given = (((padded + 1) / 2 - mean) / std).to(weight.device, weight.dtype)
        with one_line(self.name, f"cannot take pixels of {list(padded.shape)}"):
            coded = self.family.encode(self.model, given)
            decoded = self.family.decode(self.model, coded, tuple(padded.shape))[:, :3].float().cpu()
        if decoded.shape != padded.shape:
            raise DataError(self.name, f"gave {list(decoded.shape)} for pixels of {list(padded.shape)}")
        restored = (decoded * std + mean) * 2 - 1
        return (restored[:, :, : values.shape[2]] if values.ndim == 5 else restored), coded

    def _padded(self, values: Tensor) -> Tensor:
        """Edges repeated at the bottom and right, the last frame repeated."""
        sizes = self.family.sides(self.model)
        below, right = ((size.fit(side) or side) - side for size, side in zip(sizes, values.shape[-2:], strict=True))
        flat = values if values.ndim == 4 else values.flatten(1, 2)
        flat = F.pad(flat, (0, right, 0, below), mode="replicate") if below or right else flat
        if self.family.frames is None:
            return flat
        padded = flat.unflatten(1, (3, -1))
        frames = padded.shape[2]
        missing = (self.family.frames(self.model).fit(frames) or frames) - frames
        return torch.cat([padded, padded[:, :, -1:].expand(-1, -1, missing, -1, -1)], 2) if missing else padded


def _places(coded: Coded) -> int:
    """Places of one sample's latents."""
    return coded.codes.shape[1] if coded.codes is not None else coded.latents[0, 0].numel()


def _joined(codes: list[Tensor | None], count: int) -> Tensor | None:
    """Codes of frames `[n * F, places, groups]` as those of clips `[n, F * places, groups]`."""
    some = [c for c in codes if c is not None]
    if not some:
        return None
    whole = torch.cat(some)
    return whole.reshape(count, -1, whole.shape[-1])


def _folder(source: str, subfolder: str | None) -> Path:
    """Where `config.json` and the weights are."""
    inside = [subfolder] if subfolder else ["", "vae"]

    def found(root: Path) -> Path | None:
        for sub in inside:
            folder = root / sub if sub else root
            if (folder / CONFIG).is_file() and list(folder.glob(f"{WEIGHTS}*.safetensors")):
                return folder
        return None

    names = (CONFIG, f"{WEIGHTS}*.safetensors", f"{WEIGHTS}*.json")
    patterns = [f"{sub}/{name}" if sub else name for sub in inside for name in names]
    root = locate(source, patterns, lambda folder: found(folder) is not None)
    folder = found(root)
    assert folder is not None
    return folder


def _family(diffusers: Any, name: str, folder: Path) -> Family:
    """What is known of a class.

    Raises:
        ConfigError: for a class that is not in the library or not an autoencoder of pictures or clips.
    """
    if name not in FAMILIES:
        raise ConfigError(f"{folder / CONFIG}: {unknown_name('autoencoder of pictures or clips', name, FAMILIES)}")
    if not hasattr(diffusers, name):
        raise ConfigError(
            f"{folder / CONFIG}: diffusers {diffusers.__version__} has no {name}; pip install -U diffusers"
        )
    return FAMILIES[name]


def _load(diffusers: Any, name: str, folder: Path, dtype: str) -> Any:
    """The model, frozen, with all its weights; in bf16, parts that the library keeps in float32 stay there.

    Raises:
        DataError: for weights that are missing, broken, or of other shapes than the config says.
    """
    with quiet(diffusers.utils.logging), one_line(folder, "its weights cannot be loaded"):
        model, info = getattr(diffusers, name).from_pretrained(
            folder, use_safetensors=True, local_files_only=True, output_loading_info=True, torch_dtype=PRECISIONS[dtype]
        )
        if lost := sorted(map(str, info["missing_keys"])):
            raise DataError(folder, f"its weights lack {', '.join(lost[:3])} ({len(lost)} in all)")
        return model.eval().requires_grad_(False)


def _name(source: str, subfolder: str | None) -> str:
    """What tables call it: the folder's name, or the hub id."""
    path = Path(source).expanduser()
    if not path.is_dir():
        return source
    return path.resolve().parent.name if path.name == "vae" and subfolder is None else path.resolve().name
