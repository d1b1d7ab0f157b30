"""Feature extractors: images ``(N, 3, H, W)`` -> non-negative features ``(N, D, h, w)``.

A backbone in the catalogue is called without arguments and gives a module with the attribute ``channels`` (D). Where
it also has ``fetch(folder) -> Path``, that brings its pretrained weights.
"""

import bench.core.compat  # noqa: F401 - must come before anything that imports torchvision
