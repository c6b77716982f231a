"""Queries on the registry, with plugins written to a folder and found through their metadata."""

from __future__ import annotations

from pathlib import Path

import pytest

from tok4d.errors import ConfigError, DataError, PluginError
from tok4d.plugins import registry

PLUGIN = """
from pathlib import Path
from tok4d.plugins.hookspecs import hookimpl
HOOK_API_VERSION = 1

@hookimpl
def tok4d_register_modalities(register):
    register("radarx", "radarx_modality:Radar")
    register("brokenx", "radarx_nowhere:Missing")
    register("liarx", "radarx_modality:Liar")
    register("plainx", "radarx_modality:Plain")

@hookimpl
def tok4d_register_sources(register):
    register("echoesx", "radarx_modality:Echoes")

@hookimpl
def tok4d_config_dirs():
    return [Path(__file__).parent / "configs"]
"""

MODALITY = """
from tok4d.modality import Modality

class Radar(Modality):
    name, axes, suffixes, field = "radarx", ("t",), (".rdx", ".big.rdx"), "power"
    def read(self, path, **options): ...
    def write(self, sample, path): ...
    def patchify(self, sample, patch_size=(4, 16, 16)): ...
    def unpatchify(self, tokens, head=None): ...
    def sources(self): return {"sweeps": Echoes}
    def metrics(self): return {"snr": lambda: "a metric"}

class Liar(Radar):
    name = "truth"

class Plain:
    pass

class Echoes:
    pass
"""


@pytest.fixture(autouse=True)
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The plugin `radarx`, installed for one test."""
    info = tmp_path / "radarx-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: radarx\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[tok4d.plugins]\nradarx = radarx_plugin\n")
    (tmp_path / "radarx_plugin.py").write_text(PLUGIN)
    (tmp_path / "radarx_modality.py").write_text(MODALITY)
    for kind, stem in (("presets", "sweeping"), ("recipes", "harbour")):
        (tmp_path / "configs" / kind).mkdir(parents=True)
        (tmp_path / "configs" / kind / f"{stem}.yaml").write_text("a: 1\n")
    monkeypatch.delenv("TOK4D_PLUGINS", raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    registry.reset()
    yield tmp_path
    registry.reset()
    monkeypatch.undo()
    import sys

    for module in ("radarx_plugin", "radarx_modality"):
        sys.modules.pop(module, None)


def test_a_modality_is_one_object_and_knows_its_provider():
    assert registry.modality("radarx") is registry.modality("radarx")
    assert registry.modality("radarx").name == "radarx"
    assert registry.provider("modalities", "radarx") == "radarx"
    assert "radarx" in registry.modalities()


@pytest.mark.parametrize(
    ("name", "error"),
    [
        ("radarxx", r"unknown modality 'radarxx'\. Did you mean 'radarx'\?"),
        ("brokenx", r"of plugin 'radarx': importing radarx_nowhere:Missing failed: ModuleNotFoundError"),
        ("liarx", r"calls itself 'truth'"),
        ("plainx", r"is a Plain, which is not a tok4d\.Modality"),
    ],
)
def test_a_modality_that_cannot_be_had_says_why(name, error):
    with pytest.raises(PluginError, match=error):
        registry.modality(name)


def test_by_suffix_the_longest_match_in_any_case():
    assert registry.modality_for("a/B.RDX").name == "radarx"
    assert registry.modality_for("a.big.rdx").name == "radarx"
    assert registry.modality_for("a.unknown", "radarx").name == "radarx"


def test_an_unknown_suffix_lists_the_known_ones():
    with pytest.raises(DataError, match=r"a\.zzz: no modality reads the suffix '\.zzz'; known: .*\.big\.rdx.*\.rdx"):
        registry.modality_for("a.zzz")


def test_sources_and_metrics_of_modalities_and_of_hooks():
    assert registry.source_factory("radarx/sweeps").__name__ == "Echoes"
    assert registry.source_factory("echoesx").__name__ == "Echoes"
    assert registry.metric_factory("radarx/snr")() == "a metric"


@pytest.mark.parametrize(
    ("name", "nearest"), [("radarx/sweep", "radarx/sweeps"), ("radrx/sweeps", "radarx/sweeps"), ("echosx", "echoesx")]
)
def test_an_unknown_source_names_the_nearest(name, nearest):
    with pytest.raises(PluginError, match=rf"unknown source '{name}'. Did you mean '{nearest}'\?"):
        registry.source_factory(name)


def test_configs_by_name_by_path_and_misspelt(installed, tmp_path):
    expected = installed / "configs" / "presets" / "sweeping.yaml"
    assert registry.find_config("presets", "sweeping") == expected
    assert registry.find_config("presets", str(expected)) == expected
    with pytest.raises(ConfigError, match=r"unknown preset 'sweepin'\. Did you mean 'sweeping'\?"):
        registry.find_config("presets", "sweepin")
    with pytest.raises(ConfigError, match=r"nowhere\.yaml: no such recipe file"):
        registry.find_config("recipes", tmp_path / "nowhere.yaml")


def test_a_config_that_exists_twice_is_refused(installed, monkeypatch):
    other = installed / "other" / "presets"
    other.mkdir(parents=True)
    (other / "sweeping.yaml").write_text("a: 2\n")
    folders = [*registry.config_dirs(), other.parent]
    monkeypatch.setattr(registry, "config_dirs", lambda: folders)
    with pytest.raises(ConfigError, match="exists twice"):
        registry.find_config("presets", "sweeping")


def test_a_disabled_plugin_is_named_when_something_is_missing(monkeypatch):
    monkeypatch.setenv("TOK4D_PLUGINS", "-radarx")
    with pytest.raises(PluginError, match=r"radarx \(disabled\)"):
        registry.modality("radarx")


def test_a_plugin_module_must_not_query_while_plugins_load(installed):
    (installed / "radarx_plugin.py").write_text("from tok4d.plugins import registry\nregistry.modalities()\n")
    (record,) = [r for r in registry.records() if r.name == "radarx"]
    assert record.state == "broken"
    assert "do it inside a function" in record.error


def test_unknown_kinds_are_programming_errors():
    with pytest.raises(ValueError, match="Did you mean 'losses'"):
        registry.names("loses")
