"""`tok4d bench` as people run it: killed and resumed, in several processes, with broken files, with parts missing."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image
from typer.testing import CliRunner

from tok4d.cli.main import app

COMMAND = [sys.executable, "-m", "tok4d.cli.main", "bench"]
KEPT = ("results", "protocols", "skipped", "bad", "values")


SLOWLY = """
import PIL.Image, time
real = PIL.Image.open
def slowly(*a, **k):
    time.sleep(0.1)
    return real(*a, **k)
PIL.Image.open = slowly
"""
PROBE = """
import sys
from tok4d.cli.main import main
try:
    main()
except SystemExit:
    print("torch" in sys.modules)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty pictures of unequal size and a suite over them, one picture a group."""
    home = tmp_path_factory.mktemp("bench")
    (home / "pictures").mkdir()
    for number in range(20):
        pixels = np.random.default_rng(number).integers(0, 256, (40 + number % 3, 56, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize((112, 80)).save(home / f"pictures/{number:02d}.png")
    task = {
        "data": {"source": "image/folder", "options": {"path": str(home / "pictures")}},
        "prepare": {"short": 48, "crop": 48},
        "measures": ["psnr", "psnr_pooled", "ssim", "rate"],
        "inner_batch": 1,
    }
    (home / "made.yaml").write_text(yaml.safe_dump({"tasks": {"one": task}}))
    return home


def bench(*args: object, code: int = 0, **environ: str) -> Any:
    """The command in this process: what it imports takes seconds, so only what must be another process is one."""
    before = dict(os.environ)
    os.environ.update(environ)
    try:
        done = CliRunner().invoke(app, ["bench", *map(str, args)])
    finally:
        os.environ.clear()
        os.environ.update(before)
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    assert done.exit_code == code, done.output
    return done


def results(out: Path) -> dict[str, Any]:
    (path,) = out.glob("*/*/results.json")
    content = json.loads(path.read_text())
    return {key: content[key] for key in KEPT}


@pytest.fixture(scope="module")
def whole(folder: Path) -> dict[str, Any]:
    """The run that nothing disturbs."""
    done = bench("run", folder / "made.yaml", "-m", "jpeg,quality=40", "-o", folder / "whole", "--json")
    (content,) = json.loads(done.stdout)
    assert {record["n"] for record in content["results"]} == {20}
    assert {record["metric"] for record in content["results"]} >= {"psnr", "psnr_pooled", "ssim", "bits_per_pixel"}
    assert content["values"] == results(folder / "whole")["values"]
    return results(folder / "whole")


def test_a_run_that_is_killed_goes_on_to_the_same_bits(folder: Path, whole: dict[str, Any]) -> None:
    out = folder / "killed"
    slow = folder / "slow" / "sitecustomize.py"
    slow.parent.mkdir()
    slow.write_text(SLOWLY)
    command = [*COMMAND, "run", str(folder / "made.yaml"), "-m", "jpeg,quality=40", "-o", str(out), "--workers", "0"]
    process = subprocess.Popen(command, env={**os.environ, "PYTHONPATH": str(slow.parent)}, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 300
    while not list(out.glob("*/*/one/columns/psnr-*/000002-*.npz")) and not list(
        out.glob("*/*/one/columns/psnr-*/000001-*.npz")
    ):
        assert process.poll() is None, "it ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert not list(out.rglob("results.json"))
    done = bench("run", folder / "made.yaml", "-m", "jpeg,quality=40", "-o", out)
    assert "groups of 1 samples to do" in done.stderr
    assert "20 of 20 groups" not in done.stderr
    assert results(out) == whole
    parquet = "*/*/one/samples.parquet"
    (ours,), (theirs,) = out.glob(parquet), (folder / "whole").glob(parquet)
    assert ours.read_bytes() == theirs.read_bytes()


def test_two_processes_give_the_same_bits(folder: Path, whole: dict[str, Any]) -> None:
    out = folder / "two"
    bench("run", folder / "made.yaml", "-m", "jpeg,quality=40", "-o", out, "--processes", 2, "--batch-size", 7)
    assert results(out) == whole


def test_processes_of_a_launcher_give_the_same_bits(folder: Path, whole: dict[str, Any]) -> None:
    out = folder / "launched"
    command = [*COMMAND, "run", str(folder / "made.yaml"), "-m", "jpeg,quality=40", "-o", str(out), "--json"]
    other = subprocess.Popen(
        command, env={**os.environ, "RANK": "1", "WORLD_SIZE": "2"}, stdout=subprocess.PIPE, text=True
    )
    done = bench(*command[len(COMMAND) :], RANK="0", WORLD_SIZE="2")
    assert other.communicate(timeout=300)[0] == ""  # results come from rank 0 alone
    assert other.returncode == 0
    assert json.loads(done.stdout)[0]["values"] == whole["values"]
    assert results(out) == whole


def test_a_process_that_ends_ends_the_run(folder: Path) -> None:
    broken = folder / "dies" / "sitecustomize.py"
    broken.parent.mkdir()
    broken.write_text("import os\nif os.environ.get('RANK') == '1':\n    raise SystemExit(9)\n")
    args = ("run", folder / "made.yaml", "-m", "identity", "-o", folder / "died", "--processes", 2)
    done = bench(*args, code=1, PYTHONPATH=str(broken.parent))
    assert "error: process 1 of 2 ended with exit code" in done.stderr


def test_a_broken_file_is_named_and_the_exit_code_tells(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder / "pictures", tmp_path / "pictures")
    (tmp_path / "pictures/07.png").write_bytes((tmp_path / "pictures/07.png").read_bytes()[:200])
    suite = yaml.safe_load((folder / "made.yaml").read_text())
    suite["tasks"]["one"]["data"]["options"]["path"] = str(tmp_path / "pictures")
    suite["tasks"]["one"]["inner_batch"] = 8
    (tmp_path / "made.yaml").write_text(yaml.safe_dump(suite))
    done = bench("run", tmp_path / "made.yaml", "-m", "jpeg,quality=40", "-o", tmp_path / "out", code=1)
    assert "left out of one: " in done.stderr
    (line,) = (line for line in done.stderr.splitlines() if "07.png" in line)
    assert line.count("07.png") == 1
    found = results(tmp_path / "out")
    assert {record["n"] for record in found["results"]} == {19}
    assert len(found["bad"]) == 1


def test_a_measure_that_fails_on_a_sample_ends_neither_the_run_nor_the_next_one(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tok4d.errors import Tok4dError
    from tok4d_bench.measures.pictures import SSIM

    real = SSIM.scores

    def refuses(self: SSIM, originals: Any, restored: Any) -> list[float]:
        if any(Path(sample.key).name == "07.png" for sample in originals):
            raise Tok4dError("needs at least 31x31 pixels")
        return real(self, originals, restored)

    monkeypatch.setattr(SSIM, "scores", refuses)
    args = ("-m", "jpeg,quality=40", "-m", "jpeg,quality=60", "-o", tmp_path / "out")
    done = bench("run", folder / "made.yaml", *args, code=1)
    for name in ("jpeg-40", "jpeg-60"):
        written = json.loads((tmp_path / f"out/made/{name}/results.json").read_text())
        metrics = {record["metric"] for record in written["results"]}
        assert metrics >= {"psnr", "psnr_pooled", "bits_per_pixel"}
        assert "ssim" not in metrics
        assert f"skipped {name}: one: ssim: failed: " in done.stderr
    assert "07.png: needs at least 31x31 pixels" in done.stderr


def test_missing_parts_are_said_and_nothing_at_all_is_a_failure(folder: Path, tmp_path: Path) -> None:
    suite = yaml.safe_load((folder / "made.yaml").read_text())
    suite["tasks"]["two"] = {"data": {"layout": "coco"}, "measures": ["psnr"]}
    suite["tasks"]["one"]["measures"] = ["psnr", {"frechet": {"network": "inception-v3-fid", "source": "/none.pth"}}]
    (tmp_path / "made.yaml").write_text(yaml.safe_dump(suite))
    done = bench("run", tmp_path / "made.yaml", "-m", "identity", "-o", tmp_path / "out")
    assert "--data coco=FOLDER" in done.stderr
    assert "network inception-v3-fid: /none.pth: no such file" in done.stderr
    assert [record["metric"] for record in results(tmp_path / "out")["results"]] == ["psnr"]
    nothing = bench("run", tmp_path / "made.yaml", "-m", "identity", "-o", tmp_path / "no", "--tasks", "two", code=1)
    assert "nothing could be measured of identity" in nothing.stderr
    checked = json.loads(bench("validate", tmp_path / "made.yaml", "--json", code=1).stdout)
    states = {(finding["task"], finding["what"]): finding["state"] for finding in checked["findings"]}
    assert states["two", "data coco"] == "missing"
    assert states["one", "network inception-v3-fid"] == "missing"
    assert states["one", "files"] == "ok"


@pytest.mark.parametrize(
    ("args", "code", "words"),
    [
        (["run", "smok", "-m", "identity"], 1, "Did you mean 'smoke'"),
        (["run", "smoke", "-m", "identity", "--tasks", "imge"], 1, "Did you mean 'image'"),
        (["run", "smoke", "-m", "identity", "--data", "coco"], 1, "must look like NAME=FOLDER"),
        (["run", "image-recon", "-m", "identity", "--data", "coko=/tmp"], 1, "Did you mean 'coco'"),
        (["run", "image-recon", "-m", "identity", "--data", "coco=/nowhere"], 1, "no such folder /nowhere"),
        (["run", "image-recon", "-m", "identity", "--data", "coco=/tmp", "--tasks", "coco"], 1, "expected val2017/"),
        (["run", "smoke", "-m", "identity", "--threads", "0"], 2, "--threads"),
        (["run", "smoke", "-m", "nowhere/model"], 1, "nowhere/model"),
        (["rn"], 2, "Did you mean 'run'"),
    ],
)
def test_mistakes_are_one_line(tmp_path: Path, args: list[str], code: int, words: str) -> None:
    more = ["-o", str(tmp_path / "out")] if args[0] == "run" else []
    done = bench(*args, *more, code=code)
    assert words in done.stderr
    assert code == 2 or done.stderr.strip().splitlines()[-1].startswith("error: ")


def test_help_and_list_load_no_torch() -> None:
    command = [sys.executable, "-c", PROBE, "bench", "--help"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.stdout.strip().endswith("False")
    assert "validate" in done.stdout


def test_the_list_names_suites_layouts_measures_and_baselines() -> None:
    found = json.loads(bench("list", "--json").stdout)
    assert {"smoke", "image-recon"} <= {suite["name"] for suite in found["suites"]}
    assert {"imagenet", "toys4k"} <= {layout["name"] for layout in found["layouts"]}
    assert {"psnr", "frechet", "zero_shot"} <= {measure["name"] for measure in found["measures"]}
    assert {"identity", "jpeg"} <= {row["name"] for row in found["baselines"]}
