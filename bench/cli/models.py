"""Command that imports official checkpoints."""

from __future__ import annotations

from pathlib import Path

import click

from bench.cli import options
from bench.core import registry
from bench.core.console import say


@click.command("import")
@click.argument("method")
@click.argument("file", type=options.PATH)
@click.argument("out", type=options.PATH)
def import_checkpoint(method: str, file: Path, out: Path) -> None:
    """Convert the official checkpoint FILE of METHOD to safetensors without executing code from it.

    OUT.safetensors has the tensors under their official names, OUT.json the other facts. FILE may be a pickled model
    (its repository is not needed), a dict with a state dict in it, or a state dict, in either format of torch.save.
    `python -m bench ls checkpoints` lists the methods. Then:

    \b
    python -m bench run --methods protopnet --datasets cub --backbones resnet34 \\
        --set protopnet.checkpoint=OUT.safetensors

    evaluates it in this project's implementation, or, with --set protopnet.source=CHECKOUT, in the official code. The
    latter executes the code in CHECKOUT: give only code that you trust.
    """  # noqa: D301 (click reads the character itself)
    facts = registry.load("checkpoints", method).convert(method, file, out)
    for name in ("class", "classes", "prototypes", "per_class", "depth", "architecture", "activation", "doubt"):
        if facts.get(name) is not None:
            say(f"  {name} {facts[name]}")
    for name, text in (("assumed", "not in the file, assumed as published"), ("inert", "named by the file, not run")):
        if facts[name]:
            say(f"  {text}: {', '.join(facts[name])}")
    backbone = f" --backbones {facts['architecture']}" if facts["architecture"] else ""
    written = out if out.suffix == ".safetensors" else f"{out}.safetensors"
    say(f"written: {written}")
    say(f"next: python -m bench run --methods {method} --datasets cub{backbone} --set {method}.checkpoint={written}")


COMMANDS: list[click.Command] = [import_checkpoint]
