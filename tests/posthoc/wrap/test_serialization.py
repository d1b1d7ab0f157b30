"""A decomposition as files: back to the bit, and nothing foreign gets in."""

import json
import pickle

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from bench.contract import RequestError
from bench.posthoc import decompose, load, save
from tests.support.classifiers import QUICK, check, images, loader, net


@pytest.fixture
def made(tmp_path):
    classifier = net(norm=nn.LayerNorm(8))
    x, labels = images()
    names = ["ant", "bee", "cat", "dog", "eel"]
    model = decompose(classifier, loader(x, labels), 2, config=QUICK, class_names=names)
    return model, classifier, x, save(model, tmp_path / "saved")


def test_what_is_loaded_is_what_was_saved(made):
    model, classifier, x, folder = made
    assert sorted(file.name for file in folder.iterdir()) == ["prototypes.json", "prototypes.safetensors"]
    again = load(folder, classifier, x)
    check(again, classifier, x)
    state = model.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in again.state_dict().items())
    assert again.class_names == model.class_names == ("ant", "bee", "cat", "dog", "eel")
    assert again.facts == model.facts
    save(again, folder)
    load(folder, classifier)


def test_another_classifier_is_refused(made):
    _, classifier, _, folder = made
    with pytest.raises(RequestError, match=r"made for another Sequential: architecture, weights or precision"):
        load(folder, net(norm=nn.LayerNorm(8), seed=1))
    with pytest.raises(RequestError, match="weights or precision"):
        load(folder, classifier.bfloat16())


class Evil:
    def __reduce__(self):
        return print, ("executed",)


def test_hostile_and_damaged_files_are_refused(made, capsys):
    _, classifier, _, folder = made
    tensors, facts = folder / "prototypes.safetensors", folder / "prototypes.json"
    good, described = tensors.read_bytes(), json.loads(facts.read_text())

    tensors.write_bytes(pickle.dumps(Evil()))
    with pytest.raises(RequestError, match="is no safetensors file, or a damaged or cut-off one"):
        load(folder, classifier)
    assert "executed" not in capsys.readouterr().out
    tensors.write_bytes(good[: len(good) // 2])
    with pytest.raises(RequestError, match="is no safetensors file, or a damaged or cut-off one"):
        load(folder, classifier)
    tensors.unlink()
    with pytest.raises(RequestError, match="no weight file"):
        load(folder, classifier)
    tensors.write_bytes(good)
    own = load_file(tensors)

    for change, message in (
        ({"vectors": own["vectors"].float()}, "does not fit"),
        ({"vectors": own["vectors"][:, :1].contiguous()}, "does not fit"),
        ({"more": torch.zeros(1)}, "does not fit"),
        ({"vectors": own["vectors"] * float("nan")}, "not finite"),
        ({"vectors": own["vectors"] * 2}, "do not sum to this classifier's rows"),
        ({"vectors": own["vectors"].flip(1).contiguous()}, "was altered after it was written"),
        ({"source_image": own["source_image"] + 1}, "was altered after it was written"),
    ):
        save_file({**own, **change}, tensors)
        with pytest.raises(RequestError, match=message):
            load(folder, classifier)
    tensors.write_bytes(good)

    del described["tensors"]  # as older ones are
    facts.write_text(json.dumps(described))
    load(folder, classifier)
    for change, message in (
        ({"format": "something"}, "no description of prototypes"),
        ({"version": 2}, "version"),
        ({"k": "three"}, "k: "),
        ({"hook": "os.system"}, "hook: Extra inputs"),
        ({"class_names": ["a"]}, "does not fit"),
        ({"split": {**described["split"], "module": "os.path"}}, "names layers that this classifier does not have"),
        ({"split": {**described["split"], "weight": "9.weight"}}, "names layers"),
        ({"split": {**described["split"], "steps": [{"op": "eval"}]}}, "no description"),
    ):
        facts.write_text(json.dumps({**described, **change}))
        with pytest.raises(RequestError, match=message):
            load(folder, classifier)
    facts.write_text("not json")
    with pytest.raises(RequestError, match="no description"):
        load(folder, classifier)
    facts.unlink()
    with pytest.raises(RequestError, match=r"no prototypes.json in .*: expected a folder written by"):
        load(folder, classifier)
