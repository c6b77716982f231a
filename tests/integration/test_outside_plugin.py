"""An outside plugin in its own wheel, installed by pip: listed, conforming, trained, encoded and decoded."""

from __future__ import annotations

import json
import math
import shutil
import struct
import wave
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
WAVES = ROOT / "tests" / "fixtures" / "tok4d_waves"

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def environment(make_environment, tmp_path_factory):
    project = tmp_path_factory.mktemp("project") / WAVES.name
    shutil.copytree(WAVES, project, ignore=shutil.ignore_patterns("__pycache__", ".*_cache", "dist"))
    return make_environment(project)


@pytest.fixture(scope="module")
def model(environment) -> Path:
    """A model trained for a few steps on waves, by the curriculum that the plugin brings."""
    told = json.loads(
        environment.run("tok4d", "train", "chirps", "-o", "run", "init=linear", "init_samples=24", "--json")
    )
    assert all(math.isfinite(value) for row in told["validation"] for value in row.values() if isinstance(value, float))
    return environment.work / "run" / "checkpoints" / "last"


def tone(path: Path, channels: int = 1, frames: int = 3001, rate: int = 16000) -> Path:
    with wave.open(str(path), "wb") as wav:
        wav.setnchannels(channels)
        wav.setsampwidth(2)
        wav.setframerate(rate)
        values = [int(9000 * math.sin(0.05 * i)) for i in range(frames) for _ in range(channels)]
        wav.writeframes(struct.pack(f"<{len(values)}h", *values))
    return path


def test_installed_from_its_own_wheel(environment) -> None:
    records = {record["name"]: record for record in json.loads(environment.run("tok4d", "plugins", "--json"))}
    assert records["waves"]["state"] == "loaded", records["waves"]
    assert records["waves"]["distribution"] == "tok4d-waves"
    assert records["waves"]["provides"]["modalities"] == ["waves"]
    assert records["image"]["distribution"] == "tok4d"
    code = "import tok4d, tok4d_waves; print(tok4d.__file__); print(tok4d_waves.__file__)"
    for line in environment.run("python", "-c", code).splitlines():
        assert Path(line).is_relative_to(environment.folder), f"{line} is not of the fresh environment"


def test_conformance_kit(environment) -> None:
    tests = environment.work / "waves-tests"
    shutil.copytree(WAVES / "tests", tests, ignore=shutil.ignore_patterns("__pycache__"))
    output = environment.run("python", "-m", "pytest", "-q", "-p", "no:cacheprovider", tests)
    assert "passed" in output
    assert "skipped" not in output


def test_encode_and_decode(environment, model: Path) -> None:
    inputs = environment.work / "inputs"
    inputs.mkdir()
    shapes = {"mono": (1, 3001, 16000), "stereo": (2, 1025, 44100), "click": (1, 1, 8000)}
    for name, shape in shapes.items():
        tone(inputs / f"{name}.wav", *shape)
    (inputs / "broken.wav").write_bytes((inputs / "mono.wav").read_bytes()[:999])
    told = json.loads(environment.run("tok4d", "encode", inputs, "-m", model, "-o", "tokens", "--json", code=1))
    assert [Path(failure["file"]).name for failure in told["failed"]] == ["broken.wav"]
    shutil.rmtree(inputs)  # token files alone must do
    environment.run("tok4d", "decode", "tokens", "-m", model, "-o", "restored", "--json")
    assert sorted(path.stem for path in (environment.work / "restored").iterdir()) == sorted(shapes)
    for name, (channels, frames, rate) in shapes.items():
        with wave.open(str(environment.work / "restored" / f"{name}.wav")) as wav:
            assert (wav.getnchannels(), wav.getnframes(), wav.getframerate()) == (channels, frames, rate)
            loud = any(struct.unpack(f"<{channels * frames}h", wav.readframes(frames)))
            assert loud, f"{name} came back silent"
