"""Table of all metrics in metrics/README.md, from the catalogue and the classes."""

from __future__ import annotations

from bench.core import registry

HEADER = (
    "| metric | summary | group | measured | unit | better | needs besides images |",
    "|---|---|---|---|---|---|---|",
)


def metric_table() -> str:
    """Return a row for each metric of the package, in the order of the catalogue."""
    rows = list(HEADER)
    for name, entry in registry.CATALOGUE["metrics"].items():
        kind, facts = entry.load(), dict(entry.facts)
        needs = ", ".join(sorted(kind.needs - {"image", "label"}))
        better = ("more" if kind.higher_is_better else "less") + " ¹" * (not entry.chance)
        cells = (f"`{name}`", entry.summary, facts["group"], facts["measured"], kind.unit, better, needs)
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows)
