"""The plugin loader: isolation, selection, conflicts, and what the records say."""

from __future__ import annotations

import textwrap
from pathlib import Path

import pytest

from tok4d.errors import PluginError
from tok4d.plugins import builtin
from tok4d.plugins.loader import Candidate, Loaded, PluginRecord, discover, load_plugins

HEAD = "from tok4d.plugins.hookspecs import hookimpl\nHOOK_API_VERSION = 1\n"
RADAR = HEAD + '@hookimpl\ndef tok4d_register_modalities(register):\n    register("radar", "radar.m:Radar")\n'


@pytest.fixture
def plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Write a plugin module and give its candidate."""
    monkeypatch.syspath_prepend(tmp_path)

    def write(name: str, source: str, distribution: str | None = None, module: str | None = None) -> Candidate:
        module = module or f"{tmp_path.name.replace('-', '_')}_{name}"
        (tmp_path / f"{module}.py").write_text(textwrap.dedent(source))
        return Candidate(name, module, distribution or f"dist-{name}", "1.2")

    return write


def only(loaded: Loaded, name: str) -> PluginRecord:
    (record,) = [r for r in loaded.records if r.name == name]
    return record


def test_a_good_plugin_is_loaded_with_what_it_provides(plugin, tmp_path):
    source = RADAR + f"@hookimpl\ndef tok4d_config_dirs():\n    return [{str(tmp_path)!r}]\n"
    loaded = load_plugins([plugin("radar", source)], {})
    assert loaded.records == [
        PluginRecord("radar", "dist-radar", "1.2", "loaded", {"modalities": ("radar",), "configs": (str(tmp_path),)})
    ]
    assert loaded.tables["modalities"]["radar"].target == "radar.m:Radar"
    assert loaded.config_dirs == {tmp_path: "radar"}


@pytest.mark.parametrize(
    ("source", "error", "fix"),
    [
        ("import nowhere_to_be_found", "No module named 'nowhere_to_be_found'", "nowhere_to_be_found"),
        ("def broken(:", "SyntaxError", "update dist-bad"),
        ("raise SystemExit(3)", "SystemExit: 3", "TOK4D_PLUGINS=-bad"),
        ("1 / 0", "ZeroDivisionError: division by zero", "TOK4D_PLUGINS=-bad"),
    ],
)
def test_a_plugin_that_fails_on_import_is_listed_and_the_others_work(plugin, source, error, fix):
    loaded = load_plugins([plugin("bad", source), plugin("radar", RADAR)], {})
    bad = only(loaded, "bad")
    assert bad.state == "broken"
    assert error in bad.error
    assert fix in bad.fix
    assert only(loaded, "radar").state == "loaded"


def test_strict_mode_raises_the_first_error(plugin):
    with pytest.raises(PluginError, match=r"plugin 'bad' \(dist-bad\): importing .* division by zero"):
        load_plugins([plugin("bad", "1 / 0")], {"TOK4D_STRICT_PLUGINS": "1"})


@pytest.mark.parametrize(
    ("first_line", "error", "fix"),
    [
        ("", "states no HOOK_API_VERSION; this tok4d has version 1", "HOOK_API_VERSION = 1"),
        ("HOOK_API_VERSION = 2", "is written for hook API version 2; this tok4d has version 1", "update tok4d"),
        ("HOOK_API_VERSION = 0", "is written for hook API version 0; this tok4d has version 1", "update dist-old"),
    ],
)
def test_another_hook_api_is_refused(plugin, first_line, error, fix):
    record = only(load_plugins([plugin("old", first_line + "\n")], {}), "old")
    assert record.state == "incompatible"
    assert error in record.error
    assert fix in record.fix


def test_a_misspelt_hook_refuses_only_its_plugin(plugin):
    source = RADAR + "@hookimpl\ndef tok4d_register_modality(register):\n    pass\n"
    loaded = load_plugins([plugin("a", source), plugin("b", RADAR)], {})
    assert only(loaded, "a").state == "broken"
    assert "Did you mean 'tok4d_register_modalities'?" in only(loaded, "a").error
    assert loaded.tables["modalities"]["radar"].plugin == "b"


def test_a_hook_without_its_mark_is_refused(plugin):
    source = HEAD + "def tok4d_register_losses(register):\n    pass\n"
    assert "without @hookimpl" in only(load_plugins([plugin("a", source)], {}), "a").error


def test_a_hook_with_a_wrong_argument_is_refused(plugin):
    source = HEAD + "@hookimpl\ndef tok4d_register_losses(registry):\n    pass\n"
    record = only(load_plugins([plugin("a", source)], {}), "a")
    assert record.state == "broken"
    assert "registry" in record.error


def test_a_plugin_that_raises_in_its_last_hook_leaves_nothing_registered(plugin):
    source = RADAR + '@hookimpl\ndef tok4d_register_metrics(register):\n    raise KeyError("oops")\n'
    loaded = load_plugins([plugin("a", source)], {})
    assert only(loaded, "a").error == "tok4d_register_metrics raised KeyError: 'oops'"
    assert only(loaded, "a").provides == {}
    assert all(not table for table in loaded.tables.values())


@pytest.mark.parametrize("swallow", [False, True])
def test_a_taken_name_is_a_conflict_that_names_its_holder(plugin, swallow):
    call = 'register("radar", "z.m:R")'
    body = f"try:\n        {call}\n    except Exception:\n        pass" if swallow else call
    source = HEAD + f'@hookimpl\ndef tok4d_register_modalities(register):\n    register("sonar", "z.m:S")\n    {body}\n'
    loaded = load_plugins([plugin("radar", RADAR), plugin("zebra", source)], {})
    record = only(loaded, "zebra")
    assert record.state == "conflict"
    assert "'radar' is already provided by plugin 'radar' (radar.m:Radar)" in record.error
    assert "TOK4D_PLUGINS=-zebra" in record.fix
    assert list(loaded.tables["modalities"]) == ["radar"]


@pytest.mark.parametrize("bad", ['register("radar", "no colon")', 'register("", "a:b")', 'register("x", lambda: 0)'])
def test_a_malformed_registration_is_refused(plugin, bad):
    source = HEAD + f"@hookimpl\ndef tok4d_register_modalities(register):\n    {bad}\n"
    assert only(load_plugins([plugin("a", source)], {}), "a").state == "broken"


def test_a_config_folder_that_does_not_exist_is_refused(plugin):
    source = RADAR + '@hookimpl\ndef tok4d_config_dirs():\n    return ["/no/such/folder"]\n'
    loaded = load_plugins([plugin("a", source)], {})
    assert "'/no/such/folder', which is not a folder" in only(loaded, "a").error
    assert not loaded.tables["modalities"]


def test_two_distributions_under_one_plugin_name(plugin):
    second = plugin("radar", RADAR, "zeta", module="radar_of_zeta")
    first = plugin("radar", RADAR, "alpha", module="radar_of_alpha")
    loaded = load_plugins([second, first], {})
    states = [(r.distribution, r.state) for r in loaded.records]
    assert states == [("alpha", "loaded"), ("zeta", "conflict")]
    assert "both alpha and zeta offer a plugin named 'radar'" in loaded.records[1].error


@pytest.mark.parametrize(
    ("setting", "loaded_names"),
    [("", ["a", "b", "c"]), ("a,b", ["a", "b"]), ("-a", ["b", "c"]), ("-a, -c", ["b"]), ("a,b,-b", ["a"])],
)
def test_selection_applies_before_anything_is_imported(plugin, setting, loaded_names):
    marks = {name: plugin(name, HEAD) for name in "abc"}
    for name in set("abc") - set(loaded_names):  # importing it would be seen as broken
        marks[name] = plugin(name, "raise RuntimeError('imported')")
    records = load_plugins(list(marks.values()), {"TOK4D_PLUGINS": setting}).records
    assert [r.name for r in records if r.state == "loaded"] == loaded_names
    assert {r.state for r in records} <= {"loaded", "disabled"}


def test_an_unknown_name_in_the_selection_is_told(plugin):
    loaded = load_plugins([plugin("radar", RADAR)], {"TOK4D_PLUGINS": "radra"})
    assert only(loaded, "radar").state == "disabled"
    assert "TOK4D_PLUGINS names an unknown plugin 'radra'. Did you mean 'radar'?" in only(loaded, "radra").error
    with pytest.raises(PluginError, match="radra"):
        load_plugins([], {"TOK4D_PLUGINS": "-radra", "TOK4D_STRICT_PLUGINS": "1"})


def test_core_is_a_plugin_that_cannot_be_left_out():
    loaded = load_plugins([], {"TOK4D_PLUGINS": "-core", "TOK4D_STRICT_PLUGINS": "1"}, builtin)
    core = only(loaded, "core")
    assert (core.state, core.distribution) == ("loaded", "tok4d")
    assert {"l1", "l2", "kl"} <= set(core.provides["losses"])


def test_a_plugin_cannot_take_the_name_of_a_core_command(plugin):
    source = HEAD + '@hookimpl\ndef tok4d_register_commands(register):\n    register("encode", "a.b:c")\n'
    record = only(load_plugins([plugin("a", source)], {}, builtin), "a")
    assert record.state == "conflict"
    assert "plugin 'core'" in record.error


def test_discovery_reads_metadata_only(tmp_path, monkeypatch):
    info = tmp_path / "tok4d_sonar_test-3.1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: tok4d-sonar-test\nVersion: 3.1\n")
    (info / "entry_points.txt").write_text("[tok4d.plugins]\nsonar-test = not_importable_at_all\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert Candidate("sonar-test", "not_importable_at_all", "tok4d-sonar-test", "3.1") in discover()
