"""Reuse of fits: of an interrupted attempt, of a cell that differs only in metrics or split, or of a damaged result."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from bench.config.spec import STAGE
from bench.core.errors import RequestError
from bench.core.files import read_json, replacing, write_json
from bench.core.integrity import verify_file
from bench.core.work_dir import FIT, WorkDir
from bench.results.records import AGAIN
from bench.results.store import Store
from bench.runner.progress import ConsoleProgress

_FILES = ("model.safetensors", "history.json")


def state_file(stage: str) -> str:
    """Return the name of the file of a state that the fit passed, other than the measured one."""
    return f"state.{stage}.safetensors"


def read_fit(
    place: Path, progress: ConsoleProgress, weights: str = _FILES[0]
) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """Read a fit.

    Returns:
        Tensors by name, and the facts of the fit; ``None`` if it is incomplete or damaged.
    """
    if not (place / FIT).is_file() or not (place / weights).is_file():
        return None
    try:
        for file in (weights, *_FILES[1:], FIT):
            verify_file(place, file)
        return load_file(place / weights), read_json(place / FIT)
    except (SafetensorError, OSError, RequestError) as error:
        progress.note(f"the fit in {place} is damaged ({error}): not used")
        return None


def reuse_fit(store: Store, folder: WorkDir, fit_id: str, stage: str | None, progress: ConsoleProgress) -> None:
    """Copy the fit of a finished cell with the same ``fit_id``, if any: another metric needs no new training.

    Of a fit that passes several states, that of the setting ``stage`` is copied.
    """
    for name in store.cells():
        other = store.cell(name)
        if other.path == folder.path or not (other.result / FIT).is_file():
            continue
        record = store.record(name)
        if record.fit_id != fit_id:
            continue
        state = None if record.spec["settings"].get(STAGE) == stage else stage or "final"
        if copy_fit(other.result, folder.work, progress, {"of": name}, state):
            progress.note(f"fitted before by cell {name}, which differs only in metrics, split or stage")
            return


def copy_fit(
    source: Path, work: Path, progress: ConsoleProgress, origin: Mapping[str, str], state: str | None = None
) -> bool:
    """Copy a fit.

    Facts of the fit take precedence over those of ``origin``; ``state`` is the copied state, by default the measured
    one.

    Returns:
        Whether the fit was complete and undamaged, and is copied.
    """
    weights = _FILES[0] if state is None else state_file(state)
    fit = read_fit(source, progress, weights)
    if fit is None:
        return False
    notes = {**origin, **fit[1]}
    if state is not None:
        notes["facts"] = notes["states"][state]
    for name, target in zip((weights, *_FILES[1:]), _FILES, strict=True):
        with replacing(work / target) as unfinished:
            shutil.copyfile(source / name, unfinished)
    # Last: a fit with this file is complete.
    write_json(work / FIT, notes)
    WorkDir(work.parent).seal()
    return True


def repair(names: Sequence[str], store: Store, progress: ConsoleProgress) -> None:
    """Set damaged results of cells aside, keeping their fits, and remove leftovers of killed processes."""
    for name in names:
        folder = store.cell(name)
        if not folder.untidy and not (folder.done and store.record(name).failure):
            continue
        with folder.claim():
            failure = store.record(name).failure if folder.done else None
            if failure is not None:
                # The numbers are computed again, but the fit, if undamaged, is not: training is most of the cost.
                place = folder.set_aside()
                why = failure["reason"].removesuffix(AGAIN)
                progress.note(f"the result of {name} is damaged: kept as {place}, and computed again ({why})")
                copy_fit(place, folder.work, progress, {})
            else:
                folder.tidy()
