"""Planning of cells: from requests to the cells that run, with the metrics that are not applicable and why."""

from __future__ import annotations

import functools
import itertools
import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from bench.config import schema
from bench.config.backbone import protocol_of, variant_of
from bench.config.black_box import VERSION as BLACK_BOX_VERSION
from bench.config.black_box import BlackBoxConfig
from bench.config.request_names import Named, with_controls
from bench.config.schema import DatasetConfig, Request
from bench.config.spec import CellSpec, InputLocations, PlannedCell
from bench.contract import Dataset, Method, Progress, RequestError, Sizes
from bench.core import registry
from bench.core.imagenet_classes import HeadClasses
from bench.core.paths import config_file
from bench.core.source_code import Code
from bench.data.datasets import open_dataset
from bench.models import weights as weight_files
from bench.models.backbones import build, pretrained_head
from bench.models.classifier import cached_feature_shape
from bench.models.external import NetworkConfig
from bench.models.imagenet_head import head_for

# Inputs that any model on any images can give a metric.
ALWAYS_PROVIDED = frozenset({"noise", "gradient", "prediction", "black_box"})

_PLAIN = {"keypoints": "part key-points", "bbox": "bounding boxes", "mask": "object masks"}


@dataclass
class Context:
    """Folders, weights and plugins that a plan depends on."""

    home: Path
    progress: Progress
    data_root: Path | None = None
    weights: dict[str, Path] = field(default_factory=dict)
    plugins: tuple[str, ...] = ()


def plan(request: Request, context: Context, beside: Sequence[Request] = ()) -> list[PlannedCell]:
    """Return all cells of a request, those that share a black box one after the other.

    A setting may be about a section of another request of the run, one of ``beside``.

    Raises:
        RequestError: one line about the first problem of the request.
    """
    try:
        methods = {name: registry.entry("methods", name) for name in _methods(request)}
        metrics = {name: registry.load("metrics", name) for name in _metrics(request)}
        for name in request.backbones:
            registry.entry("backbones", name)
        named = functools.reduce(operator.or_, map(_named, beside or [request]))
    except registry.UnknownName as error:
        raise RequestError(str(error)) from error
    named.check_settings(request.overrides, request.grid)
    metric_configs = {
        name: schema.validate(
            metric.Config, _preset("metrics", name) | schema.for_section(request.overrides, name), name
        )
        for name, metric in metrics.items()
    }
    cells: list[PlannedCell] = []
    code = functools.cache(registry.code)  # of an installed plugin it is read from disk
    for dataset_name in request.datasets:
        overrides = dict(request.overrides)
        if "pretrained" in overrides:
            overrides[f"{dataset_name}.pretrained"] = overrides["pretrained"]
        settings = schema.dataset_config(dataset_name, overrides)
        dataset = open_dataset(
            dataset_name,
            settings.reader or dataset_name,
            settings.folder,
            context.data_root,
            context.home,
            context.progress,
            settings.options,
        )
        seen: set[str] = set()
        for cell in _cells_of(
            request, context, dataset_name, settings, dataset, methods, metrics, metric_configs, code
        ):
            # A control does not use the backbone: it is one cell for any number of requested backbones.
            if cell.spec.id not in seen:
                seen.add(cell.spec.id)
                cells.append(cell)
    if not any(cell.spec.black_box for cell in cells):
        for name in schema.for_section(request.overrides, "classifier"):
            context.progress.note(f"--set classifier.{name} has no effect: no method here starts from a black box")
    return cells


def plan_all(requests: Sequence[Request], context: Context) -> list[PlannedCell]:
    """Return the cells of several requests, each once.

    Raises:
        RequestError: one line for each problem of any of them.
    """
    if context.weights:
        _check_weights(requests, context.weights)
    if len(requests) == 1:
        return plan(requests[0], context)
    cells: dict[str, PlannedCell] = {}
    problems: list[str] = []
    for request in requests:
        try:
            for cell in plan(request, context, requests):
                cells.setdefault(cell.spec.id, cell)
        except RequestError as error:
            problems.append(str(error))
    if problems:
        raise RequestError("\n".join(dict.fromkeys(problems)))
    return list(cells.values())


def _check_weights(requests: Sequence[Request], given: Mapping[str, Path]) -> None:
    """Refuse weights of a backbone that no request uses; one data set's default backbone need not be another's.

    Raises:
        RequestError: naming the backbones of the run.
    """
    used: set[str] = set()
    for request in requests:
        for name in request.datasets:
            chosen = request.backbones or schema.dataset_config(name, request.overrides).backbones
            used.update(name for full in chosen for name in (full, full.partition("@")[0]))
    for name in sorted(given.keys() - used):
        try:
            registry.entry("backbones", name)
        except registry.UnknownName as error:
            raise RequestError(str(error)) from error
        raise RequestError(f"--weights {name}=...: this run uses {', '.join(sorted(used))}; add --backbones {name}")


def _methods(request: Request) -> list[str]:
    return with_controls(registry.chosen_methods(request.methods), request.controls)


def _metrics(request: Request) -> list[str]:
    wanted = registry.chosen_methods(request.methods)
    shared = any(not registry.load("methods", name).class_specific for name in wanted)
    return registry.chosen_metrics(request.metrics, shared)


def _named(request: Request) -> Named:
    return Named(set(_methods(request)), set(request.datasets), set(_metrics(request)))


def _preset(kind: str, name: str) -> dict[str, Any]:
    return dict(registry.entry(kind, name).preset)


def _cells_of(
    request: Request,
    context: Context,
    dataset_name: str,
    settings: DatasetConfig,
    dataset: Dataset,
    methods: dict[str, registry.Entry],
    metrics: dict[str, Any],
    metric_configs: dict[str, Any],
    code: Callable[[str, str], Code | None],
) -> Iterator[PlannedCell]:
    recipe = request.recipe or settings.recipe
    shared = settings.recipes.get(recipe, {})
    variant = variant_of(request.overrides)
    for backbone in map(variant.named, request.backbones or settings.backbones):
        starting = functools.cache(functools.partial(_weights, backbone, settings, context))
        protocol = protocol_of(backbone, settings.protocol, dataset_name, request.overrides)
        # A control knows no content: it is one cell for backbones whose images differ in nothing but colours.
        for_controls = protocol.with_colours_of(settings.protocol)
        if backbone in context.weights:
            context.progress.note(
                f"--weights {backbone}=...: images are prepared as for {backbone}'s own weights ({protocol.name})"
            )
        sizes = _sizes(backbone, protocol.size, dataset, context.home)
        check_head = functools.cache(_check_head)  # which reads the whole file
        variants = [(name, chosen) for name in methods for chosen in schema.combinations(request.grid, name)]
        loaded: dict[str, type[Method]] = {name: entry.load() for name, entry in methods.items()}
        black_box = functools.cache(functools.partial(black_box_config, backbone, recipe, shared | request.overrides))
        unseeded: list[PlannedCell] = []
        for name, chosen in variants:
            overrides = {**request.overrides, **chosen}
            method = loaded[name]
            method_file = config_file("methods", name)
            preset = {f"{name}.{key}": value for key, value in _preset("methods", name).items()}
            usual = schema.from_recipe(method_file, method.Config, recipe, shared | preset, name).model_dump(
                mode="json"
            )
            method_config = schema.from_recipe(method_file, method.Config, recipe, shared | preset | overrides, name)
            method_settings = method_config.model_dump(mode="json")
            given = method_config.given if isinstance(method_config, NetworkConfig) else {}
            if given:
                registry.load("checkpoints", name).check(name, method_config, sizes)
            else:
                method.check(method_config, sizes)
            # An external model starts from no weights: none are looked for, none enter the id.
            file, digest = starting() if method.needs_backbone and not given else (None, "")
            box = black_box() if method.starts_from_black_box(method_config) else None
            if box is not None and box.head == "pretrained":
                check_head(file, backbone, sizes.channels, tuple(dataset.classes), box.head_classes, protocol.size)
            applicable, not_applicable = _applicable(metrics, metric_configs, dataset_name, dataset, name, method)
            used = {"method": code("methods", name), "dataset": code("datasets", settings.reader or dataset_name)}
            if method.needs_backbone:
                used["backbone"] = code("backbones", backbone)
            if given:
                used["checkpoint"] = code("checkpoints", name)
            foreign = {part: source for part, source in used.items() if source is not None}
            measuring = {metric: source for metric in applicable if (source := code("metrics", metric)) is not None}
            for metric, source in measuring.items():
                applicable[metric]["code"] = source.digest
            unseeded.append(
                PlannedCell(
                    spec=CellSpec(
                        method=name,
                        method_version=method.version,
                        settings=method_settings,
                        dataset=dataset_name,
                        data_digest=dataset.digest,
                        protocol=(protocol if method.needs_backbone else for_controls).model_dump(mode="json"),
                        on_bad_image=settings.on_bad_image,
                        backbone=backbone if method.needs_backbone else None,
                        weights_digest=digest,
                        black_box=box and {"version": BLACK_BOX_VERSION, **box.model_dump(mode="json")},
                        seed=0,
                        precision=request.precision if method.needs_backbone else "fp32",
                        split=request.split,
                        metrics=applicable,
                        code={part: source.digest for part, source in foreign.items()},
                    ),
                    where=InputLocations(
                        data_root=str(context.data_root.resolve()) if context.data_root else None,
                        folder=settings.folder,
                        reader=settings.reader or dataset_name,
                        options=settings.options,
                        weights=str(file.resolve()) if file else None,
                        plugins=context.plugins,
                        given={file.digest: str(file.path) for file in given.values()},
                        code={
                            **{part: source.file for part, source in foreign.items()},
                            **{f"metrics.{metric}": source.file for metric, source in measuring.items()},
                        },
                    ),
                    label=_label(
                        name, {**overrides, **{f"{name}.{key}": value.path.name for key, value in given.items()}}
                    ),
                    role=methods[name].role,
                    recipe=recipe,
                    # A setting at its default may be in neither, or in one of the two.
                    changed=tuple(
                        key for key in {**usual, **method_settings} if usual.get(key) != method_settings.get(key)
                    ),
                    not_applicable=not_applicable,
                )
            )
        for seed, cell in itertools.product(request.seeds, unseeded):
            yield replace(cell, spec=cell.spec.model_copy(update={"seed": seed}))


def _applicable(
    metrics: dict[str, Any],
    configs: dict[str, Any],
    dataset_name: str,
    dataset: Dataset,
    name: str,
    method: type[Method],
) -> tuple[dict[str, dict[str, Any]], dict[str, dict[str, str]]]:
    """Return metrics that can be measured, with version and parameters, and those that cannot, with the reason."""
    applicable: dict[str, dict[str, Any]] = {}
    refused: dict[str, dict[str, str]] = {}
    # A box is a rough mask, and metrics of masks say that they took it.
    provided = dataset.provides | ALWAYS_PROVIDED | ({"mask"} if "bbox" in dataset.provides else set())
    for metric_name, metric in metrics.items():
        lacking = sorted((metric.needs | method.needs) - provided)
        facts = {"unit": metric.unit, "higher_is_better": metric.higher_is_better}
        if "prediction" in metric.needs and not method.predicts:
            refused[metric_name] = {"unit": metric.unit, "reason": f"{name} predicts no class"}
        elif lacking:
            reason = f"{dataset_name} has no {', '.join(_PLAIN.get(need, need) for need in lacking)}"
            refused[metric_name] = {"unit": metric.unit, "reason": reason}
        elif "black_box" in metric.needs and not method.needs_black_box:
            refused[metric_name] = {"unit": metric.unit, "reason": f"{name} does not start from a black box"}
        else:
            parameters = configs[metric_name].model_dump(mode="json")
            applicable[metric_name] = {"version": metric.version, "parameters": parameters, **facts}
    return applicable, refused


def black_box_config(backbone: str, recipe: Any, overrides: Mapping[str, Any]) -> BlackBoxConfig:
    """Return the training settings of a backbone's black box: of its own recipe, or else of the default backbone."""
    network, *variants = backbone.split("@")
    # Only the head of a frozen network learns: one recipe for all of them. Other variants have that of their network.
    specific = config_file("backbones", "frozen" if "frozen" in variants else network)
    has_recipe = specific.is_file() and recipe in schema.read_yaml(specific)["recipes"]
    file = specific if has_recipe else config_file("backbones", "default")
    return schema.from_recipe(file, BlackBoxConfig, recipe, overrides, "classifier")


def _weights(backbone: str, settings: DatasetConfig, context: Context) -> tuple[Path | None, str]:
    """Return the file of starting weights and its digest; ``random`` for a random initialisation."""
    given = context.weights.get(backbone) or context.weights.get(backbone.partition("@")[0])
    if given is not None:
        if not weight_files.split(given)[0].is_file():
            raise RequestError(f"--weights {backbone}={given}: no such file")
        file = given
    else:
        source = registry.load("backbones", backbone)
        if not settings.pretrained or not hasattr(source, "fetch"):
            return None, "random"
        file = source.fetch(context.home / "weights")
    # Loading it in the plan turns a wrong file into an error of the request, before anything is trained.
    weight_files.load(build(backbone, settings.protocol.size), file, backbone, context.progress.note)
    return file, weight_files.digest(file)


def _check_head(
    file: Path | None, backbone: str, channels: int, classes: Sequence[str], head_classes: HeadClasses, size: int
) -> None:
    if file is None:
        raise RequestError(
            f"{backbone} has no weights with a head that could be used: pass --weights {backbone}=FILE, or train a "
            "head: --set classifier.head=trained"
        )
    head_for(classes, head_classes, lambda count: pretrained_head(backbone, file, count, channels, size))


def _sizes(backbone: str, side: int, dataset: Dataset, home: Path) -> Sizes:
    channels, rows, columns = cached_feature_shape(backbone, side, home)
    counts = [0] * len(dataset.classes)
    for record in dataset.split("train"):
        counts[record.label] += 1
    return Sizes(len(counts), min(counts), channels, rows * columns, backbone)


def _label(name: str, overrides: Mapping[str, Any]) -> str:
    changed = schema.for_section(overrides, name)
    inner = ", ".join(f"{key}={value}" for key, value in sorted(changed.items()))
    return f"{name} ({inner})" if inner else name
