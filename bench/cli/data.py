"""Commands on data sets: list, verify, prepare and download them."""

from __future__ import annotations

import contextlib
import json
import sys
from pathlib import Path
from typing import Any

import click

from bench.cli import options
from bench.config import suites
from bench.config.overrides import single_about
from bench.core import registry
from bench.core.console import Console, say
from bench.core.paths import data_root as data_root_of_project
from bench.core.paths import home as find_home

# Anomalies of each kind that are printed; `--json` has all of them.
_SHOWN = 10

ROOT = click.option(
    "--data-root", type=options.PATH, default=data_root_of_project, help="Folder of the data sets, or of one of them."
)
PAIRS = options.settings("Setting, for example cub.folder=cub50 (repeatable).")


@click.group()
def data() -> None:
    """List, verify, prepare and download data sets.

    \b
    python -m bench data list --data-root DIR
    python -m bench data fetch cub --data-root DIR
    python -m bench data verify cub --data-root DIR
    """  # noqa: D301 (click reads the character itself)


@data.command("list")
@ROOT
@PAIRS
@options.as_json
@options.plugin
def list_(data_root: Path | None, pairs: tuple[str, ...], as_json: bool) -> None:
    """List the known data sets with their annotations and the folders that were searched."""
    from rich.table import Table

    overrides = single_about(pairs, suites.datasets())
    from bench.config import schema
    from bench.contract import RequestError
    from bench.data import synthetic
    from bench.data.locate import advice, base, locate, nearby

    home = find_home()
    place, source = base(data_root, home)
    overrides, _ = schema.parse_overrides(pairs)
    names = suites.datasets()
    rows: list[dict[str, Any]] = []
    for name in names:
        settings = schema.dataset_config(name, overrides)
        entry = registry.entry("datasets", settings.reader or name)
        wanted, found = home / "data" / f"demo-{synthetic.VERSION}", None
        obtained = "drawn at its first use"
        if settings.folder is not None:
            kind = entry.load()
            markers = getattr(kind, "markers", ())
            wanted, obtained = place / settings.folder, settings.source.way.format(name=name)
            with contextlib.suppress(RequestError):
                found = locate(settings.folder, data_root, home, markers)
            if found is not None and hasattr(kind, "recognises") and not kind.recognises(found):
                found = None
            if found is None and (others := nearby(place, markers)):
                obtained = advice(name, others)
        elif wanted.is_dir():
            found = wanted
        rows.append(
            {
                "name": name,
                "provides": dict(entry.facts).get("provides", ""),
                "looked_for": str(wanted),
                "found": None if found is None else str(found),
                "get": obtained,
                "summary": entry.summary,
            }
        )
    if as_json:
        say(json.dumps(rows, indent=1))
        return
    console = Console()
    table = Table("data set", "provides", "found", box=None)
    for row in rows:
        table.add_row(row["name"], row["provides"], row["found"] or "no")
    console.print(table)
    console.print(f"\nlooked in {place} ({source}); to get what is missing:", soft_wrap=True)
    for row in rows:
        if row["found"] is None:
            console.print(f"  {row['name']}: {row['get']}", soft_wrap=True)


@data.command()
@click.argument("name")
@ROOT
@PAIRS
@options.as_json
@options.plugin
def verify(name: str, data_root: Path | None, pairs: tuple[str, ...], as_json: bool) -> None:
    """Check NAME: counts, every image, boxes, key-points, masks, no file in both splits.

    Prints up to 10 anomalies of each kind (--json: all). Exit code 0: no anomaly (there may be warnings); 1: anomalies;
    2: anomalies for which `run` refuses the data set.
    """
    from dataclasses import asdict

    check_names(name, pairs)
    from bench.data.reader_reports import Faults
    from bench.data.verify import verify as look
    from bench.runner.progress import ConsoleProgress

    console, faults = Console(stderr=as_json), Faults(collecting=True)
    with ConsoleProgress(console) as progress:
        _, dataset = opened(name, pairs, data_root, progress, faults)
        report = look(dataset, progress, faults)
    if as_json:
        say(json.dumps(asdict(report), indent=1))
    else:
        counted = ", ".join(f"{count} {split}" for split, count in report.images.items())
        console.print(f"{name}: {counted} images of {report.classes} classes, compared with {report.compared}")
        kinds: dict[str, list[str]] = {}
        for anomaly in report.anomalies:
            place = f"{anomaly.where}: " if anomaly.where else ""
            kinds.setdefault(anomaly.kind, []).append(f"  {anomaly.kind}: {place}{anomaly.what}")
        for kind, lines in kinds.items():
            rest = [f"  {kind}: ... and {len(lines) - _SHOWN} more; --json has all of them"] if lines[_SHOWN:] else []
            for text in lines[:_SHOWN] + rest:
                console.print(text, style="red", soft_wrap=True)
        for warning in report.warnings[:_SHOWN]:
            text = f"  warning: {warning.where}: {warning.what}"
            console.print(text, style="yellow", soft_wrap=True)
        if len(report.warnings) > _SHOWN:
            console.print(f"  and {len(report.warnings) - _SHOWN} more warnings; --json has all of them")
        counts = ", ".join(f"{len(lines)} {kind}" for kind, lines in kinds.items())
        total = f"{len(report.anomalies)} anomalies: {counts}" if kinds else "nothing is wrong"
        console.print(total, soft_wrap=True)
    sys.exit(2 if report.refused else 1 if report.anomalies else 0)


@data.command()
@click.argument("name")
@ROOT
@PAIRS
@options.plugin
def prepare(name: str, data_root: Path | None, pairs: tuple[str, ...]) -> None:
    """Decode and resize all images of NAME in advance; `run` does it when needed."""
    check_names(name, pairs)
    from bench.data.cache import cache_folder
    from bench.data.cache import prepare as write
    from bench.runner.progress import ConsoleProgress

    home, console = find_home(), Console()
    with ConsoleProgress(console) as progress:
        settings, dataset = opened(name, pairs, data_root, progress)
        splits = write(dataset, settings.protocol, home, progress, on_bad=settings.on_bad_image)
    folder = cache_folder(dataset.digest, settings.protocol, home, settings.on_bad_image)
    counted = ", ".join(f"{len(samples)} {split}" for split, samples in splits.items())
    size = sum(file.stat().st_size for file in folder.iterdir()) / 2**20
    console.print(f"{name}: {counted} images, protocol {settings.protocol.name}, {size:.0f} MiB")
    console.print(f"  {folder}", soft_wrap=True)


@data.command()
@click.argument("name")
@ROOT
@PAIRS
@options.plugin
def fetch(name: str, data_root: Path | None, pairs: tuple[str, ...]) -> None:
    """Download NAME from its official address and unpack it into the folder that `run` reads.

    An interrupted download resumes. The data sets have their authors' licences.
    """
    check_names(name, pairs)
    from bench.data.download import fetch as get
    from bench.data.locate import base
    from bench.runner.progress import ConsoleProgress

    settings, console = settings_of(name, pairs), Console()
    with ConsoleProgress(console) as progress:
        found = get(settings.source, base(data_root, find_home())[0], progress)
    for path in found:
        console.print(f"  {path}", soft_wrap=True)
    console.print(f"check it: python -m bench data verify {name}")


def opened(
    name: str, pairs: tuple[str, ...], data_root: Path | None, progress: Any, faults: Any = None
) -> tuple[Any, Any]:
    """Return the data set's configuration and the data set; its faults are added to ``faults``, if given."""
    from bench.data.datasets import open_dataset

    settings = settings_of(name, pairs)
    dataset = open_dataset(
        name, settings.reader or name, settings.folder, data_root, find_home(), progress, settings.options, faults
    )
    return settings, dataset


def settings_of(name: str, pairs: tuple[str, ...]) -> Any:
    """Return the data set's configuration with the values of ``--set``."""
    from bench.config import schema

    return schema.dataset_config(name, single_about(pairs, [name]))


def check_names(name: str, pairs: tuple[str, ...]) -> None:
    """Refuse an unknown data set, and settings of others, before torch is imported."""
    suites.check_dataset(name)
    single_about(pairs, [name])


COMMANDS: list[click.Command] = [data]
