"""What a process does of a cell where it does not do all of it."""

from __future__ import annotations

from contextlib import suppress

from bench.core import environment
from bench.core.interrupts import contained
from bench.runner.cell import CellRunner
from bench.runner.launchers.tasks import Stage
from bench.runner.queue import persistently
from bench.training.distributed import Followed


def share(cell: CellRunner, stage: Stage, retries: int = 0) -> None:
    """Do one stage, which several cells share, and stop: prepare the images, or train the black box.

    Args:
        cell: one of those that want it.
        stage: which.
        retries: how often it is tried again where what went wrong may pass; only the last failure is recorded.

    Raises:
        Exception: whatever went wrong, after it was recorded in the cell's folder.
    """
    try:
        with contained():
            persistently(lambda: _done(cell, stage), retries, cell.progress)
    except Exception as error:
        cell.record(error)
        raise


def _done(cell: CellRunner, stage: Stage) -> None:
    cell.inputs.check()
    environment.make_deterministic()
    with cell.told():
        train = cell.inputs.data()["train"]

        def black_box() -> None:
            cell.task(train)

        if stage == "black-box":
            cell.attempts.once(black_box)


def follow(cell: CellRunner) -> None:
    """On all ranks but 0: take part in what that one trains, until it has ended.

    Each builds by itself what is trained, from the same seeds; the first of them that fails says why.

    Raises:
        Exception: whatever went wrong, after it was recorded in the cell's folder.
    """
    try:
        environment.make_deterministic()
        for order in cell.ranks.orders():
            cell.attempts.most = order["most"]
            # To the training of the black box, or of the method where the black box is there.
            with suppress(Followed), contained():
                cell.fit(cell.task(cell.inputs.data()["train"]))
    except Exception as error:
        cell.record(error)
        raise
