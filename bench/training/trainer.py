"""One phased training loop for classifiers and for prototype networks, on Lightning Fabric.

After every epoch the whole state is written beside a temporary name and renamed, so that a killed training goes on
at that epoch. Orders, augmentations and dropout are drawn from seeds derived from (seed, phase, epoch), never from a
running generator: a resumed training computes what an undisturbed one would. Under torchrun several processes go
through the same loop, and only rank 0 writes.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from bench.contract import Batch, CellError, Progress, Samples
from bench.core.files import replacing, write_json
from bench.core.memory import is_out_of_memory
from bench.core.seeding import derive
from bench.data import augmentation
from bench.training.distributed import Ranks
from bench.training.feature_cache import AtRest
from bench.training.schedule import Phase, Schedule
from bench.training.sharding import Shares

if TYPE_CHECKING:
    from lightning_fabric import Fabric

Precision = Literal["fp32", "bf16"]
_FABRIC_PRECISION: dict[str, Any] = {"fp32": "32-true", "bf16": "bf16-mixed"}


class Learner(nn.Module):
    """What the loop trains: a model together with its loss. Subclasses define ``forward`` and ``groups``."""

    def forward(self, images: Tensor, labels: Tensor, phase: str) -> dict[str, Tensor]:
        """Named scalar losses of one batch; ``loss`` is the one to minimise, the others are recorded."""
        raise TypeError(f"{type(self).__name__} defines no loss")

    def groups(self) -> Mapping[str, list[nn.Parameter]]:
        """Parameters by the names that a schedule uses."""
        return {"all": list(self.parameters())}

    def before_epoch(self, epoch: int) -> None:
        """Called before every epoch with how many are finished over all phases, for example to set a temperature."""

    def after_step(self) -> None:
        """Called after every optimiser step, for example to bring parameters back onto a constraint."""

    def act(self, action: str, samples: Samples) -> None:
        """Do what a phase's ``action`` names."""
        raise TypeError(f"{type(self).__name__} knows no action {action!r}")


class Trainer:
    """Runs the phases of a schedule.

    Args:
        folder: where the checkpoint is kept; the same folder resumes.
        device: ``cpu``, ``cuda:0``, ...
        precision: ``fp32`` or ``bf16`` (mixed).
        seed: of orders and augmentations.
        progress: where epochs and losses are shown.
        ranks: the processes that train together; ``None``: this one alone.
        kept: bytes that features of a backbone may take while it does not learn.
    """

    def __init__(
        self,
        folder: Path,
        device: torch.device,
        precision: Precision,
        seed: int,
        progress: Progress,
        ranks: Ranks | None = None,
        kept: int = 2**30,
    ) -> None:
        self.folder, self.checkpoint, self.ranks = folder, folder / "training.pt", ranks or Ranks()
        self.device, self.precision, self.seed, self.progress = device, precision, seed, progress
        self.kept = kept if self.ranks.count == 1 else 0
        self.history: list[dict[str, Any]] = []
        self.earlier_seconds = 0.0

    @cached_property
    def fabric(self) -> Fabric:
        """Made when something is trained: importing it takes more than a second, which many cells can do without."""
        from lightning_fabric import Fabric

        accelerator = "cuda" if self.device.type == "cuda" else "cpu"
        if self.ranks.count > 1:
            return self._fabric_of_ranks(accelerator)
        devices: Any = [self.device.index or 0] if self.device.type == "cuda" else 1
        return Fabric(accelerator=accelerator, devices=devices, precision=_FABRIC_PRECISION[self.precision])

    def _fabric_of_ranks(self, accelerator: str) -> Fabric:
        from lightning_fabric import Fabric
        from lightning_fabric.strategies import DDPStrategy

        strategy = DDPStrategy(find_unused_parameters=True)  # a loss may leave out what a phase lets learn
        own, nodes = self.ranks.local_count, self.ranks.count // self.ranks.local_count
        precision = _FABRIC_PRECISION[self.precision]
        fabric = Fabric(accelerator=accelerator, devices=own, num_nodes=nodes, strategy=strategy, precision=precision)
        fabric.launch()
        return fabric

    def fit(self, learner: Learner, schedule: Schedule, samples: Samples) -> None:
        """Train in place, from the checkpoint where there is one; the learner ends in eval mode.

        Raises:
            CellError: when a loss is not finite, or another rank is lost.
            Followed: at the end, on all ranks but 0.
        """
        with self.ranks.training():
            self._fit(learner, schedule, samples)

    def _fit(self, learner: Learner, schedule: Schedule, samples: Samples) -> None:
        learner.to(self.device)
        phase_done, epochs_done, optimizers = self._resume(learner)
        self.ranks.wait()  # rank 0 may write the next checkpoint soon
        counts: dict[str, int] = {}
        total = sum(phase.epochs for phase in schedule.phases)
        past = sum(phase.epochs for phase in schedule.phases[:phase_done]) + epochs_done
        bar = iter(self.progress.track(range(past, total), "epochs", total - past))
        for position, phase in enumerate(schedule.phases):
            first = counts.get(phase.name, 0)
            counts[phase.name] = first + phase.epochs
            if position < phase_done:
                continue
            start = epochs_done if position == phase_done else 0
            if phase.epochs > start:
                self._run(learner, schedule, samples, position, start, first, optimizers, bar)
            if phase.action is not None:
                learner.eval()
                self.progress.note(f"{phase.name}: {phase.action}")
                learner.act(phase.action, samples)
            self._save(learner, position + 1, 0, optimizers)
        next(bar, None)
        learner.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
        learner.eval()

    def _run(
        self,
        learner: Learner,
        schedule: Schedule,
        samples: Samples,
        position: int,
        start: int,
        first: int,
        optimizers: dict[str, Any],
        bar: Any,
    ) -> None:
        phase = schedule.phases[position]
        optimizer, step = self.stepper(learner, phase)
        if phase.name in optimizers:
            optimizer.load_state_dict(optimizers[phase.name])
        learner.train()
        if phase.freeze_norm:
            freeze_norm(learner)
        # Counted from the phase's beginning: a resumed training must find the same features.
        passes = phase.epochs * schedule.repeat
        with AtRest(learner, samples, schedule.augment, schedule.batch_size, self.device, self.kept, passes) as rest:
            for epoch in range(start, phase.epochs):
                next(bar)
                began = time.perf_counter()
                for group in optimizer.param_groups:
                    group["lr"] = phase.lr[group["name"]] * phase.factor(first + epoch, epoch)
                losses = self._epoch(step, learner, schedule, samples, (position, epoch), rest)
                row = {"phase": phase.name, "epoch": len(self.history), **losses}
                self.history.append({**row, "seconds": time.perf_counter() - began})
                self.progress.note(
                    f"{phase.name} {epoch + 1}/{phase.epochs}  "
                    + "  ".join(f"{name} {value:.3f}" for name, value in losses.items())
                )
                optimizers[phase.name] = optimizer.state_dict()
                self._save(learner, position, epoch + 1, optimizers)

    def stepper(
        self, learner: Learner, phase: Phase
    ) -> tuple[torch.optim.Optimizer, Callable[[Tensor, Tensor], dict[str, Tensor]]]:
        """The optimiser of a phase, and one of its steps: ``(images, labels) -> losses``, for a learner in train mode.

        Only the parameters that the phase names learn from then on.
        """
        if self.device.type == "cpu":
            # As images come: a step of MobileNetV2 takes an eighth less. On a GPU it was not measured.
            learner.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        optimizer = self._optimizer(learner, phase)
        model, wrapped = self.fabric.setup(learner, optimizer)

        def step(images: Tensor, labels: Tensor) -> dict[str, Tensor]:
            losses: dict[str, Tensor] = model(images, labels, phase.name)
            optimizer.zero_grad(set_to_none=True)
            self.fabric.backward(losses["loss"])
            wrapped.step()
            learner.after_step()
            return losses

        return optimizer, step

    def _epoch(
        self,
        step: Callable[[Tensor, Tensor], dict[str, Tensor]],
        learner: Learner,
        schedule: Schedule,
        samples: Samples,
        when: tuple[int, int],
        rest: AtRest,
    ) -> dict[str, float]:
        generator = torch.Generator().manual_seed(derive(self.seed, "order", *when))
        passes = [torch.randperm(len(samples), generator=generator) for _ in range(schedule.repeat)]
        torch.manual_seed(derive(self.seed, "draws", *when))
        learner.before_epoch(len(self.history))  # the history is in the checkpoint: a resumed training counts on
        sums: dict[str, Tensor] = {}
        with Shares(learner, self.ranks):
            for batch in self._batches(samples, schedule, passes, generator, rest):
                size = len(batch.labels)
                for name, value in step(batch.images, batch.labels).items():
                    # Summed on the device: a step never waits for the host. NaN survives the sum.
                    sums[name] = sums.get(name, torch.zeros((), device=self.device)) + value.detach() * size
        seen = len(samples) * schedule.repeat
        means = {name: float(value) / seen for name, value in sums.items()}
        bad = [name for name, value in means.items() if value != value or abs(value) == float("inf")]
        if bad:
            phase = schedule.phases[when[0]]
            raise CellError(
                f"{', '.join(bad)} became {means[bad[0]]} in phase {phase.name!r}, epoch {when[1] + 1}: "
                f"lower its learning rates (now {dict(phase.lr)})"
            )
        return means

    def _batches(
        self, samples: Samples, schedule: Schedule, passes: list[Tensor], generator: torch.Generator, rest: AtRest
    ) -> Iterator[Batch]:
        for order in passes:
            drawn = None if schedule.augment == "none" else augmentation.draw(schedule.augment, len(samples), generator)
            for batch in samples.batches(schedule.batch_size, self.device, index=order, augment=drawn):
                rest.comes(batch, drawn)
                yield batch

    def _optimizer(self, learner: Learner, phase: Phase) -> torch.optim.Optimizer:
        groups = learner.groups()
        unknown = sorted(set(phase.lr) - set(groups))
        if unknown:
            raise CellError(f"phase {phase.name!r} sets a rate for {unknown}; parameter groups: {sorted(groups)}")
        learner.requires_grad_(False)
        chosen: list[dict[str, Any]] = []
        for name, rate in phase.lr.items():
            for parameter in groups[name]:
                parameter.requires_grad_(True)
            chosen.append(
                {"params": groups[name], "lr": rate, "name": name, "weight_decay": phase.weight_decay.get(name, 0.0)}
            )
        if phase.optimizer == "sgd":
            return torch.optim.SGD(chosen, lr=0.0, momentum=phase.momentum)
        return {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[phase.optimizer](chosen)

    def _save(self, learner: Learner, phase: int, epoch: int, optimizers: dict[str, Any]) -> None:
        if self.ranks.rank:
            return
        state = {
            "learner": learner.state_dict(),
            "optimizers": optimizers,
            "phase": phase,
            "epoch": epoch,
            "history": self.history,
        }
        with replacing(self.checkpoint) as unfinished:
            torch.save(state, unfinished)
        # For those who look on: a checkpoint is large, and has the weights in it.
        write_json(self.checkpoint.with_name("history.json"), self.history)

    def _resume(self, learner: Learner) -> tuple[int, int, dict[str, Any]]:
        if not self.checkpoint.is_file():
            self.history = []
            return 0, 0, {}
        try:
            state = torch.load(self.checkpoint, map_location=self.device, weights_only=True)
        except Exception as error:
            # Damaged bytes lead the reader into any error; what they do not explain is raised.
            if is_out_of_memory(error):
                raise
            self.progress.note(f"{self.checkpoint} is damaged ({type(error).__name__}): training starts over")
            self.history = []
            return 0, 0, {}
        learner.load_state_dict(state["learner"])
        self.history = state["history"]
        self.earlier_seconds = sum(row["seconds"] for row in self.history)
        self.progress.note(f"training goes on after {len(self.history)} finished epochs")
        return state["phase"], state["epoch"], state["optimizers"]


def freeze_norm(module: nn.Module) -> None:
    """Put all batch normalisation into evaluation mode: running statistics stop moving."""
    for child in module.modules():
        if isinstance(child, nn.modules.batchnorm._BatchNorm):
            child.eval()
