"""Official checkpoints in: ``convert`` writes them as safetensors, ``build`` makes a network of ours from such a file.

The converted file keeps the official names of the tensors, so that ours and the official code can load it alike; what
an official file knows beside its tensors stands in its header, and in a JSON file beside it for people.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from baselines import official, official_files
from bench.contract import CellError, FitContext, Method, PartPrototypeModel, PrototypeTable, RequestError, Sizes
from bench.models.external import NetworkConfig

_HEADER = "partbench"
_IDENTITY = "prototype_class_identity"
_DISTANCES = ("protopnet", "protopool")
"""Methods whose similarity is a function of distances, which a file may choose; that of the others is fixed."""
_FIXED = {"tesnet": "projection", "deformable": "cosine"}
_FUNCTION = "a function of the author's own"

SETTINGS = {
    "protopnet": {"per_class": "K", "depth": "D"},
    "tesnet": {"per_class": "K", "depth": "D"},
    "protopool": {"prototypes": "P", "slots": "K", "depth": "D"},
    "deformable": {"per_class": "K", "hidden": "O"},
}
"""The settings of ours that say a size, and which size of the file that is."""


_FINISH: dict[str, Callable[[Any], object]] = {
    "protopool": lambda model: model.assign(),
    # Official offsets are always in use: before training opens them they are zero.
    "deformable": lambda model: setattr(model, "deformed", True),
}
"""What follows from the weights of a network and is not in its file."""


@dataclass(frozen=True)
class Checkpoint:
    """A converted file: official tensors, and what is known beside them."""

    facts: dict[str, Any]
    state: dict[str, Tensor]

    @property
    def identity(self) -> Tensor | None:
        """Which prototype speaks for which class, bool ``(P, C)``; ``None`` where they are shared."""
        return self.state[_IDENTITY].bool() if _IDENTITY in self.state else None

    @property
    def weights(self) -> dict[str, Tensor]:
        """The tensors of the network itself."""
        return {name: tensor for name, tensor in self.state.items() if name != _IDENTITY}


def convert(method: str, file: Path, out: Path) -> dict[str, Any]:
    """Write an official file of ``method`` as safetensors, and its facts beside it as JSON; nothing in it is executed.

    Args:
        method: whose file it should be.
        file: as the official code saved it: a pickled module, a dict with a state dict in it, or a state dict.
        out: where to; ``.safetensors`` is added where it is missing.

    Returns:
        The facts.

    Raises:
        RequestError: where the file is another method's or no such file, or ``out`` holds something else.
    """
    out = out if out.suffix == ".safetensors" else out.with_name(f"{out.name}.safetensors")
    found = official_files.read(file)
    writer = official_files.recognised(found)
    if writer not in (method, None):
        known = writer in official_files.SHAPES
        advice = f"python -m bench import {writer} {file} {out}" if known else f"{writer} files cannot be imported yet"
        raise RequestError(f"{file} was written by {writer}, not by {method}: {advice}")
    sizes = official_files.measure(method, found)
    state = official_files.tensors(found)
    identity = _identity(method, found, sizes)
    facts = _facts(method, found, sizes, identity) | {"source_file": file.name, "source_digest": _sha256(file)}
    if identity is not None:
        state[_IDENTITY] = identity.to(torch.uint8)
    _write(out, state, facts)
    return facts


def facts_of(file: Path) -> dict[str, Any]:
    """What the header of a converted file says.

    Raises:
        RequestError: where it is no converted file.
    """
    advice = "make one with `python -m bench import METHOD FILE OUT`"
    if file.suffix != ".safetensors":
        raise RequestError(f"{file} is not a .safetensors file: {advice}")
    try:
        with safe_open(file, "pt") as opened:
            header = (opened.metadata() or {}).get(_HEADER)
    except (SafetensorError, OSError) as error:
        raise RequestError(f"{file} cannot be read ({error})") from error
    if header is None:
        raise RequestError(f"{file} is not an imported checkpoint: {advice}")
    try:
        facts = json.loads(header)
    except (ValueError, RecursionError) as error:
        raise RequestError(f"{file} says nothing readable about itself ({error}): {advice}") from error
    wrong = _wrong_facts(facts)
    if wrong:
        raise RequestError(f"{file} says nothing usable about itself ({wrong}): {advice}")
    return dict(facts)


def read(file: Path) -> Checkpoint:
    """A converted file.

    Raises:
        RequestError: where it is none, or its tensors have other sizes than it says.
    """
    facts = facts_of(file)
    try:
        state = load_file(file)
    except (SafetensorError, OSError) as error:
        raise RequestError(f"{file} cannot be read ({error})") from error
    shapes = {name: tuple(tensor.shape) for name, tensor in state.items() if name != _IDENTITY}
    measured = official_files.sizes_of(facts["method"], shapes, file)
    if _IDENTITY in state:
        identity = state[_IDENTITY]
        if identity.shape != (measured["P"], measured["C"]):
            raise RequestError(f"{file} is broken: its class identity is {tuple(identity.shape)}")
        measured["K"] = max(int(n) for n in identity.bool().sum(0))
    # A network is built with the sizes that the header says: they are to be those of tensors that are there.
    measured["add_on"] = sum(name.startswith("add_on_layers.") for name in shapes) // 2
    said = {**facts["sizes"], "add_on": facts.get("add_on")} if isinstance(facts.get("sizes"), dict) else {}
    unlike = [f"{name}={size}" for name, size in measured.items() if said.get(name) != size]
    if unlike:
        raise RequestError(f"{file} is broken: it does not say the sizes of its tensors ({', '.join(unlike)})")
    return Checkpoint(facts, state)


def check(method: str, config: NetworkConfig, sizes: Sizes) -> None:
    """See before anything runs that what was given fits the request.

    Raises:
        RequestError: saying what does not.
    """
    if config.source is not None:
        official.check(method, config.source.path, sizes)
    if config.checkpoint is None:
        return
    file = config.checkpoint.path
    facts = facts_of(file)
    if facts["method"] != method:
        raise RequestError(f"{method}.checkpoint: {file} is a checkpoint of {facts['method']}")
    if facts["classes"] != sizes.classes:
        raise RequestError(
            f"{method}.checkpoint: {file} knows {facts['classes']} classes, the data has {sizes.classes}"
        )
    architecture = facts["architecture"]
    if architecture is not None and sizes.backbone and architecture != sizes.backbone:
        raise RequestError(
            f"{method}.checkpoint: {file} was made with {architecture}, not {sizes.backbone}: "
            f"--backbones {architecture}"
        )
    if facts["activation"] == _FUNCTION:
        raise RequestError(f"{method}.checkpoint: {file} turns distances into similarities by a function it lacks")
    if config.source is not None:
        return
    unlike = "drops the last max-pooling of VGG" if method == "deformable" and sizes.backbone.startswith("vgg") else ""
    if facts.get("attributes", {}).get("using_deform") is False:
        unlike = "was trained without offsets, on a smaller map"
    if unlike:
        raise RequestError(
            f"{method}.checkpoint: the official network in {file} {unlike}, ours does not: evaluate it with the "
            f"official code (--set {method}.source=CHECKOUT)"
        )
    if architecture is None or facts["channels"] != sizes.channels:
        raise RequestError(
            f"{method}.checkpoint: the backbone in {file} is none of ours: evaluate it with the official code "
            f"(--set {method}.source=CHECKOUT)"
        )
    if method in _DISTANCES and (facts["activation"], facts["epsilon"]) != ("log", 1e-4):
        raise RequestError(
            f"{method}.checkpoint: {file} has the similarity {facts['activation']!r} with epsilon {facts['epsilon']}, "
            f"ours is 'log' with 0.0001: evaluate it with the official code (--set {method}.source=CHECKOUT)"
        )


def build(method: Method, task: FitContext) -> PartPrototypeModel:
    """The network that was given instead of being trained, in eval mode.

    Raises:
        CellError: where its tensors are not those of the network.
    """
    checkpoint = read(task.config.checkpoint.path) if task.config.checkpoint else None
    if task.config.source is not None:
        return official.build(method.name, task, checkpoint).eval()
    assert checkpoint is not None
    sizes = {name: checkpoint.facts["sizes"][size] for name, size in SETTINGS[method.name].items()}
    config = task.config.model_copy(update={"checkpoint": None, **sizes})
    model = method.build(replace(task, config=config))
    _adapt(model, checkpoint)
    wanted = model.state_dict()
    given = {name.replace("features.", "backbone.", 1): tensor for name, tensor in checkpoint.weights.items()}
    wrong = [name for name in given if name not in wanted or wanted[name].shape != given[name].shape]
    own = ("prototypes.", "num_batches_tracked", "slots", "_extra_state")
    wrong += [name for name in wanted if name not in given and not name.startswith(own) and not name.endswith(own)]
    if wrong:
        raise CellError(f"{task.config.checkpoint.path} does not fit {method.name}: {', '.join(wrong[:4])}")
    model.load_state_dict(given, strict=False)
    _FINISH.get(method.name, lambda model: None)(model)
    return model.eval()


_FACTS: dict[str, Any] = {
    "method": str,
    "classes": int,
    "architecture": str | None,
    "channels": int,
    "activation": str,
    "epsilon": float | None,
}
"""What a header has to say, and as what."""


def _wrong_facts(facts: Any) -> str:
    """Which of the facts are missing, or none; empty where all are there."""
    if not isinstance(facts, dict):
        return f"a {type(facts).__name__}"
    wrong = [name for name, kind in _FACTS.items() if name not in facts or not isinstance(facts[name], kind)]
    if not wrong and (facts["method"] not in SETTINGS or not isinstance(facts.get("attributes", {}), dict)):
        wrong = ["method" if facts["method"] not in SETTINGS else "attributes"]
    return ", ".join(wrong)


def _write(out: Path, state: dict[str, Tensor], facts: dict[str, Any]) -> None:
    beside, unfinished = out.with_suffix(".json"), out.with_suffix(".tmp")
    if out.exists():
        if facts_of(out).get("source_digest") != facts["source_digest"]:
            raise RequestError(f"{out} is there already and came from another file: give another name, or delete it")
    elif beside.exists():
        raise RequestError(f"{beside} is there already: give another name, or delete it")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        save_file(state, unfinished, metadata={_HEADER: json.dumps(facts, sort_keys=True)})
        beside.write_text(json.dumps(facts, indent=1) + "\n")
        unfinished.replace(out)
    except (OSError, SafetensorError) as error:
        raise RequestError(f"{out} cannot be written ({error})") from error


def _adapt(model: Any, checkpoint: Checkpoint) -> None:
    """Give a network add-on layers of other widths, and the ragged classes of a pruned file."""
    identity, state = checkpoint.identity, checkpoint.state
    widths = [state[f"add_on_layers.{place}.weight"].shape[:2] for place in range(0, 2 * checkpoint.facts["add_on"], 2)]
    if len(widths) > 2:
        layers: list[nn.Module] = []
        for outputs, inputs in widths:
            layers += [nn.Conv2d(inputs, outputs, 1), nn.ReLU()]
        model.add_on_layers = nn.Sequential(*layers[:-1], nn.Sigmoid())
    if identity is not None:
        model.prototypes = PrototypeTable(identity)
        if len(identity) != len(model.prototype_vectors):
            model.prototype_vectors = nn.Parameter(torch.empty_like(state["prototype_vectors"]))
            model.last_layer = nn.Linear(*identity.shape, bias=False)


def _identity(method: str, found: official_files.Official, sizes: Mapping[str, int]) -> Tensor | None:
    """Bool ``(P, C)``, as pickled or else prototype j to class ``j // (P / C)``."""
    if method == "protopool":
        return None
    count, classes = sizes["P"], sizes["C"]
    if found.identity is not None:
        identity = found.file.tensor(found.identity)
        if identity.shape != (count, classes):
            raise RequestError(f"{found.file.path} is broken: its class identity is {tuple(identity.shape)}")
        return identity > 0
    if count % classes:
        raise RequestError(
            f"{found.file.path} has {count} prototypes for {classes} classes, and a state dict does not say which "
            "belongs to which: import the whole pickled model"
        )
    return torch.eye(classes, dtype=torch.bool).repeat_interleave(count // classes, 0)


def _facts(
    method: str, found: official_files.Official, sizes: dict[str, int], identity: Tensor | None
) -> dict[str, Any]:
    """What is known beside the tensors; ``assumed`` lists what a state dict does not say."""
    attributes = {
        name: value
        for name, value in found.attributes.items()
        if not isinstance(value, str) or value.isprintable()  # what is said of a file goes to a terminal
    }
    activation = _FIXED.get(method) or attributes.get("prototype_activation_function", "log")
    per_class = sorted({int(n) for n in identity.sum(0)}) if identity is not None else [sizes["K"]]
    add_on = [name for name in found.state if re.fullmatch(r"add_on_layers\.\d+\.weight", name)]
    epsilon = attributes.get("epsilon", 1e-4)
    stored = {
        "activation": "prototype_activation_function" in attributes or method not in _DISTANCES,
        "epsilon": "epsilon" in attributes or method not in _DISTANCES,
        "class identity": found.identity is not None or method == "protopool",
    }
    return {
        "method": method,
        "class": found.kind,
        "classes": sizes["C"],
        "prototypes": sizes["P"],
        "per_class": per_class[0] if len(per_class) == 1 else per_class,
        "depth": sizes["D"],
        "sizes": {"K": max(per_class), **sizes},
        "architecture": official_files.architecture(found.shapes),
        "channels": sizes["B"],
        "add_on": len(add_on),
        "activation": activation if isinstance(activation, str) else _FUNCTION,
        "epsilon": epsilon if isinstance(epsilon, float) else None,
        "attributes": {
            name: value for name, value in attributes.items() if isinstance(value, str | int | float | None)
        },
        "assumed": [name for name, known in stored.items() if not known],
        "tensors": len(found.state),
        "format": found.file.format,
        "inert": [name for name in found.file.names if not name.startswith(("torch.", "collections.", "builtins."))],
        **_doubts(method, found, sizes),
    }


def _doubts(method: str, found: official_files.Official, sizes: Mapping[str, int]) -> dict[str, str]:
    if method in ("protopnet", "tesnet") and official_files.recognised(found) is None:
        usual = {"protopnet": 128, "tesnet": 64}[method]
        unusual = f", and {sizes['D']} channels are not its usual {usual}" if sizes["D"] != usual else ""
        return {"doubt": f"protopnet and tesnet write the same state dict; taken for {method} as asked{unusual}"}
    return {}


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


class Official:
    """What the catalogue's kind ``checkpoints`` names: how the harness takes in the models of others."""

    convert = staticmethod(convert)
    check = staticmethod(check)
    build = staticmethod(build)
