"""docs/plugins.md names everything that a plugin author can use, and its code runs."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from tok4d.modality import Modality
from tok4d.plugins.hookspecs import HookSpecs
from tok4d.plugins.loader import SELECT, STRICT
from tok4d.testing.conformance.base import Case

TEXT = (Path(__file__).parents[3] / "docs" / "plugins.md").read_text(encoding="utf-8")
PYTHON = re.findall(r"```python\n(.*?)```", TEXT, flags=re.DOTALL)


def public(cls: type) -> set[str]:
    return {name for name in vars(cls) if not name.startswith("_")}


def test_every_hook_is_listed() -> None:
    assert set(re.findall(r"^\| `(tok4d_\w+)\(", TEXT, flags=re.MULTILINE)) == public(HookSpecs)


def test_every_method_of_a_modality_is_listed() -> None:
    assert set(re.findall(r"^\| `(\w+)\([\w, *]*\)` \|", TEXT, flags=re.MULTILINE)) >= public(Modality) - {
        "streams",
        "shows",
        "decoded",
    }


@pytest.mark.parametrize("name", sorted({*public(Case) - {"samples", "tokens"}, SELECT, STRICT}))
def test_every_setting_is_listed(name: str) -> None:
    assert re.search(rf"^\| (fixture )?`{name}\b", TEXT, flags=re.MULTILINE)


@pytest.mark.parametrize("code", PYTHON, ids=range(len(PYTHON)))
def test_code_runs(code: str) -> None:
    exec(compile(code, "docs/plugins.md", "exec", dont_inherit=True), {"__name__": __name__})


def test_curriculum_is_valid(tmp_path: Path) -> None:
    from tok4d.config.loader import load_curriculum

    (block,) = re.findall(r"```yaml\n(.*?)```", TEXT, flags=re.DOTALL)
    path = tmp_path / "docs.yaml"
    path.write_text(yaml.safe_dump(yaml.safe_load(block)))
    assert load_curriculum(path).order == ["first"]
