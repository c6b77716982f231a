"""`grow: clips` without anything to grow from is refused with the curriculum, not when its stage begins."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tok4d.config.loader import from_mapping
from tok4d.config.schema import Curriculum
from tok4d.errors import ConfigError
from tok4d.training.check import check_curriculum

IMAGE = {"source": "image/shapes", "options": {"side": 32}}
CLIP = {"source": "video/moving", "options": {"frames": 8, "size": 32}}


def curriculum(first: dict[str, Any], second: dict[str, Any], grow: str = "clips", **overrides: Any) -> Curriculum:
    stages = {
        "stills": {"tasks": {"a": first}},
        "moving": {"latent": 48, "grow": grow, "tasks": {"b": IMAGE, "c": second}},
    }
    model = {"preset": "tiny", "overrides": {"latent": 32, **overrides}}
    whole = {"init": "linear", "order": ["stills", "moving"], "model": model, "stages": stages}
    return from_mapping(Curriculum, whole, "test")


def refused(config: Curriculum, *, files: bool = False) -> str:
    with pytest.raises(ConfigError) as found:
        check_curriculum(config, files=files)
    assert str(found.value).startswith("stages.moving: grow: clips: "), found.value
    return str(found.value)


def test_clips_beside_pictures_are_fine():
    check_curriculum(curriculum(IMAGE, CLIP))
    check_curriculum(curriculum(IMAGE, IMAGE, grow="scores"))


def test_a_stage_without_clips():
    said = refused(curriculum(IMAGE, IMAGE))
    assert "no task of this stage has samples of more than one frame; give it a task of clips" in said
    still = {"source": "video/moving", "options": {"frames": 1, "size": 32}}
    assert "give it a task of clips" in refused(curriculum(IMAGE, still))


def test_a_start_without_pictures():
    assert "the first task of stages.stills has not; begin with a task of pictures" in refused(curriculum(CLIP, CLIP))


@pytest.mark.parametrize(
    ("overrides", "needs"),
    [
        ({"encoder": {"blocks": 2}}, "needs an encoder of 3 or more blocks"),
        ({"decoder": {"mlp": 64}}, "needs a decoder of 1 or more blocks, 111 channels and 102 neurons"),
        ({"patch_size": [1, 16, 16]}, "patches of one frame cannot show motion"),
    ],
)
def test_a_model_without_room(overrides, needs):
    said = refused(curriculum(IMAGE, CLIP, **overrides))
    assert needs in said
    assert said.endswith("say grow: scores")


def test_files_are_looked_into_where_options_do_not_tell(tmp_path: Path):
    """Pictures of any size: before there are files, a task is believed."""
    Image.new("RGB", (24, 16)).save(tmp_path / "a.png")
    pictures = {"source": "image/folder", "options": {"path": str(tmp_path)}}
    config = curriculum(pictures, pictures)
    config.stages["moving"].tasks.pop("b")
    check_curriculum(config)
    assert "no task of this stage has samples of more than one frame" in refused(config, files=True)
