"""Commands of the post-hoc decomposition that need no grid: for any classifier."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from bench.cli import options
from bench.config.overrides import parse_single
from bench.core.console import Console, Text, say


@click.command()
@click.option("--model", required=True, help="timm:NAME or torchvision:NAME.")
@click.option("--weights", type=options.PATH, help="FILE or FILE#PART; default: the library's own, downloaded.")
@click.option("--data", type=options.PATH, required=True, help="Images as DIR/CLASS/*.jpg or DIR/train/CLASS/*.jpg.")
@click.option("--k", type=click.IntRange(min=1), default=3, show_default=True, help="Prototypes per class.")
@click.option(
    "--out", type=options.PATH, required=True, callback=options.target, help="Folder for the result and the drawings."
)
@options.device
@options.feature_memory
@click.option(
    "--class-order",
    metavar="timm|torchvision|FILE",
    help="How training numbered the folders; FILE: one per line. [default: torchvision]",
)
@click.option("--classes", type=options.PATH, help="The same as --class-order FILE.")
@click.option("--any-accuracy", is_flag=True, help="Go on where the classifier's answers speak against the labels.")
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
    settings = parse_single(pairs)
    from bench.cli import decompose as command
    from bench.core import environment
    from bench.runner.progress import ConsoleProgress

    console = Console()
    with ConsoleProgress(console) as progress:
        outcome = command.run(device=environment.pick_device(device), settings=settings, progress=progress, **arguments)
    console.print(f"prototypes and pictures: {outcome.folder}", soft_wrap=True)
    for name, value in outcome.facts.items():
        console.print(f"  {name} {value:.6g}" if isinstance(value, float) else f"  {name} {value}")


@click.command()
@click.argument("name", metavar="CELL")
@options.home
@options.data_elsewhere
@options.device
@click.option("--top", type=click.IntRange(min=1), default=10, show_default=True, help="Prototypes to list.")
def intervene(name: str, out: Path | None, data_root: Path | None, device: str, top: int) -> None:
    """Find misclassified test images that leaving out one prototype corrects, and what it would break.

    Prototypes are ranked by their net effect on accuracy; the best one's first case is drawn.
    """
    from rich.table import Table

    from bench.core import environment
    from bench.core.paths import home as find_home
    from bench.results.store import Store
    from bench.runner.cell import CellRunner
    from bench.runner.intervene import intervene as look
    from bench.runner.progress import ConsoleProgress
    from bench.visualization.intervention import clearest, draw_case
    from bench.visualization.viewer import readable

    home, console = find_home(), Console()
    store = Store(out or home)
    with ConsoleProgress(console) as progress:
        found = store.find(name)
        picked = environment.pick_device(device)
        result = look(CellRunner(store, found, home, picked, progress, elsewhere=options.elsewhere(data_root)))
    ranking = result.effects.ranking.tolist()
    console.print(f"accuracy {result.accuracy:.2f} %; {len(ranking)} prototypes correct something when left out")
    if not ranking:
        return
    names = {row: readable(result.owner(row)) for row in ranking}
    table = Table(box=None, padding=(0, 2))
    table.add_column("prototype", justify="right", no_wrap=True)
    # A long name continues on the next line: it is never cut.
    table.add_column("of class", overflow="fold")
    for title in ("corrects", "breaks", "accuracy\nwithout it (%)"):
        table.add_column(title, justify="right", no_wrap=True)
    for row in ranking[:top]:
        numbers = (str(int(effect[row])) for effect in (result.effects.corrected, result.effects.broken))
        table.add_row(str(result.number(row)), Text(names[row]), *numbers, f"{result.without(row):.2f}")
    console.print(table)
    best = ranking[0]
    for image in result.cases(best)[:top]:
        console.print(
            f"  prototype {result.number(best)} of {names[best]} left out corrects {result.image_ids[image]}",
            soft_wrap=True,
        )  # fmt: skip
    drawing = draw_case(result, best, clearest(result, best), found, f"intervention-{found}")
    for file in drawing.save(home / "figures", ("png",)):
        console.print(f"drawn: {file}", soft_wrap=True)


@click.command()
@click.argument("names", metavar="CELL...", nargs=-1, required=True)
@click.option(
    "--set",
    "pairs",
    multiple=True,
    required=True,
    metavar="KEY=A,B",
    help="Values, such as ours.norm=l2,zscore.",
)
@click.option("--folds", type=click.IntRange(min=2), default=2, show_default=True, help="Parts of the training split.")
@click.option(
    "--split",
    type=click.Choice(["train", "test"]),
    default="train",
    show_default=True,
    help="Where to measure: parts of the training split to choose, the test split to report.",
)
@click.option("--columns", callback=options.names, help="Of the table, with commas; default: all that was measured.")
@click.option("--format", "fmt", type=click.Choice(["text", "md", "json"]), default="text", show_default=True)
@options.home
@options.data_elsewhere
@options.device
@options.memory
def tune(
    names: tuple[str, ...],
    pairs: tuple[str, ...],
    folds: int,
    split: str,
    columns: tuple[str, ...],
    fmt: str,
    out: Path | None,
    data_root: Path | None,
    device: str,
    memory_limit: int,
) -> None:
    """Compare settings of a method on the training split of some cells; a network is trained for each of them.

    Each part of the training split in turn is left out of the fit and measured on. Test images are not looked at,
    unless --split test asks for them, to report what was chosen. Several cells (of several seeds, say) are averaged.
    Features of all images stay in memory.
    """
    from bench.core import environment
    from bench.core.paths import home as find_home
    from bench.results.store import Store
    from bench.runner import tune
    from bench.runner.cell import CellRunner
    from bench.runner.progress import ConsoleProgress

    home, chosen = find_home(), environment.pick_device(device)
    environment.make_deterministic()
    store = Store(out or home)
    more: dict[str, Any] = {"memory_limit": memory_limit, "elsewhere": options.elsewhere(data_root)}
    with ConsoleProgress(Console(stderr=True)) as shown, ConsoleProgress(Console(stderr=True), quiet=True) as silent:
        cells = tune.open_cells(store, names, lambda name: CellRunner(store, name, home, chosen, silent, **more))
        wanted = tune.choices(cells[0].spec.method, pairs)
        tune.check_columns(cells, columns)
        total = len(cells) * (folds if split == "train" else 1) * len(wanted)
        trials = list(shown.track(tune.tune(cells, wanted, folds, split), "fits measured", total))
    say(tune.as_text(trials, fmt, columns))


@click.group()
def speed() -> None:
    """Measure how fast the parts of the harness are, beside a reference in the same run."""


@speed.command("decompose")
@click.option("--classes", type=click.IntRange(min=1), default=200, show_default=True)
@click.option("--images", type=click.IntRange(min=1), default=30, show_default=True, help="Per class.")
@click.option("--hw", type=click.IntRange(min=1), default=49, show_default=True, help="Cells of an image.")
@click.option("--features", type=click.IntRange(min=1), default=512, show_default=True, help="Channels.")
@click.option("--k", type=click.IntRange(min=1), default=3, show_default=True, help="Prototypes per class.")
@options.device
@click.option("--sample", type=click.IntRange(min=1), default=5, show_default=True, help="Classes of the reference.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True)
@click.option("--sklearn/--no-sklearn", default=True, show_default=True, help="Scikit-learn's NMF as a first step too.")
@click.option("--set", "pairs", multiple=True, metavar="KEY=VALUE", help="Settings instead of the fast ones.")
@options.feature_memory
@click.option("--json", "as_json", is_flag=True, help="For programs.")
def speed_decompose(device: str, pairs: tuple[str, ...], as_json: bool, **arguments: Any) -> None:
    """Our decomposition beside the published pipeline read literally, on the same drawn features.

    The published pipeline (NumPy, cvxpy, SciPy's Nelder-Mead) is timed on a sample of the classes and extrapolated.
    """
    import json

    settings = parse_single(pairs)
    from bench.config import schema
    from bench.contract import RequestError
    from bench.core import environment
    from bench.diagnostics.speed_decompose import COMPARABLE, as_text, measure
    from bench.posthoc.decompose_class import DecompositionConfig

    schema.validate(DecompositionConfig, {**COMPARABLE, "k": arguments["k"], **settings}, "")
    if "k" in settings:
        raise RequestError(f"--set k={settings['k']}: write --k {settings['k']}")
    console = Console(stderr=True)
    result = measure(
        device=environment.pick_device(device),
        settings=settings or None,
        note=lambda message: console.print(message, soft_wrap=True),
        **arguments,
    )
    say(json.dumps(result, indent=1) if as_json else as_text(result))


@speed.command("metrics")
@click.option("--backbone", default="resnet34", show_default=True, help="Its weights are random.")
@click.option("--prototypes", type=click.IntRange(min=1), default=2000, show_default=True, help="Of all classes.")
@click.option("--images", type=click.IntRange(min=1), default=1000, show_default=True)
@click.option("--classes", type=click.IntRange(min=1), default=200, show_default=True)
@options.device
@click.option("--batch-size", type=click.IntRange(min=1), default=32, show_default=True)
@click.option("--sample", type=click.IntRange(min=1), default=32, show_default=True, help="Images of the literal loop.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True)
@options.memory
@click.option("--json", "as_json", is_flag=True, help="For programs.")
def speed_metrics(device: str, as_json: bool, **arguments: Any) -> None:
    """Consistency, stability and the axioms on drawn images, beside two bare forward passes and a literal loop.

    No implementation can beat the forward passes: one of the images, one of their noisy copies. The loop scores one map
    and one part at a time, as the published evaluation does.
    """
    import json

    from bench.core import registry

    registry.entry("backbones", arguments["backbone"])  # before torch is imported
    from bench.core import environment
    from bench.diagnostics.speed_metrics import as_text, measure

    console = Console(stderr=True)
    result = measure(
        device=environment.pick_device(device),
        note=lambda message: console.print(message, soft_wrap=True),
        **arguments,
    )
    say(json.dumps(result, indent=1) if as_json else as_text(result))


COMMANDS: list[click.Command] = [decompose, intervene, tune, speed]
