"""The conformance kit itself: a correct modality passes everything, every broken one is caught by the right check."""

from __future__ import annotations

import inspect
import subprocess
import sys
from pathlib import Path

import broken_files as files
import broken_tokens as tokens
import pytest
from rows import Rows, row_samples

from tok4d.modality import DEFAULT_PATCH, Modality, Sample
from tok4d.testing import ModalityConformance

CHECKS = sorted(name for name in dir(ModalityConformance) if name.startswith("test_"))


def failure(check: str, modality: Modality, folder: Path, samples: list[Sample] | None = None, **attributes) -> str:
    """Message of one check, empty when it passes; an exception of the modality's own counts as its message."""
    kit = type("Kit", (ModalityConformance,), {"plugin_module": "tok4d_image.plugin", **attributes})()
    method = getattr(kit, check)
    wanted = inspect.signature(method).parameters
    given = {"modality": modality, "samples": samples or row_samples(), "tmp_path": folder}
    try:
        if "tokens" in wanted:
            given["tokens"] = [modality.patchify(sample, DEFAULT_PATCH) for sample in given["samples"]]
        method(**{key: value for key, value in given.items() if key in wanted})
    except (Exception, pytest.fail.Exception) as error:
        return str(error) or type(error).__name__
    return ""


@pytest.mark.parametrize("check", CHECKS)
def test_a_correct_modality_passes(check: str, tmp_path: Path) -> None:
    assert failure(check, Rows(), tmp_path) == ""


BROKEN = [
    (tokens.ByOrder(), "test_permuted_tokens"),
    (tokens.SlidesToTheFront(), "test_dropped_tokens"),
    (tokens.DirtyPadding(), "test_patch_width_and_padding"),
    (tokens.Narrow(), "test_patch_width_and_padding"),
    (tokens.SameCoordinate(), "test_coordinates"),
    (tokens.OtherAxis(), "test_coordinates"),
    (tokens.TupleInOrigin(), "test_origin_survives_json"),
    (tokens.WorkerInOrigin(), "test_loader_worker"),
    (tokens.PaddedShape(), "test_origin_describes_the_sample"),
    (tokens.WrongGrid(), "test_grid_agrees_with_patchify"),
    (tokens.LosesPrecision(), "test_round_trip"),
    (tokens.Clamps(), "test_unpatchify_does_not_clamp"),
    (tokens.SoftLimit(), "test_unpatchify_does_not_clamp"),
    (tokens.Detaches(), "test_unpatchify_is_differentiable"),
    (tokens.OneType(), "test_bfloat16"),
    (tokens.ShortestFirst(), "test_permuted_samples"),
    (tokens.OnlyTheFirst(), "test_batch"),
    (tokens.NeedsOne(), "test_empty_batch"),
    (tokens.TrustsOrigins(), "test_tokens_of_another_modality"),
    (tokens.TrustsOrigins(), "test_tokens_without_origin"),
    (tokens.ChangesItsArgument(), "test_deterministic_and_pure"),
    (tokens.Dithers(), "test_deterministic_and_pure"),
    (tokens.HoldsAFunction(), "test_pickle"),
    (files.Measured("direction"), "test_metrics_order_reconstructions"),
    (files.Measured("nan"), "test_metrics_order_reconstructions"),
    (files.Measured("batch"), "test_metrics_do_not_depend_on_the_batch"),
    (files.Measured("shared"), "test_metric_factories_make_fresh_metrics"),
    (files.PreviewArrays(), "test_preview"),
    (files.PreviewOverflows(), "test_preview"),
    (files.LeaksErrors(), "test_missing_file"),
    (files.LeaksErrors(), "test_directory"),
    (files.LeaksErrors(), "test_empty_file"),
    (files.LeaksErrors(), "test_foreign_content"),
    (files.NamelessError(), "test_missing_file"),
    (files.AcceptsCutFiles(), "test_truncated_file"),
    (files.Wraps(), "test_write_clamps"),
    (files.Wraps(), "test_write_and_read"),
    (files.LeavesFiles(), "test_write_leaves_nothing_else"),
    (files.OwnName(), "test_write_and_read"),
    (files.WithSource(files.Moody), "test_sources_are_reproducible"),
    (files.WithSource(files.Nameless), "test_sources_give_samples"),
    (files.WithSource(lambda **options: files.Moody(**options)), "test_sources_give_samples"),
    (files.ForgetsTheGain(), "test_tokens_of_a_file"),
    (tokens.DistrustsTheModel(), "test_encode_and_decode"),
    (files.NoObjective(), "test_objective_trains"),
    (files.Shouts(), "test_class_attributes"),
    (files.Spaced(), "test_class_attributes"),
]


@pytest.mark.parametrize(
    ("broken", "check"), BROKEN, ids=[f"{type(broken).__name__}-{check}" for broken, check in BROKEN]
)
def test_a_broken_modality_is_caught(broken: Modality, check: str, tmp_path: Path) -> None:
    assert failure(check, broken, tmp_path)


def test_every_check_can_fail() -> None:
    """No check without a modality that it catches."""
    elsewhere = {"test_samples_are_awkward", "test_registered_module_is_light"}
    assert {check for _, check in BROKEN} | elsewhere == set(CHECKS)


def test_samples_must_be_awkward(tmp_path: Path) -> None:
    check = "test_samples_are_awkward"
    assert "three different shapes" in failure(check, Rows(), tmp_path, row_samples()[:2])
    assert "single token" in failure(check, Rows(), tmp_path, [*row_samples()[2:], *row_samples()[3:], *_long()])


def _long() -> list[Sample]:
    return [Sample("rows", {"row": sample.data["row"].repeat(3)}) for sample in row_samples()[2:]]


def test_a_heavy_plugin_module_is_named(tmp_path: Path) -> None:
    message = failure("test_registered_module_is_light", Rows(), tmp_path, plugin_module="tok4d.tokens")
    assert "loads" in message
    assert "torch" in message
    message = failure("test_registered_module_is_light", Rows(), tmp_path, plugin_module="no.such.module")
    assert "no.such.module" in message or "No module" in message
    assert "HOOK_API_VERSION" in failure("test_registered_module_is_light", Rows(), tmp_path, plugin_module="json")


def test_pytest_plugin_loads_no_torch() -> None:
    code = "import sys, tok4d.testing, tok4d.testing.pytest_plugin; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
