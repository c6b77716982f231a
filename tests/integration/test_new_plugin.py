"""`tok4d new-plugin`: the project it writes installs, conforms and trains as it is; bad names leave nothing behind."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tok4d.cli.main import app
from tok4d.cli.new_plugin import MAX_NAME, TEMPLATES

NAME = "my_radar"


def invoke(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["new-plugin", *arguments])
    return result.exit_code, result.output


@pytest.mark.parametrize("name", ["r", NAME, "n" * MAX_NAME])
def test_generated_project_is_clean(tmp_path: Path, name: str) -> None:
    code, output = invoke(name, "-o", str(tmp_path / "project"), "--json")
    assert code == 0, output
    told = json.loads(output)
    written = {path.relative_to(tmp_path / "project").as_posix() for path in (tmp_path / "project").rglob("*.*")}
    assert set(told["files"]) <= written
    assert len(told["files"]) == len(list(TEMPLATES.rglob("*.tmpl")))
    for command in (["check"], ["check", "--select", "E501"], ["format", "--check"]):
        done = subprocess.run(
            [sys.executable, "-m", "ruff", *command, "--no-cache", tmp_path / "project"],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout
    assert "CHANGE 4" in (tmp_path / "project" / "src" / f"tok4d_{name}" / "modality.py").read_text()


@pytest.mark.parametrize(
    ("name", "code", "reason"),
    [
        ("Radar", 2, "'radar' would do"),
        ("my-radar", 2, "'my_radar' would do"),
        ("9lives", 2, "starting with a letter"),
        ("", 2, "starting with a letter"),
        ("n" * (MAX_NAME + 1), 2, str(MAX_NAME)),
        ("import", 2, "word of Python"),
        ("image", 1, "already a plugin or modality 'image'"),
        ("bench", 1, "already a plugin or modality 'bench'"),
        ("../../etc", 2, "'etc' would do"),
    ],
)
def test_bad_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, code: int, reason: str) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "400")
    got, output = invoke(name)
    assert got == code, output
    assert reason in output
    assert list(tmp_path.iterdir()) == []


def test_an_existing_project_is_never_touched(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("precious")
    code, output = invoke(NAME, "-o", str(tmp_path))
    assert code == 1
    assert str(tmp_path) in output
    assert [path.name for path in tmp_path.iterdir()] == ["mine.py"]
    assert invoke(NAME, "-o", str(tmp_path / "mine.py"))[0] == 1


def test_an_error_half_way_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import tok4d.cli.new_plugin as command

    def full(*_: object, **__: object) -> str:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(command.Template, "substitute", full)
    code, output = invoke(NAME, "-o", str(tmp_path / "project"))
    assert code == 1
    assert "No space left" in output
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_generated_project_works(make_environment) -> None:
    environment = make_environment()
    environment.run("tok4d", "new-plugin", NAME, "-o", "project")  # by the wheel: it must hold the templates
    project = environment.work / "project"
    environment.install(project)
    records = {record["name"]: record for record in json.loads(environment.run("tok4d", "plugins", "--json"))}
    assert records[NAME]["state"] == "loaded", records[NAME]
    output = environment.run("python", "-m", "pytest", "-q", "-p", "no:cacheprovider", cwd=project)
    assert "passed" in output
    assert "skipped" not in output
    told = json.loads(environment.run("tok4d", "train", f"{NAME}-and-image", "-o", "run", "--json"))
    assert told["bad_files"] == 0
    assert (environment.work / "run" / "checkpoints" / "last" / "model.safetensors").is_file()
