"""Description of a suite's experiment on MLflow's page for a first visit, and the view that it opens with."""

from __future__ import annotations

import json

from bench.core.plain_text import for_markdown
from bench.core.registry import load, names

VIEW = "methods"
"""Name of the shared view: a bar for each method and score, seeds averaged."""

_NOTE = """\
One run per cell: a **method** on a **data set**, with one **backbone** and one **seed**. The runs that hold others
stand for calls of `python -m bench run`: open one for its table (`report.md`) and figures.

Compare methods: **Runs**, then the chart icon; *Group by* the tag `row` averages seeds, and nothing but seeds: its
last part stands for all settings, images and weights. Tags to search by: `method`, `dataset`, `backbone`, `seed`,
`role` (`method`; `reference`, the plain classifier; `control`, content-free maps that a method has to beat), `status`.

| metric | what it is |
|---|---|
{metrics}
| details/... | what a metric tells besides its value |
| fact/... | facts of the fitted model |
| seconds/... | wall-clock seconds of the stages |
| usage/... | time, memory and energy of the whole cell; joules are of the whole device |
| train/..., blackbox/... | curves by epoch: of the method, of the classifier that it explains |

Values are in % where the name has no other unit; higher is better unless the run's description says otherwise. This
is a copy of the store: it can be deleted, and `python -m bench sync` makes it anew."""


_CLOSED = ("Model metrics", "seconds", "usage", "fact", "details", "System metrics")
_SECTIONS = ("train", "blackbox", *_CLOSED)
"""Of charts below the scores; `Model metrics` is MLflow's name for metrics that have no prefix: those asked for."""


def guide(suite: str) -> dict[str, str]:
    """Return the tags of an experiment.

    Args:
        suite: name of the suite.
    """
    rows = ((name, names("metrics")[name].summary) for name in _scores())
    metrics = "\n".join(f"| {for_markdown(name)} | {for_markdown(summary)} |" for name, summary in rows)
    return {
        "bench.suite": suite,
        "mlflow.note.content": _NOTE.format(metrics=metrics),
        # Else MLflow asks at every visit whether this is about language models.
        "mlflow.experimentKind": "custom_model_development",
        f"mlflow.sharedViewState.{VIEW}": json.dumps(_view()),
    }


def _view() -> dict[str, object]:
    """Return the state of the page in the form in which MLflow's own button `Share` keeps it."""
    return {
        "searchFilter": "",
        "orderByKey": "attributes.start_time",
        "orderByAsc": False,
        "startTime": "ALL",
        "lifecycleFilter": "Active",
        "modelVersionFilter": "All Runs",
        "datasetsFilter": [],
        "runsHiddenMode": "SHOW_ALL",
        "groupBy": {"aggregateFunction": "average", "groupByKeys": [{"mode": "tag", "groupByData": "row"}]},
        "useGroupedValuesInCharts": True,
        "hideEmptyCharts": True,
        "autoRefreshEnabled": True,
        "compareRunCharts": [_bars(name) for name in _scores()],
        "compareRunSections": [_section(name) for name in (*dict.fromkeys(map(_scale, _scores())), *_SECTIONS)],
        "isAccordionReordered": True,
        "selectedColumns": [f"metrics.`{name}`" for name in _scores()] + ["attributes.`Dataset`"],
    }


def _scale(metric: str) -> str:
    """Return unit and direction: the title over a metric's bars, which have no place for either."""
    kind = load("metrics", metric)
    return (
        f"scores{f' in {kind.unit}' if kind.unit else ''}, {'higher' if kind.higher_is_better else 'lower'} is better"
    )


def _bars(metric: str) -> dict[str, object]:
    """Return a chart of the metric; MLflow adds those of all other metrics itself."""
    place = {"uuid": metric, "metricSectionId": _scale(metric), "deleted": False, "isGenerated": False}
    return {"type": "BAR", "metricKey": metric, "runsCountToCompare": 50, **place}


def _section(name: str) -> dict[str, object]:
    closed = name in _CLOSED
    return {"uuid": name, "name": name, "display": not closed, "isReordered": True, "deleted": False}


def _scores() -> list[str]:
    """Return the metrics that are measured by default."""
    return [name for name, entry in names("metrics").items() if entry.measured != "asked"]


def address(server: str, experiment: str) -> str:
    """Return the URL of that view.

    Args:
        server: address of the MLflow server.
        experiment: id of the suite's experiment.
    """
    return f"{server.rstrip('/')}/#/experiments/{experiment}/runs?viewStateShareKey={VIEW}&compareRunsMode=CHART"
