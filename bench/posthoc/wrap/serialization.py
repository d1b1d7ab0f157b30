"""Files of a decomposition: ``prototypes.safetensors`` with the numbers and ``prototypes.json`` with all else.

The classifier itself is not in them: it is passed again when they are loaded, and checked to be the same.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Literal

import torch
from pydantic import Field, ValidationError
from safetensors.torch import save_file
from torch import Tensor, nn

from bench.contract import InputConfig, RequestError, Settings
from bench.core.files import first_problem
from bench.models.fingerprint import fingerprint
from bench.models.split.features import Features
from bench.models.split.find import Split
from bench.models.split.verify import verify
from bench.models.weights import read
from bench.posthoc.checkpoint import write
from bench.posthoc.wrap.classifier import PartPrototypeClassifier

_TENSORS = "prototypes.safetensors"
_FACTS = "prototypes.json"


class _Description(Settings):
    format: Literal["partbench-prototypes"] = "partbench-prototypes"
    version: Literal[1] = 1
    classifier: str
    fingerprint: str
    k: int
    class_names: tuple[str, ...]
    split: Split
    facts: dict[str, float | None]
    left_out: dict[str, dict[str, int | str]] = Field(default_factory=dict)
    input: InputConfig | None = None
    tensors: str | None = None  # SHA-256 of the file with the numbers; older folders have none


def save(model: PartPrototypeClassifier, folder: Path | str) -> Path:
    """Write a decomposition into a folder, which is made, and return the folder.

    Files of an earlier decomposition in it are replaced.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    table = model.prototypes
    tensors = {
        "vectors": model.vectors,
        "bias": model.bias,
        "source_image": table.source_image,
        "source_patch": table.source_patch,
    }
    draft = folder / (_TENSORS + ".new")
    save_file({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, draft)
    draft.replace(folder / _TENSORS)
    description = _Description(
        classifier=type(model.classifier).__name__,
        fingerprint=fingerprint(model.classifier),
        k=model.k,
        class_names=model.class_names,
        split=model.features.split,
        facts={name: value if value == value else None for name, value in model.facts.items()},
        left_out=model.left_out,
        input=model.input,
        tensors=hashlib.sha256((folder / _TENSORS).read_bytes()).hexdigest(),
    )
    write(folder / _FACTS, json.dumps(description.model_dump(mode="json"), indent=1) + "\n")
    return folder


def load(folder: Path | str, classifier: nn.Module, images: Tensor | None = None) -> PartPrototypeClassifier:
    """Load a decomposition. Nothing in the files is executed.

    Args:
        folder: folder that :func:`save` wrote.
        classifier: the decomposed classifier, with the same weights in the same precision.
        images: a few images, to verify the logits again.

    Raises:
        RequestError: if files are missing, damaged, of another kind, or belong to another classifier.
    """
    folder = Path(folder)
    description = _describe(folder / _FACTS)
    split = description.split
    tensors = read(folder / _TENSORS)
    shapes = {
        "vectors": (split.classes, description.k, split.channels),
        "bias": (split.classes,),
        "source_image": (split.classes * description.k,),
        "source_patch": (split.classes * description.k, 2),
    }
    stored = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    if stored != shapes or tensors["vectors"].dtype != torch.float64 or len(description.class_names) != split.classes:
        raise RequestError(f"{folder / _TENSORS} does not fit {_FACTS} beside it: {stored} instead of {shapes}")
    if not all(bool(torch.isfinite(tensors[name]).all()) for name in ("vectors", "bias")):
        raise RequestError(f"{folder / _TENSORS} holds numbers that are not finite")
    content = hashlib.sha256((folder / _TENSORS).read_bytes()).hexdigest()
    if fingerprint(classifier) != description.fingerprint:
        raise RequestError(
            f"{folder} was made for another {description.classifier}: architecture, weights or precision differ from "
            "this classifier's; load the weights that were decomposed before you load the prototypes"
        )
    classifier.eval()
    features = Features(classifier, split)
    try:
        rows, bias = features.rows()
        classifier.get_submodule(split.module)
    except (AttributeError, RuntimeError, TypeError) as error:
        raise RequestError(f"{folder / _FACTS} names layers that this classifier does not have ({error})") from error
    vectors = tensors["vectors"].to(rows.device)
    # The last bits of the sum depend on the order of the additions on another device.
    if rows.shape != vectors.sum(1).shape or not torch.allclose(vectors.sum(1), rows, rtol=1e-9, atol=1e-12):
        raise RequestError(f"{folder}: the prototypes do not sum to this classifier's rows")
    if description.tensors not in (None, content):
        raise RequestError(f"{folder / _TENSORS} was altered after it was written: copy it again, or decompose again")
    if images is not None:
        verify(features, images)
    model = PartPrototypeClassifier(features, vectors, bias, description.class_names).eval()
    model.prototypes.source_image.copy_(tensors["source_image"])
    model.prototypes.source_patch.copy_(tensors["source_patch"])
    model.left_out = {reason: dict(entry) for reason, entry in description.left_out.items()}
    model.input = description.input
    model.facts = {name: float("nan") if value is None else value for name, value in description.facts.items()}
    return model


def _describe(file: Path) -> _Description:
    if not file.is_file():
        raise RequestError(f"no {file.name} in {file.parent}: expected a folder written by bench.posthoc.save")
    try:
        return _Description.model_validate_json(file.read_bytes())
    except ValidationError as error:
        raise RequestError(f"{file} is no description of prototypes ({first_problem(error)})") from None
