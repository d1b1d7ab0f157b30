"""Commands of the post-hoc decomposition that need no grid: for any classifier."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from bench.cli import options
from bench.config.overrides import parse_single
from bench.core.console import Console, Text, say
from bench.core.paths import home as find_home


@click.command()
@click.option("--model", required=True, help="Classifier: timm:NAME or torchvision:NAME.")
@click.option("--weights", type=options.PATH, help="FILE or FILE#PART. Default: download the library's weights.")
@click.option("--data", type=options.PATH, required=True, help="Images as DIR/CLASS/*.jpg or DIR/train/CLASS/*.jpg.")
@options.number("--k", 3, "Prototypes per class.")
@click.option(
    "--out", type=options.PATH, required=True, callback=options.target, help="Folder for the result and the drawings."
)
@options.device
@options.feature_memory
@click.option(
    "--class-order",
    metavar="timm|torchvision|FILE",
    help="Order of the classes in training; FILE: one folder per line. [default: torchvision]",
)
@click.option("--classes", type=options.PATH, help="Same as --class-order FILE.")
@click.option("--any-accuracy", is_flag=True, help="Continue if the classifier's predictions contradict the labels.")
@click.option("--global-pool", help="Pooling of timm, such as avg for a vision transformer with averaged tokens.")
@options.settings("Setting, such as refinement=naive (repeatable).")
@options.number("--seed", 0, "Seed of all random numbers.", least=0)
@options.precision
@options.number("--batch-size", 32, "Images per batch.")
@options.number("--workers", 0, "Processes that read images.", least=0)
@options.choice("--storage", ["single", "half"], "Stored features.", "single")
@options.number("--images-per-class", None, "Maximum number of images per class.")
@options.choice(
    "--missing",
    ["refuse", "keep"],
    "Classes without images: raise an error, or keep the class as one prototype.",
    "refuse",
)
@options.number("--draw", 12, "Number of drawn classes.", least=0, dest="drawn")
@options.number("--top", 5, "Number of patches per prototype.")
def decompose(device: str, pairs: tuple[str, ...], **arguments: Any) -> None:
    """Decompose your own classifier into part-prototypes without changing its logits.

    The classifier must end in global average pooling and a linear layer. The command finds this split and verifies it
    on your images, or reports the reason why it cannot. The result (safetensors, JSON and pictures) is written to
    --out; an interrupted command resumes.
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
@options.number("--top", 10, "Number of listed prototypes.")
def intervene(name: str, out: Path | None, data_root: Path | None, device: str, top: int) -> None:
    """Find misclassified test images that removing one prototype corrects, and correct ones that it breaks.

    Prototypes are ranked by their net effect on accuracy; a case of the best one is drawn.
    """
    from rich.table import Table

    from bench.core import environment
    from bench.runner.cell import CellRunner
    from bench.runner.intervene import intervene as look
    from bench.runner.progress import ConsoleProgress
    from bench.visualization.intervention import clearest, draw_case
    from bench.visualization.viewer import readable

    home, console = find_home(), Console()
    store = options.open_store(out)
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
    help="Values of a setting, such as ours.norm=l2,zscore or classifier.schedule.batch_size=16,32 (repeatable).",
)
@options.number("--folds", 2, "Folds of the training split.", least=2)
@options.number("--limit-folds", None, "Leave out and measure the first folds alone. Default: all.", least=1)
@options.choice(
    "--split",
    ["train", "test"],
    "Split for evaluation: folds of the training split to select settings, the test split to report them.",
    "train",
)
@options.several("--columns", "Comma-separated columns of the table. Default: all numbers.")
@options.table_format
@options.home
@options.data_elsewhere
@options.device
@options.memory
def tune(
    names: tuple[str, ...],
    pairs: tuple[str, ...],
    folds: int,
    limit_folds: int | None,
    split: str,
    columns: tuple[str, ...],
    fmt: str,
    out: Path | None,
    data_root: Path | None,
    device: str,
    memory_limit: int,
) -> None:
    """Compare settings of a method or of its black box by cross-validation on the training split of cells.

    A network is trained for each choice and fold, and measured in each state that its training passes. So is a black
    box for each choice of its training (classifier.schedule) and fold.

    Each fold of the training split is evaluated with a fit on the other folds. Test images are used only with --split
    test, to report selected settings. Numbers are averaged over the cells, for example of several seeds. The features
    of all images stay in memory.
    """
    from bench.core import environment
    from bench.report.measurement_tables import tune_table
    from bench.runner import tune
    from bench.runner.cell import CellRunner
    from bench.runner.progress import ConsoleProgress

    home, chosen = find_home(), environment.pick_device(device)
    environment.make_deterministic()
    store = options.open_store(out)
    more: dict[str, Any] = {"memory_limit": memory_limit, "elsewhere": options.elsewhere(data_root)}
    with ConsoleProgress(Console(stderr=True)) as shown, ConsoleProgress(Console(stderr=True), quiet=True) as silent:
        cells = tune.open_cells(store, names, lambda name: CellRunner(store, name, home, chosen, silent, **more))
        wanted = tune.choices(cells[0].spec.method, pairs)
        tune.check_columns(cells, columns)
        total = len(cells) * (min(folds, limit_folds or folds) if split == "train" else 1) * len(wanted)
        trials = list(shown.track(tune.tune(cells, wanted, folds, split, limit_folds), "fits measured", total))
    records = [asdict(trial) for trial in trials]
    if fmt == "json":
        say(json.dumps(records, indent=1))
    else:
        options.print_tables([tune_table(records)], fmt, "Settings", columns=columns)


COMMANDS: list[click.Command] = [decompose, intervene, tune]
