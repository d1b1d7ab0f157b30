"""Feature extractors: images ``(N, 3, H, W)`` -> non-negative features ``(N, D, h, w)``.

A backbone in the catalogue is called without arguments and returns a module with the attribute ``channels`` (D). If it
also has ``fetch(folder) -> Path``, that downloads its pretrained weights.
"""

from bench.core.compat import declare_torchvision_operators

# Before any module of this package imports torchvision, which fails beside a build of torch that it was not made for.
declare_torchvision_operators()
