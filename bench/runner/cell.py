"""Execution of one cell: load data, fit or load the model, observe, score, save. The stages meet only here."""

from __future__ import annotations

import contextlib
import math
import time
import traceback
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from bench.config.black_box import BlackBoxConfig
from bench.config.spec import STAGE, CellSpec
from bench.contract import CellError, FitContext, PartPrototypeModel, RequestError, Samples, Score
from bench.core import environment, registry
from bench.core.errors import storage_error
from bench.core.files import read_json
from bench.core.integrity import Changed, known_digests, verify_file
from bench.core.interrupts import contained
from bench.core.memory import OutOfMemory
from bench.core.resource_usage import Usage
from bench.core.score import write_table
from bench.core.seeding import derive
from bench.core.work_dir import FIT, WorkDir
from bench.results.cautions import odd_facts
from bench.results.store import Status, Store, write_json
from bench.runner.evaluator import compares_black_box, evaluate
from bench.runner.fit_cache import read_fit, reuse_fit, state_file
from bench.runner.heartbeat import Heartbeat
from bench.runner.inputs import Inputs
from bench.runner.memory_limit import SHARED, OomRetry
from bench.runner.progress import ConsoleProgress
from bench.runner.retries import reason_of
from bench.training.black_box import agreement, train_or_load
from bench.training.distributed import ProcessGroup
from bench.training.trainer import Trainer

# Fact of a fit: its batch size, if memory did not allow the planned one.
REDUCED = "batch_size_after_out_of_memory"


class CellRunner:
    """Executor of one planned cell: runs it, or loads its fitted model again.

    The batch size is that of the evaluation and changes no number; the limit is in bytes, of the GPU or of the process
    on a CPU. Paths of ``elsewhere`` (``data_root``, ``weights``) replace the planned ones.
    """

    def __init__(
        self,
        store: Store,
        name: str,
        home: Path,
        device: torch.device,
        progress: ConsoleProgress,
        batch_size: int = 64,
        memory_limit: int | None = None,
        elsewhere: Mapping[str, str] | None = None,
        ranks: ProcessGroup | None = None,
    ) -> None:
        written = store.specification(name)
        self.spec = CellSpec.of(written, store.cell(name).path / "cell.json")
        self.store, self.folder = store, store.cell(name)
        self.home, self.device, self.progress = home, device, progress
        self.batch_size, self.memory_limit = batch_size, memory_limit
        self.inputs = Inputs(self.spec, {**written["where"], **(elsewhere or {})}, home, progress)
        self.method = self.inputs.method
        planned = {"fit": self.spec.settings.get("schedule", {}).get("batch_size"), "evaluation": batch_size}
        self.attempts = OomRetry(device, memory_limit, self.folder.work / "retry.json", planned, progress)
        self.ranks = ranks or ProcessGroup()
        self.ranks.brief = lambda: {"stage": self.attempts.stage, "most": self.attempts.most}

    def run(self) -> None:
        """Run the unfinished part of the cell; its result appears only when it is complete.

        Raises:
            Exception: any failure, after it was recorded in the cell's folder.
        """
        with self.folder.claim(lambda: self.progress.note("another process works on this cell: waiting for it")):
            # Another run may have finished the cell while this one waited.
            if self.folder.done:
                return
            if not self.spec.metrics:
                self.progress.note("nothing to measure: no metric applies to this method and data set")
                return
            self.inputs.check()
            try:
                with self.reporting(), contained():
                    self.attempts.run(self._run, self.start_over)
            except Exception as error:
                self.record(error)
                raise

    def start_over(self) -> None:
        """Discard unfinished work, and a fit with batch size 1, which is not the planned fit."""
        self.folder.start_over()
        with contextlib.suppress(RequestError):  # a damaged fit is not used anyway
            if REDUCED in read_json(self.folder.work / FIT)["facts"]:
                (self.folder.work / FIT).unlink()

    def reporting(self) -> AbstractContextManager[None]:
        """Write the cell's log and its heartbeat while the context is active."""
        self.folder.work.mkdir(parents=True, exist_ok=True)
        heartbeat = Heartbeat(self.folder, lambda: self.attempts.stage)
        return self.progress.logging_to(self.folder.work / "log.txt", heartbeat)

    def record(self, error: Exception) -> None:
        """Record a failure in the cell's folder.

        Raises:
            StorageError: if the disk refuses writes: that is no failure of the cell, and leaves no room to record one.
        """
        refused = storage_error(error)
        if refused is not None:
            raise refused from error
        # The other ranks fail because the first one is gone: only its reason is worth a record.
        if not self.ranks.first_to_fail():
            return
        overruns = error.overruns if isinstance(error, OutOfMemory) else ()
        status: Status = "oom" if overruns else "failed"
        memory = [asdict(overrun) for overrun in overruns]
        self.folder.fail(status, reason_of(error), traceback.format_exc(), memory=memory)

    def _run(self) -> None:
        self.ranks.check()
        # Algorithms that give the same bits on every run; torch warns of those that have none.
        environment.make_deterministic()
        with Usage(self.folder.work, self.device) as usage:
            splits = self.inputs.data()
            model, fit = self._fitted(splits["train"])
            began = time.perf_counter()
            scores, refused = self.evaluate(model, splits["train"], splits[self.spec.split], fit["seconds"]["fit"])
            evaluating = time.perf_counter() - began
        for name, score in scores.items():
            for table, columns in score.items.items():
                write_table(self.folder.work / "items" / f"{name}.{table}.csv", columns)
        write_json(
            self.folder.work / "result.json",
            {
                "scores": {
                    name: {"value": score.value, "n": score.n, "also": dict(score.also)}
                    for name, score in scores.items()
                },
                "not_applicable": refused,
                "facts": fit["facts"],
                **({"fit_of": fit["of"]} if "of" in fit else {}),
                **({"black_box": fit["black_box"]} if fit.get("black_box") else {}),
                "given": {name: given.record() for name, given in self.inputs.given.items()},
                "memory": self.attempts.record(),
                "prototypes": len(model.prototypes),
                "parameters": sum(parameter.numel() for parameter in model.parameters()),
                "images": {name: len(split) for name, split in splits.items()},
                **({"left_out": self.inputs.left_out} if self.inputs.left_out else {}),
                "seconds": {**fit["seconds"], "evaluate": evaluating},
                "usage": usage.record(),
                "seeds": self._seeds(),
                "environment": environment.record(self.device),
                "sealed": True,  # `finish` writes the digests
            },
        )
        (self.folder.work / "packages.txt").write_text(environment.packages())
        # One rename of the folder: a reader sees the whole result or none. `cell.json` is beside it from the start, so
        # that `bench cell DIR` works before and after. Trackers follow the store: no server can stop or slow a cell.
        self.folder.finish()

    def _seeds(self) -> dict[str, int]:
        """Return the seed of the cell and the seeds derived from it for its parts."""
        parts = {"method": self.spec.method, **{name: name for name in ("backbone", "black box", "training")}}
        return {"cell": self.spec.seed, **{part: derive(self.spec.seed, name) for part, name in parts.items()}}

    def task(self, train: Samples, need_black_box: bool = True) -> FitContext:
        """Build the method's input for fitting.

        A finished model needs no black box.
        """
        # The black box is shared by id between cells of any method, metric and split.
        black_box: nn.Module | None = None
        if need_black_box and self.spec.black_box is not None:
            self.attempts.stage = SHARED
            black_box = self.black_box(train, self.home / "blackboxes" / self.spec.black_box_id)
        return FitContext(
            config=self.inputs.settings(),
            train=self.attempts.guarded(train),
            seed=derive(self.spec.seed, self.spec.method),
            device=self.device,
            backbone=self.inputs.backbone,
            black_box=black_box,
            trainer=self._trainer(self.folder.resume),
            progress=self.progress,
            memory_limit=self.attempts.part,
            backbone_name=self.spec.backbone or "",
            absent_classes=len(self.inputs.head_names) - len(self.inputs.class_names),
        )

    def black_box(self, train: Samples, folder: Path, config: BlackBoxConfig | None = None) -> nn.Module:
        """Train the cell's black box on a split, or load it from the folder."""
        assert self.spec.black_box is not None
        # The version is part of the id and no setting.
        facts = {name: value for name, value in self.spec.black_box.items() if name != "version"}
        return train_or_load(
            WorkDir(folder),
            config or BlackBoxConfig.model_validate(facts),
            self.inputs.backbone,
            self.inputs.head,
            # Never in smaller batches than planned: other cells share the result.
            self.attempts.guarded(train, capped=False),
            derive(self.spec.seed, "black box"),
            self._trainer,
            self.progress,
        ).to(self.device)

    def _black_box_digest(self) -> str | None:
        """Return the digest of its weights: if trained again on a GPU, they differ under the same id."""
        known = known_digests(self.home / "blackboxes" / self.spec.black_box_id / "result")
        return (known or {}).get("model.safetensors")

    def load(self, train: Samples) -> PartPrototypeModel:
        """Load the fitted model of a finished cell.

        Raises:
            CellError: if its weights are not on disk, damaged, or those of another network.
        """
        model = self._built(self.task(train, need_black_box=False))
        file = self.folder.result / "model.safetensors"
        try:
            verify_file(self.folder.result, file.name)
            model.load_state_dict(load_file(file))
        except Changed as error:
            raise CellError(f"{error}; `run --existing rerun` fits it again") from error
        except (SafetensorError, OSError, RuntimeError) as error:
            reason = str(error).splitlines()[0]
            raise CellError(f"{file} cannot be used ({reason}); `run --existing rerun` fits it again") from error
        return model.to(self.device).eval()

    def _built(self, task: FitContext) -> PartPrototypeModel:
        """Build the model from the external files of the config, or else an unfitted one."""
        if not self.inputs.given:
            return self.method.build(task)
        model: PartPrototypeModel = registry.load("checkpoints", self.spec.method).build(self.method, task)
        return model

    def _trainer(self, folder: Path) -> Trainer:
        return Trainer(
            folder,
            self.device,
            self.spec.precision,
            derive(self.spec.seed, "training"),
            self.progress,  # type: ignore[arg-type]
            self.ranks,
            self.attempts.part,
        )

    def fit(self, task: FitContext) -> PartPrototypeModel:
        """Fit the model, or take it from the external files of the config."""
        return (self._built if self.inputs.given else self.method.fit)(task)

    def _fitted(self, train: Samples) -> tuple[PartPrototypeModel, dict[str, Any]]:
        """Return model and facts of a fit: of an earlier attempt, of another cell with the same fit, or a new one."""
        # Cells that differ only in metrics or split share the fit (`fit_id`); the result names its cell (`fit_of`).
        if not (self.folder.work / FIT).is_file() and not self.folder.recompute:
            reuse_fit(self.store, self.folder, self.spec.fit_id, self.spec.settings.get(STAGE), self.progress)
        fit = read_fit(self.folder.work, self.progress)
        if fit is not None:
            state, notes = fit
            self.progress.note("fit found, not repeated")
            model = self._built(self.task(train, need_black_box=False))
            model.load_state_dict(state)
            return model.to(self.device).eval(), notes
        began = time.perf_counter()
        task = self.task(train)
        self.attempts.stage = "fit"
        started = time.perf_counter()
        model = self.fit(task).to(self.device).eval()
        # The cost includes the epochs of earlier, killed attempts, which the checkpoint continues.
        fitting = time.perf_counter() - started + task.trainer.earlier_seconds
        known = model if self.inputs.given else task.black_box
        if known is not None:
            task.facts.update(agreement(known, task.train, self.device, self.progress, self.attempts.most or 64))
        for odd in odd_facts(task.facts):
            self.progress.note(f"WARNING: {odd}")
        if self.attempts.most:
            task.facts[REDUCED] = self.attempts.most
        if self.ranks.count > 1 and task.trainer.history:
            task.facts["ranks"] = self.ranks.count
        write_json(self.folder.work / "history.json", task.trainer.history)
        save_file(_contiguous(model.state_dict()), self.folder.work / "model.safetensors")
        for stage, (weights, _) in task.states.items():
            if stage != self.spec.settings.get(STAGE, "final"):
                save_file(_contiguous(weights), self.folder.work / state_file(stage))
        notes = {
            # JSON has no NaN and no infinity.
            "facts": _finite(task.facts),
            **(
                {"states": {name: _finite(task.facts | facts) for name, (_, facts) in task.states.items()}}
                if task.states
                else {}
            ),
            "seconds": {"fit": fitting, **({"black box": started - began} if task.black_box is not None else {})},
            **({"black_box": self._black_box_digest()} if task.black_box is not None else {}),
        }
        write_json(self.folder.work / FIT, notes)
        self.folder.seal()
        return model, notes

    def evaluate(
        self,
        model: PartPrototypeModel,
        train: Samples,
        split: Samples,
        fit_seconds: float,
        black_box: nn.Module | None = None,
    ) -> tuple[dict[str, Score], dict[str, str]]:
        """Compute the scores of a model on a split, and the reasons of metrics that do not apply.

        Metrics compare the model with ``black_box``, by default the cell's.

        Returns:
            Scores by metric, and for each metric that does not apply the reason.

        Raises:
            CellError: if a metric has no finite value.
        """
        # Always in float32: only training takes the cell's precision (bf16), so that scores of both are comparable.
        if not compares_black_box(self.spec.metrics):
            black_box = None
        elif black_box is None:
            black_box = self.task(train).black_box
        self.attempts.stage = "evaluation"
        split, batch_size = self.attempts.guarded(split), self.attempts.most or self.batch_size
        return evaluate(
            model,
            self.spec.metrics,
            train,
            split,
            self.spec.split,
            batch_size,
            self.device,
            self.progress,
            black_box,
            fit_seconds,
        )


def _contiguous(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return tensors in the layout that safetensors requires."""
    return {name: value.contiguous() for name, value in state.items()}


def _finite(facts: Mapping[str, float]) -> dict[str, float]:
    return {name: value for name, value in facts.items() if math.isfinite(value)}
