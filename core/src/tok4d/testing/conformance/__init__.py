"""`ModalityConformance`: everything that tok4d asks of a modality, as tests. A plugin author writes one fixture:

    class TestRadar(ModalityConformance):
        tolerance = 1 / 255  # precision of the file format

        @pytest.fixture
        def samples(self):
            return [Sample("radar", {"echo": torch.randn(shape)}) for shape in [(1, 1), (17, 90), (64, 300)]]

The attributes that may be set are described at `Case`. A check that does not suit the modality is overridden by its
name, with the reason in its docstring.
"""

from __future__ import annotations

from tok4d.testing.conformance.base import Case
from tok4d.testing.conformance.classes import ClassChecks, TokenChecks
from tok4d.testing.conformance.files import BrokenFileChecks, FileChecks
from tok4d.testing.conformance.measures import MetricChecks, PreviewChecks
from tok4d.testing.conformance.models import ModelChecks
from tok4d.testing.conformance.processes import ProcessChecks
from tok4d.testing.conformance.round_trip import BatchChecks, GradientChecks, RoundTripChecks
from tok4d.testing.conformance.sources import SourceChecks

__all__ = ["Case", "ModalityConformance"]


class ModalityConformance(
    ClassChecks,
    TokenChecks,
    RoundTripChecks,
    GradientChecks,
    BatchChecks,
    ProcessChecks,
    MetricChecks,
    PreviewChecks,
    FileChecks,
    BrokenFileChecks,
    SourceChecks,
    ModelChecks,
):
    """All checks. Subclass it in a test module as `class TestMine(ModalityConformance)`."""
