"""Writing samples: Gaussians as splats, points, a web page or a turntable; voxels as points that can be read back."""

from __future__ import annotations

from pathlib import Path

from tok4d.errors import DataError, unknown_name
from tok4d.modality import Sample
from tok4d_mesh3d.samples import COORDS, has_gaussians, resolution_of, shown_gaussians
from tok4d_mesh3d.splatfiles import SUFFIXES as SPLATS
from tok4d_mesh3d.splatfiles import write_points, write_splats
from tok4d_mesh3d.splatfiles.files import replacing
from tok4d_mesh3d.voxelfiles import write_voxels

FORMATS = (*SPLATS, ".glb", ".html", ".gif")


def write_sample(sample: Sample, path: str | Path, default_resolution: int) -> None:
    """Write by suffix; complete or not at all.

    `.ply`: 3D Gaussians, or voxels (see `voxelfiles`) when the sample has no Gaussians. `.splat`, `.spz`: Gaussians.
    `.glb`: coloured points. `.html`: an interactive viewer. `.gif`: a turntable. All but `.ply` show voxels as one
    ball each where there are no Gaussians.

    Raises:
        DataError: for an unknown suffix, a sample of which there is nothing to write, or a folder that takes no file.
    """
    suffix = Path(path).suffix.lower()
    if suffix not in FORMATS:
        raise DataError(path, unknown_name("format of a 3D asset", suffix or "(none)", FORMATS))
    resolution = resolution_of(sample, default_resolution)
    if suffix == ".ply" and not has_gaussians(sample):
        write_voxels(sample, path, resolution)
        return
    if not has_gaussians(sample) and not len(sample.data[COORDS]):
        raise DataError(path, "the sample has no voxels and no Gaussians to write")
    gaussians = shown_gaussians(sample, resolution)
    if suffix in SPLATS:
        write_splats(gaussians, path)
    elif suffix == ".glb":
        write_points(gaussians, path)
    elif suffix == ".html":
        from tok4d_mesh3d.viewer import write_viewer

        write_viewer(gaussians, path, title=Path(sample.key).name or Path(path).stem)
    else:
        from tok4d_mesh3d.previews import turntable_pictures

        first, *rest = turntable_pictures(gaussians, frames=24)
        with replacing(path) as stream:
            first.save(stream, "GIF", save_all=True, append_images=rest, duration=80, loop=0)
