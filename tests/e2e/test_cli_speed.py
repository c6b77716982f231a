"""Start-up cost of the commands people run most, and how errors leave the program."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

HEAVY = ("torch", "torchvision", "numpy", "pytorch_lightning", "torchmetrics", "omegaconf", "PIL", "pydantic")
LIMIT_CPU_SECONDS = 0.4
START = "import sys; sys.argv[0] = 'tok4d'; from tok4d.cli.main import main; main()"
REPORT = (
    "import sys, atexit; atexit.register(lambda: sys.stderr.write('MODULES ' + ' '.join(sys.modules)));"  # after main
    + START
)


def run(*args: str, code: str = START, **env: str) -> subprocess.CompletedProcess[str]:
    full = {**os.environ, "COLUMNS": "80", **env}
    return subprocess.run([sys.executable, "-c", code, *args], capture_output=True, text=True, env=full, check=False)


def cpu_seconds(*args: str) -> float:
    """User and system time of one whole process."""
    with subprocess.Popen(
        [sys.executable, "-c", START, *args], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0
    return usage.ru_utime + usage.ru_stime


@pytest.mark.parametrize("args", [["--help"], ["plugins"]], ids=" ".join)
def test_start_up_is_cheap(args):
    assert min(cpu_seconds(*args) for _ in range(5)) < LIMIT_CPU_SECONDS


@pytest.mark.parametrize("args", [["--help"], ["plugins"], ["plugins", "--json"], ["--version"]], ids=" ".join)
def test_start_up_loads_nothing_heavy(args):
    done = run(*args, code=REPORT)
    assert done.returncode == 0
    modules = set(done.stderr.rpartition("MODULES ")[2].split())
    assert "tok4d.cli.main" in modules
    assert modules.isdisjoint(HEAVY)


def test_help_lists_every_command_even_if_its_module_is_broken():
    from tok4d.cli import COMMANDS

    text = run("--help").stdout
    assert [name for name in COMMANDS if f"  {name} " not in text] == []


@pytest.mark.parametrize("args", [["plugins"], ["--help"]], ids=" ".join)
def test_output_fits_eighty_columns_when_piped(args):
    done = run(*args)
    assert max(map(len, done.stdout.splitlines())) <= 80


def test_plugins_as_json_is_json_alone():
    records = json.loads(run("plugins", "--json").stdout)
    core = next(record for record in records if record["name"] == "core")
    assert core["state"] == "loaded"
    assert "l1" in core["provides"]["losses"]


def test_plugins_exit_code_is_zero_unless_strict():
    done = run("plugins", TOK4D_PLUGINS="no-such-plugin")
    assert done.returncode == 0
    assert "names an unknown plugin 'no-such-plugin'" in done.stdout
    assert run("plugins", "--strict", TOK4D_PLUGINS="no-such-plugin").returncode == 1


def test_a_user_error_is_one_line_and_exit_code_1():
    done = run("plugins", TOK4D_PLUGINS="no-such-plugin", TOK4D_STRICT_PLUGINS="1")
    assert done.returncode == 1
    assert done.stderr.startswith("error: plugin 'no-such-plugin'")
    assert len(done.stderr.splitlines()) == 1
    as_json = run("plugins", "--json", TOK4D_PLUGINS="no-such-plugin", TOK4D_STRICT_PLUGINS="1")
    assert "no-such-plugin" in json.loads(as_json.stdout)["error"]


def test_usage_errors_exit_with_2():
    assert run("plugins", "--no-such-option").returncode == 2
    misspelt = run("plugin")
    assert misspelt.returncode == 2
    assert "Did you mean 'plugins'?" in misspelt.stderr


def test_ctrl_c_exits_with_130():
    code = "import tok4d.cli.plugins as p\ndef stop(*a):\n    raise KeyboardInterrupt\np.emit = stop\n" + START
    done = run("plugins", code=code)
    assert done.returncode == 130
    assert "Traceback" not in done.stderr


def test_a_bug_shows_its_traceback():
    code = "import tok4d.cli.plugins as p\ndef stop(*a):\n    raise RuntimeError('a bug')\np.emit = stop\n" + START
    done = run("plugins", code=code)
    assert done.returncode == 1
    assert "Traceback" in done.stderr
    assert "RuntimeError: a bug" in done.stderr


def test_a_plugin_brings_a_command(tmp_path):
    info = tmp_path / "sonarx-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: sonarx\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[tok4d.plugins]\nsonarx = sonarx\n")
    (tmp_path / "sonarx.py").write_text(
        "from tok4d.plugins.hookspecs import hookimpl\nHOOK_API_VERSION = 1\n"
        '@hookimpl\ndef tok4d_register_commands(register):\n    register("ping", "sonarx_cli:ping")\n'
        '    register("lost", "sonarx_nowhere:lost")\n'
    )
    (tmp_path / "sonarx_cli.py").write_text("def ping(times: int = 1):\n    print('ping ' * times)\n")
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    assert "(from plugin sonarx)" in run("--help", PYTHONPATH=path).stdout
    assert run("ping", "--times", "2", PYTHONPATH=path).stdout.split() == ["ping", "ping"]
    lost = run("lost", PYTHONPATH=path)
    assert lost.returncode == 1
    assert lost.stderr.startswith("error: command 'lost' of plugin 'sonarx': importing sonarx_nowhere:lost failed")
