"""Inputs of a planned cell on this machine: method, data, starting weights, external files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bench.config.black_box import VERSION as BLACK_BOX_VERSION
from bench.config.spec import CellSpec
from bench.contract import CellError, Dataset, Method, Samples
from bench.core import registry
from bench.core.imagenet_classes import HeadClasses
from bench.core.seeding import derive
from bench.data.cache import cache_folder, prepare
from bench.data.datasets import open_dataset
from bench.data.object_masks import with_masks
from bench.data.preprocessing import Preprocessing
from bench.models import weights
from bench.models.backbones import build, pretrained_head
from bench.models.external import ExternalFile, NetworkConfig
from bench.models.imagenet_head import head_for, head_names
from bench.runner.feature_store import FeatureStore
from bench.runner.progress import ConsoleProgress


class Inputs:
    """Inputs of one cell; each is refused if it differs from that of the plan.

    For ``where`` see :class:`bench.config.spec.InputLocations`.

    Attributes:
        left_out: files of the data set's folder that its reader ignored, after :meth:`data` was called.
        class_names: names of the data set's classes, after :meth:`data` was called.
    """

    def __init__(self, spec: CellSpec, where: Mapping[str, Any], home: Path, progress: ConsoleProgress) -> None:
        self.spec, self.where, self.home, self.progress = spec, where, home, progress
        for file in where["plugins"]:
            registry.load_plugin(Path(file))
        self.method: Method = registry.load("methods", spec.method)()
        self.left_out: dict[str, Any] = {}
        self.class_names: Sequence[str] = ()

    def check(self) -> None:
        """Refuse changed inputs: an id must mean one computation.

        Raises:
            CellError: if code, weights or external files have changed since the cell was planned.
        """
        changed = []
        if type(self.method).version != self.spec.method_version:
            changed.append(f"{self.spec.method} is version {type(self.method).version} now")
        for name, facts in self.spec.metrics.items():
            if registry.load("metrics", name).version != facts["version"]:
                changed.append(f"{name} is version {registry.load('metrics', name).version} now")
        for part, planned in self._planned_code().items():
            kind, name = self._entry_of(part)
            code = registry.code(kind, name)
            if code is None or code.digest != planned:
                file = (self.where.get("code") or {}).get(part) or (code.file if code else "?")
                changed.append(f"the code of {name}, {file}, has digest {code.digest if code else 'none'} now")
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
        """Return the digests of the plugins' code in the plan, by part."""
        metrics = {f"metrics.{name}": facts["code"] for name, facts in self.spec.metrics.items() if "code" in facts}
        return {**self.spec.code, **metrics}

    def _entry_of(self, part: str) -> tuple[str, str]:
        """Return kind and name of the catalogue entry of a part."""
        if part.startswith("metrics."):
            return "metrics", part.removeprefix("metrics.")
        names = {"dataset": self.where["reader"], "backbone": self.spec.backbone or ""}
        return f"{part}s", names.get(part, self.spec.method)

    def dataset(self) -> Dataset:
        """Open the data set at its planned location.

        Raises:
            RequestError: if it is missing.
            CellError: if it has changed since the cell was planned.
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
        """Return the preprocessed splits.

        Raises:
            CellError: if the data has changed since the cell was planned.
        """
        dataset = self.dataset()
        protocol = Preprocessing.model_validate(self.spec.protocol)
        on_bad, split = self.spec.on_bad_image, self.spec.split
        splits = prepare(dataset, protocol, self.home, self.progress, on_bad=on_bad)  # type: ignore[arg-type]
        self.class_names = splits["train"].class_names
        if any("mask" in registry.load("metrics", name).needs for name in self.spec.metrics):
            folder = cache_folder(dataset.digest, protocol, self.home, on_bad)
            splits[split] = with_masks(splits[split], split, dataset, protocol, folder, self.progress)
        return dict(splits)

    def settings(self) -> Any:
        """Return the method's ``Config``, with the paths of its external files from the plan."""
        return type(self.method).Config.model_validate(self.spec.settings, context={"given": self.where.get("given")})

    @property
    def given(self) -> dict[str, ExternalFile]:
        """External files and folders that replace training, if any."""
        settings = self.settings()
        return settings.given if isinstance(settings, NetworkConfig) else {}

    @property
    def head_classes(self) -> HeadClasses:
        """Return which rows of a pretrained head count."""
        return (self.spec.black_box or {}).get("head_classes", "present")

    @property
    def head_names(self) -> list[str]:
        """Return the class of each logit: the data set's, then those that only a pretrained head has and that count."""
        return head_names(self.class_names, self.head_classes)

    def head(self, channels: int) -> tuple[Tensor, Tensor]:
        """Return weight and bias of the head of the starting weights; see :func:`head_for`."""
        assert self.spec.backbone is not None
        name, file, size = self.spec.backbone, Path(self.where["weights"]), self.spec.protocol["size"]
        return head_for(
            self.class_names, self.head_classes, lambda count: pretrained_head(name, file, count, channels, size)
        )

    def backbone(self) -> nn.Module:
        """Build a new feature extractor with its starting weights."""
        assert self.spec.backbone is not None
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive(self.spec.seed, "backbone"))
            net = build(self.spec.backbone, self.spec.protocol["size"])
        if self.where["weights"] is not None:
            weights.load(net, Path(self.where["weights"]), self.spec.backbone)
        # A read takes less time than a pass, so times are measured without the store; nor does it take images that no
        # other cell has.
        metrics = [registry.load("metrics", name) for name in self.spec.metrics]
        shared = getattr(net, "frozen", False) or type(self.method).keeps_its_backbone(self.settings())
        if shared and all(m.repeatable and not m.changes_images for m in metrics):
            FeatureStore.attach(net, self.spec.backbone, self.home)
        return net
