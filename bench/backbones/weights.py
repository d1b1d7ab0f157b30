"""Weight files in: safetensors or ``torch.save`` state dicts. Nothing in them is executed."""

from __future__ import annotations

import argparse
import hashlib
import pickle
import re
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from bench.contract import RequestError

HEADS = ("fc.", "classifier.", "head.", "heads.")
"""Prefixes of classification heads, which are left out of a backbone on purpose."""


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
        # timm's checkpoints carry their options in a namespace: attributes, nothing that runs.
        with torch.serialization.safe_globals([argparse.Namespace]):
            state = torch.load(file, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, SafetensorError, RuntimeError, EOFError, OSError, ValueError) as error:
        reason = str(error).split("\n")[0]
        raise RequestError(f"{file} is not a plain state dict of tensors ({reason})") from error
    if isinstance(state, dict) and isinstance(state.get("state_dict"), dict):
        state = state["state_dict"]
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise RequestError(f"{file} is not a state dict: expected names and tensors, nothing else")
    return state


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
