"""Calls planted in otherwise honest official files, at each place where a form has values: refused, and none is run."""

import os
from argparse import Namespace

import pytest
import torch

from baselines import official_checkpoints, official_files
from bench.contract import RequestError
from tests.support import official_checkouts as stand_ins
from tests.support.classifiers import data_parallel


class Planted:
    def __init__(self, file):
        self.file = file

    def __reduce__(self):
        return os.mkdir, (str(self.file),)


def attribute(network, planted):
    network.planted = planted
    return network


def buffer(network, planted):
    parallel = data_parallel(network)
    network._buffers["non_vis_mask"] = planted
    return parallel


def identity(network, planted):
    network.prototype_class_identity = planted
    return network


def row_of_a_node(network, planted):
    network._out_map[network._root] = planted
    return network


def node_of_a_row(network, planted):
    network._out_map[planted] = 0
    return network


def leaf(network, planted):
    parallel = data_parallel(network)
    network._root.leaves[1]._parameters["_dist_params"] = planted
    return parallel


def tensor(network, planted):
    return {f"module.{name}": value for name, value in network.state_dict().items()} | {"module.ones": planted}


def arguments(network, planted):
    return {"model": network.state_dict(), "args": Namespace(nb_classes=planted)}


def model_with_arguments(network, planted):
    return {"model": tensor(network, planted), "args": Namespace(nb_classes=3)}


def lightning(network, planted):
    return {"state_dict": network.state_dict(), "callbacks": {"planted": planted}}


def state_of_pipnet(network, planted):
    return {"model_state_dict": tensor(network, planted), "optimizer_net_state_dict": {}}


def optimiser(network, planted):
    return {"model_state_dict": tensor(network, torch.ones(1)), "optimizer_net_state_dict": {"state": {0: planted}}}


PLACES = [
    ("protopnet", attribute), ("tesnet", attribute), ("protopool", tensor), ("deformable", attribute),
    ("evalprotopnet", arguments), ("evalprotopnet", model_with_arguments), ("st-protopnet", tensor),
    ("prototree", row_of_a_node), ("prototree", node_of_a_row), ("prototree", leaf), ("prototree", tensor),
    ("protopshare", identity), ("protoconcepts", buffer), ("protoconcepts", tensor), ("pixpnet", lightning),
    ("pipnet", state_of_pipnet), ("pipnet", optimiser),
]  # fmt: skip


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize(("method", "place"), PLACES, ids=lambda one: getattr(one, "__name__", one))
def test_nothing_planted_is_run(method, place, zipped, tmp_path):
    writer = {"protoconcepts": "tesnet", "pixpnet": "protopnet", "pipnet": "protopnet"}.get(method, method)
    with stand_ins.imported(stand_ins.checkout(writer, tmp_path / "checkout")) as module:
        content = place(stand_ins.build(writer, module), Planted(tmp_path / "ran"))
        torch.save(content, tmp_path / "official.pth", _use_new_zipfile_serialization=zipped)
    with pytest.raises(RequestError, match=r"mkdir"):
        official_checkpoints.convert(method, tmp_path / "official.pth", tmp_path / "out")
    assert {file.name for file in tmp_path.iterdir()} == {"checkout", "official.pth"}


def test_every_method_with_official_files_is_here():
    assert {method for method, _ in PLACES} == set(official_files.SHAPES)
