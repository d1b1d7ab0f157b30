"""Commands that measure without results of a run: scale, speed."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from bench.cli import data, options
from bench.config.overrides import only_about, parse_overrides, parse_single
from bench.core import registry
from bench.core.console import Console, say
from bench.core.errors import RequestError
from bench.core.paths import home as find_home

_METHODS = click.option(
    "--methods",
    callback=options.names,
    default="all",
    show_default=True,
    help="Comma-separated methods; all: every method but the controls, and the black box.",
)
_BACKBONE = click.option(
    "--backbone", default="resnet34", show_default=True, help="Backbone (`ls backbones`); its weights are random."
)
_SIZE = options.number("--size", 224, "Side of the images in pixels.", least=32)
_PAIRS = options.settings("Setting of a method; NAME=a,b measures each (repeatable).")
_SEED = options.number("--seed", 0, "Seed of all random numbers.", least=0)


def _counts(context: click.Context, option: click.Parameter, value: str) -> tuple[int, ...]:
    numbers = options.seeds(context, option, value)
    if not numbers or min(numbers) < 2:
        raise click.BadParameter(f"{value!r}: write numbers of classes with commas, 2 or more, for example 200,1000")
    return numbers


def _check_names(methods: tuple[str, ...], backbone: str, pairs: tuple[str, ...] = ()) -> None:
    """Refuse unknown names, before torch is imported."""
    for name in registry.chosen_methods(methods):
        registry.entry("methods", name)
    registry.entry("backbones", backbone)
    for settings in parse_overrides(pairs):
        only_about(settings, registry.chosen_methods(methods))


def _check_size(backbone: str, size: int) -> None:
    """Refuse at once a request that would end every measurement."""
    from bench.models.classifier import feature_shape

    try:
        feature_shape(backbone, size)
    except registry.UnknownName as error:
        raise RequestError(f"--backbone: {error}") from error


def _note(message: str) -> None:
    Console(stderr=True).print(message, soft_wrap=True)


def _print(result: dict[str, Any], table: Callable[[dict[str, Any]], Any], fmt: str) -> None:
    if fmt == "json":
        # For programs: the measurement itself, which has more than its table.
        say(json.dumps(result, indent=1))
    else:
        options.print_tables([table(result)], fmt, "Tables")


@click.command()
@_METHODS
@click.option(
    "--classes", callback=_counts, default="200,1000", show_default=True, help="Comma-separated numbers of classes."
)
@_BACKBONE
@_PAIRS
@options.number("--batch", None, "Images per batch. Default: 80 on a GPU, 4 on a CPU.")
@_SIZE
@options.number("--steps", 3, "Timed steps.")
@options.memory_limit("Memory limit, such as 24GiB. Default on a CPU: three quarters of the free memory.")
@options.device
@options.home
@options.plugin_files
@options.measured_format
def scale(
    methods: tuple[str, ...],
    classes: tuple[int, ...],
    backbone: str,
    pairs: tuple[str, ...],
    batch: int | None,
    size: int,
    steps: int,
    memory_limit: int | None,
    device: str,
    out: Path | None,
    plugins: tuple[Path, ...],
    fmt: str,
) -> None:
    """Measure memory and speed of methods at the size of CUB and of ImageNet, on random images.

    Parameters, activations, peak memory of a training step and of inference, images per second, each in its own
    process. A measurement that does not fit into memory is repeated with one image at a time. A method whose published
    code computes in another form has a second row. The results are stored; `bench report --table 3` shows the newest.
    """
    _check_names(methods, backbone, pairs)
    from bench.core import environment
    from bench.diagnostics.scale import scale as measure
    from bench.report.measurement_tables import scale_table
    from bench.results.store import new_stamp

    chosen = environment.pick_device(device)
    _check_size(backbone, size)
    files = tuple(str(file.resolve()) for file in plugins)
    result = measure(
        methods, classes, backbone, chosen,
        batch_size=batch, size=size, steps=steps, memory_limit=memory_limit, plugins=files, pairs=pairs,
        note=_note,
    )  # fmt: skip
    options.open_store(out).record_scale(new_stamp(), result)
    _print(result, scale_table, fmt)
    failed = any(
        part["status"] == "failed" for row in result["rows"] for part in row.values() if isinstance(part, dict)
    )
    sys.exit(1 if failed else 0)


@click.group()
def speed() -> None:
    """Measure how fast the parts of the harness are, beside a reference in the same run."""


@speed.command("train")
@_METHODS
@_BACKBONE
@_PAIRS
@options.number("--batch", None, "Images per step. Default: 32 on a GPU, 4 on a CPU.", dest="batch_size")
@options.precision
@options.number("--steps", None, "Steps per round. Default: 10 on a GPU, 1 on a CPU.")
@options.number("--rounds", 5, "Rounds; their median counts.")
@options.number("--classes", 200, "Classes.", least=2)
@_SIZE
@options.number("--images", None, "Projected images; 0: no projection. Default: 6000 on a GPU, 64 on a CPU.", least=0)
@options.device
@options.plugin
@options.measured_format
def speed_train(methods: tuple[str, ...], backbone: str, device: str, fmt: str, **sizes: Any) -> None:
    """Time each method's training step and projection beside the plain classifier's.

    The share is of the images per second that the plain classifier trains; the projection is in forward passes of the
    plain classifier over the same images.
    """
    _check_names(methods, backbone, sizes["pairs"])
    from bench.core import environment
    from bench.diagnostics.speed_train import table, training_speed

    chosen = environment.pick_device(device)
    _check_size(backbone, sizes["size"])
    _print(training_speed(methods, backbone, chosen, note=_note, **sizes), table, fmt)


@speed.command("decompose")
@options.number("--classes", 200, "Classes.")
@options.number("--images", 30, "Images per class.")
@options.number("--hw", 49, "Locations per image.")
@options.number("--features", 512, "Channels.")
@options.number("--k", 3, "Prototypes per class.")
@options.device
@options.number("--sample", 5, "Classes that the published pipeline decomposes.")
@_SEED
@click.option(
    "--sklearn/--no-sklearn", default=True, show_default=True, help="Also time scikit-learn's NMF as the first step."
)
@options.settings("Settings instead of the fast ones.")
@options.feature_memory
@options.measured_format
def speed_decompose(device: str, pairs: tuple[str, ...], fmt: str, **arguments: Any) -> None:
    """Time our decomposition beside a literal reading of the published pipeline, on the same synthetic features.

    The published pipeline (NumPy, cvxpy, SciPy's Nelder-Mead) is timed on a sample of the classes and extrapolated.
    """
    settings = parse_single(pairs)
    from bench.config import schema
    from bench.core import environment
    from bench.diagnostics.speed_decompose import COMPARABLE, measure, table
    from bench.posthoc.decompose_class import DecompositionConfig

    schema.validate(DecompositionConfig, {**COMPARABLE, "k": arguments["k"], **settings}, "")
    if "k" in settings:
        raise RequestError(f"--set k={settings['k']}: write --k {settings['k']}")
    chosen = environment.pick_device(device)
    _print(measure(device=chosen, settings=settings or None, note=_note, **arguments), table, fmt)


@speed.command("metrics")
@_BACKBONE
@options.number("--prototypes", 2000, "Prototypes of all classes together.")
@options.number("--images", 1000, "Images.")
@options.number("--classes", 200, "Classes.")
@options.device
@options.number("--batch-size", 32, "Images per batch.")
@options.number("--sample", 32, "Images that the literal loop scores.")
@_SEED
@options.memory_limit("Memory that the metrics may use beyond the model, checked at the end. Default: no limit.")
@options.measured_format
def speed_metrics(device: str, fmt: str, **arguments: Any) -> None:
    """Time consistency, stability and the axioms beside two bare forward passes and a literal loop.

    The forward passes are a lower bound: one of the images, one of their noisy copies. The loop scores one map and one
    part at a time, as the published evaluation does.
    """
    _check_names((), arguments["backbone"])
    from bench.core import environment
    from bench.diagnostics.speed_metrics import measure, table

    _print(measure(device=environment.pick_device(device), note=_note, **arguments), table, fmt)


@speed.command("data")
@click.argument("name", default="demo")
@data.ROOT
@data.PAIRS
@click.option("--augment", default="flip", show_default=True, help="Augmentation policy of the prepared images.")
@options.number("--batch-size", 32, "Images per batch.")
@options.number("--images", 1024, "Images per round.")
@options.number("--workers", None, "Processes of the DataLoader. Default: one per core.", least=0)
@options.number("--rounds", 3, "Rounds; their median counts.")
@click.option(
    "--backbone", default="resnet34", show_default=True, help="Backbone of the training step; none: time no step."
)
@options.number("--steps", 3, "Training steps of each kind.")
@options.device
@options.measured_format
@options.plugin
def speed_data(
    name: str,
    data_root: Path | None,
    pairs: tuple[str, ...],
    backbone: str,
    workers: int | None,
    device: str,
    fmt: str,
    **arguments: Any,
) -> None:
    """Time the prepared images of NAME beside a plain DataLoader, and a training step with and without new data."""
    data.check_names(name, pairs)
    if backbone != "none":
        registry.entry("backbones", backbone)
    from bench.core import environment
    from bench.data.augmentation import POLICIES
    from bench.data.cache import prepare
    from bench.diagnostics.speed_data import measure, table
    from bench.runner.progress import ConsoleProgress

    if data_root is not None and data.settings_of(name, pairs).folder is None:
        raise RequestError(
            f"--data-root {data_root}: {name} is drawn by the project and read from no folder; name a data set of that "
            f"folder, for example speed data cub --data-root {data_root}, or leave --data-root out"
        )
    if arguments["augment"] not in ("none", *POLICIES):
        raise RequestError(f"--augment {arguments['augment']}{registry.nearest(arguments['augment'], POLICIES)}")
    net = None if backbone == "none" else registry.load("backbones", backbone)
    workers = os.cpu_count() or 1 if workers is None else workers
    with ConsoleProgress(Console(stderr=True)) as progress:
        settings, dataset = data.opened(name, pairs, data_root, progress)
        splits = prepare(dataset, settings.protocol, find_home(), progress, on_bad=settings.on_bad_image)
        chosen = environment.pick_device(device)
        result = measure(
            dataset.split("train"), splits["train"], net, chosen, workers=workers, note=progress.note, **arguments
        )
    _print({"data": name, **result}, table, fmt)


@speed.command("grid")
@click.option("--methods", default="ours,protopnet", show_default=True, help="Comma-separated methods.")
@options.number("--seeds", 12, "Number of seeds.", dest="count")
@options.settings("Settings as in `run` (repeatable).")
@options.choice("--launcher", ["inline", "ray"], default="ray")
@options.number("--jobs", 2, "Cells at a time.", least=2)
@options.number("--rounds", 1, "Runs of each kind.")
@options.measured_format
def speed_grid(
    methods: str, count: int, pairs: tuple[str, ...], launcher: str, jobs: int, rounds: int, fmt: str
) -> None:
    """Time a grid of demo cells inline and with several cells at a time, on this CPU, one thread per cell."""
    from bench.diagnostics.speed_grid import measure, table
    from bench.runner.progress import ConsoleProgress

    request = ["--datasets", "demo", "--methods", methods, "--no-controls", "--device", "cpu"]
    request += ["--seeds", ",".join(map(str, range(count))), *(word for pair in pairs for word in ("--set", pair))]
    with ConsoleProgress(Console(stderr=True)) as progress:
        result = measure(request, ["--launcher", launcher, "--jobs", str(jobs)], rounds, progress)
    _print(result, table, fmt)


COMMANDS: list[click.Command] = [scale, speed]
