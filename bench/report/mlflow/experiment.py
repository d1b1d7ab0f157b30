"""Description of a suite's experiment, for a first visit of MLflow's page."""

from __future__ import annotations

from bench.core.plain_text import for_markdown
from bench.core.registry import names

_NOTE = """\
One run per cell: a **method** on a **data set**, with one **backbone** and one **seed**. Runs named by the suite and
a number of cells stand for calls of `python -m bench run`: each has the table of its cells (`report.html`, `report.md`)
and a picture of it with intervals.

Compare methods: **Runs**, then the chart icon; *Group by* the tag `row` averages seeds, and nothing but seeds: its
last part stands for all settings, images and weights. Tags to search by: `method`, `dataset`, `backbone`, `seed`,
`role` (`method`; `reference`, the plain classifier; `control`, content-free maps that a method has to beat; `summary`),
`status`.

| metric | what it is |
|---|---|
{metrics}
| details/... | facts about a metric besides its value; `.low` and `.high` are the ends of its 95 % interval |
| fact/... | facts of the fitted model |
| seconds/... | wall-clock seconds of the stages |
| usage/... | time, memory and energy of the whole cell; joules are of the whole device |
| train/..., blackbox/... | curves by epoch: of the method, of the classifier that it explains |

Values have four digits here and all of them in `result.json`. They are in % where the name has no other unit; higher is
better unless the run's description says otherwise. This is a copy of the store: it can be deleted, and
`python -m bench sync` makes it again."""


def experiment_note() -> str:
    """Return the text, with the metrics that are measured by default."""
    rows = ((name, entry.summary) for name, entry in names("metrics").items() if entry.measured != "asked")
    return _NOTE.format(metrics="\n".join(f"| {for_markdown(name)} | {for_markdown(text)} |" for name, text in rows))
