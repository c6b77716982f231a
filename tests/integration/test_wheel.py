"""The built wheel holds every file of the five packages: build tools drop folders without a word."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGES = [
    "core/src/tok4d",
    "plugins/image/src/tok4d_image",
    "plugins/video/src/tok4d_video",
    "plugins/mesh3d/src/tok4d_mesh3d",
    "benchmarks/src/tok4d_bench",
]


def test_wheel_holds_every_source_file(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(tmp_path), str(ROOT)]
    built = subprocess.run(command, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr[-2000:]
    (wheel,) = tmp_path.glob("*.whl")
    inside = set(zipfile.ZipFile(wheel).namelist())
    expected = {
        path.relative_to((ROOT / package).parent).as_posix()
        for package in PACKAGES
        for path in (ROOT / package).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert {name.split("/")[0] for name in expected} == {Path(package).name for package in PACKAGES}
    missing = sorted(expected - inside)
    assert not missing, f"the wheel lacks {missing}"
    (metadata,) = (name for name in inside if name.endswith("METADATA"))
    text = zipfile.ZipFile(wheel).read(metadata).decode()
    assert "License-Expression: Apache-2.0" in text
    assert any(name.endswith("licenses/LICENSE") for name in inside)
