"""A store to fill."""

from pathlib import Path

import pytest
from stores import StoreMaker


@pytest.fixture
def maker(tmp_path: Path) -> StoreMaker:
    return StoreMaker(tmp_path)
