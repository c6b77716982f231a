"""What docs/data.md says is there: recipes, sources, options, a curriculum that loads."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path

from tok4d.config.loader import load_curriculum
from tok4d.config.schema import TaskConfig
from tok4d.data.build import build_source
from tok4d.data.recipes import list_recipes
from tok4d.plugins.registry import source_factory

PAGE = (Path(__file__).parents[2] / "docs" / "data.md").read_text(encoding="utf-8")


def test_the_curriculum_of_the_page_is_valid(tmp_path: Path) -> None:
    (block,) = re.findall(r"```yaml\n(order.*?)```", PAGE, re.DOTALL)
    path = tmp_path / "page.yaml"
    path.write_text(block)
    tasks = load_curriculum(path).stages["images"].tasks
    assert {name: task.tokens for name, task in tasks.items()} == {"emoji": 8192, "stamps": 8192}
    for task in tasks.values():
        build_source(task)


def test_every_recipe_and_source_named_is_there() -> None:
    table = PAGE.partition("| recipe | source |")[2].partition("\n\n")[0]
    first = [line.split("|")[1] for line in table.splitlines() if line.startswith("| `")]
    named = {name for cell in first for name in re.findall(r"`([\w-]+)`", cell)}
    assert named <= {recipe.name for recipe in list_recipes()}
    assert {"emoji", "emoji3d", "stamps", "furniture", "photos"} <= named
    for name in set(re.findall(r"`((?:image|video|mesh3d)/\w+)`", PAGE)):
        assert source_factory(name), name


def test_the_options_of_the_table_are_options() -> None:
    table = PAGE.partition("| option | what |")[2].partition("\n\n")[0]
    named = re.findall(r"^\| `(\w+): ", table, re.MULTILINE)
    assert named == ["categories", "limit", "background", "pastel", "skin_tones"]
    assert set(named) <= {field.name for field in fields(source_factory("image/emoji"))}


def test_the_shards_of_the_page_have_these_options() -> None:
    options = {"path": "s3://bucket/set/{000000..004095}.tar", "order": "blocks", "window": 16}
    assert all(f"{key}: {value}" in PAGE or f'{key}: "{value}"' in PAGE for key, value in options.items())
    build_source(TaskConfig("image/shards", options))
