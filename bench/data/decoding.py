"""Image files in, whole or not at all."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from bench.contract import CellError


def decode(path: Path) -> Image.Image:
    """The whole image as RGB, without its orientation tag, alpha or later frames.

    Grey images of 16 bits keep their upper 8; wider pixels have no known range and are refused.

    Raises:
        CellError: naming the file, for whatever keeps it from being decoded to the last row.
    """
    try:
        with Image.open(path) as image:
            if Image.MAX_IMAGE_PIXELS is not None and image.width * image.height > Image.MAX_IMAGE_PIXELS:
                raise ValueError(f"{image.width} by {image.height} pixels are too many")
            image.load()
            if image.mode in ("I", "F"):
                raise ValueError("32-bit pixels have no known range")
            if image.mode.startswith("I;16"):
                return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8)).convert("RGB")
            return image.convert("RGB")
    except Exception as error:  # PIL's readers raise whatever broken bytes lead them into
        problem = " ".join(str(error).replace(str(path), "it").split()) or type(error).__name__
        raise CellError(f"{path}: cannot be decoded ({problem}); restore the file") from error
