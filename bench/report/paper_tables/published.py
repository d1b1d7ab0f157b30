"""The six tables of the paper, and the numbers printed in them: ``reports/published/tan2024.csv``."""

from __future__ import annotations

import csv
import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

FILE = Path(__file__).resolve().parent / "tan2024.csv"
"""In a checkout a link to ``reports/published``."""
SOURCE = "Tan, Zhou and Chen, Post-hoc Part-prototype Networks, ICML 2024"
AXIOMS = ("sensitivity", "completeness", "linearity", "symmetry")


@dataclass(frozen=True)
class Published:
    """One number of the paper.

    Attributes:
        backbone: under this project's name; empty if the paper names none.
        method: under this project's name; ``baselines`` is the paper's word for all methods that are not its own.
        k: prototypes per class, if the table distinguishes them.
        stage: ``initial`` or ``refined``, if the table distinguishes them.
        value: none if ``status`` is ``oom`` (out of memory) or ``n/a`` (a dash in the paper).
    """

    backbone: str
    method: str
    k: int | None
    stage: str
    metric: str
    value: float | None
    status: Literal["ok", "oom", "n/a"]


@dataclass(frozen=True)
class PaperTable:
    """Subject of one table of the paper.

    Attributes:
        section: section of the paper or its appendix.
        caption: in this project's words.
        dataset: empty if the paper names none.
        images: the paper's counts, training and test; other counts mean that its numbers are about other images.
        metrics: left to right.
        whole: whether the paper states that its images are whole.
    """

    number: int
    section: str
    caption: str
    dataset: str
    images: tuple[int, int] | None
    metrics: tuple[str, ...]
    whole: bool = False

    @property
    def place(self) -> str:
        """Location in the paper."""
        return f"{'section' if self.section[0].isdigit() else 'appendix'} {self.section}"

    @property
    def title(self) -> str:
        """Number and caption."""
        return f"Table {self.number}: {self.caption}"


_READINGS = tuple(
    f"{axiom}_{reading}" for reading in ("contribution", "shapley") for axiom in AXIOMS if axiom != "linearity"
)
TABLES = {
    table.number: table
    for table in (
        PaperTable(1, "4.1", "axioms of attribution", "", None, (*AXIOMS, *_READINGS)),
        PaperTable(
            2, "4.2", "consistency, stability and accuracy on CUB-200-2011", "cub", (5994, 5794),
            ("consistency", "stability", "accuracy"),
        ),
        PaperTable(3, "4.3", "accuracy on ImageNet", "imagenet", (1281167, 50000), ("accuracy",), whole=True),
        PaperTable(
            4, "4.4", "accuracy of initial and refined prototypes on ImageNet", "imagenet", (1281167, 50000),
            ("accuracy",), whole=True,
        ),
        PaperTable(5, "B", "accuracy on Stanford Cars", "cars", (8144, 8041), ("accuracy",), whole=True),
        PaperTable(6, "B", "accuracy on Stanford Dogs", "dogs", (12000, 8580), ("accuracy",), whole=True),
    )
}  # fmt: skip


@functools.cache
def published(table: int) -> tuple[Published, ...]:
    """Return the numbers of a table, in the paper's order."""
    with FILE.open(newline="") as file:
        return tuple(
            Published(
                row["backbone"],
                row["method"],
                int(row["k"]) if row["k"] else None,
                row["stage"],
                row["metric"],
                float(row["value"]) if row["value"] else None,
                row["status"],  # type: ignore[arg-type]
            )
            for row in csv.DictReader(file)
            if row["table"] == str(table)
        )
