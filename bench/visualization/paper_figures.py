"""The paper's figures of prototypes, each from the cells of a store that fit it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence

import torch

from bench.contract import RequestError
from bench.report.plots.ablation import SIZES
from bench.report.plots.axes import file_part
from bench.report.plots.figure import Drawing, Missing, repeated
from bench.results.cell_record import CellRecord
from bench.results.labels import text_of
from bench.runner.intervene import intervene
from bench.visualization.explanations import EXPLANATIONS, chosen_images, draw_explanations
from bench.visualization.gallery import draw_class
from bench.visualization.image_rows import Row, draw_rows
from bench.visualization.intervention import clearest, draw_case
from bench.visualization.viewer import Viewer, chosen_classes

Open = Callable[[str], Viewer]
_METHOD = "ours"
_ARCHITECTURES = ("resnet34", "vit_b_32", "coc_tiny")


def explanations(
    cells: Sequence[CellRecord],
    opened: Open,
    classes: Sequence[str] = (),
    columns: int = 3,
    shown: Sequence[str] = (),
    images: Sequence[str] = (),
) -> Drawing:
    """Draw figure 1: images as Grad-CAM, DFF and this method explain one black box's decision.

    Args:
        cells: candidates, newest first.
        opened: function that opens a cell by its id.
        classes: one class, whose first test images are drawn; default: the one in the middle of the list.
        columns: number of images.
        shown: ``region`` and ``keypoints``, or one of them.
        images: numbers or names of test images, instead of a class.

    Raises:
        RequestError: if none of the methods has a finished cell.
    """
    own = [cell for cell in cells if cell.result and cell.spec["method"] in EXPLANATIONS]
    if not own:
        names = ",".join(EXPLANATIONS)
        raise RequestError(f"no cell of {names} is finished: python -m bench run --methods {names} --datasets demo")
    own.sort(key=lambda cell: cell.label != cell.spec["method"])  # plain settings first
    family = _different(_families(own, "method", "method_version", "settings")[0], lambda cell: cell.spec["method"])
    viewers = {name: opened(family[name].name) for name in EXPLANATIONS if name in family}
    first = next(iter(viewers.values()))
    lost = [name for name in EXPLANATIONS if name not in family]
    command = repeated(next(iter(family.values())), {}, method=",".join(lost))
    chosen = chosen_images(first, images, -1 if images else _one_class(first, classes), columns)
    return draw_explanations(viewers, chosen, shown, [Missing(", ".join(lost), command)] if lost else [])


def architectures(
    cells: Sequence[CellRecord], opened: Open, classes: Sequence[str] = (), columns: int = 3, shown: Sequence[str] = ()
) -> Drawing:
    """Draw figure 4: the prototypes of one class in each backbone, with the backbones' differences.

    Its cells differ in the backbone alone. Arguments as for :func:`explanations`; ``columns`` are images per row.

    Raises:
        RequestError: if no cell of the method is finished.
    """
    own = [cell for cell in _ours(cells) if cell.spec["backbone"]]
    family = _different(
        _families(own, "backbone", "weights_digest", "black_box")[0], lambda cell: cell.spec["backbone"]
    )
    viewers = {backbone: opened(cell.name) for backbone, cell in sorted(family.items())}
    label = _one_class(next(iter(viewers.values())), classes)
    rows = [Row(backbone, _architecture(viewer, label), viewer.look(label)) for backbone, viewer in viewers.items()]
    missing = []
    if len(rows) < len(_ARCHITECTURES):
        others = [name for name in _ARCHITECTURES if name not in family]
        command = repeated(next(iter(family.values())), {}, ",".join(others))
        missing.append(
            Missing(f"Tan et al. 2024 have {', '.join(_ARCHITECTURES)}; not here: {', '.join(others)}", command)
        )
    name = rows[0].look.class_name
    spec = next(iter(family.values())).spec
    caption = (
        f"Prototypes of {name} ({spec['dataset']}) in {len(rows)} backbone{'s' * (len(rows) > 1)}, by {_METHOD}. "
        "Negative features: their share before the factorisation, in these images."
    )
    title = f"One class in several architectures: {name}"
    return draw_rows("figure4", title, rows, columns, shown, caption, [v.name for v in viewers.values()], missing)


def sizes(
    cells: Sequence[CellRecord], opened: Open, classes: Sequence[str] = (), columns: int = 6, shown: Sequence[str] = ()
) -> Drawing:
    """Draw figure 6: the prototypes of one class for each number k of them. Arguments as for :func:`architectures`."""
    family = _different(_families(_ours(cells), "settings.k")[0], lambda cell: cell.spec["settings"]["k"])
    viewers = {k: opened(cell.name) for k, cell in sorted(family.items())}
    label = _one_class(next(iter(viewers.values())), classes)
    rows = [Row(f"k = {k}", "", viewer.look(label)) for k, viewer in viewers.items()]
    lost = [k for k in SIZES if k not in family]
    first = next(iter(family.values()))
    command = repeated(first, {f"{_METHOD}.k": ",".join(map(str, lost))})
    missing = [Missing(f"k = {', '.join(map(str, lost))}", command)] if lost else []
    name = rows[0].look.class_name
    caption = f"Prototypes of {name} ({first.spec['dataset']}, {first.spec['backbone']}) for several numbers k of them."
    title = f"How many prototypes: {name}, {first.spec['backbone']}"
    return draw_rows("figure6", title, rows, columns, shown, caption, [v.name for v in viewers.values()], missing)


def intervention(cells: Sequence[CellRecord], opened: Open) -> Drawing:
    """Draw figure 7: the case of the prototype whose absence corrects most, net of those predictions that it breaks.

    Raises:
        RequestError: if no prototype, left out alone, corrects a prediction.
    """
    viewer = opened(_ours(cells)[0].name)
    found = intervene(viewer.cell)
    ranking = found.effects.ranking.tolist()
    if not ranking:
        raise RequestError(
            f"in cell {viewer.name} no prototype, left out alone, corrects a wrong prediction: name another --cell"
        )
    return draw_case(found, ranking[0], clearest(found, ranking[0]), viewer.name)


def overview(
    viewer: Viewer, classes: Sequence[str] = (), count: int = 4, columns: int = 6, shown: Sequence[str] = ()
) -> Drawing:
    """Draw figure 8: rows of classes, all prototypes on each image.

    Args:
        viewer: opened cell.
        classes: numbers or names; default: ``count`` of them, spread evenly over the data set.
        count: number of default classes.
        columns: images per row.
        shown: ``region`` and ``keypoints``, or one of them.
    """
    labels = chosen_classes(viewer, tuple(classes), count)
    rows = [Row(viewer.class_names[label], "", viewer.look(label)) for label in labels]
    how = "" if classes else " The classes are spread evenly over the data set; nobody picked them."
    caption = f"Prototypes of {viewer.title}; the first test images of each class.{how}"
    name = f"figure8-{file_part(viewer.label)}"
    return draw_rows(name, f"Prototypes of {viewer.title}", rows, columns, shown, caption, [viewer.name])


def pages(
    viewer: Viewer, classes: Sequence[str] = (), count: int = 4, columns: int = 6, shown: Sequence[str] = ()
) -> list[Drawing]:
    """Draw a gallery page for each class; arguments as for :func:`overview`."""
    stem = f"gallery-{file_part(viewer.label)}"
    return [
        draw_class(viewer, label, columns, shown, f"{stem}-{label:03d}")
        for label in chosen_classes(viewer, tuple(classes), count)
    ]


def usual(cells: Sequence[CellRecord]) -> CellRecord:
    """Return the default cell: the paper's method in default settings, else the newest of any method.

    Raises:
        RequestError: if no method's cell is finished.
    """
    done = [cell for cell in cells if cell.result and cell.role == "method"]
    if not done:
        raise RequestError("no cell of a method is finished: python -m bench run --methods ours --datasets demo")
    return _ours(done)[0] if any(cell.spec["method"] == _METHOD for cell in done) else done[0]


def _ours(cells: Sequence[CellRecord]) -> list[CellRecord]:
    """Return finished cells of the method that can vary k and leave prototypes out; refined and plain ones first.

    Raises:
        RequestError: if there is none.
    """
    found = [cell for cell in cells if cell.result and cell.spec["method"] == _METHOD]
    if not found:
        raise RequestError(f"no cell of {_METHOD} is finished: python -m bench run --methods {_METHOD} --datasets demo")
    unrefined = ("none", "naive")
    return sorted(found, key=lambda cell: (cell.spec["settings"]["refinement"] in unrefined, cell.label != _METHOD))


def _families(cells: Iterable[CellRecord], *varying: str) -> list[list[CellRecord]]:
    """Group cells that differ only in the named fields, such as ``settings.k`` or ``backbone``.

    The metrics never separate cells. A family with more different members comes first, then the newer one.
    """
    groups: dict[str, list[CellRecord]] = defaultdict(list)
    for cell in cells:
        rest = {key: value for key, value in cell.spec.items() if key != "metrics"}
        for name in varying:
            section, _, inner = name.partition(".")
            if inner:
                rest[section] = {key: value for key, value in rest[section].items() if key != inner}
            else:
                rest.pop(section, None)
        groups[text_of(rest)].append(cell)
    # Sorting keeps the order of equals, and the cells come newest first.
    return sorted(groups.values(), key=lambda family: -len({text_of(cell.spec) for cell in family}))


def _different(family: Sequence[CellRecord], key: Callable[[CellRecord], object]) -> dict[object, CellRecord]:
    """Return the newest cell for each value of the key."""
    found: dict[object, CellRecord] = {}
    for cell in family:
        found.setdefault(key(cell), cell)
    return found


def _one_class(viewer: Viewer, classes: Sequence[str]) -> int:
    if len(classes) > 1:
        raise RequestError(f"this figure is about one class; {len(classes)} were named")
    labels = chosen_classes(viewer, tuple(classes), 3)
    return labels[len(labels) // 2]


@torch.no_grad()
def _architecture(viewer: Viewer, label: int) -> str:
    """Return parameters, cells and negative features of a backbone."""
    index = (viewer.test.labels == label).nonzero()[:8, 0]
    batch = next(iter(viewer.test.batches(len(index), viewer.cell.device, index=index)))
    features = viewer.model.backbone(batch.images)
    negative = 100 * float((features < 0).float().mean())
    count = sum(parameter.numel() for parameter in viewer.model.backbone.parameters()) / 1e6
    height, width = features.shape[2:]
    share = f"{negative:.0f} %" if negative else "none"
    return f"{count:.1f} M parameters, {height} x {width} cells\nnegative features: {share}"
