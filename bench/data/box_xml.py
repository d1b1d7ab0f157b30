"""Boxes in the XML of ImageNet and Stanford Dogs, the format of Pascal VOC."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

from bench.contract import Record
from bench.data.base import Box, box_of_corners
from bench.data.reader_reports import Fault, Faults, fault


def box_around(file: Path) -> Box:
    """Return the box around all objects of an annotation: ``(x, y, width, height)`` in pixels.

    Raises:
        Fault: if the file is missing or no annotation, or has no box with pixels.
    """
    try:
        text = file.read_bytes()
        if b"<!" in text:
            raise ValueError("it declares entities")  # no annotation does; expanding them may fill the memory
        boxes = [
            [float(box.findtext(edge, "")) for edge in ("xmin", "ymin", "xmax", "ymax")]
            for box in ElementTree.fromstring(text).iter("bndbox")
        ]
    except FileNotFoundError:
        raise fault(file, None, "is not on disk") from None
    except (OSError, ValueError, ElementTree.ParseError) as error:
        raise fault(file, None, f"cannot be read as an annotation ({error})") from error
    if not boxes:
        raise fault(file, None, "has no box")
    left, top, right, bottom = zip(*boxes, strict=True)
    return box_of_corners(file, "", min(left), min(top), max(right), max(bottom))


def with_box(record: Record, file: Path, faults: Faults) -> Record:
    """Return the record with the box of an annotation file; without one if the file has a fault that is collected."""
    try:
        return replace(record, box=box_around(file))
    except Fault as error:
        faults.report(error, "annotation")
        return record
