"""The modality: files to voxels and tokens, tokens to voxels and Gaussians, and back into files."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from gaussian_assets import random_gaussians
from made_assets import HEAD, HOST, SMALL, box_sample, decoded, voxel_cloud, with_data
from made_meshes import box_obj, square_ply
from PIL import Image

from tok4d.errors import ConfigError, DataError, Tok4dError
from tok4d.modality import Sample
from tok4d.model.gaussians import Gaussians
from tok4d.model.tokenizer import Tokenizer
from tok4d.tokens import TokenSet
from tok4d_mesh3d.head import make_head
from tok4d_mesh3d.modality import Mesh3dModality
from tok4d_mesh3d.reading import ReadOptions, asset_sample
from tok4d_mesh3d.shown import MeshAsset, SplatAsset, open_asset
from tok4d_mesh3d.solids import make_solid
from tok4d_mesh3d.splatfiles import read_splats, write_splats


def test_a_box_becomes_the_shell_of_a_cube(tmp_path):
    sample = box_sample(tmp_path)
    coords = sample.data["coords"]
    assert len(coords) == 8**3 - 6**3  # every voxel of the surface, none inside
    assert bool(((coords == 0) | (coords == 7)).any(1).all())
    assert sample.data["voxels"].shape == (296, 768)
    assert -1 <= float(sample.data["voxels"].min()) < float(sample.data["voxels"].max()) <= 1
    shapes = {name: list(sample.data[name].shape) for name in ("views", "masks", "depth", "intrinsics")}
    assert shapes == {"views": [6, 3, 64, 64], "masks": [6, 1, 64, 64], "depth": [6, 64, 64], "intrinsics": [6, 3, 3]}
    assert sample.meta["resolution"] == 8
    assert sample.meta["format"] == "obj"


def test_tokens_carry_place_and_padding(tmp_path):
    sample = box_sample(tmp_path)
    tokens = Mesh3dModality(resolution=8, t_offset=1).patchify(sample)
    assert tokens.width == 3072
    assert torch.equal(tokens.coords[:, 0], torch.ones(296, dtype=torch.int32))
    assert torch.equal(tokens.coords[:, 1:], sample.data["coords"])
    assert torch.equal(tokens.feats[:, :768], sample.data["voxels"])
    (origin,) = tokens.origins
    assert (origin.shape, origin.grid, origin.channels) == ((296, 768), (2, 8, 8, 8), 768)
    assert dict(origin.extra) == {"resolution": 8}


def test_restored_voxels_are_sorted_whatever_the_order_of_tokens(tmp_path):
    tokens = HOST.patchify(box_sample(tmp_path))
    order = torch.randperm(296, generator=torch.Generator().manual_seed(0))
    head = make_head(HEAD).eval()
    torch.nn.init.normal_(head.out_layer.weight, std=0.1, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        (one,) = HOST.unpatchify(tokens, head)
        (two,) = HOST.unpatchify(TokenSet(tokens.feats[order], tokens.coords[order], (296,), tokens.origins), head)
    assert torch.equal(one.data["coords"], two.data["coords"])
    assert torch.equal(one.data["voxels"], two.data["voxels"])
    assert torch.allclose(one.data["means"], two.data["means"], atol=1e-6)
    centres = (one.data["coords"] + 0.5) / 8 - 0.5
    assert float((one.data["means"].view(296, 4, 3) - centres[:, None]).abs().max()) <= 0.75 / 8  # bounded offsets


def test_a_batch_decodes_as_its_samples_alone(tmp_path):
    samples = [box_sample(tmp_path), asset_sample(MeshAsset(make_solid(0, 3).mesh), ReadOptions(**SMALL), "solid")]
    head = make_head(HEAD).eval()
    torch.nn.init.normal_(head.out_layer.weight, std=0.1, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        together = HOST.unpatchify(TokenSet.pack([HOST.patchify(sample) for sample in samples]), head)
        alone = [decoded(sample, head) for sample in samples]
    for one, other in zip(together, alone, strict=True):
        assert set(one.data) == {"voxels", "coords", "means", "scales", "quaternions", "opacities", "colors"}
        for name in one.data:
            assert torch.allclose(one.data[name], other.data[name], atol=1e-5), name


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"veiws": 3}, "Did you mean 'views'"),
        ({"size": 0}, "size must be a whole number in"),
        ({"views": True}, "'views' must be a whole number"),
        ({"background": (0, 0, 2)}, r"three numbers in \[0, 1\]"),
        ({"lifting": "compat", "size": 40}, "patches of 16 pixels; size is 40"),
        ({"shading": "soft"}, "unknown shading 'soft'"),
        ({"views": 1024, "size": 4096}, "are too many"),
    ],
)
def test_options_that_cannot_work_are_named(tmp_path, options, message):
    with pytest.raises(ConfigError, match=message):
        HOST.read(box_obj(tmp_path), **options)


def test_configured_options_reach_reading(tmp_path):
    host = Mesh3dModality().configured({"resolution": 4, "lifting": "compat"})
    sample = host.read(box_obj(tmp_path), views=6, size=64)
    assert sample.meta["resolution"] == 4
    assert sample.meta["unseen_voxels"] == 0  # compat does not ask what is seen
    with pytest.raises(ConfigError, match=r"mesh3d.resolution must be a whole number in \[1, 512\], got 0"):
        Mesh3dModality().configured({"resolution": 0})
    with pytest.raises(ConfigError, match="lifting"):
        Mesh3dModality().configured({"lifting": "best"})


def test_what_does_not_fit_together_is_refused(tmp_path):
    sample = box_sample(tmp_path)
    tokens = HOST.patchify(sample)
    with pytest.raises(Tok4dError, match=r"takes voxels of a 16\^3 grid, these are of 8\^3"):
        HOST.unpatchify(tokens, make_head({**HEAD, "resolution": 16}))
    with pytest.raises(Tok4dError, match="decodes with a GaussianDecoder, got a Linear"):
        HOST.unpatchify(tokens, torch.nn.Linear(1, 1))
    with pytest.raises(DataError, match=r"768 values do not fit into patches of \(1, 8, 8\)"):
        HOST.patchify(sample, (1, 8, 8))
    with pytest.raises(DataError, match=r"outside of its 8\^3 grid"):
        HOST.patchify(with_data(sample, {"coords": sample.data["coords"] + 1}))
    with pytest.raises(DataError, match=r"needs voxels \[T, 768\] and coords \[T, 3\]"):
        HOST.patchify(with_data(sample, {"coords": sample.data["coords"][:5]}))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"extra": {}}, "resolution must be in"),
        ({"extra": {"resolution": "8"}}, "got '8'"),
        ({"extra": {"resolution": 10**9}}, "got 1000000000"),
        ({"extra": {"resolution": 4}}, "outside of the grid"),
        ({"channels": 12}, "the origin says 12"),
    ],
)
def test_origins_of_a_file_are_not_trusted(tmp_path, change, message):
    tokens = HOST.patchify(box_sample(tmp_path))
    bad = TokenSet(tokens.feats, tokens.coords, tokens.lengths, (replace(tokens.origins[0], **change),))
    with pytest.raises(Tok4dError, match=message):
        HOST.unpatchify(bad)


def test_heads_by_configuration():
    small = make_head({"resolution": 16}).config
    assert (small.width, small.blocks, small.num_gaussians, small.scaling_bias) == (128, 3, 8, 0.3 / 16)
    assert make_head({"resolution": 16, "scaling_bias": 0.01}).config.scaling_bias == 0.01
    with torch.device("meta"):
        released = make_head({"preset": "released"}).config
    assert (released.width, released.blocks, released.num_gaussians, released.softcap) == (768, 12, 32, 30.0)
    assert (released.resolution, released.scaling_bias) == (64, 4e-3)
    for options, message in (
        ({"blocs": 2}, "unknown option 'blocs'"),
        ({"preset": "smal"}, "Did you mean 'small'"),
        ({"resolution": "16"}, "resolution must be a whole number"),
    ):
        with pytest.raises(ConfigError, match=message):
            make_head(options)


def test_a_model_keeps_its_head(tmp_path):
    made = Tokenizer.from_preset("tiny", encoder={"blocks": 1}, decoder={"blocks": 1}, heads={"mesh3d": HEAD})
    made.save_pretrained(tmp_path)
    again = Tokenizer.from_pretrained(tmp_path)
    assert again.heads["mesh3d"].config == made.heads["mesh3d"].config
    assert again.digest == made.digest


def test_gaussians_come_back_from_their_files(tmp_path):
    sample = box_sample(tmp_path / "box")
    made = with_data(sample, voxel_cloud(sample))
    for suffix in (".ply", ".splat", ".spz"):
        HOST.write(made, tmp_path / f"box{suffix}")
        again = read_splats(tmp_path / f"box{suffix}")
        assert float((again.means - made.data["means"]).abs().max()) < 1e-4
        read = HOST.read(tmp_path / f"box{suffix}", **{**SMALL, "views": 16})
        assert read.meta["format"] == "3dgs"
        assert "center" not in read.meta  # it was in the unit cube already, and stays in its place
        ours, theirs = ({tuple(row) for row in one.data["coords"].tolist()} for one in (read, sample))
        assert ours <= theirs  # nothing inside, where light leaks between the balls to the other side
        assert len(ours) / len(theirs) > 0.75


def test_gaussians_are_brought_into_the_unit_cube():
    scene = random_gaussians(50)
    moved = Gaussians(scene.means * 8 + 100, scene.scales * 8, scene.quaternions, scene.opacities, scene.colors)
    asset = SplatAsset(moved, "far.ply")
    solid = asset.gaussians.means[moved.opacities >= 0.1]
    assert float((solid.amax(0) - solid.amin(0)).max()) == pytest.approx(1.0, abs=1e-5)
    assert float((solid.amax(0) + solid.amin(0)).abs().max()) < 1e-4
    back = asset.gaussians.means / asset.meta["scale"] + torch.tensor(asset.meta["center"])
    assert torch.allclose(back, moved.means, atol=1e-4)
    assert torch.allclose(asset.gaussians.scales / asset.meta["scale"], moved.scales)
    point = Gaussians(*(part[:1].repeat(2, *[1] * (part.ndim - 1)) for part in vars(moved).values()))
    with pytest.raises(DataError, match="an extent of 0"):
        SplatAsset(point, "one.ply")


def test_ply_files_are_told_apart(tmp_path):
    mesh, splats, voxels = tmp_path / "mesh.ply", tmp_path / "splats.ply", tmp_path / "voxels.ply"
    mesh.write_bytes(square_ply())
    write_splats(random_gaussians(300), splats)
    sample = box_sample(tmp_path / "box")
    HOST.write(sample, voxels)
    assert isinstance(open_asset(mesh), MeshAsset)
    assert isinstance(open_asset(splats), SplatAsset)
    read = HOST.read(voxels)
    assert torch.equal(read.data["coords"], sample.data["coords"])
    assert float((read.data["voxels"] - sample.data["voxels"]).abs().max()) <= 1.001 / 255
    assert read.meta["resolution"] == 8


def test_voxel_files_are_point_clouds_for_other_programs(tmp_path):
    import trimesh

    sample = box_sample(tmp_path / "box", views=16)
    HOST.write(sample, tmp_path / "voxels.ply")
    cloud = trimesh.load(tmp_path / "voxels.ply", process=False)
    assert cloud.vertices == pytest.approx(((sample.data["coords"] + 0.5) / 8 - 0.5).numpy(), abs=1e-6)
    inside = (sample.data["coords"][:, 0] == 0) & ((sample.data["coords"][:, 1:] - 3.5).abs() < 2).all(1)
    # The box's left side is red; voxels in the middle of a side show nothing else.
    assert (cloud.colors[inside.numpy()][:, :3] == [255, 0, 0]).all()


@pytest.mark.parametrize("change", ["cut", "longer", "outside", "count", "resolution"])
def test_damaged_voxel_files(tmp_path, change):
    path = tmp_path / "voxels.ply"
    HOST.write(box_sample(tmp_path / "box"), path)
    content = bytearray(path.read_bytes())
    if change == "cut":
        del content[-3:]
    elif change == "longer":
        content += b"0"
    elif change == "outside":
        content[-(768 + 8)] = 200
    elif change == "count":
        content[-770] = 1
    else:
        content = content.replace(b"resolution 8", b"resolution 9999", 1)
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"truncated|outside of its grid|damaged header"):
        HOST.read(path)


def test_other_formats_and_previews(tmp_path):
    sample = box_sample(tmp_path / "box")
    made = with_data(sample, voxel_cloud(sample))
    for suffix in (".glb", ".html", ".gif"):
        HOST.write(made, tmp_path / f"box{suffix}")
    assert (tmp_path / "box.glb").read_bytes()[:4] == b"glTF"
    assert "tok4d-splats" in (tmp_path / "box.html").read_text()
    with Image.open(tmp_path / "box.gif") as turning:
        assert turning.n_frames == 24
    with pytest.raises(DataError, match=r"unknown format of a 3D asset '.obj'"):
        HOST.write(made, tmp_path / "box.obj")
    drawn = HOST.preview(Sample("mesh3d", {k: v for k, v in made.data.items() if k != "views"}, meta=made.meta))
    assert [picture.size for picture in drawn] == [(4 * 192, 192)]
    assert sum(drawn[0].resize((1, 1)).getpixel((0, 0))) > 30  # something is to be seen
    assert [picture.size for picture in HOST.preview(sample)] == [(4 * 64, 64)]


def test_nothing_to_write(tmp_path):
    empty = Sample("mesh3d", {"voxels": torch.zeros(0, 768), "coords": torch.zeros(0, 3, dtype=torch.int32)})
    HOST.write(empty, tmp_path / "empty.ply")
    assert len(HOST.read(tmp_path / "empty.ply").data["voxels"]) == 0
    for suffix in (".spz", ".glb", ".html"):
        with pytest.raises(DataError, match="no voxels and no Gaussians"):
            HOST.write(empty, tmp_path / f"empty{suffix}")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty.ply"]


def test_origin_is_plain_json(tmp_path):
    (origin,) = HOST.patchify(box_sample(tmp_path)).origins
    assert json.loads(json.dumps(origin.to_json()))["extra"] == {"resolution": 8}
