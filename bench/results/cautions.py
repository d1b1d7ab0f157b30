"""Signs that a number says little about its method: odd facts of a fit, undertrained networks, collapsed regions."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

_MOST_SATURATED = 30.0
_LEAST_DEVIATION = 0.05
_MOST_LOST = 10.0
_MOST_BEHIND = 10.0
_MOST_BORDER = 1.5
"""Times the share that peaks at random cells would have."""
_MOST_KEPT = 90.0
# Percent of regions without a part, which count as stable, above which the share is shown beside the score, and the
# score is no best one.
_MOST_EMPTY = 25.0

Facts = Mapping[str, float]

_ODD: tuple[tuple[str, Callable[[Facts], bool], str], ...] = (
    (
        "saturated",
        lambda facts: facts["saturated"] > _MOST_SATURATED,
        "{saturated:.0f} % of the latent numbers are within 0.02 of 0 or 1: the add-on layers are saturated",
    ),
    (
        "z_deviation",
        lambda facts: facts["z_deviation"] < _LEAST_DEVIATION,
        "latent numbers deviate by {z_deviation:.3f} only: the latent space has shrunk",
    ),
    (
        "accuracy_projected",
        lambda facts: facts["accuracy_unprojected"] - facts["accuracy_projected"] > _MOST_LOST,
        "the projection costs {accuracy_unprojected:.0f} -> {accuracy_projected:.0f} % of the training images",
    ),
    (
        "border_peaks",
        lambda facts: facts["border_peaks"] > _MOST_BORDER * facts["border_cells"],
        "{border_peaks:.0f} % of the peaks are on the border ring, which has {border_cells:.0f} % of the cells",
    ),
    (
        "kept_slots",
        lambda facts: facts["kept_slots"] > _MOST_KEPT,
        "{kept_slots:.0f} % of the slots have the prototype that they started with: the assignment was not learnt",
    ),
)


def odd_facts(facts: Facts) -> list[str]:
    """Return a sentence for each fact of a fit that shows a badly trained network.

    Args:
        facts: facts of a fit; percentages from 0 to 100.

    Example:
        >>> odd_facts({"saturated": 45.0, "z_deviation": 0.2})
        ['45 % of the latent numbers are within 0.02 of 0 or 1: the add-on layers are saturated']
    """
    return [text.format(**facts) for name, is_odd, text in _ODD if name in facts and is_odd(facts)]


def undertrained(accuracy: float, black_box: float) -> str:
    """Return the warning about a method far behind the black box of its row; empty if it is not.

    Args:
        accuracy: of the method, in percent.
        black_box: of the black box on the same images with the same backbone, in percent.

    Example:
        >>> undertrained(63.9, 92.4)
        'undertrained here, 28.5 points behind the black box: says little about the method'
        >>> undertrained(88.0, 92.4)
        ''
    """
    behind = black_box - accuracy
    if behind <= _MOST_BEHIND:
        return ""
    return f"undertrained here, {behind:.1f} points behind the black box: says little about the method"


def empty_regions(shares: Sequence[float]) -> str:
    """Return the note beside a stability score whose regions are often empty; empty if they are not.

    Args:
        shares: percent of regions that contain no part, one for each seed.

    Example:
        >>> empty_regions([78.0, 80.0])
        '79 % of its regions contain no part, which counts as stable'
        >>> empty_regions([20.0])
        ''
    """
    if not collapsed(shares):
        return ""
    return f"{sum(shares) / len(shares):.0f} % of its regions contain no part, which counts as stable"


def collapsed(shares: Sequence[float]) -> bool:
    """Return whether so many regions contain no part that a score may be no merit of the method."""
    return bool(shares) and sum(shares) / len(shares) > _MOST_EMPTY
