"""The stages that several cells share, each done once and before the cells that want it."""

from __future__ import annotations

from bench import environment
from bench.cell import Cell
from bench.launch.units import Stage


def share(cell: Cell, stage: Stage) -> None:
    """Do one stage of a cell and stop: prepare its images, or train its black box.

    Raises:
        Exception: whatever went wrong, after it was recorded in the cell's folder.
    """
    try:
        cell.check_identity()
        environment.make_deterministic()
        with cell.told():
            train = cell.data()["train"]

            def black_box() -> None:
                cell.task(train)

            if stage == "black-box":
                cell.attempts.run(black_box, lambda: None)
    except Exception as error:
        cell.record(error)
        raise
