"""What a checkpoint may cost: no more memory and time than in proportion to its size."""

import contextlib
import io
import pickle
import struct
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch

from baselines import official_files
from bench.contract import RequestError
from bench.models import weights
from bench.models.pickle_values import Refused
from bench.models.safe_pickle import Machine
from bench.models.torch_file import TorchFile
from tests.support.hostile_pickles import colliding, g, hostile, legacy, zipped

SIZE = 2**18
HARMLESS = {
    "marks taken off one by one",
    "marks over a deep stack",
    "one thing again and again",
    "nested tuples",
    "nested lists",
    "marks",
    "long persistent ids",
    "empty sets",
    "empty dicts",
    "a memo of one thing",
    "instances",
    "a frame beyond the end",
}
"""Those whose price is in proportion to their size: they end by themselves, or when they have taken their part."""
# Address space beyond that of torch, and seconds for all files together; without a budget, one of them takes minutes
# or gigabytes.
LIMITED = """
import resource, sys
from pathlib import Path
from baselines import official_files
from bench.models import weights
from bench.contract import RequestError
pages = int(Path("/proc/self/statm").read_text().split()[0])
resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + 2**28,) * 2)
used = resource.getrusage(resource.RUSAGE_SELF)
resource.setrlimit(resource.RLIMIT_CPU, (int(used.ru_utime + used.ru_stime) + 60,) * 2)
for name in sys.argv[1:]:
    try:
        (official_files.read if "old" in name else weights.read)(Path(name))
    except RequestError as error:
        assert name in str(error) and "\\n" not in str(error), error
print("done")
"""


def read(raw, budget=None):
    machine = Machine(lambda name: name, len(raw))
    machine.budget = budget or machine.budget
    return machine.load(io.BytesIO(raw))


@pytest.mark.parametrize("name", sorted(hostile(8).keys() - HARMLESS))
def test_unbounded_costs_are_refused(name):
    with pytest.raises(Refused):
        read(hostile(SIZE)[name])


@pytest.mark.parametrize("name", sorted(HARMLESS))
def test_costs_in_proportion_are_accepted(name):
    raw = hostile(2**12)[name]
    machine = Machine(lambda name: name, len(raw))
    before = machine.budget
    with contextlib.suppress(Refused):
        machine.load(io.BytesIO(raw))
    assert before - machine.budget <= 250 * len(raw)
    with pytest.raises(Refused, match="asks for more memory and time than a file of its size needs"):
        read(raw, (before - machine.budget) // 2)


def test_no_hostile_file_takes_minutes_or_gigabytes(tmp_path):
    files = []
    for place, raw in enumerate(hostile(SIZE // 2).values()):
        files += [zipped(raw, tmp_path / f"{place}.pth"), legacy(raw, tmp_path / f"{place}.old.pth")]
    ran = subprocess.run([sys.executable, "-c", LIMITED, *map(str, files)], capture_output=True, text=True)
    assert ran.stdout == "done\n", ran.stderr[-2000:]


def test_honest_numbers_as_keys_come_back():
    state = {"state": {i: {"step": i} for i in range(3000)}, "ids": set(range(2000))}
    assert read(pickle.dumps(state, 2)) == state
    assert len(read(b"\x80\x02}(" + colliding(100, b"N") + b"u.")) == 100


def test_a_memo_may_count_from_one_as_python_2_does():
    assert read(b"(lq\x01K\x05ah\x01\x86.") == ([5], [5])
    for raw in (b"Nq\x02.", b"Nq\x00q\x05.", b"Nq\x000g-1\n."):
        with pytest.raises(Refused):
            read(raw)


def test_a_mark_is_no_value():
    for raw in (b"(\x85.", b"N(\x86.", b"(2.", b"(."):
        with pytest.raises(Refused, match="is broken"):
            read(raw)
    assert read(b"N(0.") is None


MODULE = g("torch.nn.modules.module Module") + b")\x81"


def nested(count, children=b"X\x01\x00\x00\x00aX\x01\x00\x00\x00b"):
    """Modules of which each holds the next one twice: 2 ** count paths."""
    left, right = children[:6], children[6:]
    inner = MODULE + b"q\x00"
    for place in range(count):
        inner += b"0" + MODULE + b"}X\x08\x00\x00\x00_modules}("
        inner += left + b"h%c" % place + right + b"h%c" % place
        inner += b"usbq%c" % (place + 1)
    return inner + b"."


def test_modules_that_hold_one_another_are_walked_a_bounded_way(tmp_path):
    with pytest.raises(RequestError, match="contain one another"):
        official_files.read(zipped(nested(60), tmp_path / "w.pth"))
    wide = b"".join(b"X\x05\x00\x00\x00%05xN" % i for i in range(5000))
    parameters = MODULE + b"}X\x0b\x00\x00\x00_parameters}(" + wide + b"usbq\x000"
    holders = b"".join(b"X\x05\x00\x00\x00%05xh\x00" % i for i in range(5000))
    raw = parameters + MODULE + b"}X\x08\x00\x00\x00_modules}(" + holders + b"usb."
    with pytest.raises(RequestError, match="contain one another"):
        official_files.read(zipped(raw, tmp_path / "wide.pth"))


def test_a_name_that_is_no_text_is_not_written_out(tmp_path):
    # An instance as a name, with a tuple in it that would have 2 ** 60 parts when printed.
    key = g("m C") + b")\x81}X\x01\x00\x00\x00xN" + b"2\x86" * 60 + b"sb"
    raw = MODULE + b"}X\x08\x00\x00\x00_modules}(" + key + MODULE + b"usb."
    with pytest.raises(RequestError, match="without a name"):
        official_files.read(zipped(raw, tmp_path / "w.pth"))


def described(key=b"0", count=4, size=(4,), stride=(1,), offset=0):
    """A pickle of one tensor on a storage of ``count`` numbers, as ``torch.save`` writes it."""
    storage = b"(X\x07\x00\x00\x00storage" + g("torch FloatStorage") + b"X\x01\x00\x00\x00" + key
    storage += b"X\x03\x00\x00\x00cpu" + pickle.dumps(count, 2)[2:-1] + b"tQ"
    plain = b"".join(pickle.dumps(part, 2)[2:-1] for part in (offset, size, stride, False))
    tensor = g("torch._utils _rebuild_tensor_v2") + b"(" + storage + plain + g("collections OrderedDict") + b")RtR"
    return b"\x80\x02}X\x01\x00\x00\x00w" + tensor + b"s."


@pytest.mark.parametrize(
    "described_as",
    [
        {"count": 2**40},
        {"count": 2**40, "size": (2**40,)},
        {"size": (2**20, 2**20), "stride": (0, 0)},
        {"size": (0, 2**62, 2**62), "stride": (1, 1, 1)},
        {"size": (2**64,), "stride": (0,)},
        {"offset": 2**70},
        {"stride": (2**62,)},
        {"key": b"1"},
    ],
    ids=str,
)
def test_a_small_file_gets_no_gigabytes(described_as, tmp_path):
    file = zipped(described(**described_as), tmp_path / "w.pth", {"0": bytes(16)})
    keys = pickle.dumps(["0"], 2)
    old = legacy(
        described(**described_as),
        tmp_path / "old.pth",
        keys + struct.pack("<q", described_as.get("count", 4)) + bytes(16),
    )
    for path in (file, old):
        for reader in (weights.read, lambda path: official_files.tensors(official_files.read(path))):
            with pytest.raises(RequestError, match=path.name):
                reader(path)
    plain = zipped(described(), tmp_path / "plain.pth", {"0": bytes(16)})
    assert torch.equal(weights.read(plain)["w"], torch.zeros(4))
    assert torch.equal(TorchFile(plain).tensor(TorchFile(plain).content["w"]), torch.zeros(4))


@pytest.mark.parametrize(
    "keys",
    [
        pickle.dumps(5, 2),
        pickle.dumps(["0", "0"], 2),
        pickle.dumps(["7"], 2),
        pickle.dumps(["0"], 2) + struct.pack("<q", 2**62),
        pickle.dumps(["0"], 2) + struct.pack("<q", -1),
    ],
    ids=["number", "twice", "unknown", "huge", "negative"],
)
def test_a_wrong_list_of_storages_is_refused(keys, tmp_path):
    file = legacy(described(), tmp_path / "w.pth", keys + struct.pack("<q", 4) * 2 + bytes(64))
    for reader in (TorchFile, weights.read):
        with pytest.raises(RequestError, match=r"w\.pth"):
            reader(file)


def changed_directory(path: Path, place: int, number: int) -> Path:
    """The archive with a 32-bit number of each central directory entry set."""
    raw = bytearray(path.read_bytes())
    at = raw.find(b"PK\x01\x02")
    while at >= 0:
        raw[at + place : at + place + 4] = struct.pack("<I", number)
        at = raw.find(b"PK\x01\x02", at + 4)
    path.write_bytes(raw)
    return path


def test_entries_that_lie_are_refused_before_they_are_read(tmp_path):
    for place in (20, 24):  # stored size, real size
        lying = changed_directory(zipped(described(), tmp_path / f"{place}.pth", {"0": bytes(16)}), place, 2**31)
        for reader in (TorchFile, weights.read):
            with pytest.raises(RequestError, match=r"\.pth"):
                reader(lying)
    file = tmp_path / "over.pth"
    with zipfile.ZipFile(zipped(described(), file, {"0": bytes(2**16)}), "a") as archive:
        first = archive.getinfo("archive/data/0")
        for key in range(1, 50):
            entry = zipfile.ZipInfo(f"archive/data/{key}")
            entry.header_offset, entry.file_size, entry.compress_size = first.header_offset, 2**16, 2**16
            entry.CRC = first.CRC
            archive.filelist.append(entry)
            archive.NameToInfo[entry.filename] = entry
        archive._didModify = True
    for reader in (TorchFile, weights.read):
        with pytest.raises(RequestError, match=r"over\.pth"):
            reader(file)


def test_an_entry_twice_is_refused(tmp_path):
    file = zipped(described(), tmp_path / "w.pth", {"0": bytes(16)})
    with zipfile.ZipFile(file, "a") as archive, pytest.warns(UserWarning, match="Duplicate name"):
        archive.writestr("archive/data.pkl", described(count=2))
    with pytest.raises(RequestError, match="two entries of one name"):
        TorchFile(file)


def test_an_archive_behind_another_is_refused(tmp_path):
    # Python reads the second; other readers take the offsets at its end for those of the whole file: the first.
    file = zipped(described(), tmp_path / "w.pth", {"0": bytes(16)})
    raw = file.read_bytes()
    file.write_bytes(raw + raw)
    for reader in (TorchFile, weights.read):
        with pytest.raises(RequestError, match=r"w\.pth"):
            reader(file)


def test_parts_of_one_long_storage_are_read_once_each(tmp_path):
    base = torch.randn(200_000)
    torch.save({str(i): base[1000 * i : 1000 * (i + 1)] for i in range(200)}, tmp_path / "w.pth")
    file = TorchFile(tmp_path / "w.pth")
    assert torch.equal(torch.cat([file.tensor(data) for data in file.content.values()]), base)


def test_values_of_training_scripts_are_accepted(tmp_path):
    import datetime
    from collections import Counter

    beside = {"when": datetime.datetime(2020, 1, 1), "folder": Path("x"), "milestones": Counter([3, 5])}
    torch.save({"w": torch.zeros(2), "beside": beside}, tmp_path / "w.pth")
    assert list(TorchFile(tmp_path / "w.pth").content) == ["w", "beside"]
