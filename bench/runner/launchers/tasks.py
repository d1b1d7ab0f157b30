"""Cells and the stages that they share, as tasks of a launcher."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from bench.config.spec import CellSpec, PlannedCell, describe
from bench.core import environment
from bench.core.interrupts import contained
from bench.data.cache import cache_folder
from bench.data.preprocessing import Preprocessing
from bench.results.store import Store, WorkDir, write_json
from bench.runner.cell import CellRunner
from bench.runner.retries import retry
from bench.training.distributed import FollowerDone

Stage = Literal["data", "black-box"]


@dataclass(frozen=True, eq=False)
class CellTask:
    """Task of a worker: a cell, or a stage that several cells share.

    Attributes:
        name: id of the cell, or the stage and an id of its own.
        cell: the cell; for a stage, one of the cells that share it.
        stage: the shared stage; ``None``: the whole cell.
        needs: names of the tasks that must end before.
    """

    name: str
    cell: PlannedCell
    stage: Stage | None = None
    needs: tuple[str, ...] = ()

    def done(self, store: Store, home: Path) -> bool:
        """Return whether its result exists."""
        if self.stage == "data":
            return prepared_folder(self.cell.spec, home).is_dir()
        return (store.cell(self.name) if self.stage is None else black_box_folder(self.cell.spec, home)).done

    def busy(self, store: Store, home: Path) -> bool:
        """Return whether another process works on it, or on the black box that it would have to train itself."""
        if self.stage is None and store.cell(self.name).busy:
            return True
        if self.stage == "data" or self.cell.spec.black_box is None:
            return False
        folder = black_box_folder(self.cell.spec, home)
        return not folder.done and folder.busy


def prepared_folder(spec: CellSpec, home: Path) -> Path:
    """Return the folder of a cell's preprocessed images."""
    return cache_folder(spec.data_digest, Preprocessing.model_validate(spec.protocol), home, spec.on_bad_image)


def black_box_folder(spec: CellSpec, home: Path) -> WorkDir:
    """Return the folder of a cell's black box."""
    return WorkDir(home / "blackboxes" / spec.black_box_id)


def tasks_of(cells: Sequence[PlannedCell], home: Path) -> list[CellTask]:
    """Return the tasks of cells, preceded by the stages that several of them share and that are not done.

    Black boxes come before the cells, because most cells wait for them; a stage of a single cell is part of that cell.
    """
    # A stage of its own lets other cells run while one worker prepares the input that several wait for.
    images = Counter(prepared_folder(cell.spec, home) for cell in cells)
    boxes = Counter(cell.spec.black_box_id for cell in cells if cell.spec.trains_black_box)
    stages: dict[str, CellTask] = {}
    whole = []
    for cell in cells:
        needs: tuple[str, ...] = ()
        folder = prepared_folder(cell.spec, home)
        if images[folder] > 1 and not folder.is_dir():
            needs = (f"data {folder.name}",)
            stages.setdefault(needs[0], CellTask(needs[0], cell, "data"))
        if cell.spec.trains_black_box and boxes[cell.spec.black_box_id] > 1:
            name = f"black box {cell.spec.black_box_id}"
            if not black_box_folder(cell.spec, home).done:
                stages.setdefault(name, CellTask(name, cell, "black-box", needs))
                needs = (*needs, name)
        whole.append(CellTask(cell.spec.id, cell, None, needs))
    return [*sorted(stages.values(), key=lambda task: task.stage != "data"), *whole]


def write_down(cells: Sequence[PlannedCell], store: Store, command: Callable[[PlannedCell], str]) -> None:
    """Write each cell's ``cell.json``: from then on ``bench cell`` can run it alone.

    The newest request replaces an older one: a cell may be requested with other paths or under another label.
    """
    for cell in cells:
        content = describe(cell, command(cell))
        if store.written(cell.spec.id) != content:
            write_json(store.cell(cell.spec.id).path / "cell.json", content)


def run_stage(cell: CellRunner, stage: Stage, retries: int = 0) -> None:
    """Run only a stage that several cells share: preprocess the images, or train the black box.

    After transient failures it is retried; only the last failure is recorded.

    Raises:
        Exception: any failure, after it was recorded in the cell's folder.
    """
    try:
        with contained():
            retry(lambda: _done(cell, stage), retries, cell.progress, cell.device)
    except Exception as error:
        cell.record(error)
        raise


def _done(cell: CellRunner, stage: Stage) -> None:
    cell.inputs.check()
    environment.make_deterministic()
    with cell.reporting():
        train = cell.inputs.data()["train"]

        def black_box() -> None:
            cell.task(train)

        if stage == "black-box":
            cell.attempts.once(black_box)


def join_training(cell: CellRunner) -> None:
    """Take part in the training of rank 0, on any other rank, until it has ended.

    Each rank builds the same model from the same seeds; the first that fails records the reason.

    Raises:
        Exception: any failure, after it was recorded in the cell's folder.
    """
    try:
        environment.make_deterministic()
        for order in cell.ranks.orders():
            cell.attempts.most = order["most"]
            # Reaches the training of the black box, or that of the method if the black box is trained.
            with suppress(FollowerDone), contained():
                cell.fit(cell.task(cell.inputs.data()["train"]))
    except Exception as error:
        cell.record(error)
        raise
