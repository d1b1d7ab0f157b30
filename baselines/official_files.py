"""Files of the official repositories: their writer, their tensors, and the sizes on which these agree.

Sources: the state dicts of cfchen-duke/ProtoPNet, JackeyWang96/TesNet, gmum/ProtoPool, gmum/ProtoPShare,
jdonnelly36/Deformable-ProtoPNet, hqhQAQ/EvalProtoPNet, cwangrun/ST-ProtoPNet, M-Nauta/ProtoTree, merlresearch/PixPNet,
M-Nauta/PIPNet and Henrymachiyu/This-looks-like-those_ProtoConcepts.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from baselines import official_pip
from bench.contract import RequestError
from bench.models.pickle_values import Object, TensorData
from bench.models.torch_file import TorchFile
from bench.models.torchvision import TorchvisionNet

Shape = tuple[int, ...]


def _branches(*places: int) -> dict[str, str]:
    """Return the tensors of ST-ProtoPNet's branches, whose convolutions have these places in the add-on layers."""
    found = {}
    for branch in ("trivial", "support"):
        found |= {f"prototype_vectors_{branch}": "P D 1 1", f"last_layer_{branch}.weight": "C P"}
        for place, before in zip(places, "BD", strict=True):
            found |= {
                f"add_on_layers_{branch}.{place}.weight": f"D {before} 1 1",
                f"add_on_layers_{branch}.{place}.bias": "D",
            }
    return found


_CONNECTION = {"last_layer.weight": "C P"}
SHAPES: dict[str, dict[str, str]] = {
    "protopnet": {"prototype_vectors": "P D 1 1", **_CONNECTION},
    "protopshare": {"prototype_vectors": "P D 1 1", **_CONNECTION},
    "tesnet": {"prototype_vectors": "P D 1 1", **_CONNECTION},
    "protopool": {
        "prototype_vectors": "P D 1 1",
        "proto_presence": "C P K",
        "last_layer.weight": "C C*K",
    },
    "deformable": {
        "prototype_vectors": "P D H W",
        "conv_offset.0.weight": "O D+2 H+2 W+2",
        "conv_offset.0.bias": "O",
        "conv_offset.2.weight": "2*H*W O H W",
        "conv_offset.2.bias": "2*H*W",
        **_CONNECTION,
    },
    # Its number of classes is in the arguments beside the tensors alone.
    "evalprotopnet": {"prototype_vectors": "P D 1 1", "activation_weight": "P"},
    "st-protopnet": _branches(0, 2),
    "protoconcepts": {"prototype_vectors": "P D 1 1", "cap_width_l2": "1 P", "non_vis_mask": "P", **_CONNECTION},
    # Two tensors are made from the nodes of the tree, see baselines.official_trees.
    "prototree": {"prototype_vectors": "P D 1 1", "leaves": "L C", "turns": "L P"},
    "pixpnet": {"prototype_vectors": "P D 1 1", "prototype_class_identity": "P C"},
    "pipnet": _CONNECTION,
}
"""Tensors of each network besides backbone and add-on layers. C classes, P prototypes of D channels, K slots."""

OTHER_FORMS = {
    "st-protopnet": _branches(1, 2),
    "protoconcepts": SHAPES["protopool"] | {"cap_width_l2": "1 P", "non_vis_mask": "C P K"},
}
"""Tensors of a second form of the official network: ST-ProtoPNet for whole images, ProtoConcepts on ProtoPool."""

ADD_ON = {
    **dict.fromkeys(("protopnet", "protopshare", "tesnet", "protoconcepts", "pixpnet"), "even"),
    **dict.fromkeys(("protopool", "evalprotopnet"), "one"),
    **dict.fromkeys(("deformable", "st-protopnet"), "none"),
    "prototree": "bare",
    "pipnet": "some",
}
"""Number of 1x1 convolutions in ``add_on_layers``: even, one, one without bias (bare), one or none (some), none."""

_IGNORED = {"ones", "alfa", "corresponding_sample_idxs", "min_fmap_idxs"}
"""Constants of the official code, the threshold that ProtoPool's log similarity does not use, PixPNet's sources."""

_CLASSES = {"STProtoPNet": "st-protopnet", "PPNet": "protopnet", "TESNet": "tesnet", "PrototypeChooser": "protopool"}
_NESTED = ("model_state_dict", "state_dict", "model", "net")
_OF_MODULES = ("img_size", "epsilon", "num_classes", "prototype_activation_function", "m", "using_deform", "topk_k")
_ATTRIBUTES = (*_OF_MODULES, "_log_probabilities", "_kontschieder_normalization")
_USUAL_DEPTH = {"protopnet": 128, "tesnet": 64}
_FAMILIES = (
    ("layer1.", ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152")),
    ("features.denseblock1.", ("densenet121", "densenet161", "densenet169", "densenet201")),
    ("features.0.0.", ("convnext_tiny",)),
    ("features.0.", tuple(f"vgg{depth}{norm}" for depth in (11, 13, 16, 19) for norm in ("", "_bn"))),
)
ARCHITECTURES = tuple(name for _, names in _FAMILIES for name in names)
_MOST_TENSORS = 20_000
_LONGEST_NAME = 1_000


@dataclass(frozen=True)
class OfficialFile:
    """Content of an official file.

    Attributes:
        file: open file, from which tensors are read.
        kind: name of the pickled class; ``None`` for a state dict.
        state: the tensors by their official names, without ``module.``.
        attributes: plain values among the attributes of the pickled module.
        identity: ``prototype_class_identity`` of a pickled module.
        module: pickled module; ``None`` for a state dict.
        made: tensors that were made from others in the file.
    """

    file: TorchFile
    kind: str | None
    state: dict[str, TensorData]
    attributes: dict[str, Any]
    identity: TensorData | None
    module: Object | None = None
    made: Mapping[str, Tensor] = field(default_factory=dict)

    @property
    def shapes(self) -> dict[str, Shape]:
        """Shapes of all tensors."""
        shapes = {name: self.file.shape(data) for name, data in self.state.items()}
        return shapes | {name: tuple(tensor.shape) for name, tensor in self.made.items()}


def read(path: Path) -> OfficialFile:
    """Read an official file; nothing in it is executed.

    Raises:
        RequestError: if it contains no network.
    """
    file = TorchFile(path)
    content, attributes, kind = file.content, {}, None
    arguments = content.get("args") if isinstance(content, dict) else None
    if isinstance(arguments, Object):
        attributes = {"num_classes": arguments.state.get("nb_classes")}
    for name in _NESTED:
        if isinstance(content, dict) and isinstance(content.get(name), dict | Object):
            content = content[name]
    if isinstance(content, Object):
        content = _unwrapped(content)
        attributes, kind = content.state, content.kind.name
        state = dict(_tensors_of(content, path))
    elif isinstance(content, dict):
        state = {name: data for name, data in content.items() if isinstance(data, TensorData)}
    else:
        state = {}
    if not state or not all(isinstance(name, str) and name.isprintable() for name in state):
        raise RequestError(f"{path} holds no network: neither a module nor a dict of tensors")
    if all(name.startswith("module.") for name in state):
        state = {name.removeprefix("module."): data for name, data in state.items()}
    identity = attributes.get("prototype_class_identity")
    return OfficialFile(
        file,
        kind,
        state,
        {name: attributes[name] for name in _ATTRIBUTES if name in attributes},
        identity if isinstance(identity, TensorData) else None,
        content if isinstance(content, Object) else None,
    )


def recognised(official: OfficialFile) -> str | None:
    """Return the method that wrote the file; ``None`` if several write its keys."""
    state = official.state
    if "cap_width_l2" in state:
        return "protoconcepts"
    if "activation_weight" in state:
        return "evalprotopnet"
    if "proto_presence" in state:
        return "protopool"
    if any(name.startswith("conv_offset.") for name in state):
        return "deformable"
    if any("_support" in name for name in state):
        return "st-protopnet"
    if any(name.startswith("_root.") for name in state):
        return "prototree"
    if any("add_on_layers.conv_last" in name for name in state):
        return "pixpnet"
    if official_pip.WRITTEN_BY in state:
        return "pipnet"
    method = _CLASSES.get(official.kind or "")
    if method == "protopnet" and official.identity is not None:
        # The same class and keys; merged prototypes have several classes.
        identity = official.file.tensor(official.identity)
        return "protopshare" if identity.ndim == 2 and bool(((identity > 0).sum(1) > 1).any()) else method
    return method


def measure(method: str, official: OfficialFile) -> dict[str, int]:
    """Return the sizes C, P, D, ... of a file of that method, checked in every tensor; B are the backbone's channels.

    Raises:
        RequestError: naming tensors that are missing, unknown or of a shape that does not fit the rest.
    """
    return sizes_of(method, official.shapes, official.file.path, official.attributes.get("num_classes"))


def sizes_of(method: str, shapes: Mapping[str, Shape], path: Path, classes: object = None) -> dict[str, int]:
    """Return the sizes of :func:`measure`, of the tensors with these shapes in the file ``path``.

    ``classes`` is their number as the file says it, for methods that have it in no tensor.
    """
    other = other_form(method, shapes)
    wanted = (OTHER_FORMS if other else SHAPES)[method]
    convolutions = ADD_ON["protopool" if other and method == "protoconcepts" else method]
    add_on = sorted((name for name in shapes if re.fullmatch(r"add_on_layers\.\d+\.weight", name)), key=_layer)
    biases = [] if convolutions == "bare" else [name.replace(".weight", ".bias") for name in add_on]
    missing = [name for name in [*wanted, *biases] if name not in shapes]
    known = {*wanted, *add_on, *biases, *_IGNORED}
    unknown = [name for name in shapes if name not in known and not name.startswith("features.")]
    if missing or unknown:
        parts = [
            f"{title}: {', '.join(names[:4])}" for title, names in (("no", missing), ("unknown", unknown)) if names
        ]
        raise RequestError(f"{path} is no file of {method} ({'; '.join(parts)})")
    count = len(add_on)
    if not {"even": count and count % 2 == 0, "none": count == 0, "some": count < 2}.get(convolutions, count == 1):
        raise RequestError(f"{path} is no file of {method}: it has {count} convolutions in add_on_layers")
    sizes: dict[str, int] = {}
    for name, text in wanted.items():
        _agree(path, name, shapes[name], text, sizes)
    widths = [shapes[name][0] for name in add_on]
    inputs = ["B", *(str(width) for width in widths)]
    for name, before, width in zip(add_on, inputs, widths, strict=False):
        _agree(path, name, shapes[name], f"{width} {before} 1 1", sizes)
    for bias, width in zip(biases, widths, strict=False):
        _agree(path, bias, shapes[bias], f"{width}", sizes)
    sizes.setdefault("D", sizes["P"])  # PIP-Net's prototypes are channels
    sizes.setdefault("B", sizes["D"])
    if "C" not in sizes:
        if type(classes) is not int or classes < 1 or sizes["P"] % classes:
            raise RequestError(
                f"{path} does not say for how many classes its {sizes['P']} prototypes are: import the file that the "
                "official code wrote, with the arguments in it"
            )
        sizes["C"] = classes
    # Without prototypes a file of a few bytes could claim any number of classes.
    if not all(sizes.values()):
        raise RequestError(f"{path} is broken: it has tensors without numbers ({', '.join(_none(sizes))})")
    if widths and widths[-1] != sizes["D"]:
        raise RequestError(f"{path} is broken: prototypes of {sizes['D']} channels after add-on layers of {widths[-1]}")
    return sizes


def other_form(method: str, shapes: Collection[str]) -> bool:
    """Return whether some of these tensors are those that only :data:`OTHER_FORMS` of the method have."""
    return not (OTHER_FORMS.get(method, {}).keys() - SHAPES[method].keys()).isdisjoint(shapes)


def architecture(shapes: Mapping[str, Shape]) -> str | None:
    """Return the torchvision network whose tensors have these names and shapes, without ``features.`` in front.

    Example:
        >>> architecture({"features.features.0.weight": (64, 3, 3, 3)}) is None
        True
    """
    given = {name.removeprefix("features."): shape for name, shape in shapes.items() if name.startswith("features.")}
    # Counters of batches: absent from files of torch before 0.4.1.
    given = {name: shape for name, shape in given.items() if not name.endswith("num_batches_tracked")}
    for begin, names in _FAMILIES:
        if any(key.startswith(begin) for key in given):
            return next((name for name in names if shapes_of_network(name) == given), None)
    return None


@functools.cache
def shapes_of_network(architecture: str) -> dict[str, Shape]:
    """Return the shapes of torchvision's network by name and in its order, without counters of batches."""
    with torch.device("meta"):
        state = TorchvisionNet(architecture, 0)().state_dict()
    return {name: tuple(tensor.shape) for name, tensor in state.items() if not name.endswith("num_batches_tracked")}


def named_as_ours(method: str, state: Mapping[str, Tensor], wanted: Collection[str]) -> dict[str, Tensor]:
    """Return official tensors under the names that a network of ours has for them; ``wanted`` are its names."""
    given = {_our_name(name): tensor for name, tensor in state.items()}
    if method == "pipnet":
        given = official_pip.named_as_ours(given, wanted)
    if method == "protoconcepts":
        given = {name if name in wanted else f"network.{name}": tensor for name, tensor in given.items()}
        mask = given.get("non_vis_mask")
        if mask is not None and mask.ndim == 3:  # on ProtoPool it is repeated for every slot of every class
            given["non_vis_mask"] = mask.amin((0, 2))
    # A network with one of the branches of ST-ProtoPNet leaves the other in the file.
    return {name: tensor for name, tensor in given.items() if name in wanted or not name.startswith("branches.")}


def _our_name(name: str) -> str:
    if name.startswith("features."):
        return name.replace("features.", "backbone.", 1)
    name = re.sub(r"^(add_on_layers|prototype_vectors|last_layer)_(trivial|support)", r"branches.\2.\1", name)
    return f"last_layer.{name}" if name == "activation_weight" else name


def base_of(kind: str | None, shapes: Mapping[str, Shape]) -> str:
    """Return the network that a file of ProtoConcepts extends; the state dicts of two of them have the same keys."""
    if other_form("protoconcepts", shapes):
        return "protopool"
    usual = "tesnet" if shapes["prototype_vectors"][1] == _USUAL_DEPTH["tesnet"] else "protopnet"
    return {"PPNet": "protopnet", "TESNet": "tesnet"}.get(kind or "", usual)


def doubts(method: str, official: OfficialFile, depth: int) -> str:
    """Return what is not certain about the writer of a file that was taken for ``method``; empty if nothing is."""
    # Both write the same keys; only a pickled module has the name of its class.
    if method in ("protopnet", "tesnet") and recognised(official) is None:
        usual = _USUAL_DEPTH[method]
        unusual = f", and {depth} channels are not its usual {usual}" if depth != usual else ""
        return f"protopnet and tesnet write the same state dict; taken for {method} as asked{unusual}"
    if method == "protoconcepts" and official.kind is None and not other_form(method, official.state):
        base = base_of(None, official.shapes)
        return f"its state dict is the same on protopnet and tesnet; taken for {base} by its {depth} channels"
    return ""


def tensors(official: OfficialFile) -> dict[str, Tensor]:
    """Read all tensors that count from the file."""
    read = {name: official.file.tensor(data) for name, data in official.state.items() if name not in _IGNORED}
    return {**read, **official.made}


def _agree(path: Path, name: str, shape: Shape, text: str, sizes: dict[str, int]) -> None:
    """Check a shape against its text, in which a letter alone that has no value yet takes the one seen."""
    wanted = text.split()
    for size, word in zip(shape, wanted, strict=False):
        if word.isalpha():
            sizes.setdefault(word, size)
    if len(shape) != len(wanted) or shape != tuple(_value(word, sizes) for word in wanted):
        expected = ", ".join(f"{word}={sizes[word]}" if word in sizes else word for word in wanted)
        raise RequestError(f"{path} is broken: {name} is {shape}, expected ({expected})")


def _value(word: str, sizes: Mapping[str, int]) -> int:
    total = 0
    for term in word.split("+"):
        product = 1
        for factor in term.split("*"):
            product *= int(factor) if factor.isdigit() else sizes[factor]
        total += product
    return total


def _none(sizes: Mapping[str, int]) -> list[str]:
    return [f"{name}=0" for name, size in sizes.items() if not size]


def _layer(name: str) -> int:
    return int(name.split(".")[1])


def _unwrapped(module: Object) -> Object:
    """Return the module inside ``DataParallel``."""
    inner = _dict(module, "_modules").get("module")
    return inner if module.kind.name.endswith("DataParallel") and isinstance(inner, Object) else module


def _tensors_of(root: Object, path: Path) -> Iterator[tuple[str, TensorData]]:
    """Yield parameters and persistent buffers of a pickled module, under the names of its state dict."""
    waiting, visited = [("", root)], 0
    while waiting:
        prefix, module = waiting.pop()
        parts = [_dict(module, name) for name in ("_parameters", "_buffers", "_modules")]
        # Modules of a crafted file may contain one another, or one module very often.
        visited += 1 + sum(map(len, parts))
        if visited > _MOST_TENSORS or len(prefix) > _LONGEST_NAME:
            raise RequestError(f"{path} is broken: its modules contain one another")
        for name in (name for part in parts for name in part):
            if not isinstance(name, str) or len(name) > _LONGEST_NAME:
                raise RequestError(f"{path} is broken: it has a tensor or module without a name")
        transient = module.state.get("_non_persistent_buffers_set")
        transient = transient if isinstance(transient, set) else set()
        for name, data in {**parts[0], **parts[1]}.items():
            if isinstance(data, TensorData) and name not in transient:
                yield f"{prefix}{name}", data
        waiting += [(f"{prefix}{name}.", child) for name, child in parts[2].items() if isinstance(child, Object)]


def _dict(module: Object, name: str) -> dict[str, Any]:
    value = module.state.get(name)
    return value if isinstance(value, dict) else {}
