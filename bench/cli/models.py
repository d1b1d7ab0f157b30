"""Commands on networks: a backbone's facts, the import of official checkpoints."""

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


@click.command()
@click.argument("name")
@click.option("--size", type=click.IntRange(min=1), help="Side of the images; default: that of the published weights.")
@click.option("--json", "as_json", is_flag=True, help="For programs.")
@options.plugin
def backbone(name: str, size: int | None, as_json: bool) -> None:
    """Print a backbone's map, channels, sign, preprocessing and head, and whether that head decomposes exactly.

    NAME is one of `ls backbones`, timm:NAME or torchvision:NAME, with variants such as resnet50@stride=16@frozen. No
    weights are needed: values are measured with random ones.
    """
    import json
    from dataclasses import asdict

    registry.entry("backbones", name)  # before torch is imported
    from bench.models.backbones import describe

    facts = describe(name, size)
    if as_json:
        say(json.dumps(asdict(facts), indent=1))
        return
    side, rows = size or facts.input.size, facts.rows
    signs = "of either sign: ours counts negative ones as zero, or factorisation=semi"
    say(f"{name}, {facts.parameters:.1f} million parameters")
    grid = f"{rows} x {rows} cells of {side} x {side} pixels, stride {side / rows:.3g}"
    say(f"  map       {facts.channels} channels, {grid}")
    say(f"  features  {signs if facts.signed else 'zero or more'}")
    mean, deviation = (", ".join(f"{value:g}" for value in values) for values in (facts.input.mean, facts.input.std))
    say(f"  input     mean {mean}; deviation {deviation}; {facts.input.interpolation}, {facts.input.size} pixels,")
    say(f"            centre crop of {100 * facts.input.crop_share:.3g} %")
    if facts.refusal:
        say(f"  its head  not exact: {facts.refusal}")
        say("            a new head is trained on the averaged features, and that one is exact")
    else:
        handled = {
            "none": "average pooling and a linear layer",
            "batch": "average pooling, batch norm, which goes into the linear layer's rows",
            "layer": "average pooling, layer norm, by whose spread an image's features are divided",
            "rms": "average pooling, RMS norm, by whose spread an image's features are divided",
        }
        say(f"  its head  exact: {handled[facts.head]}")


COMMANDS: list[click.Command] = [backbone, import_checkpoint]
