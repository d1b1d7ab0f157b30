"""How far above chance each score lies, from a finished table."""

from __future__ import annotations

from dataclasses import replace

from bench.report.block import Block, Column, Entry, Line

_PERFECT = 100.0


def chance_corrected(value: float, chance: float, perfect: float = _PERFECT) -> float:
    """0 for what needs no content, 1 for a perfect score, negative below chance; chance must not be perfect itself.

    Example:
        >>> chance_corrected(79.0, chance=58.0)
        0.5
    """
    return (value - chance) / (perfect - chance)


def beyond_chance(block: Block) -> Block | None:
    """The table of chance-corrected scores that belongs to a table, or none where no control was measured.

    Chance is the best content-free control of the same table. Only scores in percent, larger is better, have a perfect
    value. Where a control reaches it there is nothing beyond chance: ``n/a``.
    """
    controls = [line for line in block.lines if line.role == "control"]
    others = tuple(line for line in block.lines if line.role != "control")
    chances: dict[str, dict[str, float]] = {}
    for column in block.columns:
        found = {line.label: line.entries[column.metric].value for line in controls}
        known = {label: value for label, value in found.items() if value is not None}
        if column.unit == "%" and column.higher_is_better and known:
            chances[column.metric] = known
    if not chances or not others:
        return None
    notes: list[str] = []
    told: list[str] = []
    numbers: dict[str, int] = {}
    for metric, known in chances.items():
        best = max(known.values())
        holders = [label for label, value in known.items() if value == best]
        told.append(f"{metric} {best:.1f} ({', '.join(holders)})")
        if best >= _PERFECT:
            verb = "are" if len(holders) > 1 else "is"
            notes.append(f"n/a: {' and '.join(holders)} {verb} perfect in {metric}: it shows no content by itself")
            numbers[metric] = len(notes)

    def corrected(line: Line, metric: str) -> Entry:
        entry, chance = line.entries[metric], max(chances[metric].values())
        if metric in numbers:
            return Entry("n/a", notes=(numbers[metric],))
        if entry.value is None:
            return replace(entry, notes=(), best=False)
        spread = None if entry.spread is None else entry.spread / (_PERFECT - chance)
        value = chance_corrected(entry.value, chance)
        return Entry("ok", value, spread, entry.seeds)

    return Block(
        title=f"{block.title}: beyond chance",
        columns=tuple(Column(metric, "0 to 1", True, "") for metric in chances),
        lines=tuple(replace(line, entries={m: corrected(line, m) for m in chances}) for line in others),
        notes=tuple(notes),
        warnings=(),
        facts=("0: the best content-free control, 1: perfect; chance: " + "; ".join(told),),
    )
