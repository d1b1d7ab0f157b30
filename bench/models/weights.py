"""Weight files in: safetensors or ``torch.save`` state dicts. Nothing in them is executed."""

from __future__ import annotations

import argparse
import errno
import hashlib
import pickle
import re
import zipfile
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from bench.contract import RequestError
from bench.core.memory import is_out_of_memory, tried_bytes
from bench.models.torch_file import TorchFile

HEADS = ("fc.", "classifier.", "head.", "heads.")
"""Prefixes of classification heads, which are left out of a backbone on purpose."""

_PLAIN = "give a state dict, written by torch.save(model.state_dict(), FILE), or a .safetensors file"
_AGAIN = "copy or download it again"
_NAMED = re.compile(r"(?:GLOBAL|names|wants) ([\w.]+)")
_DAMAGED = re.compile(r" (?:is broken|cannot be read|ends in the middle|has entries|was written) ?")


def read(file: Path) -> dict[str, Tensor]:
    """The tensors of a weight file.

    Raises:
        RequestError: where there is no such file, or it holds anything but tensors.
    """
    if not file.is_file():
        raise RequestError(f"no weight file {file}")
    try:
        if file.suffix == ".safetensors":
            return load_file(file)
        # torch's own reader has no bounds: a few bytes could keep it busy for hours, or have it ask for any memory.
        TorchFile(file).check()
        # timm's checkpoints carry their options in a namespace: attributes, nothing that runs.
        with torch.serialization.safe_globals([argparse.Namespace]):
            state = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:
        # A damaged file makes the readers raise almost anything: seek before its start, ask for memory it cannot fill.
        if isinstance(error, OSError) and error.errno != errno.EINVAL:
            raise RequestError(f"{file} cannot be read ({error.strerror or error}); mend that, or copy it") from error
        if is_out_of_memory(error) and (tried_bytes(error) or 0) <= file.stat().st_size:
            raise
        raise RequestError(f"{file} {_wrong(file, error)}") from error
    if isinstance(state, dict) and isinstance(state.get("state_dict"), dict):
        state = state["state_dict"]
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise RequestError(f"{file} is not a state dict: expected names and tensors, nothing else")
    return state


def _wrong(file: Path, error: Exception) -> str:
    """What is wrong with a file that cannot be read, without torch's own words: they advise to run what is in it."""
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
    """Names of the files in a zip archive; none where it is broken."""
    try:
        with zipfile.ZipFile(file) as archive:
            return {Path(name).name for name in archive.namelist()}
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
        return set()


def load(backbone: nn.Module, file: Path, name: str) -> None:
    """Load a file into a backbone; the file's classification head, if any, is left out.

    Raises:
        RequestError: listing missing keys, unknown keys and wrong shapes.
    """
    given = {_modern(key): value for key, value in read(file).items()}
    # A backbone may know older layouts of its own files.
    translate = getattr(backbone, "translate", None)
    given = translate(given) if translate else given
    wanted = backbone.state_dict()
    # Counters of batches seen: absent from files of torch before 0.4.1, and without influence in evaluation.
    missing = [key for key in wanted if key not in given and not key.endswith("num_batches_tracked")]
    unknown = [key for key in given if key not in wanted and not key.startswith(HEADS)]
    wrong = [
        f"{key} {tuple(given[key].shape)} instead of {tuple(value.shape)}"
        for key, value in wanted.items()
        if key in given and given[key].shape != value.shape
    ]
    if missing or unknown or wrong:
        parts = [_listing("missing", missing), _listing("unknown", unknown), _listing("wrong shape", wrong)]
        raise RequestError(f"{file} does not fit {name}: " + "; ".join(part for part in parts if part))
    backbone.load_state_dict({key: value for key, value in given.items() if key in wanted}, strict=False)


def head(file: Path, classes: int, channels: int) -> tuple[Tensor, Tensor]:
    """Weight ``(classes, channels)`` and bias ``(classes,)`` of the linear head that a file has behind its backbone.

    Raises:
        RequestError: where it has none of that size, or more than one layer behind the backbone.
    """
    given = {key: value for key, value in read(file).items() if key.startswith(HEADS)}
    matrices = [key for key in given if given[key].ndim > 1]
    if len(matrices) == 1 and given[matrices[0]].shape == (classes, channels):
        bias = given.get(matrices[0].removesuffix("weight") + "bias")
        return given[matrices[0]], torch.zeros(classes) if bias is None else bias
    found = ", ".join(f"{key} {tuple(given[key].shape)}" for key in matrices) or "nothing"
    raise RequestError(
        f"{file} has no linear head of {classes} classes on {channels} averaged channels (behind its backbone: "
        f"{found}); pass other weights, or train a head: --set classifier.head=trained"
    )


def digest(file: Path) -> str:
    """The first 16 hexadecimal digits of the file's SHA-256."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()[:16]


def _modern(key: str) -> str:
    # torchvision's DenseNet files still carry names like norm.1 from before dots were reserved.
    return re.sub(r"(denselayer\d+\.(?:norm|conv))\.(\d)\.", r"\1\2.", key)


def _listing(title: str, keys: list[str], most: int = 4) -> str:
    if not keys:
        return ""
    rest = f" and {len(keys) - most} more" if len(keys) > most else ""
    return f"{title}: {', '.join(keys[:most])}{rest}"
