"""Checkpoints as training scripts write them: the network is found in them, undone and said; nothing is run."""

import argparse
import datetime
import pathlib

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from bench.contract import RequestError
from bench.models import weights


def network(classes=2):
    torch.manual_seed(0)
    parts = {"conv1": nn.Conv2d(3, 4, 3), "bn1": nn.BatchNorm2d(4), "fc": nn.Linear(4, classes)}
    return nn.ModuleDict(parts)


STATE = network().state_dict()
RAISED = {key: value + 1 for key, value in STATE.items()}


def behind(prefix, state=STATE):
    return {prefix + key: value for key, value in state.items()}


PLAIN = {
    "plain": STATE,
    "reference": {"model": STATE, "optimizer": {"state": {0: STATE}}, "epoch": 3, "args": argparse.Namespace(lr=0.1)},
    "lightning": {
        "state_dict": {**behind("net."), "criterion.weight": torch.ones(2)},
        "callbacks": {"checkpoint": {"best_model_score": torch.tensor(0.5)}},
        "hyper_parameters": {"lr": 0.1, "folder": pathlib.PurePosixPath("a/b")},
    },
    "model_state_dict": {"model_state_dict": behind("module."), "loss": 0.3, "when": datetime.datetime(2024, 1, 2)},
    "net": {"net": STATE, "acc": 93.1},
    "deep": {"checkpoint": {"network": behind("_orig_mod.module.model.")}},
    "unheard_of": behind("trunk.body."),
    "scalars": {**STATE, "best_acc": 0.9, "bn1.total_ops": torch.zeros(1)},
    "numpy": {"state_dict": STATE, "metric": np.float64(81.2), "history": np.arange(3)},
    "ema_beside": {"state_dict": STATE, "state_dict_ema": RAISED},
    "model_ema": {"model": STATE, "model_ema": {**behind("module.", RAISED), "n_averaged": torch.tensor(3)}},
    "teacher": {"student": behind("backbone."), "teacher": behind("backbone.", RAISED)},
    "ema_among_names": {**behind("model."), **behind("ema_model.module.", RAISED)},
    "head_outside": {key if key.startswith("fc.") else f"backbone.{key}": value for key, value in STATE.items()},
    "twice_the_same": {"state_dict": STATE, "model": STATE},
    "parameters": {key: nn.Parameter(value) if value.is_floating_point() else value for key, value in STATE.items()},
}  # fmt: skip


@pytest.fixture
def written(tmp_path):
    def write(content):
        torch.save(content, tmp_path / "w.pth")
        return tmp_path / "w.pth"

    return write


def read(file, notes=None, **more):
    return weights.fitting(file, STATE, "mine", note=(notes if notes is not None else []).append, heads=(), **more)


def equal(found, expected=STATE):
    return found.keys() == expected.keys() and all(torch.equal(found[key], expected[key]) for key in expected)


@pytest.mark.parametrize("form", PLAIN)
def test_forms_of_checkpoints_are_read(written, form):
    assert equal(read(written(PLAIN[form])))


def test_what_was_undone_is_said(written):
    notes = []
    read(written(PLAIN["lightning"]), notes)
    assert notes == [
        "w.pth: weights taken from state_dict",
        "w.pth: prefix net. taken off the names",
        "w.pth: left out, as no weights of the network: criterion.weight",
    ]
    notes.clear()
    read(written(PLAIN["plain"]), notes)
    assert notes == []
    read(written(PLAIN["scalars"]), notes)
    assert notes == ["w.pth: left out, as no weights of the network: bn1.total_ops, best_acc"]


AVERAGES = {
    "ema_beside": "state_dict_ema",
    "model_ema": "model_ema",
    "teacher": "teacher",
    "ema_among_names": "ema_model",
}


@pytest.mark.parametrize(("form", "part"), AVERAGES.items())
def test_an_average_is_named_and_can_be_taken(written, form, part):
    file, notes = written(PLAIN[form]), []
    read(file, notes)
    assert any(part in note and "was not taken" in note for note in notes)
    asked = file.with_name(f"{file.name}#{part}")
    assert equal(read(asked), RAISED)
    assert weights.digest(asked) != weights.digest(file)


def test_the_advice_for_an_average_can_be_followed(written):
    notes = []
    read(written(PLAIN["model_ema"]), notes)
    (line,) = [note for note in notes if "to take it, write" in note]
    assert equal(read(pathlib.Path(line.rpartition(" write ")[2])), RAISED)


def test_two_networks_and_no_telling_apart(written):
    file = written({**behind("encoder_q."), **behind("encoder_k.", RAISED)})
    with pytest.raises(RequestError, match=r"more than once \(encoder_k, encoder_q\): say which, as .*#encoder_k"):
        read(file)
    assert equal(read(file.with_name(file.name + "#encoder_q")))
    file = written({"best_model": RAISED, "model": STATE})
    with pytest.raises(RequestError, match="more than once"):
        read(file)
    with pytest.raises(RequestError, match="has no part 'nothing' with weights; it has best_model, model"):
        read(file.with_name(file.name + "#nothing"))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_read_in_single(written, dtype):
    notes = []
    narrow = {key: value.to(dtype) if value.is_floating_point() else value for key, value in STATE.items()}
    found = read(written(narrow), notes)
    assert all(found[key].dtype == STATE[key].dtype for key in STATE)
    assert "single precision" in notes[-1]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("fc.weight", torch.full((2, 4), float("nan"))),
        ("bn1.running_var", torch.full((4,), float("inf"))),
        ("conv1.weight", torch.zeros(4, 3, 3, 3, dtype=torch.int8)),
        ("conv1.bias", torch.zeros(4, device="meta")),
        ("conv1.bias", torch.zeros(4).to_sparse()),
    ],
)
def test_numbers_that_are_none_are_named(written, key, value):
    with pytest.raises(RequestError, match=rf"no usable numbers in {key}"):
        read(written({**STATE, key: value}))


def test_what_does_not_fit_is_named_behind_its_prefix(written):
    state = behind("module.")
    del state["module.fc.bias"]
    with pytest.raises(RequestError, match=r"missing: fc.bias \(.*prefix module. taken off"):
        read(written({"model": state}))
    with pytest.raises(RequestError, match=r"unknown: neck.weight"):
        read(written({**STATE, "neck.weight": torch.zeros(1)}))
    with pytest.raises(RequestError, match=r"wrong shape: fc.weight \(3, 4\) instead of \(2, 4\), fc.bias"):
        read(written({"state_dict": behind("module.", network(3).state_dict())}))
    with pytest.raises(RequestError, match=r"not a state dict: .* it holds epoch, acc"):
        read(written({"epoch": 3, "acc": 0.5}))


class Recorded:
    """A class of the user's own, as whole modules and settings name them."""


def test_foreign_classes_stay_refused(written):
    for content in (network(), {"model": network()}, {"state_dict": STATE, "cfg": Recorded()}):
        with pytest.raises(RequestError, match=r"names [\w.]+, which is no tensor: refused, nothing in it was run"):
            read(written(content))


def test_nothing_of_numpy_is_called(written, monkeypatch):
    file = written({"state_dict": STATE, "metric": np.float64(81.2)})
    found = weights.content(file)
    assert type(found["metric"]).__module__ == "bench.models.weights"


def test_prefixes_in_safetensors_too(tmp_path):
    save_file(behind("model.backbone."), tmp_path / "w.safetensors")
    assert equal(read(tmp_path / "w.safetensors"))


def test_a_file_whose_name_has_the_sign_is_itself(tmp_path):
    torch.save(STATE, tmp_path / "run#2.pth")
    assert equal(read(tmp_path / "run#2.pth"))


def test_a_backbone_and_the_head_behind_it(written):
    backbone = network()
    del backbone["fc"]
    file = written({"model": behind("module.", STATE), "model_ema": behind("module.", RAISED)})
    weights.load(backbone, file, "mine")
    assert torch.equal(backbone["conv1"].weight, STATE["conv1.weight"])
    weight, bias = weights.head(backbone, file, "mine", 2, 4)
    assert torch.equal(weight, STATE["fc.weight"])
    assert torch.equal(bias, STATE["fc.bias"])
    ema = file.with_name(file.name + "#model_ema")
    assert torch.equal(weights.head(backbone, ema, "mine", 2, 4)[1], RAISED["fc.bias"])
