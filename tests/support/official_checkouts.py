"""Checkouts of the official repositories as far as their model definitions go: the published names and signatures,
with bodies written for these tests from the formulas of the papers."""

from __future__ import annotations

import importlib
import sys
from argparse import Namespace
from contextlib import contextmanager
from pathlib import Path

from tests.support import official_code as code


def checkout(method: str, folder: Path, *, tiny: bool = True, full: bool = False) -> Path:
    """Write the model definition of a method; its ``resnet18`` is a small network unless it shall be torchvision's.

    ``full``: ST-ProtoPNet's for whole images.
    """
    resnet = f"TINY = {tiny}\n{code.RESNET}"
    features, field = "resnet_features", "receptive_field"
    if method in ("tesnet", "st-protopnet"):
        features, field = "models.resnet_features", "util.receptive_field"
    if method == "evalprotopnet":
        features = "models.resnet_features"
    if method == "protopool":
        field = "utils"
    if method == "prototree":
        features, field = "features.resnet_features", "util.receptive_field"
    imports = code.FROM.format(features, field) + (code.INSERT if method == "deformable" else "")
    network = getattr(code, method.upper().replace("-", "_"))
    files = {
        "util/net.py" if method == "prototree" else "model.py": (
            f"{code.HEAD.format(imports=imports)}\nFULL = {full}\n{network}"
        ),
        f"{features.replace('.', '/')}.py": resnet,
        f"{field.replace('.', '/')}.py": code.FIELD,
    }
    if method == "deformable":
        files["Deformable-Convolution-V2-PyTorch/functions/norm_preserve_deform_conv_func.py"] = code.OPERATION
    for name, text in files.items():
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return folder


@contextmanager
def imported(folder: Path):
    """The checkout's ``model`` as its authors import it; afterwards nothing of it can be imported."""
    before = set(sys.modules)
    sys.path.insert(0, str(folder))
    sys.path.insert(0, str(folder / "Deformable-Convolution-V2-PyTorch"))
    try:
        yield importlib.import_module("model" if (folder / "model.py").exists() else "util.net")
    finally:
        for entry in (str(folder), str(folder / "Deformable-Convolution-V2-PyTorch")):
            sys.path.remove(entry)
        roots = ("model", "models", "resnet_features", "receptive_field", "util", "utils", "functions", "features")
        for name in set(sys.modules) - before:
            if name.split(".")[0] in roots:
                del sys.modules[name]


def build(method: str, module, *, classes=3, per_class=2, depth=5, pool=7, kind="regular", levels=3):
    """A random network of a stand-in, in eval mode, whose batch statistics and weights are not at their start."""
    import torch

    torch.manual_seed(3)
    if method == "protopool":
        network = module.PrototypeChooser(
            pool, per_class, classes, arch="resnet18", pretrained=False, proto_depth=depth, use_last_layer=True
        )
    elif method == "prototree":
        settings = Namespace(
            net="resnet18", disable_pretrained=True, num_features=depth, depth=levels, W1=1, H1=1,
            log_probabilities=False, kontschieder_normalization=False,
        )  # fmt: skip
        features, add_on = module.get_network(classes, settings)
        network = module.ProtoTree(classes, features, settings, add_on)
    else:
        shape = (classes * per_class, 16, 2, 2) if method == "deformable" else (classes * per_class, depth, 1, 1)
        makers = {
            "tesnet": "construct_TesNet",
            "evalprotopnet": "construct_OursNet",
            "st-protopnet": "construct_STProtoPNet",
        }
        make = getattr(module, makers.get(method, "construct_PPNet"))
        more = {"add_on_layers_type": "upsample", "m": 0.1} if method == "deformable" else {"add_on_layers_type": kind}
        network = make("resnet18", False, 32, shape, classes, **more)
        if method == "protopshare":  # the last prototype is merged into the first
            network.last_layer.weight.data[:, 0] += network.last_layer.weight.data[:, -1]
            network.prototype_class_identity[0] += network.prototype_class_identity[-1]
            network.prune_prototypes([len(network.prototype_vectors) - 1])
    for tensor in network.state_dict().values():
        if tensor.is_floating_point() and not bool((tensor == 1).all()):
            # Leaves of a tree predict classes: theirs are apart.
            tensor += (3 if method == "prototree" and tensor.ndim == 1 else 0.1) * torch.rand(tensor.shape)
    with torch.no_grad():
        for layer in network.modules():
            if isinstance(layer, torch.nn.BatchNorm2d):
                layer.running_mean.uniform_(-0.5, 0.5)
                layer.running_var.uniform_(0.5, 1.5)
    return network.eval()


def as_saved(method: str, network):
    """What the official code saves of a network with three classes."""
    if method == "protopool":
        return {"model_state_dict": network.state_dict(), "epoch": 1}
    if method == "evalprotopnet":
        return {"model": network.state_dict(), "epoch": 11, "args": Namespace(nb_classes=3, seed=1028)}
    return network.state_dict() if method == "st-protopnet" else network


def answers(method: str, network, images):
    """Logits and similarity maps of a stand-in, with the signs of similarities and ProtoPool's slots settled."""
    import torch

    from baselines import external_repository as running

    with torch.no_grad(), running.contained(torch.device("cpu")):
        if method == "prototree":
            return network(images)[0].log(), torch.exp(-network.forward_partial(images)[1])
        if method == "tesnet":
            return network(images)[0], -network.push_forward(images)[1]
        if method == "evalprotopnet":
            return network(images)[0], network.push_forward(images)[1]
        if method == "st-protopnet":
            logits, _, maps = network(images)
            return sum(logits), torch.cat(maps, 1)
        if method == "deformable":
            return network(images, is_train=False)[1][1], network.push_forward(images)[1]
        d = network.prototype_distances(images)
        similarity = torch.log((d + 1) / (d + 1e-4))
        if method in ("protopnet", "protopshare"):
            return network(images)[0], similarity
        slots = network.proto_presence.argmax(1).flatten()  # class-major
        near, far = (torch.log((x + 1) / (x + 1e-4)) for x in (d.amin((2, 3)), d.mean((2, 3))))
        return (near - far)[:, slots] @ network.last_layer.weight.T, similarity
