"""The pytest plugin (entry point `pytest11`): failed checks of the kit show their values. Imports no torch."""

from __future__ import annotations

import pytest

pytest.register_assert_rewrite("tok4d.testing.conformance")  # before anything imports it
