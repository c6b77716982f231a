"""What docs/training.md shows is what the program takes."""

from __future__ import annotations

import re
from pathlib import Path

from tok4d.config.loader import load_curriculum
from tok4d.training.check import check_curriculum

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "training.md").read_text(encoding="utf-8")


def test_the_curriculum_of_the_page_is_valid(tmp_path: Path) -> None:
    (block,) = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
    path = tmp_path / "page.yaml"
    path.write_text(block)
    curriculum = load_curriculum(path)
    check_curriculum(curriculum)
    assert curriculum.stages["images"].tasks["image"].options["path"] == "my/photos"


def test_files_named_on_the_pages_exist() -> None:
    for page in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), ROOT / "benchmarks/results/README.md"]:
        for link in re.findall(r"\]\(([^)#]+)\)", page.read_text(encoding="utf-8")):
            if not link.startswith("http"):
                assert (page.parent / link).exists(), f"{page.name} links to {link}, which is not there"
