"""Import and execution of code from a user's checkout of an external repository, on purpose and without traces."""

from __future__ import annotations

import importlib.util
import io
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, redirect_stdout
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import model_zoo

from bench.contract import BenchError, CellError

_SHARED = {"torch", "torchvision", "numpy"} | sys.stdlib_module_names
"""Never imported from a checkout, even if it has files of these names."""


class _CheckoutFinder(MetaPathFinder):
    """Finder of top-level modules in a checkout's folders, ahead of installed packages."""

    def __init__(self, folders: list[str]) -> None:
        self.folders = folders
        self.served: set[str] = set()

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        """Return the spec of a top-level module in the folders; a package's modules are found through the package."""
        if path is not None or fullname in _SHARED:
            return None
        spec = PathFinder.find_spec(fullname, self.folders)
        if spec is not None:
            self.served.add(fullname)
            if spec.loader is None:
                # A folder without __init__.py: a plain list of its paths does not follow later changes of sys.path.
                spec.submodule_search_locations = list(spec.submodule_search_locations or ())
        return spec


@contextmanager
def imported_module(
    root: Path, file: str, more: tuple[str, ...] = (), stand_ins: tuple[ModuleType, ...] = ()
) -> Iterator[tuple[Any, list[str]]]:
    """Import a file of a checkout under a private name; yield the module and the names of the stand-ins in use.

    Its imports, also those inside functions that are called within this context, are searched in the checkout first.
    Afterwards ``sys.modules``, ``sys.path`` and ``sys.meta_path`` are as before.

    Args:
        root: folder of the checkout.
        file: path in the checkout.
        more: further folders in the checkout with top-level modules.
        stand_ins: modules for packages that are neither installed nor in the checkout.

    Yields:
        The module, and the names of the stand-ins that it got.

    Raises:
        CellError: if it cannot be imported, with the reason.
    """
    folders = [str(root), *(str(root / name) for name in more)]
    finder = _CheckoutFinder(folders)
    path, bytecode = list(sys.path), sys.dont_write_bytecode
    names = {item.stem for folder in folders if Path(folder).is_dir() for item in Path(folder).iterdir()} - _SHARED
    # Modules of the same names that are loaded already would otherwise be used in place of the checkout's.
    hidden = {name: sys.modules.pop(name) for name in list(sys.modules) if name.split(".")[0] in names}
    lent = {module.__name__: module for module in stand_ins if not _available(module.__name__, folders)}
    sys.modules.update(lent)
    private = f"checkout_of_{root.name}"
    sys.meta_path.insert(0, finder)
    sys.dont_write_bytecode = True
    try:
        yield _load(root / file, private), list(lent)
    finally:
        sys.dont_write_bytecode = bytecode
        sys.meta_path.remove(finder)
        sys.path[:] = path
        temporary = {private, *lent, *finder.served}
        for name in [name for name in sys.modules if name.split(".")[0] in temporary]:
            del sys.modules[name]
        sys.modules.update(hidden)
        for folder in folders:
            sys.path_importer_cache.pop(folder, None)


def _available(name: str, folders: list[str]) -> bool:
    return name in sys.modules or any(PathFinder.find_spec(name, path) for path in (folders, None))


def _load(file: Path, name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except ModuleNotFoundError as error:
        raise CellError(f"{file} needs the package {error.name!r}, which is not installed here") from error
    # Foreign code may raise anything while it is imported; the user gets the file and the reason.
    except (Exception, SystemExit) as error:
        raise CellError(f"{file} cannot be imported here ({type(error).__name__}: {error})") from error
    return module


@contextmanager
def contained(device: torch.device) -> Iterator[None]:
    """Run code of a checkout on a device: ``.cuda()`` moves to it, downloads are refused, prints are not shown."""

    def refuse(address: str, *_: Any, **__: Any) -> None:
        raise BenchError(f"the official code asks to download {address}: it is run without, on weights that are given")

    def to_device(thing: Any, *_: Any, **__: Any) -> Any:
        return thing.to(device)

    with ExitStack() as stack:
        for owner, name, value in (
            (Tensor, "cuda", to_device),
            (nn.Module, "cuda", to_device),
            (model_zoo, "load_url", refuse),
            (torch.hub, "load_state_dict_from_url", refuse),
            (torch.hub, "download_url_to_file", refuse),
        ):
            stack.enter_context(_replaced(owner, name, value))
        stack.enter_context(redirect_stdout(io.StringIO()))
        yield


@contextmanager
def _replaced(owner: Any, name: str, value: Any) -> Iterator[None]:
    defined, before = name in vars(owner), vars(owner).get(name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        # An inherited attribute is deleted again, so that it is inherited as before.
        if defined:
            setattr(owner, name, before)
        else:
            delattr(owner, name)
