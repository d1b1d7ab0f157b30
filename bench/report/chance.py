"""Comparison with content-free controls: methods that they reach, and scores above chance."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace

from bench.core import registry
from bench.report.table import Column, Row, Table
from bench.results.aggregate import Entry

_PERFECT = 100.0
# So many methods are named even where they are all that there are.
_FEW = 2


def chance_corrected(value: float, chance: float) -> float:
    """Scale a score to 0 without content, 1 for perfect, negative below chance; chance must not be perfect itself.

    Example:
        >>> chance_corrected(79.0, chance=58.0)
        0.5
    """
    # As Cohen's kappa corrects agreement (Educ. Psychol. Meas. 1960): the share of what chance leaves to be gained.
    return (value - chance) / (_PERFECT - chance)


def beyond_chance(table: Table) -> Table | None:
    """Return the table of chance-corrected scores for a table, or none if no control was measured.

    Chance is the best content-free control of the same table. Only scores in percent, larger is better, have a perfect
    value. If a control reaches it, nothing is beyond chance: ``n/a``.
    """
    chances = _chances(table)
    controls = [row for row in table.rows if row.role == "control"]
    others = tuple(row for row in table.rows if row.role != "control")
    if not chances or not others:
        return None
    notes: list[str] = []
    numbers: dict[str, int] = {}
    for metric, known in chances.items():
        best, holders = _best(known)
        if best >= _PERFECT:
            verb = "are" if len(holders) > 1 else "is"
            notes.append(f"n/a: {' and '.join(holders)} {verb} perfect in {metric}: it shows no content by itself")
            numbers[metric] = len(notes)

    def corrected(row: Row, metric: str) -> Entry:
        entry, chance = row.values[metric], max(chances[metric].values())
        if metric in numbers:
            return Entry("n/a", notes=(numbers[metric],))
        if entry.value is None:
            return replace(entry, notes=(), best=False)
        spread = None if entry.spread is None else entry.spread / (_PERFECT - chance)
        # The correction is linear, so that it may be applied to the mean over seeds.
        return Entry("ok", chance_corrected(entry.value, chance), spread, entry.seeds)

    # Those with a backbone see the image, and know no class.
    kind = "control" if any(row.backbone for row in controls) else "content-free control"
    rows = tuple(replace(row, values={metric: corrected(row, metric) for metric in chances}) for row in others)
    spread = any(entry.spread is not None for row in rows for entry in row.values.values())
    return Table(
        f"{table.title}: beyond chance",
        tuple(Column(metric, "0 to 1") for metric in chances),
        rows,
        table.stub,
        tuple(notes),
        facts=(f"0: the best {kind}, 1: perfect; chance: {_levels(chances)}", _certainty(spread)),
    )


def beside_protocols(tables: Sequence[Table], views: Sequence[tuple[str, str]]) -> list[Table]:
    """Return tables with a line about the chance levels of the same data set under other protocols, if there are any.

    ``views`` are data set and protocol of each table.
    """
    said = {view: levels for view, table in zip(views, tables, strict=True) if (levels := _levels(_chances(table)))}

    def with_line(table: Table, view: tuple[str, str]) -> Table:
        own = {protocol: levels for (dataset, protocol), levels in said.items() if dataset == view[0]}
        if len(own) < _FEW or view not in said:
            return table
        here = own.pop(view[1])
        others = " | ".join(f"{protocol}: {levels}" for protocol, levels in own.items())
        line = f"chance here: {here} | {others}; a number belongs beside its own table's chance"
        return replace(table, facts=(*table.facts, line))

    return [with_line(table, view) for table, view in zip(tables, views, strict=True)]


def _chances(table: Table) -> dict[str, dict[str, float]]:
    """Return each control's value in the metrics that have a perfect one: percent, larger is better."""
    chances = {}
    for column in table.columns:
        controls = (row for row in table.rows if row.role == "control")
        known = {row.label: value for row in controls if (value := row.number(column)) is not None}
        if has_chance(column) and column.unit == "%" and column.higher_is_better and known:
            chances[column.name] = known
    return chances


def _best(known: dict[str, float]) -> tuple[float, list[str]]:
    best = max(known.values())
    return best, [label for label, value in known.items() if value == best]


def _levels(chances: dict[str, dict[str, float]]) -> str:
    """Return the best controls of each metric in words: ``consistency 58.0 (constant)``."""
    levels = ((metric, *_best(known)) for metric, known in chances.items())
    return "; ".join(f"{metric} {best:.1f} ({', '.join(holders)})" for metric, best, holders in levels)


def _certainty(spread: bool) -> str:
    """Return the uncertainty that such a table leaves out: the control has a spread, and images are a sample."""
    return f"{'±: over the seeds of the method alone; ' * spread}the test: python -m bench compare METHOD CONTROL"


def chance_warnings(rows: Sequence[Row], columns: Sequence[Column]) -> list[str]:
    """Return which controls reach or beat which methods, metric by metric: there a score is no evidence of content.

    Metrics and controls of which the same is true are listed together. A method without a backbone
    behind it is meant with every one that it has a value for.

    Example:
        ``consistency, stability: constant, center ≥ ours, protopnet (vgg19); random ≥ every method``
    """
    metrics: dict[tuple[str, ...], list[str]] = defaultdict(list)
    for column in filter(has_chance, columns):
        controls: dict[str, list[str]] = defaultdict(list)
        for control in (row for row in rows if row.role == "control"):
            reached = [row for row in rows if row.role == "method" and reaches(control, row, column)]
            if reached:
                controls[_named(reached, rows, column)].append(control.label)
        sign = "≥" if column.higher_is_better else "≤"
        told = tuple(f"{', '.join(labels)} {sign} {names}" for names, labels in controls.items())
        if told:
            metrics[told].append(column.name)
    return [f"{', '.join(names)}: {'; '.join(told)}" for told, names in metrics.items()]


def has_chance(column: Column) -> bool:
    """Return whether a content-free control is a rival in it."""
    known = registry.names("metrics")
    return column.name not in known or known[column.name].chance


def reaches(control: Row, row: Row, column: Column) -> bool:
    """Return whether a control is at least as good as a method, as far as both have a value."""
    ours, theirs = control.number(column), row.number(column)
    if ours is None or theirs is None:
        return False
    return ours >= theirs if column.higher_is_better else ours <= theirs


def finding(table: Table) -> str:
    """Return in a sentence what a table shows: its most accurate method beside the black box and the best controls.

    Returns:
        An empty text if no method's accuracy was measured, or no content-free control.
    """
    accuracy = next((column for column in table.columns if column.name == "accuracy"), None)
    methods = [row for row in table.rows if row.role == "method" and accuracy and row.number(accuracy) is not None]
    if accuracy is None or not methods:
        return ""
    first = max(methods, key=lambda row: row.number(accuracy) or 0.0)
    above, not_above = [], []
    for column in filter(has_chance, table.columns):
        own, sign = first.number(column), 1 if column.higher_is_better else -1
        known = [(row.number(column), row) for row in table.rows if row.role == "control"]
        controls = [(sign * value, row) for value, row in known if value is not None]
        if own is not None and controls:
            level, control = max(controls, key=lambda pair: pair[0])
            text = f"{column.name} ({own:{column.form}} against {sign * level:{column.form}} of {control.label})"
            (above if sign * own > level else not_above).append(text)
    if not above and not not_above:
        return ""
    boxes = [n for row in table.rows if row.role == "reference" and (n := row.number(accuracy)) is not None]
    beside = f", the black box {max(boxes):.1f} %" if boxes else ""
    parts = [f"is better than every control in {', '.join(above)}"] if above else []
    parts += [f"no better than one in {', '.join(not_above)}"] if not_above else []
    said = " and ".join(parts) if above else f"is {parts[0]}"
    return f"{first.label}, the most accurate method ({first.number(accuracy):.1f} %{beside}), {said}."


def _named(reached: Sequence[Row], rows: Sequence[Row], column: Column) -> str:
    """Return methods with their backbones, if not all are meant; many settings of one method together."""
    methods = [row for row in rows if row.role == "method" and row.number(column) is not None]
    if len(reached) == len(methods) > _FEW:
        return "every method"
    measured, backbones = _backbones(methods), _backbones(reached)
    variants: dict[str, list[str]] = defaultdict(list)
    for label in measured:
        variants[_method(label)].append(label)
    names = {}
    for label, own in backbones.items():
        settings = variants[_method(label)]
        if len(settings) > _FEW and all(backbones.get(one) == measured[one] for one in settings):
            names[_method(label)] = f"{_method(label)} (all {len(settings)} settings)"
        else:
            names[label] = label if own == measured[label] else f"{label} ({', '.join(own)})"
    return ", ".join(names.values())


def _backbones(rows: Sequence[Row]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = defaultdict(list)
    for row in rows:
        found[row.label].append(row.backbone)
    return found


def _method(label: str) -> str:
    """Return ``ours`` of ``ours (k=5)``."""
    return label.partition(" (")[0]
