"""Commands that measure and check methods without a data set: scale, speed train, check."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import click

from bench.cli import options
from bench.cli.posthoc import speed
from bench.core import registry
from bench.core.console import Console, say
from bench.core.errors import RequestError

_METHODS = click.option(
    "--methods",
    callback=options.names,
    default="all",
    show_default=True,
    help="Names with commas; all: those that compete, and the black box.",
)
_BACKBONE = click.option(
    "--backbone", default="resnet34", show_default=True, help="`bench ls backbones`; random weights."
)
_JSON = click.option("--json", "as_json", is_flag=True, help="For programs.")


def _counts(context: click.Context, option: click.Parameter, value: str) -> tuple[int, ...]:
    numbers = options.seeds(context, option, value)
    if not numbers or min(numbers) < 2:
        raise click.BadParameter(f"{value!r}: write numbers of classes with commas, 2 or more, for example 200,1000")
    return numbers


def _check_names(methods: tuple[str, ...], backbone: str) -> None:
    """Refuse unknown names, before torch is imported."""
    for name in registry.chosen_methods(methods):
        registry.entry("methods", name)
    registry.entry("backbones", backbone)


def _ready(backbone: str, size: int) -> None:
    """Refuse at once a request that would end every measurement."""
    from bench.models.classifier import feature_shape

    try:
        feature_shape(backbone, size)
    except registry.UnknownName as error:
        raise RequestError(f"--backbone: {error}") from error


def _note(message: str) -> None:
    Console(stderr=True).print(message, soft_wrap=True)


@click.command()
@_METHODS
@click.option("--classes", callback=_counts, default="200,1000", show_default=True, help="Numbers with commas.")
@_BACKBONE
@click.option("--batch", type=click.IntRange(min=1), help="Images at a time; default 80, on a CPU 4.")
@click.option("--size", type=click.IntRange(min=32), default=224, show_default=True, help="Side of the images.")
@click.option("--steps", type=click.IntRange(min=1), default=3, show_default=True, help="Steps that are timed.")
@click.option(
    "--memory-limit",
    metavar="SIZE",
    callback=options.size,
    help="Such as 24GiB; default on a CPU: three quarters of what is free.",
)
@options.device
@options.home
@options.plugin
@options.table_format
@click.option("--json", "fmt", flag_value="json", help="The same as --format json.")
def scale(
    methods: tuple[str, ...],
    classes: tuple[int, ...],
    backbone: str,
    batch: int | None,
    size: int,
    steps: int,
    memory_limit: int | None,
    device: str,
    out: Path | None,
    plugins: tuple[Path, ...],
    fmt: str,
) -> None:
    """Measure what methods take at the size of CUB and of ImageNet, on random images.

    Parameters, activations, peak memory of a training step and of inference, images per second; each in a process of
    its own. What does not fit is measured again with one image at a time. Where a method also has the form of its
    published code, that is a row of its own. The results are kept; `bench report --table 3` shows the newest.
    """
    _check_names(methods, backbone)
    from bench.core import environment
    from bench.core.paths import home as find_home
    from bench.diagnostics.scale import scale as measure
    from bench.report.measurement_tables import scale_table
    from bench.report.renderers import write
    from bench.results.store import Store, new_stamp

    chosen = environment.pick_device(device)
    _ready(backbone, size)
    files = tuple(str(file.resolve()) for file in plugins)
    result = measure(
        methods, classes, backbone, chosen,
        batch_size=batch, size=size, steps=steps, memory_limit=memory_limit, plugins=files, note=_note,
    )  # fmt: skip
    Store(out or find_home()).record_scale(new_stamp(), result)
    if fmt == "json":
        say(json.dumps(result, indent=1))
    else:
        write([scale_table(result)], fmt, title="Memory and speed")
    failed = any(one["status"] == "failed" for row in result["rows"] for one in row.values() if isinstance(one, dict))
    sys.exit(1 if failed else 0)


@speed.command("train")
@_METHODS
@_BACKBONE
@click.option("--batch", "batch_size", type=click.IntRange(min=1), help="Images of a step; default 32, on a CPU 4.")
@click.option("--precision", type=click.Choice(["fp32", "bf16"]), default="fp32", show_default=True)
@click.option("--steps", type=click.IntRange(min=1), help="Steps of a round; default 10, on a CPU 1.")
@click.option("--rounds", type=click.IntRange(min=1), default=5, show_default=True)
@click.option("--classes", type=click.IntRange(min=2), default=200, show_default=True)
@click.option("--size", type=click.IntRange(min=32), default=224, show_default=True, help="Side of the images.")
@click.option("--images", type=click.IntRange(min=0), help="Of the projection; default 6000, on a CPU 64; 0: none.")
@options.device
@options.plugin
@_JSON
def speed_train(
    methods: tuple[str, ...], backbone: str, device: str, plugins: tuple[Path, ...], as_json: bool, **sizes: Any
) -> None:
    """Each method's training step and projection beside the plain classifier's, in the same run.

    The share is of the images per second that the plain classifier trains; the projection is in forward passes of the
    plain classifier over the same images.
    """
    _check_names(methods, backbone)
    from bench.core import environment
    from bench.diagnostics.speed_train import as_text, training_speed

    chosen = environment.pick_device(device)
    _ready(backbone, sizes["size"])
    result = training_speed(methods, backbone, chosen, note=_note, **sizes)
    say(json.dumps(result, indent=1) if as_json else as_text(result))


@click.command()
@click.argument("name")
@options.plugin
def check(name: str, plugins: tuple[Path, ...]) -> None:
    """Check that the method or metric NAME keeps the contract, on drawn images, in under a minute.

    One line per check. Exit code 0: all are kept; 1: some are not; 2: there is no such method or metric.
    """
    known = {*registry.names("methods"), *registry.names("metrics")}
    if name not in known:
        # Here too: the next step imports torch.
        raise RequestError(f"no method or metric {registry.quoted(name)}{registry.nearest(name, known, 'metrics')}")
    from bench.diagnostics.conformance import check as run

    broken = 0
    for outcome in run(name):
        broken += outcome.problem is not None
        state = "ok" if outcome.problem is None else f"WRONG: {outcome.problem}"
        say(f"{outcome.kind} {name}: {outcome.check}: {state}")
    sys.exit(1 if broken else 0)


COMMANDS: list[click.Command] = [scale, check]
