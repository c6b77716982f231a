"""Rules of the house that a machine can hold."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from tok4d.plugins.validation import HOOKS

ROOT = Path(__file__).parents[2]
CORE = ROOT / "core" / "src"
PLUGINS = sorted(path for path in ROOT.glob("plugins/*/src/tok4d_*") if any(path.rglob("*.py")))
MODALITY_NAMES = {"image", "video", "mesh3d", "mesh", "gaussians", "waves"}


def imports(path: Path) -> set[str]:
    """Top-level packages that a file imports, inside functions too, and by name through import_module."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found.update(alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module.partition(".")[0])
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            name = getattr(node.func, "id", getattr(node.func, "attr", ""))
            if name == "import_module":
                found.add(str(node.args[0].value).partition(".")[0])
    return found


def modality_comparisons(source: str) -> list[int]:
    """Lines that compare something with the name of a modality, by ==, in, or match."""
    lines = []
    for node in ast.walk(ast.parse(source)):
        parts: list[ast.expr] = []
        if isinstance(node, ast.Compare):
            parts = [node.left, *node.comparators]
        elif isinstance(node, ast.MatchValue):
            parts = [node.value]
        values = [item for part in parts for item in ast.walk(part) if isinstance(item, ast.Constant)]
        if any(value.value in MODALITY_NAMES for value in values if isinstance(value.value, str)):
            lines.append(getattr(node, "lineno", 0))
    return lines


def python_files(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.py"))


def test_core_imports_no_plugin_and_no_benchmark():
    guilty = {str(p.relative_to(ROOT)): found for p in python_files(CORE) if (found := _ours(imports(p)))}
    assert guilty == {}


def _ours(names: set[str]) -> set[str]:
    return {name for name in names if name.startswith("tok4d_")}


@pytest.mark.parametrize("package", PLUGINS, ids=lambda p: p.name)
def test_plugins_do_not_import_each_other(package):
    guilty = {p.name: found for p in python_files(package) if (found := _ours(imports(p)) - {package.name})}
    assert guilty == {}


def test_core_never_asks_which_modality_it_has():
    guilty = {
        str(p.relative_to(ROOT)): lines for p in python_files(CORE) if (lines := modality_comparisons(p.read_text()))
    }
    assert guilty == {}


@pytest.mark.parametrize(
    ("source", "lines"),
    [
        ('if sample.modality == "image": pass', [1]),
        ('x = name in ("video", "radar")', [1]),
        ('match m:\n    case "mesh3d": pass', [2]),
        ('modality("image")', []),
    ],
)
def test_the_comparison_scan_sees_what_it_should(source, lines):
    assert modality_comparisons(source) == lines


def test_no_file_is_longer_than_400_lines():
    folders = [CORE, ROOT / "plugins", ROOT / "benchmarks" / "src", ROOT / "tests"]
    lengths = {str(p.relative_to(ROOT)): len(p.read_text().splitlines()) for f in folders for p in python_files(f)}
    assert lengths
    assert {name: count for name, count in lengths.items() if count > 400} == {}


def test_the_docs_name_every_hook():
    text = (ROOT / "docs" / "plugins.md").read_text(encoding="utf-8")
    assert [hook for hook in HOOKS if hook not in text] == []
