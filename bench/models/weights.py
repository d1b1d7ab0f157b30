"""Readers of weight files: safetensors, state dicts and checkpoints of ``torch.save``, none of it executed."""

from __future__ import annotations

import argparse
import errno
import hashlib
import pickle
import re
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from bench.contract import RequestError
from bench.core.memory import is_out_of_memory, tried_bytes
from bench.models.checkpoint_forms import HEADS, Tensors, choose, few
from bench.models.torch_file import TorchFile

_PLAIN = "give a state dict, written by torch.save(model.state_dict(), FILE), or a .safetensors file"
_AGAIN = "copy or download it again"
_NAMED = re.compile(r"(?:GLOBAL|names|wants) ([\w.]+)")
_DAMAGED = re.compile(r" (?:is broken|cannot be read|ends in the middle|has entries|was written) ?")


class _Aside:
    """Placeholder for a number, path or date beside the weights, of which nothing is kept."""

    def __new__(cls, *_arguments: object) -> _Aside:
        """Accept any arguments that the file has for it."""
        return super().__new__(cls)

    def __setstate__(self, _state: object) -> None:
        """Discard the state."""


_NUMPY = ("scalar", "_reconstruct")
_ASIDE = (
    *(f"numpy.{core}.multiarray.{name}" for core in ("core", "_core") for name in _NUMPY),
    *("numpy.dtype", "numpy.ndarray", "datetime.datetime", "datetime.date", "datetime.timedelta"),
    *(f"pathlib{module}.{kind}Path" for module in ("", "._local") for kind in ("Posix", "Windows", "PurePosix")),
)
_HYPERPARAMETERS = (
    "pytorch_lightning.utilities.parsing.AttributeDict",
    "lightning.pytorch.utilities.parsing.AttributeDict",
    "lightning_fabric.utilities.data.AttributeDict",
    "lightning.fabric.utilities.data.AttributeDict",
)
# What may be named beside tensors. Nothing of numpy, pathlib or Lightning itself is called for a file.
_HARMLESS: list[Any] = [
    # timm's checkpoints carry their options in a namespace: attributes, nothing that runs.
    argparse.Namespace,
    *((_Aside, name) for name in _ASIDE),
    *((OrderedDict, name) for name in _HYPERPARAMETERS),
]


def split(given: Path) -> tuple[Path, str]:
    """Return the file and the part of it that ``FILE#PART`` names; a file whose own name has that sign is itself."""
    name, _, part = given.name.partition("#")
    return (given, "") if not part or not name or given.exists() else (given.with_name(name), part)


def read(file: Path) -> dict[str, Tensor]:
    """Read the tensors of a weight file that contains nothing else.

    Raises:
        RequestError: if there is no such file, or it contains anything but tensors.
    """
    state = content(file)
    if isinstance(state, dict) and isinstance(state.get("state_dict"), dict):
        state = state["state_dict"]
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise RequestError(f"{file} is not a state dict: expected names and tensors, nothing else")
    return state


def content(file: Path) -> Any:
    """Read the content of a weight file: tensors, and numbers, words and dictionaries around them.

    Raises:
        RequestError: if there is no such file, it is damaged, or names anything that would have to be run.
    """
    if not file.is_file():
        raise RequestError(f"no weight file {file}")
    try:
        if file.suffix == ".safetensors":
            return load_file(file)
        # torch's own reader has no bounds: a few bytes could keep it busy for hours, or have it ask for any memory.
        TorchFile(file).check()
        with torch.serialization.safe_globals(_HARMLESS):
            return torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:
        # A damaged file makes the readers raise almost anything: seek before its start, ask for memory it cannot fill.
        if isinstance(error, OSError) and error.errno != errno.EINVAL:
            raise RequestError(f"{file} cannot be read ({error.strerror or error}); mend that, or copy it") from error
        if is_out_of_memory(error) and (tried_bytes(error) or 0) <= file.stat().st_size:
            raise
        raise RequestError(f"{file} {_wrong(file, error)}") from error


def _wrong(file: Path, error: Exception) -> str:
    """Describe why a file cannot be read, without torch's own words: they advise to execute its content."""
    with file.open("rb") as stream:
        start = stream.read(4)
    if not start:
        return f"is empty: {_AGAIN}"
    if file.suffix == ".safetensors":
        return f"is no safetensors file, or a damaged or cut-off one: {_AGAIN}"
    zipped = start == b"PK\x03\x04"
    if not zipped and not start.startswith(b"\x80"):
        return f"is no file of torch.save: refused, nothing in it was run; {_PLAIN}"
    inside = _entries(file) if zipped else set()
    if "constants.pkl" in inside:
        return f"is a program of torch.jit: refused, nothing in it was run; {_PLAIN}"
    if inside and "data.pkl" not in inside:
        return f"is a zip archive, but none of torch.save: refused, nothing in it was run; {_PLAIN}"
    if "magic number" in str(error) or "not one of torch.save" in str(error):
        return f"is a pickle, but not one of torch.save: refused, nothing in it was run; {_PLAIN}"
    named = _NAMED.search(str(error))
    if isinstance(error, pickle.UnpicklingError | RequestError) and named:
        return f"names {named[1]}, which is no tensor: refused, nothing in it was run; {_PLAIN}"
    if isinstance(error, RequestError) and not _DAMAGED.search(str(error)):
        return f"{str(error).removeprefix(f'{file} ')}; {_PLAIN}"
    return f"is damaged or cut off ({file.stat().st_size:,} bytes): {_AGAIN}"


def _entries(file: Path) -> set[str]:
    """Return the names of the files in a zip archive; none if it is broken."""
    try:
        with zipfile.ZipFile(file) as archive:
            return {Path(name).name for name in archive.namelist()}
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
        return set()


def fitting(
    given: Path,
    wanted: Mapping[str, Tensor],
    name: str,
    prepare: Callable[[Tensors], Tensors] = dict,
    note: Callable[[str], None] = lambda _: None,
    heads: tuple[str, ...] = HEADS,
    advice: str = "",
) -> Tensors:
    """Return the tensors of a weight file for a network, in its own names, and those of a head behind them.

    Args:
        given: ``FILE``, or ``FILE#PART`` if the file contains several.
        wanted: the network's state dict.
        name: of the network, for messages.
        prepare: translates older layouts of the network's own files.
        note: receives a line for each wrapper undone and each tensor left out.
        heads: prefixes of names that the file may have beyond the network's.
        advice: the end of the message if something does not fit.

    Raises:
        RequestError: listing missing and unknown names, wrong shapes and tensors whose numbers are none.
    """
    file, part = split(given)
    tensors, notes = choose(content(file), part, wanted, file, lambda raw: prepare(_modern(raw)), heads)
    # Counters of batches seen: absent from files of torch before 0.4.1, and without influence in evaluation.
    missing = [key for key in wanted if key not in tensors and not key.endswith("num_batches_tracked")]
    unknown = [key for key in tensors if key not in wanted and not key.startswith(heads)]
    wrong = [
        f"{key} {tuple(tensors[key].shape)} instead of {tuple(value.shape)}"
        for key, value in wanted.items()
        if key in tensors and tensors[key].shape != value.shape
    ]
    if missing or unknown or wrong:
        listed = {"missing": missing, "unknown": unknown, "wrong shape": wrong}
        parts = [f"{title}: {few(keys)}" for title, keys in listed.items() if keys]
        undone = f" ({'; '.join(notes)})" if notes else ""
        raise RequestError(f"{file} does not fit {name}: {'; '.join(parts)}{undone}{advice}")
    broken = [key for key, value in tensors.items() if _is_broken(value, wanted.get(key))]
    if broken:
        raise RequestError(
            f"{file} holds no usable numbers in {few(broken)} (not finite, or no floating point): the training "
            "that wrote it has failed, or it was converted for a device; take an earlier or a plain one"
        )
    if narrow := {str(value.dtype).removeprefix("torch.") for value in tensors.values() if _is_narrow(value)}:
        notes.append(f"{file.name}: its {' and '.join(sorted(narrow))} numbers are read in single precision")
    for line in notes:
        note(line)
    return {key: value.float() if _is_narrow(value) else value for key, value in tensors.items()}


def load(backbone: nn.Module, file: Path, name: str, note: Callable[[str], None] = lambda _: None) -> None:
    """Load a file into a backbone; the file's classification head, if any, is left out.

    Raises:
        RequestError: as :func:`fitting`.
    """
    network = getattr(backbone, "named_as_in_files", backbone)
    wanted = network.state_dict()
    given = fitting(file, wanted, name, _layouts(backbone), note)
    network.load_state_dict({key: value for key, value in given.items() if key in wanted}, strict=False)


def head(backbone: nn.Module, file: Path, name: str, classes: int, channels: int) -> tuple[Tensor, Tensor]:
    """Read weight ``(classes, channels)`` and bias ``(classes,)`` of the linear head behind a file's backbone.

    Raises:
        RequestError: if it has none of that size, or more than one layer behind the backbone.
    """
    wanted = backbone.state_dict()
    tensors = fitting(file, wanted, name, _layouts(backbone))
    given = {key: value for key, value in tensors.items() if key.startswith(HEADS) and key not in wanted}
    matrices = [key for key in given if given[key].ndim > 1]
    if len(matrices) == 1 and given[matrices[0]].shape == (classes, channels):
        bias = given.get(matrices[0].removesuffix("weight") + "bias")
        return given[matrices[0]], torch.zeros(classes) if bias is None else bias
    found = ", ".join(f"{key} {tuple(given[key].shape)}" for key in matrices) or "nothing"
    raise RequestError(
        f"{file} has no linear head of {classes} classes on {channels} averaged channels (behind its backbone: "
        f"{found}); pass other weights, or train a head: --set classifier.head=trained"
    )


def not_downloaded(name: str, source: str) -> RequestError:
    """Return the error of a backbone whose published weights have no fixed address with a hash."""
    return RequestError(
        f"weights for {name} are not downloaded (no fixed address with a hash): {source}; pass --weights {name}=PATH, "
        "or --set pretrained=false"
    )


def digest(given: Path) -> str:
    """Return the first 16 hexadecimal digits of the file's SHA-256; with ``FILE#PART``, of that and the part."""
    file, part = split(given)
    with file.open("rb") as stream:
        whole = hashlib.file_digest(stream, "sha256")
    if part:
        whole.update(f"#{part}".encode())
    return whole.hexdigest()[:16]


def _modern(tensors: Tensors) -> Tensors:
    # torchvision's DenseNet files still carry names like norm.1 from before dots were reserved.
    return {re.sub(r"(denselayer\d+\.(?:norm|conv))\.(\d)\.", r"\1\2.", key): value for key, value in tensors.items()}


def _layouts(backbone: nn.Module) -> Callable[[Tensors], Tensors]:
    """Return the backbone's translation of older layouts of its own files, if it has any."""
    translate: Callable[[Tensors], Tensors] = getattr(backbone, "translate", None) or dict
    return translate


def _is_narrow(value: Tensor) -> bool:
    return value.is_floating_point() and value.dtype.itemsize < 4


def _is_broken(value: Tensor, wanted: Tensor | None) -> bool:
    if value.is_meta or value.is_quantized or value.is_complex() or value.layout != torch.strided:
        return True
    if wanted is not None and wanted.is_floating_point() and not value.is_floating_point():
        return True
    return value.is_floating_point() and not bool(torch.isfinite(value.float() if _is_narrow(value) else value).all())
