"""ProtoTree's official files and network: from the pickled tree to the table of turns, and back.

A pickled ``ProtoTree`` (M-Nauta/ProtoTree) is nested nodes, and a map from these to the rows of its prototypes, which
follows the addresses of the nodes in the author's process: no state dict has it. So tensors get the names of the other
networks here, with two in place of the nodes: ``leaves (L, C)`` from the left and ``turns (L, P)`` as in
:mod:`baselines.soft_tree`.
"""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from bench.contract import CellError, RequestError
from bench.models.pickle_values import Object

_LEAF = "_dist_params"
_DEEPEST = 64
NAMES = {
    "_net.": "features.", "_add_on.": "add_on_layers.", "prototype_layer.prototype_vectors": "prototype_vectors",
}  # fmt: skip
"""Beginnings of official names, and the names here."""


def flattened(official: Any) -> Any:
    """Return an official file of a tree with the names of its tensors here, its leaves in one tensor, and the turns.

    Args:
        official: a :class:`baselines.official_files.OfficialFile`.

    Raises:
        RequestError: if it is no tree, or has no row for one of its nodes.
    """
    module, state, path = official.module, official.state, official.file.path
    rows = module.state.get("_out_map") if isinstance(module, Object) else None
    if not isinstance(rows, dict):
        raise RequestError(
            f"{path} has no map from the nodes of its tree to the prototypes, without which it predicts nothing: "
            "import model.pth of the same folder"
        )
    leaves: list[str] = []
    ways: list[dict[int, int]] = []
    used: set[int] = set()
    waiting: list[tuple[str, Any, dict[int, int]]] = [("_root.", _child(module, "_root"), {})]
    while waiting:
        name, node, way = waiting.pop()
        left, right = _child(node, "l"), _child(node, "r")
        if left is None and right is None and f"{name}{_LEAF}" in state:
            leaves.append(f"{name}{_LEAF}")
            ways.append(way)
            continue
        row = rows.get(node) if isinstance(node, Object) else None
        # A node below itself, or one in two places, has a row that was used already.
        if left is None or right is None or type(row) is not int or row < 0 or row in used or len(way) >= _DEEPEST:
            raise RequestError(f"{path} is broken: its nodes are no tree, or have no prototypes of their own")
        used.add(row)
        # The left one is taken first, so leaves come from the left.
        waiting += [(f"{name}r.", right, {**way, row: 1}), (f"{name}l.", left, {**way, row: -1})]
    shapes = {official.shapes[name] for name in leaves}
    unknown = [name for name in state if name.startswith("_root.") and name not in set(leaves)]
    if not used or unknown or len(shapes) > 1:
        raise RequestError(f"{path} is broken: its nodes are no tree with leaves of one size")
    turns = torch.zeros(len(leaves), len(rows), dtype=torch.int8)
    for leaf, way in enumerate(ways):
        if max(way) >= len(rows):
            raise RequestError(f"{path} is broken: a node has a prototype of a number that does not exist")
        turns[leaf, list(way)] = torch.tensor(list(way.values()), dtype=torch.int8)
    made = {"leaves": torch.stack([official.file.tensor(state[name]) for name in leaves]), "turns": turns}
    kept = {_renamed(name): data for name, data in state.items() if not name.startswith("_root.")}
    return replace(official, state=kept, made=made)


def make(module: Any, architecture: str, classes: int, depth: int, turns: Tensor) -> Any:
    """Build the official network with a tree of these turns, from the names in its ``util/net.py``."""
    settings = Namespace(
        net=architecture, disable_pretrained=True, num_features=depth, depth=1, W1=1, H1=1, log_probabilities=False,
        kontschieder_normalization=False, kontschieder_train=False, disable_derivative_free_leaf_optim=False,
    )  # fmt: skip
    features, add_on = module.get_network(classes, settings)
    tree = module.ProtoTree(classes, features, settings, add_on)
    branch, leaf = type(tree._root), type(tree._root.l)
    rows: dict[Any, int] = {}
    count = 0

    def grow(below: list[int]) -> Any:
        """Return the node above these leaves."""
        nonlocal count
        index, count = count, count + 1
        if len(below) == 1:
            return leaf(index, classes, settings)
        # The node's row is the one that all leaves below it, and no others, pass.
        row = next((row for row in range(turns.shape[1]) if turns[:, row].nonzero().flatten().tolist() == below), None)
        if row is None:
            raise CellError("the turns of the checkpoint are no tree: import the official file again")
        left, right = (grow([one for one in below if turns[one, row] == side]) for side in (-1, 1))
        node = branch(index, left, right, settings)
        rows[node] = row
        return node

    tree._root = grow(turns.any(1).nonzero().flatten().tolist())
    tree._out_map = rows
    tree._set_parents()
    tree.num_prototypes = turns.shape[1]
    tree.prototype_layer = type(tree.prototype_layer)(turns.shape[1], depth, 1, 1)
    return tree


def official_state(network: Any, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return tensors by their names in a network of :func:`make`."""
    back = {here: official for official, here in NAMES.items()}
    state = {_renamed(name, back): tensor for name, tensor in weights.items() if name not in ("leaves", "turns")}
    leaves = [name for name in network.state_dict() if name.endswith(_LEAF)]
    # The state dict visits the left child first, as the leaves are numbered.
    return state | dict(zip(leaves, weights["leaves"][weights["turns"].any(1)], strict=True))


def _child(node: Any, name: str) -> Any:
    modules = node.state.get("_modules") if isinstance(node, Object) else None
    child = modules.get(name) if isinstance(modules, dict) else None
    return child if isinstance(child, Object) else None


def _renamed(name: str, names: Mapping[str, str] = NAMES) -> str:
    for begin, other in names.items():
        if name.startswith(begin):
            return name.replace(begin, other, 1)
    return name
