"""Speed of training and projection of methods, compared with the plain classifier on the same backbone in one run."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from bench.contract import RequestError
from bench.core import environment
from bench.diagnostics import synthetic
from bench.diagnostics.measurements import conditions, describe, measurement_table, timed
from bench.diagnostics.profiling import ProfiledMethod, ProfileSizes, Step, black_box, choices
from bench.report.table import Table

_PUSH_BATCH = 64


def training_speed(
    methods: tuple[str, ...],
    backbone: str,
    device: torch.device,
    *,
    batch_size: int | None = None,
    precision: Literal["fp32", "bf16", "tf32"] = "fp32",
    steps: int | None = None,
    rounds: int = 5,
    classes: int = 200,
    size: int = 224,
    images: int | None = None,
    pairs: Sequence[str] = (),
    note: Callable[[str], None] = lambda message: None,
) -> dict[str, Any]:
    """Time training steps in rounds, each method and the black box in turn; then the projection of each method.

    A method's share is the median over the rounds of the black box's time divided by its own, so that other load of the
    machine in a round affects both. A method that starts from the trained classifier trains that: its share, which
    would be 1 without noise, shows the accuracy of the shares. By default, on a GPU and on a CPU, a batch has 32 and 4
    images, a round 10 and 1 steps, the projection 6,000 and 64 images; 0 images: no projection. One untimed step of
    each method comes before the rounds.

    Returns:
        The conditions, ``share_of_black_box`` and ``push_over_forward`` by method, and their ingredients, ready for
        JSON.
    """
    on_gpu = device.type == "cuda"
    batch_size = batch_size or (32 if on_gpu else 4)
    steps = steps or (10 if on_gpu else 1)
    images = (6000 if on_gpu else 64) if images is None else images
    if min(rounds, classes, size) < 1:
        raise RequestError("speed train: rounds, classes and size must be at least 1")
    machine = conditions(device)
    environment.make_deterministic()
    sizes = ProfileSizes(backbone, classes, size, str(device), precision)
    plain = black_box()
    wanted = choices(methods, pairs) | {plain: (plain, {})}
    count = max(64, batch_size)
    subjects = {label: ProfiledMethod(name, sizes, own, count) for label, (name, own) in wanted.items()}
    batch = subjects[plain].batch(batch_size)
    prepared = {name: subject.step() for name, subject in subjects.items()}
    for name, (_, _, step) in prepared.items():
        note(f"{name}: warming up")
        step(*batch)
    seconds: dict[str, list[float]] = {name: [] for name in prepared}
    for number in range(rounds):
        note(f"round {number + 1} of {rounds}")
        for name, (_, _, step) in prepared.items():
            # In turn within a round, so that other load of the machine affects all of them.
            seconds[name].append(timed(device, _repeat, step, steps, batch)[1] / steps)
    pushes = {}
    if images:
        for name, (learner, _, _) in prepared.items():
            if subjects[name].trains:
                push = _push(subjects[name], learner, images, min(rounds, 3), note)
                pushes.update({name: push} if push else {})
    shares = {
        name: statistics.median(base / own for base, own in zip(seconds[plain], measured, strict=True))
        for name, measured in seconds.items()
        if name != plain
    }
    return {
        "share_of_black_box": shares,
        "push_over_forward": {name: push["over_forward"] for name, push in pushes.items()},
        "backbone": backbone,
        "batch_size": batch_size,
        "precision": precision,
        "classes": classes,
        "size": size,
        "steps": steps,
        "rounds": rounds,
        **machine,
        "methods": {
            name: {
                "images_per_second": batch_size / statistics.median(measured),
                "seconds_per_step": measured,
                "phase": prepared[name][1].name,
                "of_the_black_box": not subjects[name].trains,
            }
            for name, measured in seconds.items()
        },
        "push": pushes,
    }


def _repeat(step: Step, steps: int, batch: tuple[Tensor, Tensor]) -> None:
    for _ in range(steps):
        step(*batch)


@torch.no_grad()
def _push(
    subject: ProfiledMethod, learner: Any, images: int, rounds: int, note: Callable[[str], None]
) -> dict[str, Any] | None:
    """Time the actions of a method's schedule beside plain forward passes over the same images, in rounds."""
    actions = list(dict.fromkeys(phase.action for phase in subject.config.schedule.phases if phase.action))
    if not actions:
        return None
    samples = synthetic.noise(subject.sizes.classes, images, subject.sizes.size, subject.sizes.seed)
    learner.eval()
    box = subject.black_box()

    def forward() -> None:
        for batch in samples.batches(_PUSH_BATCH, subject.device):
            box(batch.images)

    def push() -> None:
        for action in actions:
            learner.act(action, samples)

    # Quotients within a round: other load of the machine affects both.
    ratios, plain = [], []
    for number in range(rounds):
        note(f"{subject.name}: {', '.join(actions)} over {images} images, round {number + 1} of {rounds}")
        plain.append(timed(subject.device, forward)[1])
        ratios.append(timed(subject.device, push)[1] / plain[-1])
    return {
        "actions": actions,
        "images": images,
        "over_forward": statistics.median(ratios),
        "rounds": ratios,
        "forward_images_per_second": images / statistics.median(plain),
    }


def table(result: Mapping[str, Any]) -> Table:
    """Lay out the result of :func:`training_speed` as a table with notes."""
    above = [
        "{backbone}, {classes} classes, random images of {size} pixels, batches of {batch_size}, {precision}".format(
            **result
        ),
        *describe(result),
        "median of {rounds} rounds of {steps} steps, after one step to warm up".format(**result),
    ]
    shares, pushes = result["share_of_black_box"], result["push_over_forward"]
    rows, same = [], []
    for name, method in result["methods"].items():
        row = {"method": name, "phase": method["phase"], "images/s": f"{method['images_per_second']:.1f}"}
        row["share of black box"] = f"{shares[name]:.3f}" if name in shares else "1 (the measure)"
        rows.append(row | ({"push / forward": f"{pushes[name]:.2f}"} if name in pushes else {}))
        same += [name] if method["of_the_black_box"] and name in shares else []
    notes = ["share: the median over rounds of the quotient within a round, not that of the column before it"]
    if same:
        notes.append(
            f"{', '.join(same)}: trains the black box and nothing else; its share shows the accuracy of shares"
        )
    if result["push"]:
        images = max(push["images"] for push in result["push"].values())
        notes.append(f"push: the projection over {images} images, in passes of the plain classifier over the same")
    return measurement_table(
        "speed of training", above, ("method", "phase", "images/s", "share of black box", "push / forward"), rows, notes
    )
