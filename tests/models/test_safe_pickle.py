"""Hostile and broken pickles: nothing runs, and the error names the refused call."""

import io
import pickle
import struct
import zipfile

import pytest
import torch

from baselines import official_files
from bench.contract import RequestError
from bench.models.pickle_values import Name, Object, Refused
from bench.models.safe_pickle import Machine
from bench.models.torch_file import TorchFile


def read(raw, persistent=lambda name: name):
    return Machine(persistent, len(raw)).load(io.BytesIO(raw))


def g(text):
    """A GLOBAL opcode: ``module name``."""
    module, name = text.split(" ")
    return f"c{module}\n{name}\n".encode()


class Calls:
    """Pickles as a call of a function."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def ran(*_):
    raise AssertionError("a pickle was executed")


@pytest.mark.parametrize("protocol", range(6))
def test_plain_values_come_back(protocol):
    value = {
        "n": [1, -1, 2**40, -(2**70), 1.5, None, True, False],
        "s": "é" * 300,
        "b": b"\x00\xff" * 200,
        "t": [(), (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4)],
        ("a", 1): {"x": {1, 2}},
        3: [],
    }
    value["again"] = value["n"]
    found = read(pickle.dumps(value, protocol))
    assert found == value
    assert found["again"] is found["n"]


HOSTILE = {
    "os.system": (g("os system") + b"(S'touch x'\ntR.", "os.system"),
    "posix.system": (g("posix system") + b"(S'touch x'\ntR.", "posix.system"),
    "eval": (g("builtins eval") + b"(S'1'\ntR.", "builtins.eval"),
    "eval of Python 2": (g("__builtin__ eval") + b"(S'1'\ntR.", "builtins.eval"),
    "exec": (g("builtins exec") + b"(S'1'\ntR.", "builtins.exec"),
    "open for writing": (g("builtins open") + b"(S'x'\nS'w'\ntR.", "builtins.open"),
    "getattr": (g("builtins getattr") + g("torch Tensor") + b"S'x'\n\x86R.", "builtins.getattr"),
    "import": (g("builtins __import__") + b"(S'os'\ntR.", "builtins.__import__"),
    "subprocess": (g("subprocess Popen") + b"(S'ls'\ntR.", "subprocess.Popen"),
    "an instance": (b"(S'ls'\nios\nsystem\n.", "os.system"),
    "an object": (b"(" + g("subprocess Popen") + b"S'ls'\no.", "subprocess.Popen"),
    "a new object": (g("subprocess Popen") + b")\x81.", "subprocess.Popen"),
    "a name on the stack": (b"\x80\x04\x8c\x02os\x8c\x06system\x93)R.", "os.system"),
    "a dotted name": (b"\x80\x04\x8c\x05torch\x8c\x0fos.system.thing\x93)R.", "torch.os.system.thing"),
    "another pickle": (g("pickle loads") + b"(S'.'\ntR.", "pickle.loads"),
    "torch.load": (g("torch load") + b"(S'x'\ntR.", "torch.load"),
    "torch.hub.load": (g("torch.hub load") + b"(S'x'\ntR.", "torch.hub.load"),
    "numpy.load": (g("numpy load") + b"(S'x'\ntR.", "numpy.load"),
    "cpp extensions": (g("torch.utils.cpp_extension load_inline") + b")R.", "load_inline"),
    "operator": (g("operator attrgetter") + b"(S'x'\ntR.", "operator.attrgetter"),
    "functools": (g("functools partial") + b")R.", "functools.partial"),
    "codecs": (g("_codecs decode") + b"(S'x'\nS'zip'\ntR.", "_codecs.decode"),
    "an unknown codec": (g("_codecs encode") + b"(S'x'\nS'idna'\ntR.", "encodes text in a way"),
    "a repository's function": (g("util.helpers makedir") + b"(S'x'\ntR.", "util.helpers.makedir"),
    "a call of a result": (b"(S'x'\nS'y'\nt(S'z'\ntR.", "a tuple called"),
    "attributes of a function": (
        g("torch._utils _rebuild_tensor_v2") + b"}S'__code__'\nNsb.",
        "attributes of torch._utils._rebuild_tensor_v2",
    ),
    "attributes of a class": (
        g("argparse Namespace") + b"N}S'__init__'\nNs\x86b.",
        "attributes of argparse.Namespace",
    ),
    "arguments of a class": (b"(" + g("model PPNet") + b"S'x'\no.", "model.PPNet called"),
    "from_type_v2": (
        g("torch._tensor _rebuild_from_type_v2") + b"(" + g("torch load") + b"N)NtR.",
        "torch.load",
    ),
    "extension registry": (b"\x80\x02\x82\x01.", "EXT1"),
    "out of band buffers": (b"\x80\x05\x97.", "NEXT_BUFFER"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_pickles_are_refused_by_name(name):
    raw, expected = HOSTILE[name]
    with pytest.raises(Refused) as refusal:
        read(raw)
    assert expected in str(refusal.value)


BROKEN = {
    "empty": b"",
    "cut": pickle.dumps({"a": [1, 2, 3]}, 2)[:-4],
    "nothing on the stack": b"\x80\x02.",
    "no mark": b"\x80\x02t.",
    "no memo": b"\x80\x02h\x05.",
    "few for a tuple": b"\x80\x02N\x87.",
    "few for a call": b"\x80\x02NR.",
    "a list as a key": b"\x80\x02}(]Nu.",
    "odd items": b"\x80\x02}(Nu.",
    "a huge string": b"\x80\x02X\xff\xff\xff\x7fabc.",
    "a huge bytes": b"\x80\x04\x8e" + struct.pack("<Q", 2**60) + b".",
    "appending to a number": b"\x80\x02K\x01Na.",
    "no opcode": b"\x80\x02\xff.",
    "a wrong call of a stand-in": g("torch._utils _rebuild_tensor_v2") + b"(NtR.",
    "a wrong number": g("numpy.core.multiarray scalar") + b"(NNtR.",
    "a number that is an object": g("numpy.core.multiarray scalar")
    + b"(" + g("numpy dtype") + b"(S'O8'\nI0\nI1\ntRS'x'\ntR.",
}  # fmt: skip


@pytest.mark.parametrize("name", BROKEN)
def test_broken_pickles_say_so(name):
    with pytest.raises(Refused):
        read(BROKEN[name])


def test_a_key_of_nested_tuples_does_not_take_for_ever():
    # Hashing this would visit 2 ** 60 tuples.
    raw = b"\x80\x02}N" + b"2\x86" * 60 + b"Ns."
    with pytest.raises(Refused, match="tuple for a key"):
        read(raw)


# A tuple of the same tuple twice, sixty times over: printed, compared or hashed, it would have 2 ** 60 parts.
NESTED = b"N" + b"2\x86" * 60 + b"q\x00"


@pytest.mark.parametrize(
    "use",
    [
        b"(tR.",  # called
        b")\x81.",  # made an instance of
        b"}b.",  # given attributes
        b"0" + g("_codecs encode") + b"(S'x'\nh\x00tR.",  # the name of a codec
        b"0]h\x00N\x86R.",  # the arguments of a list
        b"0\x8f(h\x00\x90.",  # the member of a set
    ],
)
def test_a_thing_that_doubles_sixty_times_is_never_unfolded(use):
    with pytest.raises(Refused):
        read(b"\x80\x04" + NESTED + use)
    assert read(b"\x80\x02" + NESTED + b"0" + g("torch device") + b"h\x00\x85R.")


@pytest.mark.parametrize("use", [b"Q.", b"}N\x86.", b"}(S'a'\nh\x00u."], ids=["id", "weights", "names"])
def test_nor_in_a_file(use, tmp_path):
    magic, keys = pickle.dumps(0x1950A86A20F9469CFC6C, 2), b"\x80\x02]" + NESTED + b"a."
    parts = [magic, pickle.dumps(1001, 2), pickle.dumps({"little_endian": True}, 2), b"\x80\x02" + NESTED + use, keys]
    path = tmp_path / "nested.pth"
    path.write_bytes(b"".join(parts) + bytes(64))
    with pytest.raises(RequestError):
        official_files.read(path)


def test_names_that_would_write_to_the_terminal_are_refused():
    with pytest.raises(Refused, match="cannot be printed"):
        read(g("model \x1b[2J") + b".")


def test_state_is_kept_and_never_interpreted():
    kind = g("model PPNet")
    found = read(kind + b")\x81}S'__class__'\nK\x01sS'__setstate__'\nK\x02sb.")
    assert isinstance(found, Object)
    assert found.kind == Name("model", "PPNet")
    assert found.state == {"__class__": 1, "__setstate__": 2}
    own = read(kind + b")\x81(K\x01K\x02K\x03tb.")
    assert own.items == [(1, 2, 3)]


def test_numbers_of_numpy():
    import numpy as np

    for value in (np.float64(0.81), np.float32(0.5), np.int64(-7), np.uint8(200), np.bool_(True)):
        for protocol in (2, 4):
            assert read(pickle.dumps(value, protocol)) == value.item()
    swapped = np.array([258], ">i4")[0]
    assert read(pickle.dumps(swapped.astype(">i4"), 2)) == 258


@pytest.fixture
def saved(tmp_path):
    def save(content, name="file.pth", **options):
        torch.save(content, tmp_path / name, **options)
        return tmp_path / name

    return save


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_tensors_of_all_kinds(saved, zipped):
    base = torch.arange(24, dtype=torch.float32)
    tensors = {
        "plain": torch.randn(2, 3),
        "parameter": torch.nn.Parameter(torch.randn(4)),
        "view": base[6:18].view(3, 4),
        "transposed": base.view(4, 6).T,
        "scalar": torch.tensor(3),
        "empty": torch.empty(0, 5),
        "half": torch.randn(3).half(),
        "brain": torch.randn(3).bfloat16(),
        "double": torch.randn(3).double(),
        "bool": torch.tensor([True, False]),
        "bytes": torch.arange(3, dtype=torch.uint8),
    }
    file = TorchFile(saved(tensors, _use_new_zipfile_serialization=zipped))
    assert file.format == ("zip" if zipped else "legacy")
    for name, tensor in tensors.items():
        found = file.tensor(file.content[name])
        assert found.dtype == tensor.dtype
        assert torch.equal(found, tensor)
        assert found.is_contiguous()


def test_a_hostile_file_of_torch_save_runs_nothing(saved, tmp_path):
    victim = tmp_path / "victim"
    for zipped in (True, False):
        content = {"model": Calls(ran), "out": Calls(exec, f"open({str(victim)!r}, 'w')")}
        path = saved(content, _use_new_zipfile_serialization=zipped)
        with pytest.raises(RequestError, match=r"wants .*ran called.*refused, nothing in it was run"):
            TorchFile(path)
    path = saved(Calls(exec, f"open({str(victim)!r}, 'w')"))
    with pytest.raises(RequestError, match=r"names builtins\.exec"):
        TorchFile(path)
    assert not victim.exists()


def test_a_bare_pickle_runs_nothing(tmp_path):
    path = tmp_path / "bare.pth"
    path.write_bytes(pickle.dumps(Calls(eval, "1"), 2))
    with pytest.raises(RequestError, match=r"names builtins\.eval"):
        TorchFile(path)


def rewritten(source, target, change, **options):
    """The zip file with its entries changed by ``change(name, raw)``."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w", **options) as new:
        for entry in old.infolist():
            raw = change(entry.filename, old.read(entry))
            if raw is not None:
                new.writestr(entry.filename, raw)
    return target


def test_files_of_other_formats(saved, tmp_path):
    def same(_, raw):
        return raw

    good = saved({"w": torch.randn(100, 100)})
    squeezed = rewritten(good, tmp_path / "squeezed.pth", same, compression=zipfile.ZIP_DEFLATED)
    with pytest.raises(RequestError, match="compressed"):
        TorchFile(squeezed)
    other = tmp_path / "other.zip"
    with zipfile.ZipFile(other, "w") as archive:
        archive.writestr("hello.txt", "hello")
    with pytest.raises(RequestError, match=r"none of torch\.save"):
        TorchFile(other)
    big = rewritten(good, tmp_path / "big.pth", lambda name, raw: b"big" if name.endswith("byteorder") else raw)
    with pytest.raises(RequestError, match="big-endian"):
        TorchFile(big)
    short = rewritten(good, tmp_path / "short.pth", lambda name, raw: raw[:-4] if "/data/" in name else raw)
    file = TorchFile(short)
    with pytest.raises(RequestError, match="shorter than its size in the pickle"):
        file.tensor(file.content["w"])
    gone = rewritten(good, tmp_path / "gone.pth", lambda name, raw: None if "/data/" in name else raw)
    file = TorchFile(gone)
    with pytest.raises(RequestError, match="not in the file"):
        file.tensor(file.content["w"])
    cut = tmp_path / "cut.pth"
    cut.write_bytes(good.read_bytes()[:-300])
    with pytest.raises(RequestError, match=r"cut\.pth"):
        TorchFile(cut)
    text = tmp_path / "text.pth"
    text.write_text("not weights")
    with pytest.raises(RequestError, match=r"is no file of torch\.save"):
        TorchFile(text)
    with pytest.raises(RequestError, match="no file"):
        TorchFile(tmp_path / "nowhere.pth")


@pytest.mark.parametrize(
    ("size", "stride", "offset"),
    [
        ((1000, 1000, 1000), (0, 0, 0), 0),  # one number that would become a billion
        ((100,), (1,), 5),
        ((10,), (-1,), 9),
        ((-10,), (1,), 0),
        ((10,), (1, 1), 0),
        ((10,), (1,), -1),
        ((10,), (2,), 0),
        (("10",), (1,), 0),
        (10, 1, 0),
    ],
)
def test_a_tensor_may_not_be_larger_than_its_storage(saved, size, stride, offset):
    from dataclasses import replace

    file = TorchFile(saved({"w": torch.randn(10)}))
    data = file.content["w"]
    assert len(file.tensor(data)) == 10
    with pytest.raises(RequestError, match="is broken"):
        file.tensor(replace(data, size=size, stride=stride, offset=offset))


def test_many_tensors_on_one_storage_do_not_multiply(saved):
    base = torch.randn(10_000)
    file = TorchFile(saved({str(i): base[:] for i in range(100)}))
    with pytest.raises(RequestError, match="share storages"):
        [file.tensor(data) for data in file.content.values()]
