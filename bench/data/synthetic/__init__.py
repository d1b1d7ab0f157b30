"""The demo data set: birds drawn by the project itself, so that the whole benchmark runs with no download.

`draw` writes it in the official tree of CUB-200-2011, with boxes, key-points of the 15 parts and object masks.
"""

from bench.data.synthetic.generate import draw

VERSION = 2  # raise it when the drawing changes: a cached tree of another version is drawn anew

__all__ = ["VERSION", "draw"]
