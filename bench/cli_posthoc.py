"""The commands around the post-hoc decomposition that need no grid: for anyone's classifier."""

from __future__ import annotations

from typing import Any

import click
from rich.console import Console

from bench import options


@click.command()
@click.option("--model", required=True, help="timm:NAME or torchvision:NAME.")
@click.option("--weights", type=options.PATH, help="State dict or safetensors; default: the library's own, downloaded.")
@click.option("--data", type=options.PATH, required=True, help="Images as DIR/CLASS/*.jpg or DIR/train/CLASS/*.jpg.")
@click.option("--k", type=click.IntRange(min=1), default=3, show_default=True, help="Prototypes per class.")
@click.option("--out", type=options.PATH, required=True, help="Folder for the result and the drawings.")
@options.device
@options.memory
@click.option("--classes", type=options.PATH, help="File of class folders, a line each, in the classifier's order.")
@click.option("--global-pool", help="For timm, such as avg for a vision transformer with averaged tokens.")
@click.option("--set", "pairs", multiple=True, metavar="KEY=VALUE", help="Such as refinement=naive (repeatable).")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True)
@click.option("--precision", type=click.Choice(["fp32", "bf16"]), default="fp32", show_default=True)
@click.option("--batch-size", type=click.IntRange(min=1), default=32, show_default=True)
@click.option("--workers", type=click.IntRange(min=0), default=0, show_default=True, help="Processes reading images.")
@click.option("--storage", type=click.Choice(["single", "half"]), default="single", show_default=True, help="Features.")
@click.option("--images-per-class", type=click.IntRange(min=1), help="Take no more than so many of each class.")
@click.option(
    "--missing", type=click.Choice(["refuse", "keep"]), default="refuse", show_default=True,
    help="Classes without images: an error, or one undivided prototype.",
)  # fmt: skip
@click.option("--draw", "drawn", type=click.IntRange(min=0), default=12, show_default=True, help="Classes to draw.")
@click.option("--top", type=click.IntRange(min=1), default=5, show_default=True, help="Patches per prototype.")
def decompose(device: str, pairs: tuple[str, ...], **arguments: Any) -> None:
    """Part-prototypes for your own classifier, without changing a logit.

    The classifier must end in global average pooling and a linear layer; where that split is, is found and proved on
    your images, or refused with the reason. The result (safetensors, JSON and pictures) is written to --out; an
    interrupted command goes on where it stopped.
    """
    from bench import config, environment
    from bench.contract import RequestError
    from bench.posthoc.anyone import command
    from bench.progress import ConsoleProgress

    settings, grid = config.parse_overrides(pairs)
    if grid:
        raise RequestError(f"--set {next(iter(grid))}: one value at a time")
    console = Console()
    with ConsoleProgress(console) as progress:
        outcome = command.run(device=environment.pick_device(device), settings=settings, progress=progress, **arguments)
    console.print(f"prototypes and pictures: {outcome.folder}", soft_wrap=True, highlight=False)
    for name, value in outcome.facts.items():
        console.print(f"  {name} {value:.6g}" if isinstance(value, float) else f"  {name} {value}", highlight=False)


COMMANDS: list[click.Command] = [decompose]
