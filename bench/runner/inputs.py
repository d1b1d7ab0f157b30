"""What a planned cell is computed from, found on this machine: method, data, starting weights, given files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bench.config.spec import CellSpec
from bench.contract import CellError, Dataset, Method, Samples
from bench.core import registry
from bench.core.seeding import derive
from bench.data.cache import prepare
from bench.data.datasets import open_dataset
from bench.data.preprocessing import Preprocessing
from bench.models import weights
from bench.models.external import ExternalFile, NetworkConfig
from bench.runner.progress import ConsoleProgress
from bench.training.black_box import VERSION as BLACK_BOX_VERSION


class Inputs:
    """The inputs of one cell; each is refused where it is no longer what the cell was planned for.

    Args:
        spec: the plan.
        where: the places of files, by what they are: see :class:`bench.config.spec.InputLocations`.
        home: ``BENCH_HOME``: prepared data.
        progress: where the preparing of data is told.

    Attributes:
        left_out: what the data set's folder holds and its reader did not read, once :meth:`data` was called.
    """

    def __init__(self, spec: CellSpec, where: Mapping[str, Any], home: Path, progress: ConsoleProgress) -> None:
        self.spec, self.where, self.home, self.progress = spec, where, home, progress
        for file in where["plugins"]:
            registry.load_plugin(Path(file))
        self.method: Method = registry.load("methods", spec.method)()
        self.left_out: dict[str, Any] = {}

    def check(self) -> None:
        """A result may only stand under an id that still means what will be computed.

        Raises:
            CellError: where code, weights or given files have changed since the cell was planned.
        """
        changed = []
        if type(self.method).version != self.spec.method_version:
            changed.append(f"{self.spec.method} is version {type(self.method).version} now")
        for name, facts in self.spec.metrics.items():
            if registry.load("metrics", name).version != facts["version"]:
                changed.append(f"{name} is version {registry.load('metrics', name).version} now")
        for what, planned in self._planned_code().items():
            kind, name = self._place_of(what)
            found = registry.code(kind, name)
            if found is None or found.digest != planned:
                file = (self.where.get("code") or {}).get(what) or (found.file if found else "?")
                changed.append(f"the code of {name}, {file}, has digest {found.digest if found else 'none'} now")
        if self.spec.black_box is not None and self.spec.black_box["version"] != BLACK_BOX_VERSION:
            changed.append(f"the black box is version {BLACK_BOX_VERSION} now")
        if self.where["weights"] is not None:
            file = Path(self.where["weights"])
            if not weights.split(file)[0].is_file() or weights.digest(file) != self.spec.weights_digest:
                changed.append(f"{file} is gone or has other content")
        changed += [f"{given.path} is gone or has other content" for given in self.given.values() if given.changed()]
        if changed:
            raise CellError(f"this cell was planned for something else ({'; '.join(changed)}): call `run` again")

    def _planned_code(self) -> dict[str, str]:
        """The digests of the plugins' code that the cell was planned with."""
        metrics = {f"metrics.{name}": facts["code"] for name, facts in self.spec.metrics.items() if "code" in facts}
        return {**self.spec.code, **metrics}

    def _place_of(self, what: str) -> tuple[str, str]:
        """Kind and name of what code is planned for."""
        if what.startswith("metrics."):
            return "metrics", what.removeprefix("metrics.")
        names = {"dataset": self.where["reader"], "backbone": self.spec.backbone or ""}
        return f"{what}s", names.get(what, self.spec.method)

    def dataset(self) -> Dataset:
        """The data set, as it lies here.

        Raises:
            RequestError: where it is not there.
            CellError: where it is no longer what the cell was planned for.
        """
        root = self.where["data_root"]
        dataset: Dataset = open_dataset(
            self.spec.dataset,
            self.where["reader"],
            self.where["folder"],
            Path(root) if root else None,
            self.home,
            self.progress,
            self.where.get("options"),
        )
        self.left_out = dict(getattr(dataset, "left_out", {}))
        if dataset.digest != self.spec.data_digest:
            raise CellError(
                f"{self.spec.dataset} has changed since this cell was planned "
                f"(digest {dataset.digest}, planned {self.spec.data_digest}): call `run` again"
            )
        return dataset

    def data(self) -> dict[str, Samples]:
        """The prepared splits.

        Raises:
            CellError: where the data is no longer what the cell was planned for.
        """
        dataset = self.dataset()
        protocol = Preprocessing.model_validate(self.spec.protocol)
        return dict(prepare(dataset, protocol, self.home, self.progress, on_bad=self.spec.on_bad_image))  # type: ignore[arg-type]

    def settings(self) -> Any:
        """The method's ``Config``; files that it names are where the plan found them."""
        return type(self.method).Config.model_validate(self.spec.settings, context={"given": self.where.get("given")})

    @property
    def given(self) -> dict[str, ExternalFile]:
        """The files and folders that stand in for training, where there are any."""
        settings = self.settings()
        return settings.given if isinstance(settings, NetworkConfig) else {}

    def head(self, classes: int, channels: int) -> tuple[Tensor, Tensor]:
        """Weight and bias of the head that the starting weights were trained with; see :func:`weights.head`."""
        assert self.spec.backbone is not None
        net = registry.load("backbones", self.spec.backbone)()
        return weights.head(net, Path(self.where["weights"]), self.spec.backbone, classes, channels)

    def backbone(self) -> nn.Module:
        """A fresh feature extractor with its starting weights."""
        assert self.spec.backbone is not None
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive(self.spec.seed, "backbone"))
            net: nn.Module = registry.load("backbones", self.spec.backbone)()
        if self.where["weights"] is not None:
            weights.load(net, Path(self.where["weights"]), self.spec.backbone)
        return net
