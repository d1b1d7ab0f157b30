"""Makes ``import torchvision`` work where its compiled operators cannot be loaded.

torchvision's wheels link against one build of torch. Beside another (a CPU build of torch next to the usual CUDA
build of torchvision) the compiled extension does not load, and the import then stops at the first operator whose
schema it wants to annotate. We use torchvision's Python parts only (models, transforms), so it is enough that those
schemas exist. Nothing is replaced: calling such an operator still fails, with torch's own message.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

import torch

_SCHEMA = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
_declared: list[torch.library.Library] = []


def declare_missing() -> None:
    """Declare the schemas of ``nms`` and ``qnms`` if torchvision's compiled extension does not load."""
    found = importlib.util.find_spec("torchvision")
    if found is None or found.origin is None or _declared:
        return
    try:
        for extension in sorted(Path(found.origin).parent.glob("_C*.so")):
            torch.ops.load_library(extension)
    except OSError:
        library = torch.library.Library("torchvision", "FRAGMENT")
        for name in ("nms", "qnms"):
            library.define(name + _SCHEMA)
        _declared.append(library)


declare_missing()
