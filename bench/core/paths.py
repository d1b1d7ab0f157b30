"""Where everything of the harness lies. Nothing here imports torch: `bench figure` starts quickly."""

from __future__ import annotations

import os
from pathlib import Path


def home() -> Path:
    """``BENCH_HOME``, by default ``.bench`` in the working directory."""
    return Path(os.environ.get("BENCH_HOME", ".bench"))
