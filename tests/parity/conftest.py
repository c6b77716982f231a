import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(scope="session")
def photos() -> Path:
    """The folder of the recipe `photos`, fetched on a machine that has none yet."""
    from tok4d.data.fetch import ensure

    return ensure("photos")[1]
