"""Remarks under a table that make its numbers comparable with others."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence

from bench.results.cell_record import CellRecord
from bench.results.labels import of_weights, protocol, shared_protocol

_HEAD = {
    "present": "classifiers: the weights' own heads, of which the rows of the data set's classes alone count",
    "all": "classifiers: the weights' own heads; an image is right only if its class wins among all 1,000 of them",
}
"""Lines about pretrained heads, by ``classifier.head_classes``."""


def distinguish(groups: Sequence[tuple[CellRecord, Mapping[str, str]]]) -> list[str]:
    """Return a title for each block: the data set, and the settings that not all blocks of that data set share.

    Args:
        groups: any cell of each block, and the definitions of its metrics.
    """
    views = [
        {**cell.view, **{f"metric {name}": text for name, text in definitions.items()}} for cell, definitions in groups
    ]
    titles = []
    for view in views:
        rivals = [other for other in views if other["dataset"] == view["dataset"]]
        apart = [text for name, text in view.items() if any(other.get(name, text) != text for other in rivals)]
        apart = [text.removeprefix("protocol ") for text in apart]
        titles.append(f"{view['dataset']}: {'; '.join(apart)}" if apart else view["dataset"])
    return titles


def fewer_seeds(rows: Sequence[tuple[str, str, Collection[int]]]) -> str:
    """Return rows that have not all the seeds of their table, with those they have.

    Args:
        rows: name, backbone and seeds of each; the backbone is named if there are several.

    >>> fewer_seeds([("ours", "vgg19", {0, 1}), ("tesnet", "vgg19", {0}), ("protopool", "vgg19", {0})])
    'tesnet, protopool: 0'
    """
    every = {seed for _, _, seeds in rows for seed in seeds}
    several = len({backbone for _, backbone, _ in rows if backbone}) > 1
    found: dict[str, list[str]] = defaultdict(list)
    for label, backbone, seeds in rows:
        if set(seeds) != every:
            name = f"{label} with {backbone}" if several and backbone else label
            found[", ".join(map(str, sorted(seeds)))].append(name)
    return "; ".join(f"{', '.join(dict.fromkeys(names))}: {seeds}" for seeds, names in found.items())


def describe_block(
    definitions: Sequence[str], cells: Sequence[CellRecord], spread: bool = True, fewer: str = ""
) -> list[str]:
    """Return lines about metrics, data, seeds and hardware.

    Args:
        definitions: definitions of the metrics, in the order of the columns.
        cells: all of the block.
        spread: whether deviations are beside the means.
        fewer: rows that have not all the seeds, see :func:`fewer_seeds`.
    """
    specs = [cell.spec for cell in cells]
    outcomes = [cell.result for cell in cells if cell.result is not None]
    first = specs[0]
    shared = protocol(shared_protocol(first["protocol"]))
    seeds = sorted({spec["seed"] for spec in specs})
    images = _distinct(
        ", ".join(f"{count} {split}" for split, count in sorted(outcome["images"].items(), reverse=True))
        for outcome in outcomes
    )
    counted = f", images: {' or '.join(images)}" if images else ""
    lines = [
        f"metrics: {'; '.join(definitions) or 'none'}",
        f"data: {first['dataset']}, digest {first['data_digest']}, protocol {shared}{counted}"
        + (f"; MEASURED ON {first['split'].upper()}" if first.get("split", "test") != "test" else ""),
        f"seeds: {', '.join(map(str, seeds))}"
        + (f" ({fewer})" if fewer else "")
        + (f"; mean{' ± standard deviation (n - 1)' * spread} over seeds" if len(seeds) > 1 else ""),
    ]
    side = first["protocol"].get("size")
    regions = ((facts["parameters"].get("half_size"), facts["parameters"].get("size"))
               for spec in specs for facts in spec["metrics"].values())  # fmt: skip
    # Key-points and peaks are scaled to the canvas: the region grows with the image.
    lines += _distinct(
        f"region ±{half} px of {canvas}: ±{half * side / canvas:g} px of these images of {side}, "
        f"{200 * half / canvas:.0f} % of their side"
        for half, canvas in regions
        if half and canvas and side not in (None, canvas)
    )
    lines += _distinct(
        f"images for {spec['backbone']}: {of_weights(spec['protocol'])}"
        for spec in specs
        if spec["backbone"] and of_weights(spec["protocol"])
    )
    heads = (spec["black_box"] for spec in specs if (spec["black_box"] or {}).get("head") == "pretrained")
    lines += _distinct(_HEAD[head.get("head_classes", "present")] for head in heads)
    precisions = _distinct(spec["precision"] for spec in specs)
    hardware = _distinct(outcome["environment"]["hardware"] for outcome in outcomes)
    if hardware:
        lines.append(f"hardware: {'; '.join(hardware)}, {' and '.join(precisions)}")
    made = [(outcome["environment"]["bench"], outcome["environment"].get("git")) for outcome in outcomes]
    code = _distinct(f"{version} ({commit})" if commit else version for version, commit in made)
    if code:
        lines.append(f"partbench: {', '.join(code)}")
    return lines


def left_out(older: int) -> list[str]:
    """Return the line about cells that are not in a table since a newer run has their row; none if there are none."""
    cells = f"{older} cell{'s' * (older > 1)} of older runs"
    return [f"left out: {cells}: unfinished, or in settings that a newer run replaced"] if older else []


def _distinct(values: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(values))
