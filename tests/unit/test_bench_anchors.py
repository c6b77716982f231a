"""Published figures: every table is whole, methods have names of their own, and suites refer to what there is."""

from __future__ import annotations

import pytest

from tok4d.errors import ConfigError
from tok4d_bench.anchors import ALL, anchor_columns, parse_anchors, table, tables
from tok4d_bench.suite import load_suite, suite_names

TABLE4 = {"table": "table4_image_recon", "columns": {"psnr": "in_psnr", "fid": "in_rfid"}}


@pytest.mark.parametrize("name", list(tables()))
def test_tables_are_whole_and_their_methods_distinct(name: str) -> None:
    found = table(name)
    assert found.rows
    assert found.source
    assert all(set(row) == set(found.columns) for row in found.rows)
    methods = [found.method(row) for row in found.rows]
    assert len(set(methods)) == len(methods)


def test_every_reference_of_a_suite_exists() -> None:
    referred = 0
    for name in suite_names():
        for spec in load_suite(name).tasks.values():
            referred += len(anchor_columns(spec.anchors, [ALL]))
    assert referred > 50


def test_figures_of_a_task_as_published() -> None:
    """AToken, arXiv 2509.14476, Table 4, read from the paper."""
    found = {one.method: one.values for one in anchor_columns(TABLE4, [ALL])}
    assert found["SD-VAE"] == {"psnr": 26.26, "fid": 0.606}
    assert found["AToken-So/C Stage 3"] == {"psnr": 29.72, "fid": 0.209}
    assert {"OmniTokenizer (cont)", "OmniTokenizer (disc)"} < set(found)


def test_what_is_not_reported_is_left_out() -> None:
    found = anchor_columns({"table": "table8_3d", "columns": {"top1": "zs_acc"}}, [ALL])
    assert "Trellis-SLAT" not in [one.method for one in found]


def test_only_what_is_asked_for() -> None:
    assert [one.method for one in anchor_columns(TABLE4, ["SD-VAE"])] == ["SD-VAE"]
    assert len(anchor_columns(TABLE4, ["table4_image_recon"])) == len(table("table4_image_recon").rows)
    assert anchor_columns(TABLE4, ["table6_video_recon"]) == []
    assert anchor_columns({}, [ALL]) == []


def test_names() -> None:
    assert parse_anchors("") == []
    assert parse_anchors("SD-VAE, table8_3d") == ["SD-VAE", "table8_3d"]
    with pytest.raises(ConfigError, match="table4_image_recon"):
        parse_anchors("table4_image_recons")


@pytest.mark.parametrize(
    ("reference", "said"),
    [
        ({"table": "table4_image_recon", "columns": {"psnr": "in_psnrs"}}, "in_psnr"),
        ({"table": "table44", "columns": {}}, "table4_image_recon"),
        ({"table": "table4_image_recon"}, "table and columns"),
    ],
)
def test_references_to_what_there_is_not(reference: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        anchor_columns(reference, [ALL])
