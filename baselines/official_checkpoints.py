"""Import of official checkpoints: ``convert`` writes them as safetensors, ``build`` loads such a file into a network.

The converted file keeps the official names of the tensors, so that this code and the official one can both load it. The
other facts of an official file are in its header, and for people in a JSON file of the same name.
"""

from __future__ import annotations

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

from baselines import official_files, official_models, official_pip, official_pixels, official_trees, soft_tree
from bench.contract import CellError, FitContext, Method, PartPrototypeModel, PrototypeTable, RequestError, Sizes
from bench.core.integrity import sha256_of
from bench.models.external import NetworkConfig

_HEADER = "partbench"
_IDENTITY = "prototype_class_identity"
_DISTANCES = ("protopnet", "protopshare", "protopool", "protoconcepts")
"""Methods whose similarity is a function of distances, which a file may choose; that of the others is fixed."""
_FIXED = {
    **dict.fromkeys(("tesnet", "evalprotopnet", "st-protopnet"), "projection"),
    **dict.fromkeys(("deformable", "pixpnet"), "cosine"),
    "prototree": "exponential",
    "pipnet": "softmax",
}
_SAME_FILES = {"support-st": "st-protopnet"}
"""Methods that load the files of another one."""
_FORMS = {"projection": "cropped", "cosine": "full"}
"""Forms of ST-ProtoPNet by the similarity that they use."""
_COMPLETED: dict[str, Callable[[Any], Any]] = {
    "prototree": official_trees.flattened,
    "pixpnet": official_pixels.renamed,
    "pipnet": official_pip.renamed,
}
"""For files with other names of tensors, the function that gives them the names here."""
_FUNCTION = "a function of the author's own"

SETTINGS = {
    "protopnet": {"per_class": "K", "depth": "D"},
    "tesnet": {"per_class": "K", "depth": "D"},
    "protopool": {"prototypes": "P", "slots": "K", "depth": "D"},
    "deformable": {"per_class": "K", "hidden": "O"},
    "protoconcepts": {"per_class": "K", "prototypes": "P", "depth": "D"},
    "evalprotopnet": {"per_class": "K", "depth": "D"},
    "st-protopnet": {"per_class": "K", "depth": "D"},
    "prototree": {"depth": "D"},
    "protopshare": {"per_class": "K", "depth": "D"},
    "pixpnet": {"per_class": "K", "depth": "D"},
    "pipnet": {"prototypes": "P"},
}
"""Settings that are sizes, and the letters of these sizes in the file."""

_FINISH: dict[str, Callable[[Any], object]] = {
    "protopool": lambda model: model.assign(),
    "prototree": lambda model: model.assign(),
    # Official offsets are always in use: before training opens them they are zero.
    "deformable": lambda model: setattr(model, "deformed", True),
    "protoconcepts": lambda model: model.settle(),
    "pipnet": official_pip.finish,
}
"""Steps after loading: state that follows from the weights of a network and is not in its file."""


@dataclass(frozen=True)
class ConvertedCheckpoint:
    """Converted file: official tensors and the facts of its header."""

    facts: dict[str, Any]
    state: dict[str, Tensor]

    @property
    def identity(self) -> Tensor | None:
        """Table of prototypes by class, bool ``(P, C)``; ``None`` if they are shared."""
        return self.state[_IDENTITY].bool() if _IDENTITY in self.state else None

    @property
    def weights(self) -> dict[str, Tensor]:
        """Tensors of the network itself."""
        return {name: tensor for name, tensor in self.state.items() if name != _IDENTITY}


def convert(method: str, file: Path, out: Path) -> dict[str, Any]:
    """Write an official file of ``method`` as safetensors, and its facts as JSON; nothing in it is executed.

    Args:
        method: name of the method that the file should be of.
        file: as the official code saved it: a pickled module, a dict with a state dict in it, or a state dict.
        out: file to write; ``.safetensors`` is appended if it is missing.

    Returns:
        The facts.

    Raises:
        RequestError: if the file is another method's or no such file, or ``out`` contains something else.
    """
    out = out if out.suffix == ".safetensors" else out.with_name(f"{out.name}.safetensors")
    official = official_files.read(file)
    writer = official_files.recognised(official)
    if writer not in (method, None):
        raise RequestError(
            f"{file} was written by {writer}, not by {method}: python -m bench import {writer} {file} {out}"
        )
    official = _COMPLETED.get(method, lambda same: same)(official)
    sizes = official_files.measure(method, official)
    state = official_files.tensors(official)
    identity = _identity(method, official, sizes)
    facts = _facts(method, official, sizes, identity) | {"source_file": file.name, "source_digest": sha256_of(file)}
    if identity is not None:
        state[_IDENTITY] = identity.to(torch.uint8)
    _write(out, state, facts)
    return facts


def facts_of(file: Path) -> dict[str, Any]:
    """Read the header of a converted file.

    Raises:
        RequestError: if it is no converted file.
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
        raise RequestError(f"{file} has an unreadable header ({error}): {advice}") from error
    wrong = _wrong_facts(facts)
    if wrong:
        raise RequestError(f"{file} has an unusable header ({wrong}): {advice}")
    return dict(facts)


def read(file: Path) -> ConvertedCheckpoint:
    """Read a converted file.

    Raises:
        RequestError: if it is none, or its tensors have other sizes than its header.
    """
    facts = facts_of(file)
    try:
        state = load_file(file)
    except (SafetensorError, OSError) as error:
        raise RequestError(f"{file} cannot be read ({error})") from error
    own = _IDENTITY in official_files.SHAPES[facts["method"]]
    shapes = {name: tuple(tensor.shape) for name, tensor in state.items() if own or name != _IDENTITY}
    classes = state[_IDENTITY].shape[-1] if _IDENTITY in state else None
    measured = official_files.sizes_of(facts["method"], shapes, file, classes)
    if _IDENTITY in state:
        identity = state[_IDENTITY]
        if identity.shape != (measured["P"], measured["C"]):
            raise RequestError(f"{file} is broken: its class identity is {tuple(identity.shape)}")
        measured["K"] = max(int(n) for n in identity.bool().sum(0))
    # A network is built with the sizes of the header, so these must be the sizes of the tensors in the file.
    measured["add_on"] = sum(name.startswith("add_on_layers.") and name.endswith(".weight") for name in shapes)
    stated = {**facts["sizes"], "add_on": facts.get("add_on")} if isinstance(facts.get("sizes"), dict) else {}
    unlike = [f"{name}={size}" for name, size in measured.items() if stated.get(name) != size]
    if unlike:
        raise RequestError(f"{file} is broken: its header lacks the sizes of its tensors ({', '.join(unlike)})")
    return ConvertedCheckpoint(facts, state)


def check(method: str, config: NetworkConfig, sizes: Sizes) -> None:
    """Check before anything runs that the given checkpoint or source fits the request.

    Raises:
        RequestError: if it does not, with the reason.
    """
    if config.source is not None:
        official_models.check(method, config, sizes)
    if config.checkpoint is None:
        return
    file = config.checkpoint.path
    facts = facts_of(file)  # of the header alone, without the tensors
    if facts["method"] != _SAME_FILES.get(method, method):
        raise RequestError(f"{method}.checkpoint: {file} is a checkpoint of {facts['method']}")
    base = getattr(config, "base", None)
    if facts.get("base", base) != base:
        raise RequestError(f"{method}.checkpoint: {file} extends {facts['base']}: --set {method}.base={facts['base']}")
    if facts["classes"] != sizes.classes:
        raise RequestError(
            f"{method}.checkpoint: {file} knows {facts['classes']} classes, the data has {sizes.classes}"
        )
    architecture = facts["architecture"]
    usual = official_pip.backbones(architecture) if method == "pipnet" else (architecture,)
    if architecture is not None and sizes.backbone and sizes.backbone not in usual:
        raise RequestError(
            f"{method}.checkpoint: {file} was made with {architecture}, not {sizes.backbone}: --backbones {usual[0]}"
        )
    if facts["activation"] == _FUNCTION:
        raise RequestError(f"{method}.checkpoint: {file} turns distances into similarities by a function it lacks")
    if config.source is not None:
        return
    upsamples = method == "deformable" or (method in ("st-protopnet", "support-st") and facts["activation"] == "cosine")
    unlike = "drops the last max-pooling of VGG" if upsamples and sizes.backbone.startswith("vgg") else ""
    attributes = facts.get("attributes", {})
    if attributes.get("using_deform") is False:
        unlike = "was trained without offsets, on a smaller map"
    if attributes.get("_kontschieder_normalization"):
        unlike = "has leaves without a softmax"
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
    """Build the network that was given instead of being trained, in eval mode.

    Raises:
        CellError: if its tensors are not those of the network.
    """
    checkpoint = read(task.config.checkpoint.path) if task.config.checkpoint else None
    if task.config.source is not None:
        return official_models.build(method.name, task, checkpoint).eval()
    assert checkpoint is not None
    kind = _SAME_FILES.get(method.name, method.name)
    sizes = {name: checkpoint.facts["sizes"][size] for name, size in SETTINGS[kind].items()}
    form = {"form": _FORMS[checkpoint.facts["activation"]]} if kind == "st-protopnet" else {}
    if kind == "pipnet" and not checkpoint.facts["add_on"]:
        sizes["prototypes"] = 0  # they are the backbone's channels
    config = task.config.model_copy(update={"checkpoint": None, **sizes, **form})
    model = method.build(replace(task, config=config))
    _adapt(model, checkpoint)
    wanted = model.state_dict()
    given = official_files.named_as_ours(kind, checkpoint.weights, wanted.keys())
    wrong = [name for name in given if name not in wanted or wanted[name].shape != given[name].shape]
    # State that the official networks do not have, or that files of old releases of torch lack.
    derived = ("prototypes.", "network.prototypes.", "num_batches_tracked", "slots", "_extra_state")
    wrong += [
        name for name in wanted if name not in given and not name.startswith(derived) and not name.endswith(derived)
    ]
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
"""Required facts of a header and their types."""


def _wrong_facts(facts: Any) -> str:
    """Return the facts that are missing or of another type; empty if there are none."""
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
            raise RequestError(f"{out} exists and was made from another file: give another name, or delete it")
    elif beside.exists():
        raise RequestError(f"{beside} exists: give another name, or delete it")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        save_file(state, unfinished, metadata={_HEADER: json.dumps(facts, sort_keys=True)})
        beside.write_text(json.dumps(facts, indent=1) + "\n")
        unfinished.replace(out)
    except (OSError, SafetensorError) as error:
        raise RequestError(f"{out} cannot be written ({error})") from error


def _adapt(model: Any, checkpoint: ConvertedCheckpoint) -> None:
    """Give a network add-on layers of other widths, and the ragged classes of a pruned file."""
    if not hasattr(model, "prototype_vectors"):  # ST-ProtoPNet has neither
        return
    identity, state = checkpoint.identity, checkpoint.state
    # Convolutions alternate with activations, which have no weights, so their numbers are even.
    places = range(0, 2 * checkpoint.facts["add_on"], 2)
    widths = [state[f"add_on_layers.{place}.weight"].shape[:2] for place in places]
    if len(widths) > 2:
        layers: list[nn.Module] = []
        for outputs, inputs in widths:
            layers += [nn.Conv2d(inputs, outputs, 1), nn.ReLU()]
        model.add_on_layers = nn.Sequential(*layers[:-1], nn.Sigmoid())
    # Pruning leaves classes with different numbers of prototypes, which the sizes of a network cannot express.
    if identity is not None:
        model.prototypes = PrototypeTable(identity)
        if len(identity) != len(model.prototype_vectors):
            model.prototype_vectors = nn.Parameter(torch.empty_like(state["prototype_vectors"]))
            if "last_layer.weight" in state:
                model.last_layer = nn.Linear(*identity.shape, bias=False)
    if "turns" in state:
        model.turns, model.leaves = state["turns"], state["leaves"]


def _identity(method: str, official: official_files.OfficialFile, sizes: Mapping[str, int]) -> Tensor | None:
    """Return the table of prototypes by class, bool ``(P, C)``, as pickled or else prototype j for ``j // (P / C)``."""
    if "K" in sizes:  # they are shared through slots
        return None
    if method in ("prototree", "pipnet"):
        made = official.made
        return official_pip.identity(official) if not made else soft_tree.reachable(made["turns"], made["leaves"])
    count, classes = sizes["P"], sizes["C"]
    if official.identity is not None:
        identity = official.file.tensor(official.identity)
        if identity.shape != (count, classes):
            raise RequestError(f"{official.file.path} is broken: its class identity is {tuple(identity.shape)}")
        return identity > 0
    if count % classes:
        raise RequestError(
            f"{official.file.path} has {count} prototypes for {classes} classes, and a state dict has no table of "
            "prototypes by class: import the whole pickled model"
        )
    return torch.eye(classes, dtype=torch.bool).repeat_interleave(count // classes, 0)


def _facts(
    method: str, official: official_files.OfficialFile, sizes: dict[str, int], identity: Tensor | None
) -> dict[str, Any]:
    """Return the facts of a file besides its tensors; ``assumed`` lists those that a state dict does not contain."""
    attributes = {
        name: value
        for name, value in official.attributes.items()
        if not isinstance(value, str) or value.isprintable()  # facts are printed on a terminal
    }
    full = method == "st-protopnet" and official_files.other_form(method, official.state)
    activation = "cosine" if full else _FIXED.get(method, attributes.get("prototype_activation_function", "log"))
    per_class = sorted({int(n) for n in identity.sum(0)}) if identity is not None else [sizes["K"]]
    add_on = [name for name in official.state if re.fullmatch(r"add_on_layers\.\d+\.weight", name)]
    epsilon = attributes.get("epsilon", 1e-6 if method == "pixpnet" else 1e-4)
    stored = {
        "activation": "prototype_activation_function" in attributes or method not in (*_DISTANCES, "pixpnet"),
        "epsilon": "epsilon" in attributes or method not in (*_DISTANCES, "pixpnet"),
        "distance": method != "pixpnet",
        "class identity": official.identity is not None or identity is None or method in ("prototree", "pipnet"),
    }
    return {
        "method": method,
        "class": official.kind,
        "classes": sizes["C"],
        "prototypes": sizes["P"],
        "per_class": per_class[0] if len(per_class) == 1 else per_class,
        "depth": sizes["D"],
        "sizes": {"K": max(per_class), **sizes},
        "architecture": official_files.architecture(official.shapes),
        "channels": sizes["B"],
        "add_on": len(add_on),
        "activation": activation if isinstance(activation, str) else _FUNCTION,
        "epsilon": epsilon if isinstance(epsilon, float) else None,
        "attributes": {
            name: value for name, value in attributes.items() if isinstance(value, str | int | float | None)
        },
        "assumed": [name for name, known in stored.items() if not known],
        "tensors": len(official.state),
        "format": official.file.format,
        "inert": [name for name in official.file.names if not name.startswith(("torch.", "collections.", "builtins."))],
        **({"doubt": doubt} if (doubt := official_files.doubts(method, official, sizes["D"])) else {}),
        **({"base": official_files.base_of(official.kind, official.shapes)} if method == "protoconcepts" else {}),
    }


class OfficialCheckpoints:
    """Entry of the table of built-ins, kind ``checkpoints``: conversion, check and loading of official models."""

    convert = staticmethod(convert)
    check = staticmethod(check)
    build = staticmethod(build)
