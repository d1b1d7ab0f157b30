"""Check of the names in a request. Nothing in this module imports torch: a wrong name is refused at once."""

from __future__ import annotations

import functools
import operator
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from bench.config.overrides import check_name
from bench.config.setting_names import setting_names
from bench.config.suites import check_dataset
from bench.core import registry
from bench.core.errors import RequestError
from bench.core.registry import some

# Sections of no method, metric or data set: variants and preprocessing of backbones, training of black boxes, and
# whether backbones start from ImageNet.
EVERYWHERE = ("backbone", "classifier", "pretrained")


@dataclass
class Named:
    """Sections that settings can be about: methods, data sets and metrics of a run, or of several together.

    Attributes:
        methods: names of methods, with controls.
        datasets: names of data sets.
        metrics: names of the metrics that are measured.
    """

    methods: set[str] = field(default_factory=set)
    datasets: set[str] = field(default_factory=set)
    metrics: set[str] = field(default_factory=set)

    def __or__(self, other: Named) -> Named:
        return Named(self.methods | other.methods, self.datasets | other.datasets, self.metrics | other.metrics)

    def check_settings(self, single: Iterable[str], several: Iterable[str]) -> None:
        """Refuse settings of sections that are not in the run: they would have no effect.

        Raises:
            RequestError: naming the sections of the run, or the nearest names.
        """
        several = set(several)
        for name in [*several, *single]:
            check_name(name)
            section, dot, _ = name.partition(".")
            if not dot and name != "pretrained":
                raise RequestError(f"--set {name}: write SECTION.NAME=VALUE, for example ours.k=5")
            self._check_section(name, section)
            self._check_setting(section, name.split(".")[1:2])
            if name in several and section not in self.methods:
                raise RequestError(f"--set {name}: only methods' and data sets' settings take several values at once")

    def _check_setting(self, section: str, first: Sequence[str]) -> None:
        """Refuse a name whose first step is no setting of a method or metric; all else is checked with its value."""
        known = setting_names(section) if section in self.methods | self.metrics else None
        if known is not None and not known.issuperset(first):
            raise RequestError(f"{section}.{first[0]}: unknown setting{registry.nearest(first[0], known)}")

    def _check_section(self, name: str, section: str) -> None:
        kinds = ("methods", "datasets", "metrics")
        if section in EVERYWHERE or any(section in getattr(self, kind) for kind in kinds):
            return
        for kind in kinds:
            if section in registry.names(kind):
                raise RequestError(
                    f"--set {name}: {section} is not in this run, whose {kind} are "
                    f"{some(sorted(getattr(self, kind)))}; leave the setting out, or add {section} to --{kind}"
                )
        known = {*EVERYWHERE, *self.datasets, *(entry for kind in kinds for entry in registry.names(kind))}
        near = registry.nearest(section, known)
        listed = (
            near if "did you mean" in near else "; a section is a method, a metric, a data set, backbone or classifier"
        )
        raise RequestError(f"--set {name}: unknown section{listed}")


def with_controls(wanted: Iterable[str], controls: bool) -> list[str]:
    """Return methods, followed by the black box and the content-free controls."""
    known = registry.names("methods").items()
    added = [name for name, entry in known if entry.role != "method" and entry.measured == "always"]
    return list(dict.fromkeys([*wanted, *(added if controls else [])]))


def check_requests(
    requests: Sequence[Mapping[str, Any]], gpus: Iterable[str] = (), weights: Iterable[str] = ()
) -> None:
    """Refuse unknown names in the fields of requests, and settings of sections that are in none of them.

    Values of a wrong type are left to :class:`bench.config.schema.Request`; metrics that only some methods have count
    as measured, because the methods are not imported yet. The methods that ``--gpus-per-cell`` names are ``gpus``, the
    backbones of ``--weights`` are ``weights``.

    Raises:
        RequestError: one line about the first problem.
        UnknownName: if a method, backbone or metric is unknown.
    """
    every = functools.reduce(operator.or_, map(_named, requests))
    for name in weights:
        registry.entry("backbones", name)
    for name in filter(None, gpus):
        registry.entry("methods", name)
        if name not in every.methods:
            raise RequestError(f"--gpus-per-cell {name}=...: the methods of this run are {some(sorted(every.methods))}")
    for values in requests:
        every.check_settings(_texts(values.get("overrides")), _texts(values.get("grid")))


def _named(values: Mapping[str, Any]) -> Named:
    wanted = registry.chosen_methods(_texts(values.get("methods")))
    for name in wanted:
        registry.entry("methods", name)
    for name in _texts(values.get("backbones")):
        registry.entry("backbones", name)
    datasets = _texts(values.get("datasets"))
    for name in datasets:
        check_dataset(name)
    metrics = registry.chosen_metrics(_texts(values.get("metrics")), shared=True)
    return Named(set(with_controls(wanted, values.get("controls") is not False)), set(datasets), set(metrics))


def _texts(values: Any) -> list[str]:
    return [value for value in values if isinstance(value, str)] if isinstance(values, list | tuple | dict) else []
