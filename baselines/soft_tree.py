"""Soft binary tree as a table of turns: path probabilities, routes, leaf update and pruning of ProtoTree.

``turns (L, P)`` says what leaf l asks of node p: 1 = the path to it turns right there, -1 = left, 0 = it does not pass.
The table alone describes a tree of any shape; a removed leaf is a row of zeros, a removed node a column of zeros. So a
batch goes through the tree in two products of matrices; the official code (M-Nauta/ProtoTree) visits node by node.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

Route = Literal["distributed", "sample_max", "greedy"]
ROUTES: tuple[Route, ...] = ("distributed", "sample_max", "greedy")


def complete_tree(depth: int) -> Tensor:
    """Return the turns of a complete tree, int8 ``(2^depth, 2^depth - 1)``; nodes in pre-order, leaves from the left.

    Example:
        >>> complete_tree(2).tolist()
        [[-1, -1, 0], [-1, 1, 0], [1, 0, -1], [1, 0, 1]]
    """
    if depth == 0:
        return torch.zeros(1, 0, dtype=torch.int8)
    below = complete_tree(depth - 1)
    leaves, nodes = below.shape
    turns = torch.zeros(2 * leaves, 2 * nodes + 1, dtype=torch.int8)
    turns[:leaves, 0], turns[leaves:, 0] = -1, 1
    turns[:leaves, 1 : nodes + 1] = turns[leaves:, nodes + 1 :] = below
    return turns


def log_paths(log_right: Tensor, log_left: Tensor, turns: Tensor) -> Tensor:
    """Compute the logarithms of the probabilities of arriving at each leaf ``(N, L)``; -inf at removed leaves.

    Args:
        log_right: ``(N, P)``, logarithms of the probabilities of turning right.
        log_left: the same for left; all finite.
        turns: the tree.
    """
    # The product of the probabilities of all turns of a path, as a sum of logarithms.
    paths = log_right @ (turns == 1).to(log_right).T + log_left @ (turns == -1).to(log_left).T
    return paths.masked_fill(~turns.any(1), -torch.inf)


def leaves_of(log_right: Tensor, log_left: Tensor, turns: Tensor, route: Route) -> Tensor:
    """Return the leaf ``(N,)`` at which a deterministic route ends.

    ``sample_max``: the leaf of the largest path probability; ``greedy``: the more probable child at every node, of two
    alike the left one.
    """
    if route == "greedy":
        right = (log_right > log_left).to(log_right)
        # Minus the number of nodes at which the route turns otherwise: 0 at one leaf alone.
        log_right, log_left = right - 1, -right
    return log_paths(log_right, log_left, turns).argmax(1)


def update_leaves(leaves: Tensor, old: Tensor, batches: int, paths: Tensor, likelihood: Tensor, labels: Tensor) -> None:
    """Update the leaves' parameters without derivatives after a batch, in place (Nauta et al. 2021, algorithm 1).

    Args:
        leaves: theta ``(L, C)``; a leaf's distribution is its softmax.
        old: theta when the epoch began.
        batches: number of batches of an epoch.
        paths: ``(N, L)``, probabilities of arriving at each leaf.
        likelihood: ``(N,)``, probability of each image's class; both are from before the optimiser step.
        labels: ``(N,)``.
    """
    # pa_n softmax(theta)_y / y_n, y_n the predicted probability of the image's class.
    share = paths * leaves.softmax(1).T[labels] / likelihood[:, None]
    # What the last epoch added leaves in equal parts; rounding may end below zero.
    leaves.sub_(old / batches).clamp_(min=0)
    leaves.index_add_(1, labels, share.T.to(leaves))


def prune(turns: Tensor, leaves: Tensor, threshold: float) -> Tensor:
    """Return the tree without subtrees in which no leaf has a probability above ``threshold``; siblings move up.

    As in the official code, children of the root stay: it would remove the root with them.
    """
    present = turns.any(1)
    passes = (turns != 0).T
    # Rows: the leaves below every node, then those below every leaf, which is itself.
    below = torch.cat([passes, torch.diag(present)])
    sizes = below.sum(1)
    idle = (sizes > 0) & ~(below & (leaves.softmax(1).amax(1) > threshold)).any(1)
    root, nodes = int(sizes.argmax()), len(passes)
    pruned = turns.clone()
    for one in idle.nonzero().flatten().tolist():
        around = (below[:nodes] & below[one]).sum(1).eq(sizes[one]) & (sizes[:nodes] > sizes[one])
        if not around.any():
            continue
        parent = int(sizes[:nodes].masked_fill(~around, len(turns) + 1).argmin())
        # Below an idle parent nothing is done: it goes as a whole, or stays as a child of the root.
        if parent != root and not idle[parent]:
            pruned[below[one]] = 0
            pruned[:, parent] = 0
    return pruned


def reachable(turns: Tensor, leaves: Tensor) -> Tensor:
    """Return the classes that a leaf below each node predicts, bool ``(P, C)``."""
    # A leaf predicts one class, that of its largest parameter; projection is onto patches of these classes.
    predicted = torch.nn.functional.one_hot(leaves.argmax(1), leaves.shape[1])
    return (turns != 0).T.float() @ predicted.float() > 0


def found(nearest: Tensor, turns: Tensor, leaves: Tensor, classes: Tensor) -> Tensor:
    """Return the prototypes that are found on the way to a class, bool ``(N, P)``.

    They are those at which the most probable path to a leaf that predicts the class turns right; none for a class that
    no leaf predicts.

    Args:
        nearest: ``(N, P)``, smallest distances.
        turns: the tree.
        leaves: ``(L, C)``.
        classes: ``(N,)``.
    """
    of_class = (leaves.argmax(1) == classes[:, None]) & turns.any(1)
    paths = log_paths(*turning(nearest.double()), turns).masked_fill(~of_class, -torch.inf)
    return (turns[paths.argmax(1)] == 1) & of_class.any(1, keepdim=True)


def turning(nearest: Tensor) -> tuple[Tensor, Tensor]:
    """Return the logarithms of the probabilities exp(-d) of turning right and 1 - exp(-d) of turning left."""
    # expm1: of small distances 1 - exp(-d) would have no digits left.
    return -nearest, torch.log(-torch.expm1(-nearest))
