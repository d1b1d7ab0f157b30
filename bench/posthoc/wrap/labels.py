"""Check of the images' labels against the classifier's answers."""

from __future__ import annotations

from collections.abc import Sequence

from bench.contract import RequestError
from bench.models.confusion import Fit, judge
from bench.posthoc.progress import LoggingProgress
from bench.posthoc.wrap.class_order import TIMM, TORCHVISION, rows

_HOW = {
    TIMM: "its rows are numbered as timm numbers class folders (natural sort, lower case)",
    TORCHVISION: "its rows are numbered as torchvision numbers class folders (by code points)",
    "from 1": "1 is taken from every label",
    "from 0": "1 is added to every label",
    "best": "its rows are numbered as its answers on the images suggest",
}


class WrongLabels(RequestError):
    """Error of labels that are not the classifier's.

    Attributes:
        reason: the measured accuracy.
        way: the order that fits, as in :class:`bench.models.confusion.Fit`.
        order: class names by row in that order; empty if none fits.
    """

    def __init__(self, reason: str, way: str, order: Sequence[str]) -> None:
        self.reason, self.way, self.order = reason, way, tuple(order)
        first = ", ".join(self.order[:5]) + (", ..." if len(self.order) > 5 else "")
        shifted = {"from 1": "give label - 1", "from 0": "give label + 1"}
        plain = "check its weights and how images are prepared"
        cure = f"number the labels in that order ({first})" if order else shifted.get(way, plain)
        super().__init__(f"{reason}: {cure}, or pass check_labels=False if the labels are meant")


def check(
    labels: Sequence[int], answers: Sequence[int], names: Sequence[str], refuse: bool, telling: LoggingProgress
) -> dict[str, float]:
    """Log the classifier's accuracy on the given labels, and refuse labels that are not its own.

    Without ``refuse`` wrong labels are only warned about.

    Returns:
        ``accuracy`` on the given labels in %.

    Raises:
        WrongLabels: if the accuracy is chance for sure, or another order fits far better; see
            :func:`bench.models.confusion.judge` for the tests.
    """
    fit = judge(labels, answers, len(names), rows(names))
    telling.note(
        f"accuracy of the classifier on the given labels: {100 * fit.accuracy:.1f} % of {fit.images} images "
        f"(chance {100 * fit.chance:.1f} %)"
    )
    error = _wrong(fit, names)
    if error is not None and refuse:
        raise error
    if error is not None or fit.near_chance:
        reason = error.reason if error is not None else "that is near chance, on too few images to be sure"
        telling.note(f"WARNING: {reason}; if the labels are not the classifier's, prototypes get wrong names")
    return {"accuracy": 100 * fit.accuracy}


def _wrong(fit: Fit, names: Sequence[str]) -> WrongLabels | None:
    seen = f"the classifier gives the labels of {100 * fit.accuracy:.1f} % of {fit.images} images"
    if fit.rows is not None:
        order = [""] * len(names)
        for label, row in enumerate(fit.rows.tolist()):
            if row >= 0:
                order[row] = names[label]
        named = order if all(order) else []
        reason = f"{seen}, but of {100 * fit.reached:.1f} % if {_HOW[fit.order]}"
        return WrongLabels(reason, fit.order, named)
    if fit.at_chance:
        return WrongLabels(f"{seen}, which is chance ({100 * fit.chance:.1f} %), in any order of the classes", "", [])
    return None
