"""Commands on single cells: run one, take over those that ran elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
from rich.console import Console

from bench import options


@click.command()
@click.argument("folder", type=click.Path(path_type=Path, exists=True, file_okay=False))
@options.device
@options.memory
@click.option("--data-root", type=options.PATH, help="Where the data sets lie on this machine; default: as planned.")
@click.option(
    "--weights",
    multiple=True,
    callback=options.weights,
    metavar="BACKBONE=PATH",
    help="Where the starting weights lie on this machine; default: as planned.",
)
@click.option(
    "--only", type=click.Choice(["data", "black-box"]), help="Only prepare the images, or only train the black box."
)
def cell(
    folder: Path,
    device: str,
    memory_limit: int | None,
    data_root: Path | None,
    weights: dict[str, Path],
    only: Any,
) -> None:
    """Run one cell: the FOLDER that holds its cell.json. This is what every launcher starts."""
    from bench import environment
    from bench.cell import Cell
    from bench.contract import RequestError
    from bench.launch.stages import share
    from bench.progress import ConsoleProgress
    from bench.store import Store

    folder = folder.resolve()
    if not (folder / "cell.json").is_file() or folder.parent.name != "cells":
        raise RequestError(f"{folder} is not a cell: expected .../cells/ID with a cell.json in it")
    store = Store(folder.parent.parent)
    backbone = store.specification(folder.name)["spec"]["backbone"]
    for name in weights:
        if name != backbone:
            raise RequestError(f"--weights {name}=...: this cell has the backbone {backbone}")
    elsewhere = {}
    if data_root is not None:
        elsewhere["data_root"] = str(data_root.resolve())
    if weights:
        elsewhere["weights"] = str(weights[backbone].resolve())
    with ConsoleProgress(Console()) as progress:
        found = Cell(
            store,
            folder.name,
            environment.home(),
            environment.pick_device(device),
            progress,
            memory_limit=memory_limit,
            elsewhere=elsewhere,
        )
        if only is not None:
            share(found, only)
            return
        if found.folder.done:
            click.echo("done before")
        found.run()


@click.command()
@click.argument("homes", metavar="HOME...", nargs=-1, required=True, type=click.Path(path_type=Path))
@options.home
def gather(homes: tuple[Path, ...], out: Path | None) -> None:
    """Take over finished cells and black boxes from the HOMEs of other machines, or copies of them.

    What is here already stays as it is. Afterwards the `run` that asks for all these cells finds them done and prints
    the table.
    """
    from bench import environment
    from bench.gather import gather as take
    from bench.progress import ConsoleProgress
    from bench.store import Store

    home = environment.home()
    with ConsoleProgress(Console()) as progress:
        for other in homes:
            click.echo(f"{other}: {take(other, Store(out or home), home, progress)}")


COMMANDS = (cell, gather)
