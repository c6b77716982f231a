"""`tok4d bench score`: two folders of files under the protocols of the suites."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from pyarrow import parquet
from typer.testing import CliRunner

from tok4d import Sample
from tok4d.cli.main import app
from tok4d.errors import ConfigError, DataError
from tok4d.plugins.registry import modality
from tok4d_bench.prepare import Prepare
from tok4d_bench.score.matching import match_folders
from tok4d_bench.score.pairs import PairData
from tok4d_bench.score.suite import suite_of

MEASURES = "psnr,psnr_pooled,ssim"


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("TOK4D_CACHE", str(tmp_path_factory.mktemp("cache")))


def picture(path: Path, pixels: np.ndarray, **options) -> np.ndarray:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **options)
    return pixels


def noise(seed: int, height: int = 40, width: int = 48) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def worse(pixels: np.ndarray, step: int) -> np.ndarray:
    return np.clip(pixels.astype(int) + step, 0, 255).astype(np.uint8)


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    return 10 * math.log10(255**2 / np.square(a.astype(float) - b.astype(float)).mean())


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path, list[float]]:
    """Three pictures, one in a folder of its own, and worse ones; the PSNR of each pair."""
    ref, rec = tmp_path / "ref", tmp_path / "rec"
    expected = []
    for number, name in enumerate(["a.png", "b.png", "deep/c.png"]):
        original = picture(ref / name, noise(number))
        changed = picture((rec / name).with_suffix(".bmp"), worse(original, 4 + 3 * number))
        expected.append(psnr(original, changed))
    return ref, rec, expected


def run(*arguments: object) -> tuple[int, dict, str]:
    result = CliRunner().invoke(app, ["bench", "score", *map(str, arguments), "--json"])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, json.loads(result.stdout or "{}"), result.stderr


def values(document: dict, task: str = "image") -> dict[str, float]:
    return {r["metric"]: r["value"] for r in document["results"] if r["task"] == task}


def test_figures_of_two_folders_are_those_of_their_files(folders, tmp_path):
    ref, rec, expected = folders
    code, document, _ = run(ref, rec, "-o", tmp_path / "out", "--measures", MEASURES, "--name", "codec")
    found = values(document)
    assert code == 0
    assert found["psnr"] == pytest.approx(np.mean(expected), abs=1e-6)
    pooled = np.mean([10 ** (-value / 10) for value in expected])
    assert found["psnr_pooled"] == pytest.approx(-10 * math.log10(pooled), abs=1e-6)
    written = json.loads((tmp_path / "out" / "score" / "codec" / "results.json").read_text())
    assert written["results"] == document["results"]
    assert written["subject"]["facts"]["files"] == 3
    rows = parquet.read_table(tmp_path / "out" / "score" / "codec" / "image" / "samples.parquet")
    assert rows["key"].to_pylist() == ["a.png", "b.png", "deep/c.png"]
    np.testing.assert_allclose(rows["psnr.psnr"].to_numpy(), expected, atol=1e-6)


def test_originals_of_the_same_names_and_sizes_are_told_apart_by_what_they_hold(tmp_path):
    """Features of originals are kept between runs: another folder or an edited file must not get those of before."""
    found = []
    for folder, seed in (("x", 1), ("y", 2), ("x", 3)):  # the last time, the files of the first folder are edited
        for number in range(2):
            original = picture(tmp_path / folder / "ref" / f"{number}.bmp", noise(10 * seed + number))
            picture(tmp_path / folder / "rec" / f"{number}.bmp", worse(original, 9))
        ref, rec = tmp_path / folder / "ref", tmp_path / folder / "rec"
        _, document, _ = run(ref, rec, "-o", tmp_path / "out", "--measures", "psnr", "--name", "codec")
        protocol = next(iter(document["protocols"].values()))
        found.append((protocol["data"]["digest"], values(document)["psnr"]))
        reread = PairData("x", "image", *_pairs(ref, rec))
        assert reread.digest == protocol["data"]["digest"]
    assert len(set(found)) == len({digest for digest, _ in found}) == len({value for _, value in found}) == 3


def test_a_perfect_copy_has_the_figures_of_the_identity(folders, tmp_path):
    ref, _, _ = folders
    copies = tmp_path / "copies"
    for path in ref.rglob("*.png"):
        picture(copies / path.relative_to(ref), np.asarray(Image.open(path)))
    _, document, _ = run(ref, copies, "-o", tmp_path / "out", "--measures", MEASURES)
    assert values(document) == {"psnr": 100.0, "psnr_pooled": 100.0, "ssim": 1.0}


def test_the_protocol_of_a_suite_with_reconstructions_of_either_size(tmp_path):
    ref, raw, small = (tmp_path / name for name in ("ref", "raw", "small"))
    original = picture(ref / "x.png", noise(1, 90, 120))
    changed = picture(raw / "x.png", worse(original, 9))
    suite = ["--suite", "smoke", "--task", "image", "--measures", "psnr"]
    _, whole, _ = run(ref, raw, "-o", tmp_path / "a", *suite)

    def prepared(pixels: np.ndarray) -> np.ndarray:
        resized = Image.fromarray(pixels).resize((85, 64), Image.Resampling.BICUBIC)
        left = round((85 - 64) / 2)
        return np.asarray(resized)[:, left : left + 64]

    assert values(whole)["psnr"] == pytest.approx(psnr(prepared(original), prepared(changed)), abs=1e-6)
    picture(small / "x.png", worse(prepared(original), 5))
    _, cut, _ = run(ref, small, "-o", tmp_path / "b", *suite)
    assert values(cut)["psnr"] == pytest.approx(psnr(prepared(original), worse(prepared(original), 5)), abs=1e-6)
    assert whole["suite"] == "smoke"
    fingerprints = [{r["metric"]: r["fingerprint"] for r in d["results"]} for d in (whole, cut)]
    assert fingerprints[0] == fingerprints[1]  # one protocol, two tokenizers


def test_files_without_a_partner_and_broken_ones_are_named_and_do_not_count(folders, tmp_path):
    ref, rec, expected = folders
    picture(ref / "lonely.png", noise(9))
    picture(ref / "broken.png", noise(10))
    (rec / "broken.png").write_bytes(b"no picture")
    picture(ref / "small.png", noise(11))
    picture(rec / "small.png", noise(11, 8, 8))
    picture(rec / "extra.png", noise(12))
    code, document, said = run(ref, rec, "-o", tmp_path / "out", "--measures", "psnr")
    assert code == 1
    (record,) = document["results"]
    assert (record["n"], record["value"]) == (3, pytest.approx(np.mean(expected), abs=1e-6))
    reasons = {Path(item["key"]).name: item["reason"] for item in document["bad"]}
    assert set(reasons) == {"lonely.png", "broken.png", "small.png", "extra.png"}
    assert "has no reconstruction" in reasons["lonely.png"]
    assert "neither size can be compared" in reasons["small.png"]
    assert "has no original in" in reasons["extra.png"]
    assert all(name in said for name in reasons)
    assert "left out of :" not in said
    (line,) = (line for line in said.splitlines() if "broken.png" in line)
    assert line.count("broken.png") == 1
    assert "left out: extra.png: has no original in" in said


def test_sets_of_features_stay_aligned_when_the_files_of_another_tokenizer_are_broken(folders, tmp_path):
    """References are kept between runs: a run with fewer usable files must not read those of another."""
    ref, rec, _ = folders
    other = tmp_path / "other"
    for path in rec.rglob("*.bmp"):
        picture(other / path.relative_to(rec), np.asarray(Image.open(path)))
    (other / "a.bmp").write_bytes(b"")
    first, second = PairData("x", "image", *_pairs(ref, rec)), PairData("x", "image", *_pairs(ref, other))
    assert first.digest == second.digest
    assert first.apart != second.apart


def _pairs(ref: Path, rec: Path):
    return match_folders(ref, rec).pairs["image"], Prepare()


def test_the_rate_is_that_of_the_coded_files(folders, tmp_path):
    ref, rec, _ = folders
    coded = tmp_path / "coded"
    for path in ref.rglob("*.png"):
        target = (coded / path.relative_to(ref)).with_suffix(".bin")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(b"x" * 480)
    _, document, _ = run(ref, rec, "-o", tmp_path / "out", "--measures", "psnr,rate", "--coded", coded)
    rate = next(r for r in document["results"] if r["metric"] not in ("psnr",))
    assert rate["value"] == pytest.approx(480 * 8 / (40 * 48))
    (coded / "b.bin").unlink()
    code, document, said = run(ref, rec, "-o", tmp_path / "out", "--measures", "psnr,rate", "--coded", coded)
    assert code == 1
    assert f"b.png: has no coded file in {coded}" in said
    rate = next(r for r in document["results"] if r["metric"] not in ("psnr",))
    assert (rate["n"], rate["value"]) == (2, pytest.approx(480 * 8 / (40 * 48)))
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no file has the name of one in"):
        match_folders(ref, rec, coded=tmp_path / "empty")


def test_figures_by_a_task_of_a_suite_stand_beside_those_of_the_suite(tmp_path):
    ref, rec = tmp_path / "ref", tmp_path / "rec"
    for number in range(2):
        picture(rec / f"{number}.png", worse(picture(ref / f"{number}.png", noise(number, 260, 300)), 5))
    arguments = ("--suite", "mini-images", "--task", "photos", "--measures", "psnr")
    code, document, _ = run(ref, rec, "-o", tmp_path / "out", *arguments)
    assert (code, document["suite"], document["version"]) == (0, "mini-images", 1)
    assert list(values(document, "photos")) == ["psnr"]


def test_clips_and_pictures_in_one_folder(tmp_path):
    ref, rec = tmp_path / "ref", tmp_path / "rec"
    picture(ref / "x.png", noise(1))
    picture(rec / "x.png", worse(noise(1), 3))
    clip = torch.zeros(6, 3, 32, 32) + torch.linspace(-0.5, 0.5, 32)
    host = modality("video")
    sample = Sample("video", {"video": clip}, 25.0)
    for folder, shift in ((ref, 0.0), (rec, 0.1)):
        folder.mkdir(exist_ok=True)
        sample.data["video"] = clip + shift
        host.write(sample, folder / "y.mp4")
    code, document, _ = run(ref, rec, "-o", tmp_path / "out", "--measures", "psnr,ssim")
    assert code == 0
    assert set(values(document, "video")) == {"psnr", "ssim"}
    assert values(document, "video")["psnr"] == pytest.approx(20 * math.log10(2 / 0.1), abs=1.5)  # MP4 loses a little


def test_assets_are_compared_by_what_can_be_drawn_of_them(tmp_path):
    """An original mesh is drawn; a reconstruction in Gaussians is drawn from the same cameras."""
    import trimesh

    from tok4d_mesh3d.reading import ReadOptions, read_file
    from tok4d_mesh3d.samples import coarse_gaussians

    host = modality("mesh3d")
    box = trimesh.creation.box((1, 1, 0.5))
    box.visual.vertex_colors = [200, 90, 40, 255]
    for folder in ("ref", "rec", "meshes"):
        (tmp_path / folder).mkdir()
    box.export(tmp_path / "ref" / "a.glb")
    box.export(tmp_path / "meshes" / "a.glb")
    small = {"resolution": 16, "views": 4, "size": 32}
    sample = read_file(tmp_path / "ref" / "a.glb", ReadOptions(**small))
    balls = coarse_gaussians(sample, 16)
    sample.data |= {name: getattr(balls, name) for name in ("means", "scales", "quaternions", "opacities", "colors")}
    host.write(sample, tmp_path / "rec" / "a.splat")
    read = [part for name, value in small.items() for part in ("--read", f"{name}={value}")]
    code, document, said = run(tmp_path / "ref", tmp_path / "rec", "-o", tmp_path / "out", *read)
    assert code == 0
    found = values(document, "mesh3d")
    assert found["mesh3d/mask_iou"] > 0.8
    assert found["mesh3d/view_psnr"] > 10
    assert "left out mesh3d/psnr" in said  # its voxels are those of nothing
    _, meshes, said = run(tmp_path / "ref", tmp_path / "meshes", "-o", tmp_path / "b", *read)
    assert values(meshes, "mesh3d") == {"mesh3d/psnr": 100.0}  # a mesh has no Gaussians to draw
    assert "left out mesh3d/view_psnr: does not compare samples like these" in said


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (["ref", "ref"], "given as both folders"),
        (["ref", "nowhere"], "no such folder"),
        (["empty", "rec"], "no file with a suffix in"),
        (["ref", "rec", "--suite", "nope"], "unknown suite 'nope'"),
        (["ref", "rec", "--suite", "smoke", "--task", "mesh3d"], "has no task 'mesh3d' of image"),
        (["ref", "rec", "--measures", "video/psnr"], "none of them compares files of modality image"),
        (["ref", "rec", "--prepare", "shrt=3"], "Did you mean 'short'"),
    ],
)
def test_what_cannot_be_scored_is_one_line(folders, tmp_path, arguments, error):
    (tmp_path / "empty").mkdir()
    given = [str(tmp_path / a) if a in ("ref", "rec", "empty", "nowhere") else a for a in arguments]
    result = CliRunner().invoke(app, ["bench", "score", *given, "-o", str(tmp_path / "out")])
    assert result.exit_code == 1
    assert error in result.stderr
    assert result.stderr.count("\n") == 1


def test_names_that_could_mean_two_files_are_refused(tmp_path):
    for name in ("ref/a.png", "rec/a.bmp", "rec/a.webp"):
        picture(tmp_path / name, noise(0))
    with pytest.raises(DataError, match=r"a\.bmp and a\.webp share a name without suffix"):
        match_folders(tmp_path / "ref", tmp_path / "rec")


def test_an_exact_name_wins_over_one_without_suffix(tmp_path):
    for name in ("ref/a.png", "ref/a.jpg", "rec/a.png", "rec/a.jpg"):
        picture(tmp_path / name, noise(0))
    (pairs,) = match_folders(tmp_path / "ref", tmp_path / "rec").pairs.values()
    assert [(m.key, m.restored.name) for m in pairs] == [("a.jpg", "a.jpg"), ("a.png", "a.png")]


def test_a_suite_with_several_tasks_of_a_kind_asks_which():
    suite, names = suite_of(["image"], "image-recon", "coco")
    assert (names, suite.tasks["coco"].prepare["crop"]) == ({"image": "coco"}, 256)
    suite, names = suite_of(["image"], "image-recon")  # both tasks have one protocol, and no name of theirs fits
    assert names == {"image": "image"}
    assert suite.tasks["image"].measures
    suite, names = suite_of(["video"], "video-recon", "davis")
    assert list(suite.tasks) == ["davis"]
    with pytest.raises(ConfigError, match="choose one: --task"):
        suite_of(["image"], "mini-images")
