"""Phased training loop for classifiers and prototype networks, on Lightning Fabric.

After every epoch the whole state is written to a temporary file and renamed, so that a killed training resumes at that
epoch. Orders, augmentations and dropout are drawn from seeds derived from (seed, phase, epoch), never from a running
generator: a resumed training computes the same numbers as an undisturbed one. Under torchrun several processes run the
same loop, and only rank 0 writes.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from bench.config.schedule import Phase, Schedule
from bench.contract import Batch, CellError, Progress, Samples
from bench.core import environment
from bench.core.files import replacing, write_json
from bench.core.memory import is_out_of_memory
from bench.core.seeding import derive
from bench.data import augmentation
from bench.training.distributed import ProcessGroup, ShardedBackbone, backbones
from bench.training.feature_cache import FrozenFeatureCache

if TYPE_CHECKING:
    from lightning_fabric import Fabric

Precision = Literal["fp32", "bf16", "tf32"]
_FABRIC_PRECISION: dict[str, Any] = {"fp32": "32-true", "bf16": "bf16-mixed", "tf32": "32-true"}


class Learner(nn.Module):
    """Model together with its loss. Subclasses define ``forward`` and ``groups``.

    Attributes:
        kept_actions: actions of which the trainer keeps the states before and after; see :meth:`Trainer.kept`.
    """

    kept_actions: ClassVar[frozenset[str]] = frozenset()

    def forward(self, images: Tensor, labels: Tensor, phase: str) -> dict[str, Tensor]:
        """Compute named scalar losses of one batch; ``loss`` is minimised, the others are recorded."""
        raise TypeError(f"{type(self).__name__} defines no loss")

    def groups(self) -> Mapping[str, list[nn.Parameter]]:
        """Return parameters by the names that a schedule uses."""
        return {"all": list(self.parameters())}

    def before_epoch(self, epoch: int) -> None:
        """Prepare for an epoch, for example set a temperature; ``epoch`` counts finished epochs over all phases."""

    def after_step(self) -> None:
        """Finish an optimiser step, for example project parameters back onto a constraint."""

    def act(self, action: str, samples: Samples) -> None:
        """Run the ``action`` of a phase.

        Raises:
            TypeError: if the learner does not have this action.
        """
        raise TypeError(f"{type(self).__name__} knows no action {action!r}")


class Trainer:
    """Phased training loop with a checkpoint after every epoch.

    Args:
        folder: folder of the checkpoint; the same folder resumes.
        device: ``cpu``, ``cuda:0``, ...
        precision: ``fp32``, ``bf16`` (mixed), or ``tf32``: products and convolutions of a step keep 10 bits.
        seed: seed of orders, augmentations and dropout.
        progress: reporter of epochs and losses.
        process_group: processes that train together; ``None``: this one alone.
        cache_budget: bytes that cached features of a frozen backbone may take.

    Attributes:
        history: a row for each finished epoch: phase, epoch, losses, seconds.
        earlier_seconds: training time of interrupted attempts.
    """

    def __init__(
        self,
        folder: Path,
        device: torch.device,
        precision: Precision,
        seed: int,
        progress: Progress,
        process_group: ProcessGroup | None = None,
        cache_budget: int = 2**30,
    ) -> None:
        self.folder, self.checkpoint = folder, folder / "training.pt"
        self.process_group = process_group or ProcessGroup()
        self.device, self.precision, self.seed, self.progress = device, precision, seed, progress
        # The cache knows whole batches; under torchrun a backbone computes shards of them.
        self.cache_budget = cache_budget if self.process_group.count == 1 else 0
        self.history: list[dict[str, Any]] = []
        self.earlier_seconds = 0.0

    @cached_property
    def fabric(self) -> Fabric:
        """Build Fabric at the first training: the import takes over a second, and many cells train nothing."""
        from lightning_fabric import Fabric

        # Its advice on the precision of products is answered: `--precision` decides, and the result records it.
        logging.getLogger("lightning_fabric").setLevel(logging.WARNING)
        accelerator = "cuda" if self.device.type == "cuda" else "cpu"
        if self.process_group.count > 1:
            return self._distributed_fabric(accelerator)
        devices: Any = [self.device.index or 0] if self.device.type == "cuda" else 1
        return Fabric(accelerator=accelerator, devices=devices, precision=_FABRIC_PRECISION[self.precision])

    def _distributed_fabric(self, accelerator: str) -> Fabric:
        from lightning_fabric import Fabric
        from lightning_fabric.strategies import DDPStrategy

        strategy = DDPStrategy(find_unused_parameters=True)  # a loss may leave out parameters that a phase trains
        group, precision = self.process_group, _FABRIC_PRECISION[self.precision]
        devices, nodes = group.local_count, group.count // group.local_count
        fabric = Fabric(
            accelerator=accelerator, devices=devices, num_nodes=nodes, strategy=strategy, precision=precision
        )
        fabric.launch()
        return fabric

    def fit(
        self, learner: Learner, schedule: Schedule, samples: Samples, prepare: Callable[[], object] = lambda: None
    ) -> None:
        """Train in place, from the checkpoint if one exists; the learner ends in eval mode.

        Args:
            learner: model with its loss.
            schedule: phases to train.
            samples: training split.
            prepare: called before the first step with the learner on the device, in eval mode; not after a resume,
                for its effect is in the checkpoint. What it does must follow from the seed.

        Raises:
            CellError: if a loss is not finite, or another rank is lost.
            FollowerDone: at the end, on all ranks but 0.
        """
        with self.process_group.training():
            self._fit(learner, schedule, samples, prepare)

    def kept(self, name: str) -> dict[str, Tensor] | None:
        """Return the learner's state ``before ACTION`` or ``after ACTION``, of the last time that the action ran."""
        file = self._kept_file(name)
        return torch.load(file, map_location=self.device, weights_only=True) if file.is_file() else None

    def _kept_file(self, name: str) -> Path:
        return self.folder / f"{name.replace(' ', '_')}.pt"

    def _keep(self, learner: Learner, name: str) -> None:
        if self.process_group.rank == 0:
            with replacing(self._kept_file(name)) as unfinished:
                torch.save(learner.state_dict(), unfinished)

    def _fit(self, learner: Learner, schedule: Schedule, samples: Samples, prepare: Callable[[], object]) -> None:
        learner.to(self.device)
        # Before anything is computed: convolutions round otherwise in the other layout, and a training that resumes
        # between its last epoch and the action would act on other features.
        learner.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        schedule = schedule.in_epochs(len(samples))
        phase_done, epochs_done, optimizers = self._resume(learner)
        if not phase_done and not epochs_done:
            learner.eval()
            prepare()
        self.process_group.wait()  # before rank 0 replaces the checkpoint that all read
        counts: dict[str, int] = {}
        total = sum(phase.epochs for phase in schedule.phases)
        past = sum(phase.epochs for phase in schedule.phases[:phase_done]) + epochs_done
        bar = iter(self.progress.track(range(past, total), "epochs", total - past))
        for position, phase in enumerate(schedule.phases):
            first = counts.get(phase.name, 0)  # epochs of earlier phases of this name
            counts[phase.name] = first + phase.epochs
            if position < phase_done:
                continue
            start = epochs_done if position == phase_done else 0
            if phase.epochs > start:
                self._run(learner, schedule, samples, position, start, first, optimizers, bar)
            if phase.action is not None:
                learner.eval()
                self.progress.note(f"{phase.name}: {phase.action}")
                kept = phase.action in learner.kept_actions
                if kept:
                    self._keep(learner, f"before {phase.action}")
                learner.act(phase.action, samples)
                if kept:
                    self._keep(learner, f"after {phase.action}")
            self._save(learner, position + 1, 0, optimizers)
        next(bar, None)
        # Back from channels_last: safetensors refuses tensors that are not contiguous.
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
        if phase.lr and not learning(learner, phase):
            self.progress.note(f"{phase.name}: left out, nothing but the frozen backbone would learn in it")
            return
        optimizer, step = self.stepper(learner, phase)
        if phase.name in optimizers:
            optimizer.load_state_dict(optimizers[phase.name])
        learner.train()
        if phase.freeze_norm:
            freeze_norm(learner)  # after train(), which puts all modules into training mode
        for backbone in frozen_backbones(learner):
            backbone.eval()  # its running statistics stay as they are too
        # Of the whole phase, also after a resume: the same decision, and so the same bits, as without a kill.
        passes = phase.epochs * schedule.repeat
        with FrozenFeatureCache(
            learner, samples, schedule.augment, schedule.batch_size, self.device, self.cache_budget, passes
        ) as cache:
            for epoch in range(start, phase.epochs):
                next(bar)
                began = time.perf_counter()
                for group in optimizer.param_groups:
                    group["lr"] = phase.lr[group["name"]] * phase.factor(first + epoch, epoch)
                losses = self._epoch(step, learner, schedule, samples, (position, epoch), cache)
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
        """Build the optimiser of a phase and its step.

        From then on only the parameters that the phase names learn.

        Returns:
            The optimiser, with learning rates of zero, and the step ``(images, labels) -> losses``.
        """
        # The layout of the images. On a CPU a step of MobileNetV2 takes an eighth less; on a GPU it was not measured.
        learner.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        optimizer = self._optimizer(learner, phase)
        model, wrapped = self.fabric.setup(learner, optimizer)

        def step(images: Tensor, labels: Tensor) -> dict[str, Tensor]:
            # Of steps alone: projections and all measuring are in single precision.
            with environment.tf32(self.device) if self.precision == "tf32" else contextlib.nullcontext():
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
        cache: FrozenFeatureCache,
    ) -> dict[str, float]:
        # Orders and augmentations have a generator of their own: draws of a model (dropout, mixup) do not shift them.
        generator = torch.Generator().manual_seed(derive(self.seed, "order", *when))
        passes = [torch.randperm(len(samples), generator=generator) for _ in range(schedule.repeat)]
        torch.manual_seed(derive(self.seed, "draws", *when))
        learner.before_epoch(len(self.history))  # the history is in the checkpoint: the count survives a kill
        sums: dict[str, Tensor] = {}
        with ShardedBackbone(learner, self.process_group):
            for batch in self._batches(samples, schedule, passes, generator, cache):
                size = len(batch.labels)
                for name, value in step(batch.images, batch.labels).items():
                    # Summed on the device: a step never waits for the host. NaN survives the sum.
                    sums[name] = sums.get(name, torch.zeros((), device=self.device)) + value.detach() * size
        seen = len(samples) * schedule.repeat
        means = {name: float(value) / seen for name, value in sums.items()}
        # One check per epoch: a check per batch would wait for the device.
        bad = [name for name, value in means.items() if value != value or abs(value) == float("inf")]
        if bad:
            phase = schedule.phases[when[0]]
            raise CellError(
                f"{', '.join(bad)} became {means[bad[0]]} in phase {phase.name!r}, epoch {when[1] + 1}: "
                f"lower its learning rates (now {dict(phase.lr)})"
            )
        return means

    def _batches(
        self,
        samples: Samples,
        schedule: Schedule,
        passes: list[Tensor],
        generator: torch.Generator,
        cache: FrozenFeatureCache,
    ) -> Iterator[Batch]:
        for order in passes:
            drawn = None if schedule.augment == "none" else augmentation.draw(schedule.augment, len(samples), generator)
            for batch in samples.batches(schedule.batch_size, self.device, index=order, augment=drawn):
                cache.set_batch(batch, drawn)
                yield batch

    def _optimizer(self, learner: Learner, phase: Phase) -> torch.optim.Optimizer:
        groups = learning(learner, phase)
        # Parameters outside the phase need no gradient, so the backward pass stops at a backbone that does not learn.
        learner.requires_grad_(False)
        chosen: list[dict[str, Any]] = []
        for name, parameters in groups.items():
            for parameter in parameters:
                parameter.requires_grad_(True)
            decay = phase.weight_decay.get(name, 0.0)
            chosen.append({"params": parameters, "lr": phase.lr[name], "name": name, "weight_decay": decay})
        # The rate of zero is replaced before every epoch (`_run`), by the phase's rates times their decay.
        if phase.optimizer == "sgd":
            return torch.optim.SGD(chosen, lr=0.0, momentum=phase.momentum)
        return {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[phase.optimizer](chosen)

    def _save(self, learner: Learner, phase: int, epoch: int, optimizers: dict[str, Any]) -> None:
        if self.process_group.rank:
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
        # For readers of the curves during training: the checkpoint is large and holds the weights too.
        write_json(self.checkpoint.with_name("history.json"), self.history)

    def _resume(self, learner: Learner) -> tuple[int, int, dict[str, Any]]:
        if not self.checkpoint.is_file():
            self.history = []
            return 0, 0, {}
        try:
            # weights_only: reading a checkpoint runs no code of a pickle.
            state = torch.load(self.checkpoint, map_location=self.device, weights_only=True)
        except Exception as error:
            # Damaged bytes cause any kind of error in torch.load; running out of memory is none of them.
            if is_out_of_memory(error):
                raise
            self.progress.note(f"{self.checkpoint} is damaged ({type(error).__name__}): training starts over")
            self.history = []
            return 0, 0, {}
        learner.load_state_dict(state["learner"])
        self.history = state["history"]
        self.earlier_seconds = sum(row["seconds"] for row in self.history)
        self.progress.note(f"training resumes after {len(self.history)} finished epochs")
        return state["phase"], state["epoch"], state["optimizers"]


def frozen_backbones(learner: nn.Module) -> list[nn.Module]:
    """Return the backbones that are not trained, in no phase: those built with the setting ``frozen``."""
    return [backbone for backbone in backbones(learner) if getattr(backbone, "frozen", False)]


def learning(learner: Learner, phase: Phase) -> dict[str, list[nn.Parameter]]:
    """Return the parameters that learn in a phase, by group; groups of which a frozen backbone leaves none are absent.

    Raises:
        CellError: if the phase has a rate for a group that the learner does not have.
    """
    groups = learner.groups()
    unknown = sorted(set(phase.lr) - set(groups))
    if unknown:
        raise CellError(f"phase {phase.name!r} sets a rate for {unknown}; parameter groups: {sorted(groups)}")
    kept = {id(parameter) for backbone in frozen_backbones(learner) for parameter in backbone.parameters()}
    if not kept:
        return {name: groups[name] for name in phase.lr}
    left = {name: [parameter for parameter in groups[name] if id(parameter) not in kept] for name in phase.lr}
    return {name: parameters for name, parameters in left.items() if parameters}


def freeze_norm(module: nn.Module) -> None:
    """Put all batch normalisation into evaluation mode, in which running statistics are not updated."""
    for child in module.modules():
        if isinstance(child, nn.modules.batchnorm._BatchNorm):
            child.eval()
