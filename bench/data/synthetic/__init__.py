"""Synthetic data set of birds, so that the whole benchmark runs without a download.

`draw` writes it in the official tree of CUB-200-2011, with boxes, key-points of the 15 parts and object masks.
"""

from bench.data.synthetic.generate import draw

VERSION = 2  # raise it when the drawing changes: a cached tree of another version is drawn again

__all__ = ["VERSION", "draw"]
