"""Implementation of ``python -m bench decompose``: prototypes and drawings of a named model on an image folder."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby, islice
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn
from torch.utils.data import DataLoader

import bench.models  # noqa: F401 - lets torchvision be imported beside a CPU build of torch
from bench.config.schema import validate
from bench.contract import InputConfig, Progress, RequestError
from bench.core.content_digest import state_of
from bench.core.paths import is_text
from bench.data.text_files import read_text
from bench.data.torch_dataset import ClassImages
from bench.models.weights import fitting
from bench.posthoc.decompose_class import DecompositionConfig
from bench.posthoc.progress import LoggingProgress
from bench.posthoc.wrap.api import decompose
from bench.posthoc.wrap.class_order import TIMM, TORCHVISION, arranged, spelled
from bench.posthoc.wrap.feature_store import Precision, forget
from bench.posthoc.wrap.labels import WrongLabels
from bench.posthoc.wrap.serialization import load, save
from bench.visualization.decomposition_gallery import draw


@dataclass(frozen=True)
class Preparation:
    """Preprocessing of a model: ``transform`` from PIL to ``(3, H, W)``, as the configuration ``input`` describes it.

    ``name`` describes it in words that change with any part of it.
    """

    transform: Callable[[Any], Any]
    input: InputConfig
    name: str


@dataclass(frozen=True)
class Outcome:
    """Result of a run: the folder, the drawings in it, and the numbers (see ``decompose``)."""

    folder: Path
    drawings: list[Path]
    facts: dict[str, float]


def run(
    model: str,
    weights: Path | None,
    data: Path,
    k: int,
    out: Path,
    device: str | torch.device = "cpu",
    *,
    classes: Path | None = None,
    class_order: str | Path | None = None,
    any_accuracy: bool = False,
    global_pool: str | None = None,
    settings: Mapping[str, Any] | None = None,
    seed: int = 0,
    precision: Literal["fp32", "bf16"] = "fp32",
    batch_size: int = 32,
    workers: int = 0,
    memory_limit: int = 4 * 2**30,
    storage: Precision = "single",
    images_per_class: int | None = None,
    missing: Literal["refuse", "keep"] = "refuse",
    drawn: int = 12,
    top: int = 5,
    progress: Progress | None = None,
) -> Outcome:
    """Decompose a classifier by name on an image folder; save it and draw its prototypes.

    Arguments are the options of the command, ``drawn`` is the number of drawn classes. Nothing in ``weights`` is
    executed. ``out`` gets ``prototypes.safetensors``, ``prototypes.json`` and ``gallery/*.png``; until then it has
    ``work/``, with which the same command resumes, and another one reuses the parts that are still valid.

    Raises:
        RequestError: for any problem that another command can mend.
        CellError: naming a class that cannot be decomposed.
    """
    config = validate(DecompositionConfig, {**(settings or {}), "k": k}, "")
    telling = LoggingProgress(progress)
    if classes is not None and class_order is not None:
        raise RequestError("--classes and --class-order both say the order of the classes: give one of them")
    # The classes are counted before the model is built, and the model determines how images are prepared.
    images = ClassImages(data, lambda image: image)
    for name in images.classes:
        if not is_text(name):
            raise RequestError(
                f"{data}: class {name!r} cannot be written down, its name is no UTF-8; rename the folder"
            )
    order = class_order or classes or TORCHVISION
    named = str(order) in (TIMM, TORCHVISION)
    names = arranged(images.classes, str(order)) if named else spelled(_lines(Path(order)), images.classes)
    classifier, preparation = build(model, weights, len(names), global_pool, telling.note)
    if names != images.classes:
        images = ClassImages(data, lambda image: image, names)
    images.transform = preparation.transform
    if images_per_class is not None:
        # The other images are not needed: they are neither decoded nor sent through the network.
        by_class = groupby(images.files, key=lambda file: file[1])
        images.files = [file for _, files in by_class for file in islice(files, images_per_class)]
    classifier.to(device, torch.bfloat16 if precision == "bf16" else torch.float32)

    def loader(dataset: Any) -> DataLoader[Any]:
        return DataLoader(dataset, batch_size, num_workers=workers, pin_memory=torch.device(device).type == "cuda")

    LoggingProgress(progress).note(images.summary())
    work = out / "work"
    try:
        decomposed = decompose(
            classifier,
            loader(images),
            k,
            config=config,
            seed=seed,
            class_names=images.classes,
            folder=work,
            memory_limit=memory_limit,
            precision=storage,
            images_per_class=images_per_class,
            missing=missing,
            check_labels=not any_accuracy,
            images_key=_identity(images.files, preparation.name),
            progress=progress,
        )
    except WrongLabels as error:
        raise _refused(error, out) from error
    decomposed.left_out, decomposed.input = images.left_out, preparation.input
    save(decomposed, out)
    load(out, classifier)  # The written files can be read.
    forget(work)
    drawings = []
    present = sorted({label for _, label in images.files})[:drawn]
    if present:
        drawings = draw(
            decomposed,
            loader(images.of(present)),
            out / "gallery",
            present,
            top,
            preparation.input.mean,
            preparation.input.std,
            progress,
        )
    return Outcome(out, drawings, decomposed.facts)


def build(
    model: str,
    weights: Path | None,
    classes: int,
    global_pool: str | None = None,
    note: Callable[[str], None] = lambda _: None,
) -> tuple[nn.Module, Preparation]:
    """Build a classifier by name with its weights, and its preprocessing.

    Raises:
        RequestError: for an unknown name, or weights that do not fit or cannot be downloaded.
    """
    # A checkpoint's wrappers are undone, and ``note`` receives a line about it.
    library, _, name = model.partition(":")
    if library == "timm" and name:
        classifier, preparation = _timm(name, classes, weights is None, global_pool)
    elif library == "torchvision" and name:
        if global_pool is not None:
            raise RequestError("global_pool is an option of timm's models")
        classifier, preparation = _torchvision(name, classes, weights is None)
    else:
        raise RequestError(f"unknown model {model!r}: write timm:NAME or torchvision:NAME, for example timm:resnet50")
    if weights is not None:
        _load(classifier, weights, model, note)
    return classifier.eval(), preparation


def _timm(name: str, classes: int, pretrained: bool, global_pool: str | None) -> tuple[nn.Module, Preparation]:
    import timm
    from timm.data import create_transform, resolve_data_config

    from bench.models.timm_nets import TimmNet

    published = TimmNet(name).published()
    options: dict[str, Any] = {} if global_pool is None else {"global_pool": global_pool}
    if not pretrained:
        options["num_classes"] = classes
    try:
        # Looked up before anything is downloaded; timm itself continues with random weights if there are none.
        described = published if pretrained else None
        if pretrained and (described is None or not described.has_weights):
            raise RequestError(f"timm has no pretrained weights for {name}: pass --weights PATH")
        if described is not None and described.num_classes != classes:
            raise _other_classes(described.num_classes, classes)
        classifier = timm.create_model(name, pretrained=pretrained, **options)
    except (TypeError, AssertionError) as error:
        raise RequestError(f"timm cannot build {name} with {options} ({error})") from error
    except (OSError, RuntimeError) as error:
        raise _no_download(name, error) from error
    found = resolve_data_config({}, model=classifier)
    transform = create_transform(**found, is_training=False)
    shown = InputConfig(found["mean"], found["std"], found["interpolation"], found["crop_pct"], found["input_size"][-1])
    return classifier, Preparation(transform, shown, f"timm {found}")


def _torchvision(name: str, classes: int, pretrained: bool) -> tuple[nn.Module, Preparation]:
    from torchvision import models

    from bench.models.torchvision_nets import TorchvisionByName

    builder, best = TorchvisionByName(name).builder(), models.get_model_weights(name).DEFAULT
    options = {"init_weights": False} if name in ("googlenet", "inception_v3") else {}
    if pretrained and len(best.meta["categories"]) != classes:
        raise _other_classes(len(best.meta["categories"]), classes)
    classifier = builder(weights=None, num_classes=classes, **options)
    if pretrained:
        # Downloaded as a file and read by us: torchvision's own loading would run any code pickled in it.
        file = Path(torch.hub.get_dir()) / "checkpoints" / best.url.rsplit("/", 1)[1]
        try:
            if not file.is_file():
                file.parent.mkdir(parents=True, exist_ok=True)
                torch.hub.download_url_to_file(best.url, str(file), file.stem.rsplit("-", 1)[1], progress=False)
        except (OSError, RuntimeError) as error:
            raise _no_download(name, error) from error
        _load(classifier, file, name)
    transform = best.transforms()
    # torchvision's weights of image classifiers have one kind of transform, with these attributes.
    (size,), (resized,) = transform.crop_size, transform.resize_size
    shown = InputConfig(
        tuple(transform.mean), tuple(transform.std), transform.interpolation.value, size / resized, size
    )
    return classifier, Preparation(transform, shown, f"torchvision {transform}")


def _load(classifier: nn.Module, file: Path, name: str, note: Callable[[str], None] = lambda _: None) -> None:
    wanted = classifier.state_dict()
    advice = "; the number of class folders must be the classifier's"
    wanted.update(fitting(file, wanted, name, note=note, heads=(), advice=advice))  # it keeps versions beside tensors
    classifier.load_state_dict(wanted)


def _identity(files: Sequence[tuple[Path, int]], preparation: str) -> str:
    """Return a digest of the images' file status, their labels and the preprocessing; no image is read."""
    found = hashlib.sha256(preparation.encode())
    for file, label in files:
        facts = (label, *state_of(file))
        found.update(f"{file}\x1f{facts}\x1f".encode("utf-8", "surrogateescape"))
    return found.hexdigest()[:32]


def _refused(error: WrongLabels, out: Path) -> RequestError:
    """Return the error with the command line's options; an order known only from the images is written to a file."""
    if not error.order and error.way:
        cure = "give the folders of its rows, one a line, as --class-order FILE"
    elif not error.order:
        cure = "check --weights, --model and how its images are prepared"
    elif error.way in (TIMM, TORCHVISION):
        cure = f"pass --class-order {error.way}"
    else:
        out.mkdir(parents=True, exist_ok=True)
        file = out / "class_order.txt"
        file.write_text("\n".join(error.order) + "\n", encoding="utf-8")
        cure = f"if the order in {file} is the classifier's, pass --class-order {file}"
    return RequestError(f"{error.reason}: {cure}; or --any-accuracy if the labels are meant")


def _lines(file: Path) -> list[str]:
    """Read the names in a list of classes, one a line."""
    try:
        lines = [line.strip() for line in read_text(file).splitlines()]
    except FileNotFoundError as error:
        raise RequestError(f"no file {file}, and no order of that name: write timm, torchvision or a FILE") from error
    except (OSError, ValueError) as error:
        raise RequestError(f"{file} is no list of classes, one name per line ({error})") from error
    names = [line for line in lines if line]
    if not names:
        raise RequestError(f"{file} names no classes")
    return names


def _no_download(name: str, error: Exception) -> RequestError:
    reason = str(error).split("\n")[0]
    return RequestError(f"no pretrained weights for {name}: download failed ({reason}); pass --weights PATH")


def _other_classes(own: int, folders: int) -> RequestError:
    return RequestError(
        f"the pretrained weights have {own} classes and the data {folders}: pass --weights of a model trained on these "
        f"classes, or --classes FILE with the {own} names in the classifier's order"
    )
