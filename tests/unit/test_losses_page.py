"""What docs/objectives.md shows is what the program takes."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tok4d.losses import Objective
from tok4d.plugins.registry import lookup, modality, names, provider

PAGE = (Path(__file__).parents[2] / "docs" / "objectives.md").read_text(encoding="utf-8")
TERMS = [name for name in names("losses") if provider("losses", name) == "core"]


def rows() -> dict[str, str]:
    """Options by term, as the table lists them."""
    found: dict[str, str] = {}
    for names_, options in re.findall(r"^\| ((?:`\w+`(?:, )?)+) \|.*\| (.*) ?\|$", PAGE, re.MULTILINE):
        found |= dict.fromkeys(re.findall(r"`(\w+)`", names_), options)
    return found


def test_every_term_is_in_the_table() -> None:
    assert sorted(rows()) == sorted(TERMS)


@pytest.mark.parametrize("name", TERMS)
def test_options_are_those_of_the_term(name: str) -> None:
    known = inspect.signature(lookup("losses", name).__init__).parameters
    expected = [key for key, value in known.items() if key != "self" and value.kind is value.POSITIONAL_OR_KEYWORD]
    without_values = re.sub(r"\([^)]*\)", "", rows()[name])
    assert re.findall(r"`(\w+)`", without_values) == expected


def test_configurations_of_the_page_are_valid() -> None:
    blocks = [yaml.safe_load(block)["losses"] for block in re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)]
    assert len(blocks) == 2
    assert set(Objective.from_config(blocks[0]).terms) == set(blocks[0])
    (render,) = modality("mesh3d").objective(blocks[1]).terms.values()
    assert render.weights == {"l1": 1, "ssim": 0, "ms_ssim": 0.2, "mask": 0.0}


def test_importing_losses_loads_no_network() -> None:
    """Nor torch: names are imported on first use."""
    code = "import sys, tok4d.losses; print('torch' in sys.modules, 'lpips' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]
