"""The mesh3d modality: an asset is a sparse set of voxels, each with the pixels of a view that shows it.

T = tokens (occupied voxels), R = voxels along an axis, W = patch width. Token coordinates are (t_offset, x, y, z).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
import torch.nn.functional as F
from PIL.Image import Image
from torch import Tensor, nn

from tok4d.errors import ConfigError, DataError, Tok4dError
from tok4d.losses.objective import Objective
from tok4d.modality import DEFAULT_PATCH, Modality, PatchSize, Sample, patch_width
from tok4d.model.gaussians import GaussianDecoder
from tok4d.origin import Origin
from tok4d.tokens import TokenSet
from tok4d_mesh3d.lifting import MODES
from tok4d_mesh3d.samples import CHANNELS, COORDS, GAUSSIANS, PICTURES, VOXELS, has_views, resolution_of
from tok4d_mesh3d.voxelfiles import MAX_RESOLUTION
from tok4d_mesh3d.voxels import unflatten


@dataclass(frozen=True)
class Mesh3dModality(Modality):
    """Textured meshes (PLY, GLB, glTF, OBJ, STL, OFF) and 3D Gaussians (PLY, SPLAT, SPZ) as sparse voxels.

    `Sample.data` is described in `tok4d_mesh3d.samples`.

    Attributes:
        resolution: voxels along an axis of the unit cube, for files that are read. Samples know their own: a source
            makes them by its own option, and `patchify` takes them as they are.
        t_offset: the time step of all tokens; the released AToken models use 1.
        lifting: how `read` chooses what a voxel looks like, `visible` or `compat` (see `tok4d_mesh3d.lifting`).
    """

    resolution: int = 64
    t_offset: int = 0
    lifting: str = "visible"

    name = "mesh3d"
    axes = ("x", "y", "z")
    suffixes = (".ply", ".glb", ".gltf", ".obj", ".stl", ".off", ".splat", ".spz")
    field = VOXELS
    shows = ".html"
    decoded = MappingProxyType({"gaussians": True})

    def __post_init__(self) -> None:
        for name, least, most in (("resolution", 1, MAX_RESOLUTION), ("t_offset", 0, 1 << 20)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
                raise ConfigError(f"mesh3d.{name} must be a whole number in [{least}, {most}], got {value!r}")
        if self.lifting not in MODES:
            raise ConfigError(f"mesh3d.lifting must be one of {', '.join(MODES)}, got {self.lifting!r}")

    def read(self, path: str | Path, **options: Any) -> Sample:
        """Read one file: draw it from many views and lift those; see `tok4d_mesh3d.reading.ReadOptions`.

        Besides the suffixes it reads `transforms.json` (see `tok4d_mesh3d.viewsets`), which other programs' JSON files
        keep from being a suffix of its own: the command line takes it with `--modality mesh3d`.

        `meta` holds the resolution and what was found out about the file; `degradations` names what could not be used
        as the file says.

        Raises:
            DataError: when the file cannot be used, with the path and the reason.
            ConfigError: for an unknown or unusable option.
        """
        from tok4d_mesh3d.reading import ReadOptions, read_file

        return read_file(path, ReadOptions.parse({"resolution": self.resolution, "lifting": self.lifting, **options}))

    def write(self, sample: Sample, path: str | Path) -> None:
        """Write splats, points, a viewer or a turntable by suffix; see `tok4d_mesh3d.writing.write_sample`."""
        from tok4d_mesh3d.writing import write_sample

        self._voxels(sample, path)
        write_sample(sample, path, self.resolution)

    def patchify(self, sample: Sample, patch_size: PatchSize = DEFAULT_PATCH) -> TokenSet:
        """One token a voxel, in the sample's order.

        Raises:
            DataError: for tensors that are no voxels, or do not fit into their grid or the patch.
        """
        voxels, coords = self._voxels(sample, sample.key)
        side = resolution_of(sample, self.resolution)
        if len(coords) and not 0 <= int(coords.min()) <= int(coords.max()) < side:
            raise DataError(sample.key or "sample", f"has voxels outside of its {side}^3 grid")
        if (width := patch_width(patch_size)) < CHANNELS:
            raise DataError(
                sample.key or "sample", f"a voxel's {CHANNELS} values do not fit into patches of {patch_size} ({width})"
            )
        time = coords.new_full((len(coords), 1), self.t_offset)
        feats = F.pad(voxels, (0, width - CHANNELS))
        origin = self._origin(len(coords), side, patch_size)
        return TokenSet(feats, torch.cat([time, coords], 1), (len(coords),), (origin,))

    def unpatchify(self, tokens: TokenSet, head: nn.Module | None = None) -> list[Sample]:
        """Voxels of every sample, sorted by x, y, z; with a head the Gaussians that it makes of them too.

        Raises:
            Tok4dError: when the tokens have no origins, those of another modality, or do not fit the head.
        """
        tokens = _sorted(self._checked(tokens))
        samples = []
        for part, origin in zip(tokens.unpack(), tokens.origins, strict=True):
            data = {VOXELS: part.feats[:, : origin.channels], COORDS: part.coords[:, 1:]}
            samples.append(Sample(self.name, data, meta={"resolution": origin.extra["resolution"]}))
        if head is not None:
            self._decode(tokens, head, samples)
        return samples

    def fitting(self, head: nn.Module) -> Mesh3dModality:
        """Files are read on the grid that the head decodes."""
        return replace(self, resolution=head.config.resolution) if isinstance(head, GaussianDecoder) else self

    def grid(self, shape: Sequence[int], patch_size: PatchSize = DEFAULT_PATCH) -> tuple[Tensor, Origin]:
        """The whole grid, for `shape` (R^3, 768). Which voxels a sparse asset has is part of its content.

        Raises:
            Tok4dError: for any other shape.
        """
        cells = self.resolution**3
        if tuple(shape) != (cells, CHANNELS):
            raise Tok4dError(
                f"which of the {self.resolution}^3 voxels an asset of shape {tuple(shape)} has is not known before it "
                f"exists; grid({(cells, CHANNELS)}) gives all of them"
            )
        coords = unflatten(torch.arange(cells), self.resolution)
        time = coords.new_full((cells, 1), self.t_offset)
        return torch.cat([time, coords], 1), self._origin(cells, self.resolution, patch_size)

    def extras(self, sample: Sample) -> dict[str, Tensor]:
        """The pictures that a sample comes with, and their cameras."""
        return {name: sample.data[name] for name in PICTURES} if has_views(sample) else {}

    def head(self, config: Mapping[str, Any]) -> nn.Module:
        """The Gaussian decoder; see `tok4d_mesh3d.head.make_head`."""
        from tok4d_mesh3d.head import make_head

        return make_head(config)

    def objective(self, config: Mapping[str, Any]) -> Objective:
        """The terms of the config on voxels, and the loss `render` on pictures.

        A model with a Gaussian decoder learns from pictures also where the config does not name `render` (weight 1,
        see `tok4d_mesh3d.objective.Render`); `{render: 0}` leaves it out.
        """
        return Objective.from_config({"render": {"weight": 1.0, "optional": True}, **config})

    def metrics(self) -> dict[str, Callable[[], Any]]:
        from tok4d_mesh3d.metrics import METRICS

        return dict(METRICS)

    def sources(self) -> dict[str, Any]:
        from tok4d_mesh3d.sources import Mesh3dAssets, Mesh3dFolder, Mesh3dFurniture, Mesh3dManifest, Mesh3dSolids

        return {
            "folder": Mesh3dFolder,
            "manifest": Mesh3dManifest,
            "furniture": Mesh3dFurniture,
            "solids": Mesh3dSolids,
            "assets": Mesh3dAssets,
        }

    def preview(self, sample: Sample) -> list[Image]:
        """Four views in a row."""
        from tok4d_mesh3d.previews import preview

        return preview(sample, resolution_of(sample, self.resolution))

    def _origin(self, count: int, side: int, patch_size: PatchSize) -> Origin:
        grid = (1 + self.t_offset, side, side, side)
        return Origin(self.name, (count, CHANNELS), grid, patch_size, CHANNELS, extra={"resolution": side})

    def _voxels(self, sample: Sample, name: str | Path) -> tuple[Tensor, Tensor]:
        for key in (VOXELS, COORDS):
            if key not in sample.data:
                raise DataError(name or "sample", f"has no tensor {key!r}, only {sorted(sample.data)}")
        voxels, coords = sample.data[VOXELS], sample.data[COORDS]
        if voxels.ndim != 2 or voxels.shape[1] != CHANNELS or coords.shape != (len(voxels), 3):
            shapes = f"{list(voxels.shape)} and {list(coords.shape)}"
            raise DataError(name or "sample", f"needs voxels [T, {CHANNELS}] and coords [T, 3], got {shapes}")
        if coords.dtype != torch.int32:
            raise DataError(name or "sample", f"coords must be int32, got {coords.dtype}")
        return voxels, coords

    def _checked(self, tokens: TokenSet) -> TokenSet:
        """Tokens whose origins are what `patchify` writes; those of a file may be anything."""
        if len(tokens.origins) != len(tokens):
            raise Tok4dError("mesh3d tokens need their origins to become assets; these have none")
        for origin in tokens.origins:
            if origin.modality != self.name:
                raise Tok4dError(f"tokens of modality {origin.modality!r} given to {self.name!r}")
            side = origin.extra.get("resolution")
            if isinstance(side, bool) or not isinstance(side, int) or not 1 <= side <= MAX_RESOLUTION:
                raise Tok4dError(f"the origin's resolution must be in [1, {MAX_RESOLUTION}], got {side!r}")
            if origin.channels != CHANNELS or tokens.width < CHANNELS:
                raise Tok4dError(f"voxels hold {CHANNELS} values, the origin says {origin.channels} of {tokens.width}")
        if tokens.num_tokens:
            limits = torch.tensor([origin.extra["resolution"] for origin in tokens.origins], device=tokens.device)
            places = tokens.coords[:, 1:]
            if bool((places < 0).any()) or bool((places.amax(1) >= limits[tokens.seqs.index]).any()):
                raise Tok4dError("the tokens have voxels outside of the grid that their origin gives")
        return tokens

    def _decode(self, tokens: TokenSet, head: nn.Module, samples: list[Sample]) -> None:
        """Add what the head makes of the tokens to the samples."""
        if not isinstance(head, GaussianDecoder):
            raise Tok4dError(f"the mesh3d modality decodes with a GaussianDecoder, got a {type(head).__name__}")
        for origin in tokens.origins:
            if (side := origin.extra["resolution"]) != head.config.resolution:
                raise Tok4dError(
                    f"the model's Gaussian decoder takes voxels of a {head.config.resolution}^3 grid, these are of "
                    f"{side}^3; read or make them with resolution={head.config.resolution}"
                )
        for sample, gaussians in zip(samples, head(tokens), strict=True):
            sample.data.update({name: getattr(gaussians, name) for name in GAUSSIANS})
            sample.meta["filter_2d"] = head.config.filter_2d


def _sorted(tokens: TokenSet) -> TokenSet:
    """The same tokens, those of every sample sorted by x, y, z, as the voxels of a file are."""
    key = tokens.seqs.index.long()
    for place in tokens.coords[:, 1:].long().unbind(1):
        key = key * MAX_RESOLUTION + place
    order = key.sort(stable=True).indices
    if bool((order == torch.arange(len(order), device=order.device)).all()):
        return tokens
    return TokenSet(tokens.feats[order], tokens.coords[order], tokens.lengths, tokens.origins)
