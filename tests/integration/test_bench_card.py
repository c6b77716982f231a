"""`tok4d bench card` and `tok4d bench sensitivity`."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import stats
from typer.testing import CliRunner

from tok4d import Sample
from tok4d.cli.main import app
from tok4d.errors import ConfigError, Tok4dError
from tok4d.model.bottleneck import Posterior
from tok4d.testing import tiny_tokenizer
from tok4d_bench.card.codes import CodeSums
from tok4d_bench.card.latents import LatentSums
from tok4d_bench.card.seams import SeamSums
from tok4d_bench.cli.sources import open_source
from tok4d_bench.contracts import Restored, Subject
from tok4d_bench.sensitivity.choices import Choice, base_prepare, choices, inner, luma, unit
from tok4d_bench.sensitivity.table import markdown, table_of


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("TOK4D_CACHE", str(tmp_path_factory.mktemp("cache")))


def run(command: str, *arguments: object) -> tuple[int, dict]:
    result = CliRunner().invoke(app, ["bench", command, *map(str, arguments), "--json"])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, json.loads(result.stdout or "{}")


# --- statistics of latents --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def posterior() -> Posterior:
    """1,000 tokens of four channels: normal far from zero, heavy-tailed, correlated with the first, constant."""
    rng = np.random.default_rng(0)
    first = 7 + 0.5 * rng.standard_normal(1000)
    tails = rng.standard_t(5, 1000)
    mean = np.stack([first, tails, 2 * first + 0.1 * rng.standard_normal(1000), np.full(1000, 0.25)], 1)
    logvar = rng.uniform(-3, 0.5, (1000, 4))
    return Posterior(torch.tensor(mean), torch.tensor(logvar))


def sums_of(posterior: Posterior, pieces: int) -> LatentSums:
    sums = LatentSums()
    for mean, logvar in zip(posterior.mean.chunk(pieces), posterior.logvar.chunk(pieces), strict=True):
        sums.add(Posterior(mean, logvar))
    return sums


@pytest.mark.parametrize("pieces", [1, 7])
def test_statistics_are_those_of_numpy_and_scipy(posterior, pieces):
    found = sums_of(posterior, pieces).finish()
    mean = posterior.mean.numpy()
    np.testing.assert_allclose(found.mean, mean.mean(0), rtol=1e-12)
    np.testing.assert_allclose(found.std, mean.std(0), rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(found.kurtosis[:3], stats.kurtosis(mean[:, :3], axis=0), rtol=1e-7)
    assert found.kurtosis[3] == 0  # a constant channel has none
    np.testing.assert_allclose(found.eigenvalues, np.linalg.eigvalsh(np.cov(mean.T))[::-1], atol=1e-12)
    np.testing.assert_allclose(found.nats.sum(), float(posterior.kl().mean()), rtol=1e-12)
    np.testing.assert_allclose(found.posterior_std, np.sqrt(np.exp(posterior.logvar.numpy()).mean(0)), rtol=1e-12)
    shares = np.linalg.eigvalsh(np.corrcoef(mean[:, :3].T))
    assert found.tokens == len(mean)
    assert len(shares) == 3


def test_active_channels_and_effective_rank(posterior):
    card = sums_of(posterior, 3).finish().as_dict()
    assert card["active_by_variance"] == 3  # all but the constant one
    assert card["channels"] == 4
    sums = LatentSums()
    sums.add(Posterior(torch.cat([torch.eye(3), -torch.eye(3)]).double(), torch.zeros(6, 3).double()))
    even = sums.finish()
    assert even.effective_rank == pytest.approx(3)  # all directions alike
    assert (even.components(0.9), even.components(0.5)) == (3, 2)
    line = LatentSums()
    line.add(Posterior(torch.outer(torch.arange(5.0), torch.tensor([1.0, 2.0, -1.0])).double(), torch.zeros(5, 3)))
    assert line.finish().effective_rank == pytest.approx(1, abs=1e-6)
    still = LatentSums()
    still.add(Posterior(torch.ones(4, 3), torch.zeros(4, 3)))
    assert (still.finish().effective_rank, still.finish().components(0.9)) == (0.0, 0)


def test_too_few_tokens_are_refused():
    sums = LatentSums()
    sums.add(Posterior(torch.zeros(1, 2), torch.zeros(1, 2)))
    with pytest.raises(Tok4dError, match="at least two tokens"):
        sums.finish()


def test_codes_are_counted_at_a_fixed_number_of_tokens():
    sums = CodeSums(6)
    sums.add(torch.tensor([[0, 1], [0, 2], [1, 3], [1, 4]], dtype=torch.int32))
    sums.add(torch.tensor([[0, 5], [1, 6], [2, 7], [3, 0]], dtype=torch.int32))
    card = sums.as_dict((4, 8))
    assert card["tokens"] == 6
    assert [g["seen"] for g in card["groups"]] == [2, 6]
    assert [g["perplexity"] for g in card["groups"]] == [pytest.approx(2), pytest.approx(6)]
    assert card["usage"] == pytest.approx((2 / 4 + 6 / 8) / 2)
    assert card["most_perplexity"] == 4


def test_seams_by_hand():
    sums = SeamSums(4)
    original = torch.zeros(10, 1)
    restored = torch.zeros(10, 1)
    restored[[4, 8]] = 0.5  # the first frames after both seams
    restored[[1, 2, 3]] = 0.1
    sums.add(restored, original)
    found = sums.as_dict()
    inside = [0.1, 0.1, 0.1, 0, 0, 0, 0]
    assert found["frame_at_seam"] == pytest.approx(10 * math.log10(4 / 0.25))
    assert found["frame_ratio"] == pytest.approx(0.25 / (sum(x * x for x in inside) / 7))
    changes = {4: 0.4, 8: 0.5}  # frame 3 to 4, frame 7 to 8
    within = [0.1, 0, 0, -0.5, 0, 0, -0.5]
    expected = (sum(x * x for x in changes.values()) / 2) / (sum(x * x for x in within) / 7)
    assert found["change_ratio"] == pytest.approx(expected, rel=1e-5)
    sums.add(torch.ones(4, 1), torch.zeros(4, 1))  # no seam: does not count
    assert sums.clips == 1


# --- the command ------------------------------------------------------------------------------------------------------


def test_a_card_of_codes_with_labels(tmp_path):
    fsq = {"groups": 2, "levels": [4, 4, 4]}
    tiny_tokenizer(latent=6, quantizer=fsq).save_pretrained(tmp_path / "model")
    code, card = run(
        "card", "-m", tmp_path / "model", "--data", "image/shapes",
        "--options", "{count: 40, side: 32, split: all}", "--tokens", 100, "-o", tmp_path / "out",
    )  # fmt: skip
    assert code == 0
    assert card["latents"]["tokens"] == 40 * 4
    assert card["codes"]["tokens"] == 100
    assert [g["codes"] for g in card["codes"]["groups"]] == [64, 64]
    assert set(card["probe"]) == {"features", "latents", "codes"}
    assert card["probe"]["latents"]["n"] == 40
    assert card["seams"] is None
    assert json.loads((tmp_path / "out" / "card.json").read_text()) == card
    text = (tmp_path / "out" / "card.md").read_text()
    assert all(part in text for part in ("## Latents", "### Channels", "## Codes", "## Linear probe"))
    assert "At 100 tokens" in text


def test_a_card_of_clips_compares_seams_with_and_without_the_tile_before(tmp_path):
    tiny_tokenizer(cached_steps=2).save_pretrained(tmp_path / "model")
    code, card = run(
        "card", "-m", tmp_path / "model", "--data", "video/moving",
        "--options", "{count: 3, side: 32, length: 40, frames: 40, split: all}", "-o", tmp_path / "out",
    )  # fmt: skip
    assert code == 0
    assert card["seams"]["clips"] == 3
    assert card["seams"]["tile_frames"] == 16
    with_cache, without = (card["seams"]["by_cached_steps"][steps] for steps in ("2", "0"))
    assert with_cache["change_at_seam"] != without["change_at_seam"]
    assert card["codes"] is None
    assert "## Seams" in (tmp_path / "out" / "card.md").read_text()


def test_a_card_does_not_depend_on_how_samples_are_packed(tmp_path, monkeypatch):
    tiny_tokenizer().save_pretrained(tmp_path / "model")
    arguments = ("-m", tmp_path / "model", "--data", "image/shapes", "--options", "{count: 9, side: 48, split: all}")
    _, whole = run("card", *arguments, "-o", tmp_path / "a")
    monkeypatch.setattr("tok4d_bench.subjects.tok4d_model.PACKED", 10)
    _, parts = run("card", *arguments, "-o", tmp_path / "b")
    for one, other in zip(whole["latents"]["per_channel"], parts["latents"]["per_channel"], strict=True):
        assert one == pytest.approx(other, abs=1e-4)


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (["-m", "identity", "--data", "image/shapes"], "shows no latents"),
        (["-m", "MODEL", "--data", "image/shapez"], "Did you mean 'image/shapes'"),
        (["-m", "MODEL", "--data", "image/shapes", "--options", "[1]"], "must be a mapping"),
        (["-m", "MODEL", "--data", "image/shapes", "--options", "{"], "is no YAML"),
    ],
)
def test_what_has_no_card_is_one_line(tmp_path, arguments, error):
    tiny_tokenizer().save_pretrained(tmp_path)
    given = [str(tmp_path) if a == "MODEL" else a for a in arguments]
    result = CliRunner().invoke(app, ["bench", "card", *given, "-o", str(tmp_path / "out")])
    assert (result.exit_code, result.stderr.count("\n")) == (1, 1)
    assert error in result.stderr


# --- sensitivity ------------------------------------------------------------------------------------------------------


class Shifted(Subject):
    """Adds a quarter of a level to every pixel: rounding takes it away again."""

    name, digest, reconstructs = "shifted", "0" * 64, ("image",)

    def __init__(self, step: float = 0.25) -> None:
        self.step, self.shapes = step, []

    def reconstruct(self, samples):
        self.shapes.append(tuple(samples[0].data["image"].shape))
        return [Restored(Sample("image", {"image": s.data["image"] + self.step / 127.5})) for s in samples]


def open_shapes(prepare):
    return open_source("image/shapes", {"count": 6, "side": 80, "split": "all"}, prepare)


def test_one_choice_at_a_time_moves_what_it_should():
    subject = Shifted()
    tried = [
        Choice("rounding", "off", {"round": False}),
        Choice("size", "stretched", {"short": 0, "crop": 0, "size": (48, 48)}),
        Choice("size", "not cut", {"crop": 0, "short": 64}),
    ]
    rows = table_of(subject, open_shapes, tried, 64)
    figures = {(row.what, row.value, row.figure): row for row in rows}
    assert figures["", "", "psnr"].measured == 100.0  # rounding restores every level
    off = figures["rounding", "off", "psnr"]
    assert off.measured == pytest.approx(20 * math.log10(255 / 0.25), abs=1e-3)
    assert off.moved == pytest.approx(off.measured - 100)
    assert set(subject.shapes) == {(3, 64, 64), (3, 48, 48)}
    assert figures["size", "stretched", "psnr"].n == 6
    lpips = figures["", "", "lpips"]
    assert lpips.measured is None
    assert "network vgg16" in lpips.note  # this cache has no weights: said, not made up
    assert ("rounding", "off", "lpips") not in figures
    text = markdown(rows, "T", ["L"])
    assert "| rounding: off | " in text
    assert "lpips: network vgg16" in text


def test_measures_look_at_the_same_reconstructions_in_another_way():
    subject = Shifted(3.0)
    chosen = [c for c in choices(64) if c.what in ("border", "colour", "mean", "ssim")]
    rows = table_of(subject, open_shapes, chosen, 64)
    assert len(subject.shapes) == 2  # two groups, once
    psnr = {row.what: row for row in rows if row.figure == "psnr"}
    assert set(psnr) == {"", "border", "colour", "mean"}
    assert all(row.measured is not None for row in psnr.values())


def test_files_that_cannot_be_used_are_named_and_left_out(tmp_path):
    """A whole group of broken files too: groups of four, of which the first has no sample."""
    from PIL import Image

    for number in range(7):
        pixels = np.random.default_rng(number).integers(0, 256, (48, 48, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{number}.png")
    for number in range(5):
        (tmp_path / f"{number}.png").write_bytes(b"")
    arguments = ["-m", "jpeg,quality=20", "--data", "image/folder", "--options", f"{{path: {tmp_path}, split: all}}"]
    more = ["--size", "48", "--network", "", "-o", str(tmp_path / "out")]
    result = CliRunner().invoke(app, ["bench", "sensitivity", *arguments, *more])
    assert result.exit_code == 1
    for number in range(5):
        (line,) = (line for line in result.stderr.splitlines() if f"{number}.png" in line)
        assert line.count(f"{number}.png") == 1
        assert "0 bytes" in line
    found = json.loads((tmp_path / "out/sensitivity.json").read_text())
    assert len(found["bad"]) == 5
    assert {row["n"] for row in found["rows"] if row["measured"] is not None} == {2}
    assert "2 samples of image/folder" in (tmp_path / "out/sensitivity.md").read_text()
    for number in (5, 6):
        (tmp_path / f"{number}.png").write_bytes(b"")
    result = CliRunner().invoke(app, ["bench", "sensitivity", *arguments, *more])
    assert result.exit_code == 1
    assert "no sample could be used" in result.stderr


def test_views_of_pictures():
    picture = torch.rand(2, 3, 16, 24) * 2 - 1
    assert inner(picture).shape == (2, 3, 14, 21)
    assert torch.equal(inner(picture), picture[..., 1:15, 1:22])
    grey = luma(picture)
    expected = 0.299 * picture[:, 0] + 0.587 * picture[:, 1] + 0.114 * picture[:, 2]
    torch.testing.assert_close(grey, expected[:, None].expand(-1, 3, -1, -1))
    assert (unit(torch.tensor([-1.0, 0, 1])) == torch.tensor([0, 0.5, 1])).all()
    assert base_prepare(64)["crop"] == 64


def test_the_command_writes_both_files(tmp_path):
    code, found = run(
        "sensitivity", "-m", "jpeg,quality=20", "--data", "image/shapes",
        "--options", "{count: 3, side: 64, split: all}", "--size", 48, "--network", "", "-o", tmp_path,
    )  # fmt: skip
    assert code == 0
    assert json.loads((tmp_path / "sensitivity.json").read_text()) == found
    rows = {(row["what"], row["value"]) for row in found["rows"]}
    assert {("filter", "area"), ("antialias", "off"), ("mean", "error of all values pooled")} <= rows
    assert "# Sensitivity of jpeg-20" in (tmp_path / "sensitivity.md").read_text()


def test_of_a_folder_all_is_measured_and_of_a_recipe_the_side_that_was_held_out(tmp_path):
    for number in range(5):
        path = tmp_path / f"{number}.png"
        Image.fromarray(np.full((20, 20, 3), 40 * number, np.uint8)).save(path)
    assert len(open_source("image/folder", {"path": str(tmp_path)}, {})) == 5
    assert len(open_source("image/folder", {"path": str(tmp_path), "split": "val"}, {})) < 5
    whole, held = (open_source("image/shapes", {"count": 10, **options}, {}) for options in ({"split": "all"}, {}))
    assert 0 < len(held) < len(whole) == 10


def test_a_folder_source_without_a_folder_is_refused_and_takes_nothing_that_lies_about(tmp_path, monkeypatch):
    Image.fromarray(np.zeros((20, 20, 3), np.uint8)).save(tmp_path / "here.png")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match="a source of image files needs `path`: a folder, a pattern, or one file"):
        len(open_source("image/folder", {}, {}))
