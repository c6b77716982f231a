"""docs/baselines.md names every kind of subject and every class of diffusers that there is."""

from __future__ import annotations

import re
from pathlib import Path

from tok4d_bench.subjects.diffusers_families import FAMILIES
from tok4d_bench.subjects.kinds import KINDS, kind_class, options_of

PAGE = (Path(__file__).parents[2] / "docs" / "baselines.md").read_text(encoding="utf-8")


def test_every_kind_and_class_is_named():
    named = set(re.findall(r"`([A-Za-z0-9]+)(?::[A-Z_]+)?`", PAGE)) | set(re.findall(r"`(tok4d):", PAGE))
    named |= {"diffusers"} if "`diffusers:FOLDER_OR_ID`" in PAGE else set()
    assert [kind for kind in KINDS if kind not in named] == []
    assert [name for name in FAMILIES if name not in named] == []


def test_every_option_is_named():
    for kind in KINDS:
        missing = [option for option in options_of(kind_class(kind)) if f"`{option}=" not in PAGE and option != "bpp"]
        assert missing == [], kind
