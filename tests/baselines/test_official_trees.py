"""ProtoTree's official files: their nodes and rows become a table of turns, in any order and shape of the tree."""

import json

import pytest
import torch
from safetensors.torch import load_file

from baselines import official_checkpoints, official_models
from baselines.prototree import ProtoTree
from bench.config.schedule import Schedule
from bench.contract import CellError, RequestError, Sizes
from tests.support import official_checkouts as stand_ins
from tests.support.samples import stripes, task


@pytest.fixture
def tree(tmp_path):
    """A tree and the place of its checkout, in which nothing of it is executed."""
    with stand_ins.imported(stand_ins.checkout("prototree", tmp_path / "checkout")) as module:
        yield stand_ins.build("prototree", module)


def images():
    return torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def saved(tree, tmp_path, **options):
    torch.save(tree, tmp_path / "model.pth", **options)
    return official_checkpoints.convert("prototree", tmp_path / "model.pth", tmp_path / "out")


def given(tmp_path, **settings):
    config = ProtoTree.Config(checkpoint=str(tmp_path / "out.safetensors"), schedule=Schedule(phases=[]), **settings)
    return task(tmp_path, stripes(), config, backbone_name="resnet18")


def prune_by_hand(tree):
    """A left grandchild of the root goes; its sibling takes the place of their parent, as in the official pruning."""
    tree._root.l = tree._root.l.r
    tree._set_parents()


@pytest.mark.parametrize("change", [lambda tree: None, prune_by_hand], ids=["whole", "pruned"])
@pytest.mark.parametrize("options", [{}, {"_use_new_zipfile_serialization": False}], ids=["zip", "legacy"])
def test_our_tree_and_the_official_code_answer_as_the_file(change, options, tree, tmp_path):
    change(tree)
    facts = saved(tree, tmp_path, **options)
    assert (facts["class"], facts["prototypes"], facts["classes"], facts["assumed"]) == ("ProtoTree", 7, 3, [])
    assert json.loads((tmp_path / "out.json").read_text()) == facts
    found = load_file(tmp_path / "out.safetensors")
    assert torch.equal(found["prototype_vectors"], tree.prototype_layer.prototype_vectors)
    assert torch.equal(found["leaves"], torch.stack([leaf._dist_params for leaf in tree._root.leaves]))
    for leaf, turns in zip(tree._root.leaves, found["turns"], strict=True):
        node = leaf
        for _ in range(int(turns.count_nonzero())):
            above = tree._parents[node]
            assert turns[tree._out_map[above]] == (1 if above.r is node else -1)
            node = above
        assert node is tree._root
    logits, maps = stand_ins.answers("prototree", tree, images())
    ours = official_checkpoints.build(ProtoTree(), given(tmp_path, levels=5))
    theirs = official_checkpoints.build(ProtoTree(), given(tmp_path, source=str(tmp_path / "checkout")))
    for model in (ours, theirs):
        with torch.no_grad():
            seen = model.explain(images())
        torch.testing.assert_close(seen.logits, logits, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(seen.maps, maps, rtol=1e-4, atol=1e-4)
        assert model.not_additive
    live = {tree._out_map[node] for node in tree._root.branches}
    assert set(ours.prototypes.classes.any(1).nonzero().flatten().tolist()) == live
    assert torch.equal(ours.prototypes.classes, theirs.prototypes.classes)


def test_inside_a_parallel_module(tree, tmp_path):
    assert saved(torch.nn.DataParallel(tree), tmp_path)["class"] == "ProtoTree"


@pytest.mark.parametrize("wrap", [dict, lambda state: {"model_state_dict": state}], ids=["plain", "nested"])
def test_a_state_dict_has_no_rows(wrap, tree, tmp_path):
    torch.save(wrap(tree.state_dict()), tmp_path / "model_state.pth")
    with pytest.raises(RequestError, match=r"no map from the nodes of its tree.*import model\.pth"):
        official_checkpoints.convert("prototree", tmp_path / "model_state.pth", tmp_path / "out")


def under_itself(tree):
    tree._root.l._modules["l"] = tree._root.l


def in_two_places(tree):
    tree._root.r._modules["l"] = tree._root.l.l


def same_row(tree):
    tree._out_map[tree._root] = tree._out_map[tree._root.l]


def far_row(tree):
    tree._out_map[tree._root] = 7


def negative_row(tree):
    tree._out_map[tree._root] = -1


def row_of_another_kind(tree):
    tree._out_map[tree._root] = True


def unknown_node(tree):
    del tree._out_map[tree._root.l]


def one_child(tree):
    del tree._root.l._modules["r"]


def leaf_of_another_size(tree):
    tree._root.leaves[2]._dist_params = torch.nn.Parameter(torch.zeros(4))


def no_tree(tree):
    tree._modules["_root"] = tree._root.leaves[0]


def map_of_another_kind(tree):
    tree._out_map = [0, 1]


def leaf_with_more(tree):
    tree._root.leaves[1].register_buffer("more", torch.zeros(2))


BROKEN = [
    under_itself, in_two_places, same_row, far_row, negative_row, row_of_another_kind, unknown_node, one_child,
    leaf_of_another_size, no_tree, map_of_another_kind, leaf_with_more,
]  # fmt: skip


@pytest.mark.parametrize("change", BROKEN, ids=lambda change: change.__name__)
def test_broken_trees_are_refused(change, tree, tmp_path):
    change(tree)
    with pytest.raises(RequestError, match=r"is broken|no map from the nodes"):
        saved(tree, tmp_path)
    assert not (tmp_path / "out.safetensors").exists()


def test_leaves_without_softmax_need_the_official_code(tree, tmp_path):
    tree._kontschieder_normalization = True
    saved(tree, tmp_path)
    config = given(tmp_path).config
    with pytest.raises(RequestError, match="has leaves without a softmax, ours does not"):
        official_checkpoints.check("prototree", config, Sizes(3, 5, 16, 16, "resnet18"))


def test_turns_that_are_no_tree_fail_the_cell(tree, tmp_path):
    saved(tree, tmp_path)
    work = given(tmp_path, source=str(tmp_path / "checkout"))
    checkpoint = official_checkpoints.read(tmp_path / "out.safetensors")
    checkpoint.state["turns"][0] = 1
    with pytest.raises(CellError, match="are no tree"):
        official_models.build("prototree", work, checkpoint)
