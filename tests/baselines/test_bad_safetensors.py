"""Safetensors files with headers that lie: one line that names the file, whoever reads it."""

import json
import struct
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import save_file

from baselines import official_checkpoints
from bench.contract import BenchError, RequestError
from bench.models import weights
from bench.results.merge import _check_weights
from bench.runner.cell import CellRunner
from bench.runner.fit_cache import read_fit
from tests.support.samples import Silent

W = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


def written(header, size=8, length=None):
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(raw) if length is None else length) + raw + bytes(size)


BAD = {
    "nothing": b"",
    "no whole length": b"\x01\x02",
    "length beyond the file": written({"w": W}, length=2**20),
    "length beyond all files": written({"w": W}, length=2**63),
    "no header": written(b""),
    "no JSON": written(b"{'w': 1}"),
    "no UTF-8": written(b'{"\xff":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}'),
    "deep": written(b'{"w":' * 10_000),
    "metadata of numbers": written({"__metadata__": {"a": 1}, "w": W}),
    "metadata in a list": written({"__metadata__": ["a"], "w": W}),
    "nested metadata": written({"__metadata__": {"a": {"b": "c"}}, "w": W}),
    "one name twice": written(
        b'{"w":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"w":{"dtype":"F32","shape":[2],"data_offsets":[8,16]}}',
        16,
    ),
    "one over the other": written({"v": W, "w": W}),
    "a gap": written({"w": {**W, "data_offsets": [8, 16]}}, 16),
    "numbers of nobody": written({"w": W}, 16),
    "an unknown type": written({"w": {**W, "dtype": "F33"}}),
    "a type that torch lacks": written({"w": {"dtype": "F6_E2M3", "shape": [8], "data_offsets": [0, 6]}}, 6),
    "negative sizes": written({"w": {**W, "shape": [-2]}}),
    "huge sizes": written({"w": {**W, "shape": [2**40, 2**40]}}),
}


@pytest.fixture(params=BAD)
def bad(request, tmp_path):
    file = tmp_path / "model.safetensors"
    file.write_bytes(BAD[request.param])
    return file


def loaded_by_a_cell(file):
    fake = SimpleNamespace(
        _built=lambda task: torch.nn.Linear(2, 2),
        task=lambda train, need_black_box: None,
        folder=SimpleNamespace(result=file.parent),
        device="cpu",
    )
    return CellRunner.load(fake, None)


@pytest.mark.parametrize("read", [weights.read, official_checkpoints.read, loaded_by_a_cell])
def test_a_header_that_lies_is_one_line(bad, read):
    with pytest.raises(BenchError) as caught:
        read(bad)
    assert str(bad) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_gathered_cell_with_a_header_that_lies(bad):
    folder = SimpleNamespace(result=bad.parent)
    if b"F6_E2M3" in bad.read_bytes():
        return  # readable as a file; it is refused when the tensor is wanted
    with pytest.raises(RequestError) as caught:
        _check_weights(folder)
    assert str(bad) in str(caught.value)


def test_a_kept_fit_with_a_header_that_lies_is_not_used(bad):
    (bad.parent / "fit.json").write_text("{}")
    assert read_fit(bad.parent, Silent()) is None


FACTS = {
    "method": "protopnet",
    "classes": 2,
    "sizes": {"K": 1, "P": 2, "D": 4, "C": 2, "B": 4},
    "architecture": None,
    "channels": 4,
    "add_on": 0,
    "activation": "log",
    "epsilon": 1e-4,
}


@pytest.mark.parametrize(
    "header",
    [
        "",
        "{",
        "[" * 10_000,
        "null",
        "[]",
        '"text"',
        "{}",
        json.dumps({**FACTS, "method": "nosuch"}),
        json.dumps({**FACTS, "method": ["protopnet"]}),
        json.dumps({**FACTS, "classes": "2"}),
        json.dumps({**FACTS, "attributes": [1]}),
        json.dumps({name: value for name, value in FACTS.items() if name != "channels"}),
    ],
)
def test_an_unusable_header_is_one_line(header, tmp_path):
    file = tmp_path / "w.safetensors"
    save_file({"w": torch.zeros(2)}, file, {"partbench": header})
    with pytest.raises(
        RequestError, match=r"w\.safetensors has an (unreadable|unusable) header .*: make one with"
    ) as caught:
        official_checkpoints.facts_of(file)
    assert "\n" not in str(caught.value)


def imported(file, **changed):
    """A converted file of a deformable network: no add-on layers."""
    state = {
        "prototype_vectors": torch.zeros(2, 4, 1, 1),
        "last_layer.weight": torch.zeros(2, 2),
        "conv_offset.0.weight": torch.zeros(3, 6, 3, 3),
        "conv_offset.0.bias": torch.zeros(3),
        "conv_offset.2.weight": torch.zeros(2, 3, 1, 1),
        "conv_offset.2.bias": torch.zeros(2),
        "prototype_class_identity": torch.eye(2, dtype=torch.uint8),
    }
    sizes = {"K": 1, "P": 2, "D": 4, "H": 1, "W": 1, "C": 2, "O": 3, "B": 4}
    facts = {**FACTS, "method": "deformable", "sizes": sizes, "activation": "cosine", **changed}
    save_file(state, file, {"partbench": json.dumps(facts)})
    return file


@pytest.mark.parametrize(
    "changed",
    [
        {"sizes": None},
        {"sizes": {"K": 10**9, "P": 2, "D": 4, "H": 1, "W": 1, "C": 2, "O": 3, "B": 4}},
        {"sizes": {"K": 1, "P": 2, "D": 4, "H": 1, "W": 1, "C": 2, "O": 10**9, "B": 4}},
        {"sizes": {"K": 1}},
        {"add_on": 10**9},
        {"add_on": None},
    ],
    ids=str,
)
def test_a_header_must_have_the_sizes_of_its_tensors(changed, tmp_path):
    assert official_checkpoints.read(imported(tmp_path / "good.safetensors")).facts["sizes"]["O"] == 3
    with pytest.raises(RequestError, match=r"bad\.safetensors is broken: its header lacks the sizes of its tensors"):
        official_checkpoints.read(imported(tmp_path / "bad.safetensors", **changed))
